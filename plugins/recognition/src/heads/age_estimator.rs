use crate::ages::{BINS, expected_age};
use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register};
use mtl_component::nn::{BatchNorm, Linear};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Estimates the age from features (MTLFace, section 3.1): BatchNorm, a linear layer over the flattened features,
/// ReLU, logits of the ages 0 to 100; the logits of the age groups are a linear layer on those. The age is the
/// expectation over the softmax (DEX, Rothe et al. 2018).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgeEstimator {
    /// Width of the hidden layer.
    #[serde(default = "hidden")]
    #[schemars(range(min = 1, max = 65536))]
    hidden: i64,
}

fn hidden() -> i64 {
    512
}

impl ModuleConfig for AgeEstimator {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new()
            .input("features", DType::Float, "batch channels height width")
            .output("logits", DType::Float, format!("batch {BINS}"))
            .output("groups", DType::Float, "batch $age_groups")
            .output("age", DType::Float, "batch")
            .batch_statistics("batch height width")
            .into())
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let channels = sizes.get("channels")?;
        let flat = channels * sizes.get("height")? * sizes.get("width")?;
        let layers = p.pp("age_output_layer");
        Ok(Box::new(Estimator {
            norm: BatchNorm::new(&layers.pp(0), channels)?,
            hidden: Linear::new(&layers.pp(2), flat, self.hidden)?,
            ages: Linear::new(&layers.pp(4), self.hidden, BINS)?,
            groups: Linear::new(&p.pp("group_output_layer"), BINS, sizes.global("age_groups")?)?,
        }))
    }
}

struct Estimator {
    norm: BatchNorm,
    hidden: Linear,
    ages: Linear,
    groups: Linear,
}

impl Module for Estimator {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = self.norm.forward(call.get("features")?, call.train)?.f_flatten(1, -1)?;
        let logits = self.ages.forward(&self.hidden.forward(&x)?.f_relu()?)?;
        let groups = call.wants("groups").then(|| self.groups.forward(&logits)).transpose()?;
        let age = call.wants("age").then(|| expected_age(&logits)).transpose()?;
        Ok(vec![Some(logits), groups, age])
    }
}

register!(Module("head"), "age_estimator", AgeEstimator);
