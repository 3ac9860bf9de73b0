use anyhow::Result;
use mtl_core::component::{Block, Call, DType, Forward, Params, Ports, Sizes};
use mtl_core::nn::{BatchNorm, Linear};
use mtl_core::register;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

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

/// Ages 0 to 100.
pub(crate) const BINS: i64 = 101;

impl Block for AgeEstimator {
    fn ports(&self) -> Ports {
        Ports::new()
            .input("features", DType::Float, "batch channels height width")
            .output("logits", DType::Float, format!("batch {BINS}"))
            .output("groups", DType::Float, "batch $age_groups")
            .output("age", DType::Float, "batch")
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Forward>> {
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

impl Forward for Estimator {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = self.norm.forward(call.get("features")?, call.train)?.f_flatten(1, -1)?;
        let logits = self.ages.forward(&self.hidden.forward(&x)?.f_relu()?)?;
        let groups = call.wants("groups").then(|| self.groups.forward(&logits)).transpose()?;
        let age = call.wants("age").then(|| expected_age(&logits)).transpose()?;
        Ok(vec![Some(logits), groups, age])
    }
}

/// The expectation of the age over the softmax of `[batch, ages]` logits, in years: `[batch]`
/// (Rothe et al. 2018, eq. 1).
pub(crate) fn expected_age(logits: &Tensor) -> Result<Tensor> {
    let ages = Tensor::f_arange(logits.size()[1], (logits.kind(), logits.device()))?;
    Ok(logits.f_softmax(1, None::<Kind>)?.f_mul(&ages)?.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)?)
}

register!(Head, "age_estimator", AgeEstimator);
