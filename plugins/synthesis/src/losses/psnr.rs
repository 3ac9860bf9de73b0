use crate::losses::{against_truth, over_samples};
use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, ScalarOps, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// The peak signal-to-noise ratio of two pictures in decibels, with its sign turned: ten times the decimal logarithm of the
/// mean squared error of each (as a loss Chen et al. 2021, HINet); the reference is held constant. What is nearly right
/// counts as much as what is far off, so that pictures change little where little is to be changed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Psnr {
    /// How far the largest and the least value of a pixel are apart: 2 for pictures from -1 to 1.
    #[serde(default = "crate::losses::range")]
    #[schemars(range(min = 1e-6))]
    range: f64,
    /// The ratio in decibels that no picture exceeds: towards it, gradients vanish.
    #[serde(default = "fifty")]
    #[schemars(range(min = 1.0, max = 150.0))]
    limit: f64,
}

fn fifty() -> f64 {
    50.0
}

impl ModuleConfig for Psnr {
    fn describe(&self) -> Result<Description> {
        Ok(against_truth("image").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self { ..*self }))
    }
}

impl Module for Psnr {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let apart = call.get("image")?.f_sub(&call.get("reference")?.f_detach()?)?;
        let squares = apart.f_square()?.f_mean_dim([1i64, 2, 3].as_slice(), false, None::<Kind>)?;
        let error = squares.try_div_scalar(self.range * self.range)?.try_add_scalar(10f64.powf(-self.limit / 10.0))?;
        single(over_samples(&error.f_log10()?.try_mul_scalar(10.0)?, call)?)
    }
}

register!(Loss, "psnr", Psnr);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::made_pictures;
    use mtl_component::testing::call;

    fn loss(limit: f64, [image, reference]: [Tensor; 2], weight: Option<[f64; 2]>) -> f64 {
        let config = Psnr { range: 2.0, limit };
        let called = call(&config).input("image", image).input("reference", reference);
        let called = match weight {
            Some(weight) => called.input("weight", Tensor::from_slice(&weight)),
            None => called,
        };
        called.run().unwrap().output("loss").double_value(&[])
    }

    /// Python: `10 * log10(2**2 / mean((a - b)**2))` of each of two pictures of 3x16x20.
    #[test]
    fn it_is_the_ratio_of_the_definition() {
        let (first, second) = (19.895916612861942, 19.897678559384644);
        let made = || -> [Tensor; 2] { made_pictures().into() };
        assert!((loss(150.0, made(), None) + (first + second) / 2.0).abs() < 1e-9);
        assert!((loss(150.0, made(), Some([1.0, 0.0])) + first / 2.0).abs() < 1e-9);
    }

    #[test]
    fn equal_pictures_reach_the_limit() {
        let (a, _) = made_pictures();
        assert!((loss(50.0, [a.copy(), a], None) + 50.0).abs() < 1e-9);
    }
}
