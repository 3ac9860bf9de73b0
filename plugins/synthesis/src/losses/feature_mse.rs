use super::against_reference;
use anyhow::Result;
use mtl_core::component::{Block, Call, Forward, Params, Ports, Sizes, single};
use mtl_core::register;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Reduction, Tensor};

/// The published identity loss (MTLFace, section 3.2, eq. 8): mean squared difference of the identity features of the
/// aged picture and of the source, which is held constant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FeatureMse {}

impl Block for FeatureMse {
    fn ports(&self) -> Ports {
        against_reference("features", "...")
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Forward>> {
        Ok(Box::new(Self {}))
    }
}

impl Forward for FeatureMse {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("features")?.f_mse_loss(&call.get("reference")?.f_detach()?, Reduction::Mean)?)
    }
}

register!(Loss, "feature_mse", FeatureMse);
