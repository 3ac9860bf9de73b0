use super::{Optimizer, OptimizerConfig, State, Update, zeros};
use crate::register;
use anyhow::Result;
use mtl_torch::{Sgd as Settings, fused_sgd};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use tch::Tensor;

/// Stochastic gradient descent with momentum, as PyTorch's: `v = momentum * v + g`, `w -= lr * v`. Weight decay is
/// coupled: it is added to the gradient.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sgd {
    /// Momentum.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    momentum: f64,
    /// Nesterov's variant (Sutskever et al. 2013).
    #[serde(default)]
    nesterov: bool,
}

impl OptimizerConfig for Sgd {
    fn state_each(&self) -> usize {
        usize::from(self.momentum != 0.0)
    }
    fn create(&self) -> Box<dyn Optimizer> {
        Box::new(Running { config: self.clone(), state: State::default() })
    }

    fn problems(&self) -> Vec<String> {
        if self.nesterov && self.momentum == 0.0 {
            return vec!["`nesterov` needs a `momentum` above 0".into()];
        }
        Vec::new()
    }
}

struct Running {
    config: Sgd,
    state: State,
}

impl Optimizer for Running {
    fn coupled(&self) -> bool {
        true
    }

    fn step(&mut self, u: &Update<'_>) -> Result<()> {
        let momenta = if self.config.momentum == 0.0 {
            Vec::new()
        } else {
            // From zeros the first step gives v = g, as PyTorch's first step does.
            self.state.slot("momentum", u.names, u.params, zeros)?
        };
        let settings = Settings {
            lr: u.lr,
            weight_decay: u.weight_decay,
            momentum: self.config.momentum,
            dampening: 0.0,
            nesterov: self.config.nesterov,
            first: false,
        };
        fused_sgd(u.params, u.grads, &momenta.iter().collect::<Vec<_>>(), settings, u.found_inf)
    }

    fn state(&self) -> Vec<(String, &Tensor)> {
        self.state.list()
    }

    fn load(&mut self, state: HashMap<String, Tensor>) -> Result<()> {
        self.state.load(state);
        Ok(())
    }
}

register!(Optimizer, "sgd", Sgd);
