use anyhow::Result;
use mtl_core::component::{Block, Call, DType, Forward, Params, Ports, Sizes, single};
use mtl_core::losses::cross_entropy;
use mtl_core::register;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The published age loss of synthesis (MTLFace, section 3.2, eq. 9): cross-entropy of the age group that an
/// estimator sees in the aged picture and the wanted one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GroupCrossEntropy {}

impl Block for GroupCrossEntropy {
    fn ports(&self) -> Ports {
        Ports::new().input("groups", DType::Float, "batch $age_groups").input("target", DType::Int, "batch").output(
            "loss",
            DType::Float,
            "",
        )
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Forward>> {
        Ok(Box::new(Self {}))
    }
}

impl Forward for GroupCrossEntropy {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(cross_entropy(call.get("groups")?, call.get("target")?, 0.0)?)
    }
}

register!(Loss, "group_cross_entropy", GroupCrossEntropy);
