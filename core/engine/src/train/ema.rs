//! Moving averages of weights.

use crate::model::Model;
use crate::recipe::Ema;
use indexmap::IndexMap;
use mtl_recipe::{Context, Result};
use tch::Tensor;

/// Averages of the parameters of some modules; buffers are copied, since running statistics are averages already.
pub struct Averages {
    config: Ema,
    tensors: IndexMap<String, Tensor>,
}

impl Averages {
    /// Averages that start at the present weights.
    pub fn new(config: Ema, model: &Model) -> Result<Self> {
        let mut tensors = IndexMap::new();
        for (name, tensor, _) in entries(&config, model) {
            tensors.insert(name, copy(tensor)?);
        }
        Ok(Self { config, tensors })
    }

    /// Moves the averages towards the weights. Early on they move faster, so that the start is forgotten:
    /// the share that stays is at most `(1 + step) / (10 + step)`.
    pub fn update(&self, model: &Model, step: u64) -> Result<()> {
        let decay = self.config.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        let (mut averages, mut params) = (Vec::new(), Vec::new());
        for (name, tensor, trained) in entries(&self.config, model) {
            let average = self.tensors.get(&name).with_context(|| format!("no average of `{name}`"))?;
            if trained {
                averages.push(average);
                params.push(tensor);
            } else {
                tch::no_grad(|| average.shallow_clone().f_copy_(tensor))?;
            }
        }
        Ok(mtl_torch::lerp(&averages, &params, 1.0 - decay)?)
    }

    /// Starts again from the present weights.
    pub fn restart(&self, model: &Model) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (name, tensor, _) in entries(&self.config, model) {
            let average = self.tensors.get(&name).with_context(|| format!("no average of `{name}`"))?;
            average.shallow_clone().f_copy_(tensor)?;
        }
        Ok(())
    }

    /// Whether evaluation uses the averages.
    pub fn evaluates(&self) -> bool {
        self.config.evaluate
    }

    /// Exchanges weights and averages; a second call puts them back.
    pub fn swap(&self, model: &Model) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (name, tensor, _) in entries(&self.config, model) {
            let average = self.tensors.get(&name).with_context(|| format!("no average of `{name}`"))?;
            let held = copy(tensor)?;
            tensor.shallow_clone().f_copy_(average)?;
            average.shallow_clone().f_copy_(&held)?;
        }
        Ok(())
    }

    /// The averages by `module.parameter`.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        self.tensors.iter().map(|(k, v)| (k.clone(), v)).collect()
    }

    /// Takes a saved average.
    pub fn load(&mut self, name: &str, value: &Tensor) -> Result<()> {
        if let Some(tensor) = self.tensors.get_mut(name) {
            tch::no_grad(|| tensor.f_copy_(value))?;
        }
        Ok(())
    }
}

fn copy(tensor: &Tensor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    Ok(tensor.f_detach_copy()?)
}

fn entries<'m>(config: &'m Ema, model: &'m Model) -> impl Iterator<Item = (String, &'m Tensor, bool)> {
    model.modules.iter().filter(|m| config.modules.contains(&m.name)).flat_map(|m| {
        m.parameters.iter().map(move |(name, e)| {
            let floating = matches!(e.tensor.kind(), tch::Kind::Float | tch::Kind::Double);
            (format!("{}.{name}", m.name), &e.tensor, e.role.is_some() && floating)
        })
    })
}
