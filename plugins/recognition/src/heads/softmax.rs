use crate::cosines::classifier;
use mtl_component::nn::{ClassLinear, Classes, Linear};
use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, Sizes, register};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Plain linear classifier with bias.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Softmax {}

impl ModuleConfig for Softmax {
    fn describe(&self) -> Result<Description> {
        // The logits do not need the label. It is taken so that heads can be exchanged by one line, and for the loss.
        Ok(classifier())
    }
    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let identities = sizes.global("identities")?;
        let linear = Linear::classes(p, sizes.get("size")?, identities)?;
        Ok(Box::new(Head { linear, classes: Classes::new(p, identities) }))
    }
}

struct Head {
    linear: ClassLinear,
    classes: Classes,
}

impl Module for Head {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let batch = self.classes.of(call.get("embedding")?, call.get("label")?, call)?;
        let logits = self.linear.forward(&batch.embedding, batch.rows.as_ref())?;
        batch.outputs(logits, call)
    }
}

register!(Module("head"), "softmax", Softmax);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    #[test]
    fn logits_are_linear_in_the_embedding() {
        let called = call(&Softmax {}).dim("identities", 2).input("embedding", Tensor::from_slice2(&[[1.0, 2.0]]));
        let called = called.param("weight", Tensor::from_slice2(&[[3.0, 4.0], [0.0, -1.0]]));
        let called = called.param("bias", Tensor::from_slice(&[0.5, 0.0]));
        let logits = called.input("label", Tensor::from_slice(&[0i64])).run().unwrap().output("logits");
        assert_eq!((logits.double_value(&[0, 0]), logits.double_value(&[0, 1])), (11.5, -2.0));
    }
}
