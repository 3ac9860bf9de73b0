use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Divides each row by its length, so that only its direction is left.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnitLength {}

impl ModuleConfig for UnitLength {
    fn describe(&self) -> Result<Description> {
        let ports = Ports::new().input("input", DType::Float, "batch size");
        Ok(ports.output("output", DType::Float, "batch size").into())
    }

    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(self.clone()))
    }
}

impl Module for UnitLength {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(mtl_component::nn::normalize_rows(call.get("input")?)?)
    }
}

register!(Function, "unit_length", UnitLength);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    #[test]
    fn a_row_has_length_one() {
        let tested = call(&UnitLength {}).input("input", Tensor::from_slice2(&[[3.0, 4.0]])).run().unwrap();
        assert!((tested.output("output").double_value(&[0, 1]) - 0.8).abs() < 1e-12);
    }
}
