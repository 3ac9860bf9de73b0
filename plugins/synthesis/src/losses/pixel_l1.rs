use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, Sizes, register, single};
use crate::losses::against_reference;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Reduction, Tensor};

/// Mean absolute difference of the pixels of two pictures; the reference is held constant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PixelL1 {}

impl ModuleConfig for PixelL1 {
    fn describe(&self) -> Result<Description> {
        Ok(against_reference("image", "batch channels height width").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for PixelL1 {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("image")?.f_l1_loss(&call.get("reference")?.f_detach()?, Reduction::Mean)?)
    }
}

register!(Loss, "pixel_l1", PixelL1);
