//! Optimizers on libtorch's fused kernels, with state that is saved by parameter name.

mod adam;
mod sgd;

use anyhow::Result;
use std::collections::HashMap;
use tch::Tensor;

/// The configuration of an optimizer.
pub trait OptimizerConfig: Send {
    /// Makes the optimizer without state.
    fn create(&self) -> Box<dyn Optimizer>;

    /// How many numbers of state it keeps for each number of a parameter.
    fn state_each(&self) -> usize;

    /// Rules between keys that no schema can say.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The parameters of one group and how they step.
pub struct Update<'a> {
    /// Their full names, `module.parameter`.
    pub names: &'a [&'a str],
    /// The parameters.
    pub params: &'a [&'a Tensor],
    /// Their gradients, of the same layout in memory.
    pub grads: &'a [&'a Tensor],
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Where this is 1 on the device, nothing changes.
    pub found_inf: Option<&'a Tensor>,
}

/// An optimizer with state.
pub trait Optimizer {
    /// Whether weight decay is added to the gradient (and not applied to the weight).
    fn coupled(&self) -> bool;
    /// One step of a group.
    fn step(&mut self, update: &Update<'_>) -> Result<()>;
    /// The state as `slot/module.parameter`.
    fn state(&self) -> Vec<(String, &Tensor)>;
    /// Takes state saved by [`Optimizer::state`].
    fn load(&mut self, state: HashMap<String, Tensor>) -> Result<()>;
}

/// State tensors by slot and parameter name.
#[derive(Default)]
struct State {
    tensors: indexmap::IndexMap<String, Tensor>,
}

impl State {
    /// The tensors of one slot for the given parameters; a missing one is made by `new`.
    fn slot(
        &mut self,
        slot: &str,
        names: &[&str],
        params: &[&Tensor],
        new: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        names
            .iter()
            .zip(params)
            .map(|(name, param)| {
                let key = format!("{slot}/{name}");
                match self.tensors.get(&key) {
                    Some(tensor) => Ok(tensor.shallow_clone()),
                    None => {
                        let tensor = new(param)?;
                        let out = tensor.shallow_clone();
                        self.tensors.insert(key, tensor);
                        Ok(out)
                    }
                }
            })
            .collect()
    }

    fn list(&self) -> Vec<(String, &Tensor)> {
        self.tensors.iter().map(|(k, v)| (k.clone(), v)).collect()
    }

    fn load(&mut self, state: HashMap<String, Tensor>) {
        let mut names: Vec<_> = state.into_iter().collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        self.tensors = names.into_iter().collect();
    }
}

/// Zeros of the same layout in memory, as the fused kernels need.
fn zeros(param: &Tensor) -> Result<Tensor> {
    Ok(tch::no_grad(|| param.f_zeros_like())?)
}
