use crate::component::{Block, Call, DType, Forward, Params, Ports, Sizes, single};
use crate::register;
use anyhow::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The input unchanged; no gradient passes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Detach {}

impl Block for Detach {
    fn ports(&self) -> Ports {
        Ports::new().input("input", DType::Float, "...").output("output", DType::Float, "...").stop_gradient()
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Forward>> {
        Ok(Box::new(Self {}))
    }
}

impl Forward for Detach {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("input")?.f_detach()?)
    }
}

register!(Function, "detach", Detach);
