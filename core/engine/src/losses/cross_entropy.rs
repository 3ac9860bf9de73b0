use crate::component::{Block, Call, DType, Forward, Params, Ports, Sizes, single};
use crate::register;
use anyhow::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Reduction, Tensor};

/// Mean cross-entropy of logits and class labels. A negative label is not known and does not count.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CrossEntropy {
    /// Share of the target that is spread over all classes (Szegedy et al. 2016, section 7).
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    label_smoothing: f64,
}

impl Block for CrossEntropy {
    fn ports(&self) -> Ports {
        Ports::new().input("logits", DType::Float, "batch classes").input("target", DType::Int, "batch").output(
            "loss",
            DType::Float,
            "",
        )
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Forward>> {
        Ok(Box::new(self.clone()))
    }
}

impl Forward for CrossEntropy {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(cross_entropy(call.get("logits")?, call.get("target")?, self.label_smoothing)?)
    }
}

/// Mean cross-entropy over the samples whose label is known; 0 if none is.
///
/// `logits` is `[batch, classes]`, `target` `[batch]` of 64-bit integers.
pub fn cross_entropy(logits: &Tensor, target: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let target = target.f_clamp_min(-1)?;
    let sum = logits.f_cross_entropy_loss::<&Tensor>(&target, None, Reduction::Sum, -1, label_smoothing)?;
    let known = target.f_ge(0)?.f_sum(logits.kind())?.f_clamp_min(1)?;
    Ok(sum.f_div(&known)?)
}

register!(Loss, "cross_entropy", CrossEntropy);
