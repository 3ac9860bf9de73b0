use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The input unchanged; the gradient is multiplied by minus the coefficient, so that what follows learns and
/// what comes before unlearns (Ganin and Lempitsky 2015, section 3).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReverseGradient {
    /// The coefficient, or its final value under a warm start.
    #[serde(default = "one")]
    coefficient: f64,
    /// Start at this coefficient and rise to `coefficient` as `2 (hi - lo) / (1 + exp(-alpha p)) - (hi - lo) + lo`,
    /// where p is the share of the warm start that is over.
    #[serde(default)]
    from: Option<f64>,
    /// Steps of the warm start; without it the whole run.
    #[serde(default)]
    #[schemars(range(min = 1))]
    over: Option<u64>,
    /// Steepness of the warm start.
    #[serde(default = "one")]
    alpha: f64,
}

fn one() -> f64 {
    1.0
}

impl ReverseGradient {
    /// The coefficient of a warm start from `low`.
    fn rising(&self, low: f64, step: u64, total: u64) -> f64 {
        let (high, over) = (self.coefficient, self.over.unwrap_or(total).max(1));
        let share = (step.saturating_sub(1) as f64 / over as f64).min(1.0);
        2.0 * (high - low) / (1.0 + (-self.alpha * share).exp()) - (high - low) + low
    }
}

impl ModuleConfig for ReverseGradient {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("input", DType::Float, "...").output("output", DType::Float, "...").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(self.clone()))
    }
}

impl Module for ReverseGradient {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let coefficient = match self.from {
            Some(low) => self.rising(low, call.step(), call.total()),
            None => self.coefficient,
        };
        single(mtl_torch::reverse_gradient(call.get("input")?, coefficient)?)
    }
}

register!(Function, "reverse_gradient", ReverseGradient);

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn the_gradient_changes_sign_and_size() {
        let x = Tensor::from_slice(&[2.0, -1.0]).set_requires_grad(true);
        let y = mtl_torch::reverse_gradient(&x, 0.5).unwrap();
        assert_eq!(Vec::<f64>::try_from(&y).unwrap(), [2.0, -1.0]);
        (&y * &y).sum(Kind::Double).backward();
        assert_eq!(Vec::<f64>::try_from(x.grad()).unwrap(), [-2.0, 1.0]);
    }

    #[test]
    fn the_warm_start_rises_from_its_low_value() {
        let f = ReverseGradient { coefficient: 1.0, from: Some(0.0), over: Some(100), alpha: 10.0 };
        assert_eq!(f.rising(0.0, 1, 0), 0.0);
        let end = 2.0 / (1.0 + (-10f64).exp()) - 1.0;
        assert!((f.rising(0.0, 101, 0) - end).abs() < 1e-15);
        assert_eq!(f.rising(0.0, 5000, 0), f.rising(0.0, 101, 0));
    }
}
