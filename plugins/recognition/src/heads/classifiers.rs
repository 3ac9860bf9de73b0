use anyhow::Result;
use mtl_core::component::{Block, Call, DType, Forward, Init, Params, Ports, Role, Sizes, single};
use mtl_core::nn::{Linear, normalize_rows};
use mtl_core::register;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Large-margin cosine classifier (CosFace, Wang et al. 2018, eq. 4): `s (cos θ - m)` for the true identity,
/// `s cos θ` for the others.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CosFace {
    /// Scale s.
    #[serde(default = "scale")]
    #[schemars(range(min = 0.0))]
    scale: f64,
    /// Margin m, taken from the cosine.
    #[serde(default = "cos_margin")]
    #[schemars(range(min = 0.0, max = 1.0))]
    margin: f64,
}

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
    #[serde(default = "arc_margin")]
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

/// Normalised softmax classifier (NormFace, Wang et al. 2017): `s cos θ`, no margin.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NormFace {
    /// Scale s.
    #[serde(default = "scale")]
    #[schemars(range(min = 0.0))]
    scale: f64,
}

/// Plain linear classifier with bias.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Softmax {}

fn scale() -> f64 {
    64.0
}
fn cos_margin() -> f64 {
    0.35
}
fn arc_margin() -> f64 {
    0.5
}

fn ports() -> Ports {
    Ports::new().input("embedding", DType::Float, "batch size").input("label", DType::Int, "batch").output(
        "logits",
        DType::Float,
        "batch $identities",
    )
}

/// Cosines between embeddings and one weight vector an identity.
struct Cosines {
    weight: Tensor,
}

impl Cosines {
    fn new(p: &Params, sizes: &Sizes) -> Result<Self> {
        let shape = [sizes.global("identities")?, sizes.get("size")?];
        Ok(Self { weight: p.param("weight", &shape, Init::XavierUniform, Role::Weight)? })
    }

    fn forward(&self, embedding: &Tensor) -> Result<Tensor> {
        Ok(normalize_rows(embedding)?.f_linear::<Tensor>(&normalize_rows(&self.weight)?, None)?)
    }

    /// 1 at the true identity, 0 elsewhere.
    fn one_hot(cosines: &Tensor, label: &Tensor) -> Result<Tensor> {
        Ok(cosines.f_zeros_like()?.f_scatter_value_(1, &label.f_unsqueeze(1)?, 1.0)?)
    }
}

struct Margin<C> {
    config: C,
    cosines: Cosines,
}

macro_rules! cosine_head {
    ($name:literal, $type:ident) => {
        impl Block for $type {
            fn ports(&self) -> Ports {
                ports()
            }
            fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Forward>> {
                Ok(Box::new(Margin { config: self.clone(), cosines: Cosines::new(p, sizes)? }))
            }
        }
        register!(Head, $name, $type);
    };
}

cosine_head!("cosface", CosFace);
cosine_head!("arcface", ArcFace);
cosine_head!("normface", NormFace);

impl Forward for Margin<CosFace> {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let cosines = self.cosines.forward(call.get("embedding")?)?;
        let margin = tch::no_grad(|| {
            Cosines::one_hot(&cosines.detach(), call.get("label")?)?
                .f_mul_scalar(self.config.margin)
                .map_err(anyhow::Error::from)
        })?;
        single(cosines.f_sub(&margin)?.f_mul_scalar(self.config.scale)?)
    }
}

impl Forward for Margin<NormFace> {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(self.cosines.forward(call.get("embedding")?)?.f_mul_scalar(self.config.scale)?)
    }
}

impl Forward for Margin<ArcFace> {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let cosines = self.cosines.forward(call.get("embedding")?)?;
        let label = call.get("label")?.f_unsqueeze(1)?;
        let target = cosines.f_gather(1, &label, false)?;
        let m = self.config.margin;
        // sin θ has no derivative at cos θ = ±1: the clamp keeps gradients finite there.
        let sine = (target.f_mul(&target)?.f_neg()?.f_add_scalar(1.0)?).f_clamp_min(1e-12)?.f_sqrt()?;
        let shifted = target.f_mul_scalar(m.cos())?.f_sub(&sine.f_mul_scalar(m.sin())?)?;
        let past = target.f_sub(&Tensor::f_full_like(&target, m * m.sin())?)?;
        let with_margin = shifted.f_where_self(&target.f_gt(-m.cos())?, &past)?;
        let with_margin = match self.config.gradient {
            MarginGradient::Exact => with_margin,
            MarginGradient::StraightThrough => target.f_add(&with_margin.f_sub(&target)?.f_detach()?)?,
        };
        single(cosines.f_scatter(1, &label, &with_margin)?.f_mul_scalar(self.config.scale)?)
    }
}

impl Block for Softmax {
    fn ports(&self) -> Ports {
        // The label is taken so that heads can be exchanged by one line; it is not used.
        ports()
    }
    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Forward>> {
        Ok(Box::new(Plain(Linear::new(p, sizes.get("size")?, sizes.global("identities")?)?)))
    }
}

struct Plain(Linear);

impl Forward for Plain {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(self.0.forward(call.get("embedding")?)?)
    }
}

register!(Head, "softmax", Softmax);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_core::component::{Dim, Placement};
    use tch::{Device, Kind};

    fn call(block: &dyn Block, embedding: &Tensor, label: &Tensor) -> (Tensor, Tensor) {
        let placement = Placement {
            device: Device::Cpu,
            kind: Kind::Double,
            channels_last: false,
            winograd: false,
            seed: 1,
            shapes_only: false,
        };
        let params = Params::new("identity", placement);
        let mut sizes = Sizes::new(&[("identities".to_owned(), Dim::Size(4))].into_iter().collect());
        sizes.bind("batch size", &[Dim::Size(2), Dim::Size(3)]).unwrap();
        let forward = block.build(&params, &sizes).unwrap();
        let weight = params.take()["weight"].tensor.shallow_clone();
        let ports = block.ports();
        let inputs = vec![Some(embedding.shallow_clone()), Some(label.shallow_clone())];
        let call = Call { inputs, ports: &ports, train: true, wanted: &[true], step: 1, total: 1 };
        (forward.forward(&call).unwrap().remove(0).unwrap(), weight)
    }

    fn example() -> (Tensor, Tensor) {
        (Tensor::from_slice(&[0.3f64, -1.0, 0.4, 2.0, 0.1, -0.7]).view([2, 3]), Tensor::from_slice(&[2i64, 0]))
    }

    #[test]
    fn arcface_adds_the_margin_to_the_angle_of_the_true_identity() {
        let (x, label) = example();
        let config = ArcFace { scale: 10.0, margin: 0.5, gradient: MarginGradient::Exact };
        let (logits, weight) = call(&config, &x, &label);
        let cosines = normalize_rows(&x).unwrap().matmul(&normalize_rows(&weight).unwrap().transpose(0, 1));
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
    fn straight_through_has_the_values_of_arcface_and_the_gradient_of_normface() {
        let (x, label) = example();
        let grad = |block: &dyn Block| {
            let x = x.copy().set_requires_grad(true);
            let (logits, _) = call(block, &x, &label);
            logits.gather(1, &label.unsqueeze(1), false).sum(Kind::Double).backward();
            (logits.detach(), x.grad())
        };
        let exact = grad(&ArcFace { scale: 10.0, margin: 0.5, gradient: MarginGradient::Exact });
        let through = grad(&ArcFace { scale: 10.0, margin: 0.5, gradient: MarginGradient::StraightThrough });
        let plain = grad(&NormFace { scale: 10.0 });
        assert!((exact.0 - through.0).abs().max().double_value(&[]) < 1e-12);
        assert!((&through.1 - plain.1).abs().max().double_value(&[]) < 1e-12);
        assert!((through.1 - exact.1).abs().max().double_value(&[]) > 1e-3);
    }
}
