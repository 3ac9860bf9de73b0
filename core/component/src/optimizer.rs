//! Optimizers: the rule by which gradients change parameters.

use indexmap::IndexMap;
use mtl_recipe::Result;
use std::collections::HashMap;
use tch::Tensor;

/// The configuration of an optimizer.
///
/// ```
/// use mtl_component::{Optimizer, OptimizerConfig, OptimizerDescription, Result, ScalarOps, Update, register};
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
/// use std::collections::HashMap;
/// use tch::Tensor;
///
/// /// Gradient descent.
/// #[derive(Debug, Clone, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Descent {}
///
/// impl OptimizerConfig for Descent {
///     fn describe(&self) -> Result<OptimizerDescription> {
///         Ok(OptimizerDescription::default())
///     }
///     fn open(&self) -> Result<Box<dyn Optimizer>> {
///         Ok(Box::new(self.clone()))
///     }
/// }
///
/// impl Optimizer for Descent {
///     fn step(&mut self, update: &Update<'_>) -> Result<()> {
///         tch::no_grad(|| {
///             for (param, grad) in update.params.iter().zip(update.grads) {
///                 let _ = param.shallow_clone().f_sub_(&grad.try_mul_scalar(update.lr)?)?;
///             }
///             Ok(())
///         })
///     }
///     fn state(&self) -> Result<Vec<(String, &Tensor)>> {
///         Ok(Vec::new())
///     }
///     fn load(&mut self, _: HashMap<String, Tensor>) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// register!(Optimizer, "descent", Descent);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait OptimizerConfig: Send + Sync {
    /// What the engine has to know of it.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self) -> Result<OptimizerDescription>;

    /// Makes the optimizer without state.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    fn open(&self) -> Result<Box<dyn Optimizer>>;
}

/// What the engine has to know of an optimizer.
#[derive(Debug, Clone, Default)]
pub struct OptimizerDescription {
    /// Weight decay is added to the gradient, and not applied to the weight.
    pub coupled: bool,
    /// How many numbers of state it keeps for each number of a parameter.
    pub state_each: usize,
    /// What is wrong between keys of the configuration; one sentence each.
    pub problems: Vec<String>,
}

/// The parameters of one group and how they step.
pub struct Update<'a> {
    /// Their full names, `module.parameter`.
    pub names: &'a [&'a str],
    /// The parameters.
    pub params: &'a [&'a Tensor],
    /// Their gradients, of the same layout in memory; of the given rows only, if there are some.
    pub grads: &'a [&'a Tensor],
    /// The rows that step, as indices `[count]`; the others keep their values and their state. None steps all rows.
    pub rows: Option<&'a Tensor>,
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Where this is 1 on the device, nothing changes.
    pub found_inf: Option<&'a Tensor>,
}

/// An optimizer with state. [`OptimizerState`] keeps tensors by the names of parameters.
///
/// ```
/// use mtl_component::{Optimizer, OptimizerState, Result, ScalarOps, Update};
/// use std::collections::HashMap;
/// use tch::Tensor;
///
/// /// Descent with a running mean of gradients.
/// #[derive(Default)]
/// struct Averaged(OptimizerState);
///
/// impl Optimizer for Averaged {
///     fn step(&mut self, update: &Update<'_>) -> Result<()> {
///         let means = self.0.slot("mean", update.names, update.params, |param| Ok(param.f_zeros_like()?))?;
///         tch::no_grad(|| {
///             for ((param, grad), mean) in update.params.iter().zip(update.grads).zip(&means) {
///                 let mut mean = mean.shallow_clone();
///                 let _ = mean.f_copy_(&mean.try_mul_scalar(0.9)?.f_add(&grad.try_mul_scalar(0.1)?)?)?;
///                 let _ = param.shallow_clone().f_sub_(&mean.try_mul_scalar(update.lr)?)?;
///             }
///             Ok(())
///         })
///     }
///     fn state(&self) -> Result<Vec<(String, &Tensor)>> {
///         Ok(self.0.list())
///     }
///     fn load(&mut self, state: HashMap<String, Tensor>) -> Result<()> {
///         self.0.load(state);
///         Ok(())
///     }
/// }
///
/// let (param, grad) = (Tensor::from_slice(&[1f32]), Tensor::from_slice(&[10f32]));
/// let (params, grads) = ([&param], [&grad]);
/// let update = Update {
///     names: &["m.weight"], params: &params, grads: &grads, rows: None, lr: 0.5, weight_decay: 0.0, found_inf: None,
/// };
/// let mut optimizer = Averaged::default();
/// optimizer.step(&update)?;
/// assert_eq!((param.double_value(&[0]), optimizer.state()?[0].0.as_str()), (0.5, "mean/m.weight"));
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait Optimizer {
    /// One step of a group.
    ///
    /// # Errors
    /// If an operation fails.
    fn step(&mut self, update: &Update<'_>) -> Result<()>;

    /// The state as `slot/module.parameter`.
    ///
    /// # Errors
    /// If it cannot be read.
    fn state(&self) -> Result<Vec<(String, &Tensor)>>;

    /// Restores state that [`state`](Self::state) has given.
    ///
    /// # Errors
    /// If it is not this optimizer's.
    fn load(&mut self, state: HashMap<String, Tensor>) -> Result<()>;
}

/// State tensors by slot and parameter name, for optimizers to keep theirs in.
#[derive(Debug, Default)]
pub struct OptimizerState {
    tensors: IndexMap<String, Tensor>,
}

impl OptimizerState {
    /// The tensors of one slot for the given parameters; a missing one is made by `new`.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn slot(
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

    /// All tensors by `slot/module.parameter`.
    pub fn list(&self) -> Vec<(String, &Tensor)> {
        self.tensors.iter().map(|(k, v)| (k.clone(), v)).collect()
    }

    /// Restores saved tensors.
    pub fn load(&mut self, state: HashMap<String, Tensor>) {
        let mut names: Vec<_> = state.into_iter().collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        self.tensors = names.into_iter().collect();
    }
}
