use crate::component::{Block, Call, DType, Forward, Params, Ports, Sizes, single};
use crate::register;
use anyhow::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Reduction, Tensor};

/// Mean squared difference of two tensors of one shape.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mse {}

/// Mean absolute difference of two tensors of one shape.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct L1 {}

macro_rules! regression {
    ($name:literal, $type:ident, $op:ident) => {
        impl Block for $type {
            fn ports(&self) -> Ports {
                Ports::new().input("input", DType::Float, "...").input("target", DType::Float, "...").output(
                    "loss",
                    DType::Float,
                    "",
                )
            }
            fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Forward>> {
                Ok(Box::new(Self {}))
            }
        }
        impl Forward for $type {
            fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
                single(call.get("input")?.$op(call.get("target")?, Reduction::Mean)?)
            }
        }
        register!(Loss, $name, $type);
    };
}

regression!("mse", Mse, f_mse_loss);
regression!("l1", L1, f_l1_loss);
