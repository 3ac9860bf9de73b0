//! Modules, functions and losses: what a node of the graph computes.

use crate::context::Context;
use crate::params::Params;
use crate::ports::{Description, Ports, Sizes};
use mtl_recipe::{Result, bail};
use std::cell::Cell;
use tch::Tensor;

/// The configuration of a module, function or loss.
///
/// ```
/// use mtl_component::{
///     Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, ScalarOps, Sizes, register, single,
/// };
/// use schemars::JsonSchema;
/// use serde::Deserialize;
/// use tch::Tensor;
///
/// /// Mean squared difference of two tensors of one shape, each divided by the scale.
/// #[derive(Debug, Clone, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct ScaledMse {
///     /// The scale.
///     scale: f64,
/// }
///
/// impl ModuleConfig for ScaledMse {
///     fn describe(&self) -> Result<Description> {
///         let ports = Ports::new().input("input", DType::Float, "...").input("target", DType::Float, "...");
///         Ok(ports.output("loss", DType::Float, "").into())
///     }
///     fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
///         Ok(Box::new(self.clone()))
///     }
/// }
///
/// impl Module for ScaledMse {
///     fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
///         let apart = call.get("input")?.f_sub(call.get("target")?)?.try_div_scalar(self.scale)?;
///         single(apart.f_square()?.f_mean(None)?)
///     }
/// }
///
/// register!(Loss, "scaled_mse", ScaledMse);
///
/// let loss = mtl_component::testing::call(&ScaledMse { scale: 2.0 })
///     .input("input", Tensor::from_slice(&[1.0, 3.0]))
///     .input("target", Tensor::from_slice(&[1.0, 1.0]))
///     .run()?
///     .output("loss");
/// assert_eq!(loss.double_value(&[]), 0.5);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait ModuleConfig: Send + Sync {
    /// Its inputs and outputs, what is wrong with the configuration, and which inputs are alternatives: all that the
    /// check of a recipe needs.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self) -> Result<Description>;

    /// Makes the parameters and the thing that computes. Functions and losses make no parameters.
    ///
    /// # Errors
    /// If a size is not known or a parameter cannot be made.
    fn build(&self, params: &Params, sizes: &Sizes) -> Result<Box<dyn Module>>;
}

/// The computation of a module, function or loss.
///
/// ```
/// use mtl_component::{Call, Module, Result, single};
/// use tch::Tensor;
///
/// /// Multiplies features by a gate for each channel, which `build` has made.
/// struct Gate(Tensor);
///
/// impl Module for Gate {
///     fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
///         // The operators that begin with `f_` return their errors.
///         single(call.get("features")?.f_mul(&self.0)?)
///     }
/// }
/// ```
pub trait Module {
    /// Computes the outputs in the order of the ports. An output that [`Call::wants`] denies may be left out.
    ///
    /// # Errors
    /// If an operation fails.
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>>;
}

/// One call of a component: its inputs and how it is called.
pub struct Call<'a> {
    /// The inputs in the order of the ports.
    pub inputs: Vec<Option<Tensor>>,
    /// The ports of the component.
    pub ports: &'a Ports,
    /// Training mode: batch statistics, dropout.
    pub train: bool,
    /// Which outputs are read by anything.
    pub wanted: &'a [bool],
    /// How far the run is.
    pub progress: &'a Progress,
    /// Where the run computes; its [`World`](crate::World) averages over the processes.
    pub context: &'a Context,
}

/// How far a run is. It notes who asks: what depends on the step cannot be captured once for all steps.
#[derive(Debug, Default)]
pub struct Progress {
    step: u64,
    total: u64,
    asked: Cell<bool>,
}

impl Progress {
    /// A step, counted from 1, of so many; both are 0 outside of training.
    pub fn at(step: u64, total: u64) -> Self {
        Self { step, total, asked: Cell::new(false) }
    }

    /// Whether the step has been asked for.
    pub fn was_asked(&self) -> bool {
        self.asked.get()
    }
}

impl Call<'_> {
    /// The step, from 1; 0 outside of training. A component that asks cannot be part of a CUDA graph.
    pub fn step(&self) -> u64 {
        self.progress.asked.set(true);
        self.progress.step
    }

    /// The steps of the whole run; 0 outside of training.
    pub fn total(&self) -> u64 {
        self.progress.total
    }

    /// An input that is always wired.
    ///
    /// # Errors
    /// If it is not.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.optional(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the input `{name}` is missing"),
        }
    }

    /// An input that may be left unwired.
    pub fn optional(&self, name: &str) -> Option<&Tensor> {
        let at = self.ports.inputs.iter().position(|p| p.name == name)?;
        self.inputs.get(at)?.as_ref()
    }

    /// Whether that output is read by anything.
    pub fn wants(&self, name: &str) -> bool {
        self.ports.outputs.iter().position(|p| p.name == name).is_none_or(|at| self.wanted.get(at) != Some(&false))
    }
}

/// The outputs of a component with one output.
///
/// # Errors
/// None: it returns a `Result` so that it can end a `forward`.
pub fn single(tensor: Tensor) -> Result<Vec<Option<Tensor>>> {
    Ok(vec![Some(tensor)])
}
