use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, ScalarOps, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The sum `a + b` of two tensors of one shape.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Add {}

/// The difference `a - b` of two tensors of one shape.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Subtract {}

/// The elementwise product `a * b` of two tensors of one shape.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Multiply {}

/// The input times a constant.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Scale {
    /// The constant.
    factor: f64,
}

/// The rows divided by their 2-norm, of at least 1e-12.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Normalize {}

macro_rules! binary {
    ($name:literal, $type:ident, $op:ident) => {
        impl ModuleConfig for $type {
            fn describe(&self) -> Result<Description> {
                Ok(Ports::new().input("a", DType::Float, "...").input("b", DType::Float, "...").output(
                    "output",
                    DType::Float,
                    "...",
                ).into())
            }
            fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
                Ok(Box::new(Self {}))
            }
        }
        impl Module for $type {
            fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
                single(call.get("a")?.$op(call.get("b")?)?)
            }
        }
        register!(Function, $name, $type);
    };
}

binary!("add", Add, f_add);
binary!("subtract", Subtract, f_sub);
binary!("multiply", Multiply, f_mul);

impl ModuleConfig for Scale {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("input", DType::Float, "...").output("output", DType::Float, "...").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(self.clone()))
    }
}

impl Module for Scale {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("input")?.try_mul_scalar(self.factor)?)
    }
}

impl ModuleConfig for Normalize {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("input", DType::Float, "batch size").output("output", DType::Float, "batch size").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for Normalize {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(mtl_component::nn::normalize_rows(call.get("input")?)?)
    }
}

register!(Function, "scale", Scale);
register!(Function, "normalize", Normalize);
