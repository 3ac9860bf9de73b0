use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use mtl_component::nn::cross_entropy;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The published age loss of synthesis (MTLFace, section 3.2, eq. 9): cross-entropy of the age group that an
/// estimator sees in the aged picture and the wanted one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GroupCrossEntropy {}

impl ModuleConfig for GroupCrossEntropy {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("groups", DType::Float, "batch $age_groups").input("target", DType::Int, "batch").output(
            "loss",
            DType::Float,
            "",
        ).into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for GroupCrossEntropy {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(cross_entropy(call.get("groups")?, call.get("target")?, 0.0, call.context.world)?)
    }
}

register!(Loss, "group_cross_entropy", GroupCrossEntropy);
