use crate::cosines::{Cosines, classifier, scale};
use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, ScalarOps, Sizes, register};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Normalised softmax classifier (NormFace, Wang et al. 2017): `s cos θ`, no margin.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NormFace {
    /// Scale s.
    #[serde(default = "scale")]
    #[schemars(range(min = 0.0))]
    scale: f64,
}

impl ModuleConfig for NormFace {
    fn describe(&self) -> Result<Description> {
        Ok(classifier())
    }
    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Head { scale: self.scale, cosines: Cosines::new(p, sizes)? }))
    }
}

struct Head {
    scale: f64,
    cosines: Cosines,
}

impl Module for Head {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (batch, cosines) = self.cosines.forward(call)?;
        batch.outputs(cosines.try_mul_scalar(self.scale)?, call)
    }
}

register!(Module("head"), "normface", NormFace);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosines::testing::{example, logits};

    #[test]
    fn logits_are_scaled_cosines() {
        let (x, label) = example();
        let (logits, cosines) = logits(&NormFace { scale: 10.0 }, &x, &label);
        assert!((cosines * 10.0 - logits.detach()).abs().max().double_value(&[]) < 1e-12);
    }
}
