use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
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
        impl ModuleConfig for $type {
            fn describe(&self) -> Result<Description> {
                Ok(Ports::new().input("input", DType::Float, "...").input("target", DType::Float, "...").output(
                    "loss",
                    DType::Float,
                    "",
                ).into())
            }
            fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
                Ok(Box::new(Self {}))
            }
        }
        impl Module for $type {
            fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
                single(call.get("input")?.$op(call.get("target")?, Reduction::Mean)?)
            }
        }
        register!(Loss, $name, $type);
    };
}

regression!("mse", Mse, f_mse_loss);
regression!("l1", L1, f_l1_loss);
