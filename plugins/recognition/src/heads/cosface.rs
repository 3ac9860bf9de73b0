use crate::cosines::{Cosines, classifier, scale};
use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, ScalarOps, Sizes, register};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Large-margin cosine classifier (CosFace, Wang et al. 2018, eq. 4): `s (cos θ - m)` for the true identity,
/// `s cos θ` for the others.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CosFace {
    /// Scale s.
    #[serde(default = "scale")]
    #[schemars(range(min = 0.0))]
    scale: f64,
    /// Margin m, taken from the cosine.
    #[serde(default = "margin")]
    #[schemars(range(min = 0.0, max = 1.0))]
    margin: f64,
}

fn margin() -> f64 {
    0.35
}

impl ModuleConfig for CosFace {
    fn describe(&self) -> Result<Description> {
        Ok(classifier())
    }
    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Head { config: self.clone(), cosines: Cosines::new(p, sizes)? }))
    }
}

struct Head {
    config: CosFace,
    cosines: Cosines,
}

impl Module for Head {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (batch, cosines) = self.cosines.forward(call)?;
        let logits = batch.at_truth(&cosines, |target| Ok(target.try_add_scalar(-self.config.margin)?))?;
        batch.outputs(logits.try_mul_scalar(self.config.scale)?, call)
    }
}

register!(Module("head"), "cosface", CosFace);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosines::testing::{example, logits};

    #[test]
    fn the_margin_is_taken_from_the_cosine_of_the_true_identity() {
        let (x, label) = example();
        let (logits, cosines) = logits(&CosFace { scale: 10.0, margin: 0.25 }, &x, &label);
        let apart = (cosines - logits.detach() / 10.0).abs();
        let wanted = Tensor::from_slice(&[0.0f64, 0.0, 0.25, 0.0, 0.25, 0.0, 0.0, 0.0]).view([2, 4]);
        assert!((apart - wanted).abs().max().double_value(&[]) < 1e-12);
    }
}
