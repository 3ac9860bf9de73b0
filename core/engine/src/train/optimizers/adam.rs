use super::{Optimizer, OptimizerConfig, State, Update, zeros};
use crate::register;
use anyhow::Result;
use mtl_torch::{Adam as Settings, fused_adam};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// Adam (Kingma and Ba 2015, algorithm 1). Weight decay is coupled: it is added to the gradient.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Adam {
    /// Decay of the first and second moment.
    #[serde(default = "betas")]
    betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    #[schemars(range(min = 0.0))]
    eps: f64,
}

/// AdamW (Loshchilov and Hutter 2019): Adam with weight decay applied to the weights.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AdamW {
    /// Decay of the first and second moment.
    #[serde(default = "betas")]
    betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    #[schemars(range(min = 0.0))]
    eps: f64,
}

fn betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn eps() -> f64 {
    1e-8
}

fn problems(betas: [f64; 2]) -> Vec<String> {
    if betas.iter().all(|b| (0.0..1.0).contains(b)) {
        return Vec::new();
    }
    vec![format!("both `betas` must be at least 0 and below 1, found {betas:?}")]
}

impl OptimizerConfig for Adam {
    fn create(&self) -> Box<dyn Optimizer> {
        Box::new(Running { betas: self.betas, eps: self.eps, decoupled: false, state: State::default() })
    }
    fn state_each(&self) -> usize {
        2
    }
    fn problems(&self) -> Vec<String> {
        problems(self.betas)
    }
}

impl OptimizerConfig for AdamW {
    fn create(&self) -> Box<dyn Optimizer> {
        Box::new(Running { betas: self.betas, eps: self.eps, decoupled: true, state: State::default() })
    }
    fn state_each(&self) -> usize {
        2
    }
    fn problems(&self) -> Vec<String> {
        problems(self.betas)
    }
}

struct Running {
    betas: [f64; 2],
    eps: f64,
    decoupled: bool,
    state: State,
}

impl Optimizer for Running {
    fn coupled(&self) -> bool {
        !self.decoupled
    }

    fn step(&mut self, u: &Update<'_>) -> Result<()> {
        let first = self.state.slot("first", u.names, u.params, zeros)?;
        let second = self.state.slot("second", u.names, u.params, zeros)?;
        let steps =
            self.state.slot("step", u.names, u.params, |p| Ok(Tensor::f_zeros([], (Kind::Float, p.device()))?))?;
        let settings = Settings {
            lr: u.lr,
            betas: (self.betas[0], self.betas[1]),
            weight_decay: u.weight_decay,
            eps: self.eps,
            decoupled: self.decoupled,
        };
        fused_adam(
            u.params,
            u.grads,
            &first.iter().collect::<Vec<_>>(),
            &second.iter().collect::<Vec<_>>(),
            &steps.iter().collect::<Vec<_>>(),
            settings,
            u.found_inf,
        )
    }

    fn state(&self) -> Vec<(String, &Tensor)> {
        self.state.list()
    }

    fn load(&mut self, state: HashMap<String, Tensor>) -> Result<()> {
        self.state.load(state);
        Ok(())
    }
}

register!(Optimizer, "adam", Adam);
register!(Optimizer, "adamw", AdamW);
