use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The input unchanged; no gradient passes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Detach {}

impl ModuleConfig for Detach {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("input", DType::Float, "...").output("output", DType::Float, "...").stop_gradient().into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for Detach {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("input")?.f_detach()?)
    }
}

register!(Function, "detach", Detach);
