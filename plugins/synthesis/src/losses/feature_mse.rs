use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, Sizes, register, single};
use crate::losses::against_reference;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Reduction, Tensor};

/// The published identity loss (MTLFace, section 3.2, eq. 8): mean squared difference of the identity features of the
/// aged picture and of the source, which is held constant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FeatureMse {}

impl ModuleConfig for FeatureMse {
    fn describe(&self) -> Result<Description> {
        Ok(against_reference("features", "...").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for FeatureMse {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("features")?.f_mse_loss(&call.get("reference")?.f_detach()?, Reduction::Mean)?)
    }
}

register!(Loss, "feature_mse", FeatureMse);
