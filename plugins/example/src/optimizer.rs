use mtl_component::{Optimizer, OptimizerConfig, OptimizerDescription, Result, ScalarOps, Update, mistake, register};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use tch::Tensor;

/// Each weight moves by the learning rate against the sign of its gradient (signSGD, Bernstein et al. 2018, algorithm 1).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SignSgd {}

impl OptimizerConfig for SignSgd {
    fn describe(&self) -> Result<OptimizerDescription> {
        Ok(OptimizerDescription::default())
    }

    fn open(&self) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Optimizer for SignSgd {
    fn step(&mut self, update: &Update<'_>) -> Result<()> {
        if update.rows.is_some() {
            mistake!("this optimizer steps whole matrices, and not some of their rows");
        }
        tch::no_grad(|| -> Result<()> {
            for (param, grad) in update.params.iter().zip(update.grads) {
                let mut step = grad.f_sign()?.f_add(&param.try_mul_scalar(update.weight_decay)?)?;
                if let Some(found) = update.found_inf {
                    // 1 where a gradient has overflowed: nothing moves then. It stays on the device.
                    step =
                        step.f_nan_to_num(0.0, 0.0, 0.0)?.f_mul(&found.try_mul_scalar(-1.0)?.try_add_scalar(1.0)?)?;
                }
                let _ = param.shallow_clone().f_sub_(&step.try_mul_scalar(update.lr)?.f_to_kind(param.kind())?)?;
            }
            Ok(())
        })
    }

    fn state(&self) -> Result<Vec<(String, &Tensor)>> {
        Ok(Vec::new())
    }

    fn load(&mut self, _: HashMap<String, Tensor>) -> Result<()> {
        Ok(())
    }
}

register!(Optimizer, "sign_sgd", SignSgd);

#[cfg(test)]
mod tests {
    use super::*;

    fn stepped(found_inf: f32) -> Vec<f64> {
        let (param, grad) = (Tensor::from_slice(&[1.0, 2.0, 3.0]), Tensor::from_slice(&[0.3, -5.0, 0.0]));
        let (params, grads, found) = ([&param], [&grad], Tensor::from_slice(&[found_inf]));
        let update = Update {
            names: &["m.weight"],
            params: &params,
            grads: &grads,
            rows: None,
            lr: 0.5,
            weight_decay: 0.1,
            found_inf: Some(&found),
        };
        SignSgd {}.step(&update).unwrap();
        Vec::try_from(&param).unwrap()
    }

    #[test]
    fn a_weight_moves_against_the_sign_and_decays() {
        let found = stepped(0.0);
        let wanted = [1.0 - 0.5 * 1.1, 2.0 + 0.5 * 0.8, 3.0 - 0.5 * 0.3];
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!(stepped(1.0), [1.0, 2.0, 3.0]);
    }
}
