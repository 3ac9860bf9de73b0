//! Components: what a recipe names.
//!
//! A component is a configuration type that implements the trait of its kind, registered under a kind and a
//! name. The type is decoded from the recipe, its doc comments become the schema's descriptions.

mod params;
mod registry;
pub mod shape;

pub use params::{Entry, Init, Params, Placement, Role, Store};
pub use registry::{Configuration, Factory, Kind, Registration, all, find, named, of_kind};
pub use shape::{DType, Dim, Port, Ports, Sizes};

use anyhow::{Result, bail};
use tch::Tensor;

/// The configuration of a module, function or loss.
pub trait Block: Send {
    /// The inputs and outputs, given this configuration.
    fn ports(&self) -> Ports;

    /// Rules between the keys of the configuration that no schema can say; one sentence a problem.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Rules between its inputs that the ports cannot say, such as one of two; one sentence a problem. `wired` names
    /// the inputs that a node wires.
    fn wiring(&self, wired: &[&str]) -> Vec<String> {
        let _ = wired;
        Vec::new()
    }

    /// Makes the parameters and the thing that computes. Functions and losses make no parameters.
    fn build(&self, params: &Params, sizes: &Sizes) -> Result<Box<dyn Forward>>;
}

/// The computation of a module, function or loss.
pub trait Forward {
    /// Computes the outputs in the order of the ports. An output that [`Call::wants`] denies may be left out.
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
    /// Which outputs anybody reads.
    pub wanted: &'a [bool],
    /// The step, from 1; 0 outside of training.
    pub step: u64,
    /// The steps of the whole run.
    pub total: u64,
}

impl Call<'_> {
    /// An input that is always wired.
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

    /// Whether anybody reads that output.
    pub fn wants(&self, name: &str) -> bool {
        self.ports.outputs.iter().position(|p| p.name == name).is_none_or(|at| self.wanted.get(at) != Some(&false))
    }
}

/// The outputs of a component with one output.
pub fn single(tensor: Tensor) -> Result<Vec<Option<Tensor>>> {
    Ok(vec![Some(tensor)])
}
