use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, ScalarOps, Sizes, register, single};
use crate::ages::{BINS, expected_age};
use mtl_component::nn::cross_entropy;
use mtl_faces::age_groups;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// The age loss of MTLFace (section 3.1, eq. 4): the squared error of the expected age (DEX) plus the cross-entropy
/// of the age group. A sample whose age is not known (negative) does not count.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DexAge {
    /// Factor of the squared error.
    #[serde(default = "one")]
    regression: f64,
    /// Factor of the cross-entropy.
    #[serde(default = "one")]
    classification: f64,
}

fn one() -> f64 {
    1.0
}

impl ModuleConfig for DexAge {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new()
            .input("logits", DType::Float, format!("batch {BINS}"))
            .input("groups", DType::Float, "batch $age_groups")
            .input("target", DType::Float, "batch")
            .below(&BINS.to_string())
            .output("loss", DType::Float, "").into())
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let edges = Tensor::f_from_slice(age_groups::edges(sizes.global("age_groups")?)?)?;
        let edges = edges.f_to_device(p.context().device)?.f_to_kind(p.context().kind)?;
        Ok(Box::new(Loss { config: self.clone(), edges }))
    }
}

struct Loss {
    config: DexAge,
    edges: Tensor,
}

impl Module for Loss {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (logits, groups, age) = (call.get("logits")?, call.get("groups")?, call.get("target")?);
        let known = age.try_ge(0.0)?;
        let world = call.context.world;
        let count = world.divisor(&known.f_sum(logits.kind())?)?;
        let error = expected_age(logits)?.f_sub(age)?;
        let squares = error.f_mul(&error)?.f_mul(&known.f_to_kind(logits.kind())?)?;
        let mse = squares.f_sum(logits.kind())?.f_div(&count)?;
        let group = age.f_unsqueeze(1)?.f_gt_tensor(&self.edges)?.f_sum_dim_intlist([1].as_slice(), false, Kind::Int64)?;
        let group = group.try_masked_fill(&known.f_logical_not()?, -1)?;
        let ce = cross_entropy(groups, &group, 0.0, world)?;
        let scaled = |t: Tensor, w: f64| if w == 1.0 { Ok(t) } else { t.try_mul_scalar(w) };
        single(scaled(mse, self.config.regression)?.f_add(&scaled(ce, self.config.classification)?)?)
    }
}

register!(Loss, "dex_age", DexAge);
