use crate::cosines::{Cosines, classifier, scale};
use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, ScalarOps, Sizes, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Additive angular margin classifier (ArcFace, Deng et al. 2019, eq. 3): `s cos(θ + m)` for the true identity,
/// `s cos θ` for the others. Where θ + m exceeds π, `cos θ - m sin m` keeps the logit falling.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ArcFace {
    /// Scale s.
    #[serde(default = "scale")]
    #[schemars(range(min = 0.0))]
    scale: f64,
    /// Margin m in radians.
    #[serde(default = "margin")]
    #[schemars(range(min = 0.0, max = 3.2))]
    margin: f64,
    /// The gradient of the true identity's logit.
    #[serde(default)]
    gradient: MarginGradient,
}

/// The gradient through an angular margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum MarginGradient {
    /// That of the formula, `s sin(θ + m) / sin θ`.
    #[default]
    Exact,
    /// As if there were no margin, `s`: how insightface trains.
    StraightThrough,
}

fn margin() -> f64 {
    0.5
}

impl ModuleConfig for ArcFace {
    fn describe(&self) -> Result<Description> {
        Ok(classifier())
    }
    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Head { config: self.clone(), cosines: Cosines::new(p, sizes)? }))
    }
}

struct Head {
    config: ArcFace,
    cosines: Cosines,
}

impl Module for Head {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (batch, cosines) = self.cosines.forward(call)?;
        let logits = batch.at_truth(&cosines, |target| self.with_margin(target))?;
        batch.outputs(logits.try_mul_scalar(self.config.scale)?, call)
    }
}

impl Head {
    /// `cos(θ + m)` from `cos θ`.
    fn with_margin(&self, target: &Tensor) -> Result<Tensor> {
        let m = self.config.margin;
        // sin θ has no derivative at cos θ = ±1: the clamp keeps gradients finite there.
        let sine = (target.f_mul(target)?.f_neg()?.try_add_scalar(1.0)?).try_clamp_min(1e-12)?.f_sqrt()?;
        let shifted = target.try_mul_scalar(m.cos())?.f_sub(&sine.try_mul_scalar(m.sin())?)?;
        let past = target.f_sub(&target.try_full_like(m * m.sin())?)?;
        let with_margin = shifted.f_where_self(&target.try_gt(-m.cos())?, &past)?;
        Ok(match self.config.gradient {
            MarginGradient::Exact => with_margin,
            MarginGradient::StraightThrough => target.f_add(&with_margin.f_sub(target)?.f_detach()?)?,
        })
    }
}

register!(Module("head"), "arcface", ArcFace);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosines::testing::{example, logits};
    use tch::Kind;

    #[test]
    fn arcface_adds_the_margin_to_the_angle_of_the_true_identity() {
        let (x, label) = example();
        let config = ArcFace { scale: 10.0, margin: 0.5, gradient: MarginGradient::Exact };
        let (logits, cosines) = logits(&config, &x, &label);
        for (row, truth) in [(0, 2), (1, 0)] {
            for column in 0..4 {
                let theta = cosines.double_value(&[row, column]).acos();
                let wanted = if column != truth {
                    theta.cos()
                } else if theta + 0.5 <= std::f64::consts::PI {
                    (theta + 0.5).cos()
                } else {
                    theta.cos() - 0.5 * 0.5f64.sin()
                };
                let found = logits.double_value(&[row, column]);
                assert!((found - 10.0 * wanted).abs() < 1e-12, "{row} {column}: {found} {wanted}");
            }
        }
    }

    #[test]
    fn straight_through_has_the_values_of_arcface_and_the_gradient_without_a_margin() {
        let (x, label) = example();
        let grad = |margin: f64, gradient: MarginGradient| {
            let x = x.copy().set_requires_grad(true);
            let (logits, _) = logits(&ArcFace { scale: 10.0, margin, gradient }, &x, &label);
            logits.gather(1, &label.unsqueeze(1), false).sum(Kind::Double).backward();
            (logits.detach(), x.grad())
        };
        let exact = grad(0.5, MarginGradient::Exact);
        let through = grad(0.5, MarginGradient::StraightThrough);
        let plain = grad(0.0, MarginGradient::Exact);
        assert!((exact.0 - through.0).abs().max().double_value(&[]) < 1e-12);
        assert!((&through.1 - plain.1).abs().max().double_value(&[]) < 1e-12);
        assert!((through.1 - exact.1).abs().max().double_value(&[]) > 1e-3);
    }
}
