use super::{step_rows, zeros};
use mtl_component::{
    Optimizer, OptimizerConfig, OptimizerDescription, OptimizerState, Result, Update, register,
};
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
    fn describe(&self) -> Result<OptimizerDescription> {
        let wrong = self.nesterov && self.momentum == 0.0;
        Ok(OptimizerDescription {
            coupled: true,
            state_each: usize::from(self.momentum != 0.0),
            problems: wrong.then(|| "`nesterov` needs a `momentum` above 0".to_owned()).into_iter().collect(),
        })
    }

    fn open(&self) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Running { config: self.clone(), state: OptimizerState::default() }))
    }
}

struct Running {
    config: Sgd,
    state: OptimizerState,
}

impl Optimizer for Running {
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
        let momenta: Vec<&Tensor> = momenta.iter().collect();
        let Some(rows) = u.rows else { return Ok(fused_sgd(u.params, u.grads, &momenta, settings, u.found_inf)?) };
        let all: Vec<&Tensor> = u.params.iter().copied().chain(momenta).collect();
        step_rows(rows, &all, |parts| {
            let parts: Vec<&Tensor> = parts.iter().collect();
            let (params, momenta) = parts.split_at(u.params.len());
            Ok(fused_sgd(params, u.grads, momenta, settings, u.found_inf)?)
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

register!(Optimizer, "sgd", Sgd);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_not_named_keep_their_values_and_their_momentum() {
        let config = Sgd { momentum: 0.5, nesterov: false };
        let step = |optimizer: &mut dyn Optimizer, param: &Tensor, grad: &Tensor, rows: Option<&Tensor>| {
            let (params, grads) = ([param], [grad]);
            let names = ["head.weight"];
            let u = Update {
                names: &names,
                params: &params,
                grads: &grads,
                rows,
                lr: 1.0,
                weight_decay: 0.0,
                found_inf: None,
            };
            optimizer.step(&u).unwrap();
        };
        let param = Tensor::from_slice(&[0f32; 6]).view([3, 2]);
        let mut optimizer = config.open().unwrap();
        step(&mut *optimizer, &param, &Tensor::from_slice(&[1f32; 6]).view([3, 2]), None);
        let rows = Tensor::from_slice(&[2i64]);
        step(&mut *optimizer, &param, &Tensor::from_slice(&[1f32; 2]).view([1, 2]), Some(&rows));
        // v = 0.5 * 1 + 1 in the named row.
        let found = Vec::<f32>::try_from(&param.view([-1])).unwrap();
        assert_eq!(found, [-1.0, -1.0, -1.0, -1.0, -2.5, -2.5]);
        let state = optimizer.state().unwrap();
        let momentum = Vec::<f32>::try_from(&state[0].1.view([-1])).unwrap();
        assert_eq!((state[0].0.as_str(), momentum), ("momentum/head.weight", vec![1.0, 1.0, 1.0, 1.0, 1.5, 1.5]));
    }
}
