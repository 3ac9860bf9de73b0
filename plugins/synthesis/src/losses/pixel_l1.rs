use super::against_reference;
use anyhow::Result;
use mtl_core::component::{Block, Call, Forward, Params, Ports, Sizes, single};
use mtl_core::register;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Reduction, Tensor};

/// Mean absolute difference of the pixels of two pictures; the reference is held constant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PixelL1 {}

impl Block for PixelL1 {
    fn ports(&self) -> Ports {
        against_reference("image", "batch channels height width")
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Forward>> {
        Ok(Box::new(Self {}))
    }
}

impl Forward for PixelL1 {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("image")?.f_l1_loss(&call.get("reference")?.f_detach()?, Reduction::Mean)?)
    }
}

register!(Loss, "pixel_l1", PixelL1);
