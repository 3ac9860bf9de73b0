//! Calling a component in a test, without a recipe around it.
//!
//! See [`ModuleConfig`] for an example.

use crate::context::Context;
use crate::module::{Call, ModuleConfig, Progress};
use crate::params::{Parameters, Params};
use crate::ports::{Dim, Ports, Sizes};
use indexmap::IndexMap;
use mtl_recipe::{Context as _, Result, bail};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Prepares a call of a component, in training mode and double precision on the CPU.
pub fn call(config: &dyn ModuleConfig) -> Testing<'_> {
    Testing {
        config,
        inputs: IndexMap::new(),
        dims: IndexMap::new(),
        params: IndexMap::new(),
        context: Context::cpu(Kind::Double),
        train: true,
        step: (1, 1),
    }
}

/// A call that is being prepared.
pub struct Testing<'c> {
    config: &'c dyn ModuleConfig,
    inputs: IndexMap<String, Tensor>,
    dims: IndexMap<String, Dim>,
    params: IndexMap<String, Tensor>,
    context: Context,
    train: bool,
    step: (u64, u64),
}

/// What a component has computed in a test.
pub struct Tested {
    /// Its outputs in the order of the ports.
    pub outputs: Vec<Option<Tensor>>,
    /// Its parameters and buffers, which record gradients.
    pub params: Parameters,
    ports: Ports,
}

impl Testing<'_> {
    /// Gives an input.
    pub fn input(mut self, name: &str, value: Tensor) -> Self {
        self.inputs.insert(name.to_owned(), value);
        self
    }

    /// Sets a size of the recipe, such as `age_groups`.
    pub fn dim(mut self, name: &str, size: i64) -> Self {
        self.dims.insert(name.to_owned(), Dim::Size(size));
        self
    }

    /// Sets a parameter or a buffer instead of drawing it.
    pub fn param(mut self, name: &str, value: Tensor) -> Self {
        self.params.insert(name.to_owned(), value);
        self
    }

    /// Computes in that kind of numbers.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.context.kind = kind;
        self
    }

    /// Calls it in evaluation mode.
    pub fn evaluating(mut self) -> Self {
        self.train = false;
        self
    }

    /// Calls it at a step of so many.
    pub fn step(mut self, step: u64, total: u64) -> Self {
        self.step = (step, total);
        self
    }

    /// Builds the component and calls it once.
    ///
    /// # Errors
    /// If the component reports a problem, an input does not fit its port, or the component fails.
    pub fn run(self) -> Result<Tested> {
        let description = self.config.describe()?;
        if let Some(problem) = description.problems.first() {
            bail!("{problem}");
        }
        let ports = description.ports;
        if let Some(unknown) = self.inputs.keys().find(|name| !ports.inputs.iter().any(|p| p.name == **name)) {
            bail!("there is no input `{unknown}`");
        }
        let wired: Vec<&str> = self.inputs.keys().map(String::as_str).collect();
        if let Some(problem) = description.one_of.iter().find_map(|one| one.problem(&wired)) {
            bail!("{problem}");
        }
        let mut sizes = Sizes::new(&self.dims);
        for port in &ports.inputs {
            if let Some(value) = self.inputs.get(&port.name) {
                let shape: Vec<Dim> = value.size().into_iter().map(Dim::Size).collect();
                sizes.bind(&port.pattern, &shape).with_context(|| format!("the input `{}`", port.name))?;
            }
        }
        let context = Arc::new(self.context);
        let params = Params::new("tested", context.clone());
        let module = self.config.build(&params, &sizes)?;
        let params = params.take();
        for (name, value) in &self.params {
            let entry = params.get(name).with_context(|| format!("there is no parameter `{name}`"))?;
            tch::no_grad(|| entry.tensor.shallow_clone().f_copy_(value))?;
        }
        let trained: Vec<&Tensor> = params.values().filter(|e| e.role.is_some()).map(|e| &e.tensor).collect();
        mtl_torch::set_requires_grad(&trained, true)?;
        let inputs = ports.inputs.iter().map(|p| self.inputs.get(&p.name).map(Tensor::shallow_clone)).collect();
        let wanted = vec![true; ports.outputs.len()];
        let progress = Progress::at(self.step.0, self.step.1);
        let call =
            Call { inputs, ports: &ports, train: self.train, wanted: &wanted, progress: &progress, context: &context };
        let outputs = module.forward(&call)?;
        Ok(Tested { outputs, params, ports })
    }
}

impl Tested {
    /// An output; an undefined tensor if the component has not computed it.
    pub fn output(&self, name: &str) -> Tensor {
        let at = self.ports.outputs.iter().position(|p| p.name == name);
        let found = at.and_then(|at| self.outputs.get(at)?.as_ref());
        found.map_or_else(Tensor::new, Tensor::shallow_clone)
    }

    /// A parameter or buffer; an undefined tensor if there is none of that name.
    pub fn param(&self, name: &str) -> Tensor {
        self.params.get(name).map_or_else(Tensor::new, |entry| entry.tensor.shallow_clone())
    }
}
