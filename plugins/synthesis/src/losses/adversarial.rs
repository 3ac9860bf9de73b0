use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, ScalarOps, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// With `real` wired it is the discriminator's loss, without it the generator's.
fn ports() -> Ports {
    Ports::new().optional("real", DType::Float, "...").input("fake", DType::Float, "...").output(
        "loss",
        DType::Float,
        "",
    )
}

fn mean(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_mean(None::<Kind>)?)
}

macro_rules! adversarial {
    ($name:literal, $type:ident, $doc:literal, $critic:expr, $generator:expr) => {
        #[doc = $doc]
        ///
        /// With `real` and `fake` judgements it is the discriminator's loss, with `fake` ones alone the generator's.
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $type {}

        impl ModuleConfig for $type {
            fn describe(&self) -> Result<Description> {
                Ok(ports().into())
            }
            fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
                Ok(Box::new(Self {}))
            }
        }

        impl Module for $type {
            fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
                let fake = call.get("fake")?;
                let critic: fn(&Tensor, &Tensor) -> Result<Tensor> = $critic;
                let generator: fn(&Tensor) -> Result<Tensor> = $generator;
                single(match call.optional("real") {
                    Some(real) => critic(real, fake)?,
                    None => generator(fake)?,
                })
            }
        }

        register!(Loss, $name, $type);
    };
}

/// Half the mean squared distance of judgements from `target`.
fn half_square(x: &Tensor, target: f64) -> Result<Tensor> {
    Ok(mean(&x.try_sub_scalar(target)?.f_square()?)?.try_mul_scalar(0.5)?)
}

adversarial!(
    "lsgan",
    Lsgan,
    "Least squares (Mao et al. 2017, eq. 9): half the mean squares of judgements, 1 for real and 0 for fake pictures.",
    |real, fake| Ok(half_square(real, 1.0)?.f_add(&half_square(fake, 0.0)?)?),
    |fake| half_square(fake, 1.0)
);

adversarial!(
    "hinge",
    Hinge,
    "The hinge loss (Lim and Ye 2017, section 3): judgements above 1 for real and below -1 for fake pictures are enough.",
    |real, fake| {
        let real = mean(&real.f_neg()?.try_add_scalar(1.0)?.f_relu()?)?;
        Ok(real.f_add(&mean(&fake.try_add_scalar(1.0)?.f_relu()?)?)?)
    },
    |fake| Ok(mean(fake)?.f_neg()?)
);

adversarial!(
    "non_saturating",
    NonSaturating,
    "The logistic loss whose generator maximizes the log-probability of being real (Goodfellow et al. 2014, section 3).",
    |real, fake| Ok(mean(&real.f_neg()?.f_softplus()?)?.f_add(&mean(&fake.f_softplus()?)?)?),
    |fake| mean(&fake.f_neg()?.f_softplus()?)
);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    fn value(loss: &dyn ModuleConfig, real: Option<&[f64]>, fake: &[f64]) -> f64 {
        let called = call(loss).input("fake", Tensor::from_slice(fake));
        let called = match real {
            Some(real) => called.input("real", Tensor::from_slice(real)),
            None => called,
        };
        called.run().unwrap().output("loss").double_value(&[])
    }

    #[test]
    fn values_by_hand() {
        let (real, fake): (Option<&[f64]>, &[f64]) = (Some(&[1.0, 0.0]), &[0.5, -2.0]);
        let near =
            |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "found {found}, expected {wanted}");
        near(value(&Lsgan {}, real, fake), 0.5 * 0.5 + 0.5 * (0.25 + 4.0) / 2.0);
        near(value(&Lsgan {}, None, fake), 0.5 * (0.25 + 9.0) / 2.0);
        near(value(&Hinge {}, real, fake), 0.5 + 0.75);
        near(value(&Hinge {}, None, fake), 0.75);
        let soft = |x: f64| x.exp().ln_1p();
        near(value(&NonSaturating {}, real, fake), (soft(-1.0) + soft(0.0) + soft(0.5) + soft(-2.0)) / 2.0);
        near(value(&NonSaturating {}, None, fake), (soft(-0.5) + soft(2.0)) / 2.0);
    }
}
