use super::{step_rows, zeros};
use mtl_component::{
    Optimizer, OptimizerConfig, OptimizerDescription, OptimizerState, Result, Update, register,
};
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

fn describe(betas: [f64; 2], coupled: bool) -> OptimizerDescription {
    let good = betas.iter().all(|b| (0.0..1.0).contains(b));
    let problem = || format!("both `betas` must be at least 0 and below 1, found {betas:?}");
    OptimizerDescription { coupled, state_each: 2, problems: (!good).then(problem).into_iter().collect() }
}

impl OptimizerConfig for Adam {
    fn describe(&self) -> Result<OptimizerDescription> {
        Ok(describe(self.betas, true))
    }
    fn open(&self) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Running { betas: self.betas, eps: self.eps, decoupled: false, state: OptimizerState::default() }))
    }
}

impl OptimizerConfig for AdamW {
    fn describe(&self) -> Result<OptimizerDescription> {
        Ok(describe(self.betas, false))
    }
    fn open(&self) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Running { betas: self.betas, eps: self.eps, decoupled: true, state: OptimizerState::default() }))
    }
}

struct Running {
    betas: [f64; 2],
    eps: f64,
    decoupled: bool,
    state: OptimizerState,
}

impl Optimizer for Running {
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
        let (first, second): (Vec<&Tensor>, Vec<&Tensor>) = (first.iter().collect(), second.iter().collect());
        let steps: Vec<&Tensor> = steps.iter().collect();
        let Some(rows) = u.rows else {
            return Ok(fused_adam(u.params, u.grads, &first, &second, &steps, settings, u.found_inf)?);
        };
        let n = u.params.len();
        let all: Vec<&Tensor> = u.params.iter().copied().chain(first).chain(second).collect();
        step_rows(rows, &all, |parts| {
            let parts: Vec<&Tensor> = parts.iter().collect();
            let (params, first, second) = (&parts[..n], &parts[n..2 * n], &parts[2 * n..]);
            Ok(fused_adam(params, u.grads, first, second, &steps, settings, u.found_inf)?)
        })
    }

    fn state(&self) -> Result<Vec<(String, &Tensor)>> {
        Ok(self.state.list())
    }

    fn load(&mut self, state: HashMap<String, Tensor>) -> Result<()> {
        self.state.load(state);
        Ok(())
    }
}

register!(Optimizer, "adam", Adam);
register!(Optimizer, "adamw", AdamW);
