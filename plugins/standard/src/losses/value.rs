use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// A number that a node gives, as it is: such as the loss that a classifier computes itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Value {}

impl ModuleConfig for Value {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("value", DType::Float, "").output("loss", DType::Float, "").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for Value {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("value")?.shallow_clone())
    }
}

register!(Loss, "value", Value);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_the_loss() {
        let value = mtl_component::testing::call(&Value {}).input("value", Tensor::from(2.5f64));
        assert_eq!(value.run().unwrap().output("loss").double_value(&[]), 2.5);
    }
}
