use crate::losses::{against_truth, over_samples};
use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, ScalarOps, Sizes, register, single};
use mtl_standard::structure::similarity;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// One minus the mean structural similarity of two pictures (Wang et al. 2004, eq. 13; as a loss Zhao et al. 2017), with
/// Gaussian windows of 11 pixels; the reference is held constant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ssim {
    /// How far the largest and the least value of a pixel are apart: 2 for pictures from -1 to 1.
    #[serde(default = "crate::losses::range")]
    #[schemars(range(min = 1e-6))]
    range: f64,
}

impl ModuleConfig for Ssim {
    fn describe(&self) -> Result<Description> {
        Ok(against_truth("image").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self { ..*self }))
    }
}

impl Module for Ssim {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let found = similarity(call.get("image")?, &call.get("reference")?.f_detach()?, self.range)?;
        single(over_samples(&found.f_neg()?.try_add_scalar(1.0)?, call)?)
    }
}

register!(Loss, "ssim", Ssim);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::made_pictures;
    use mtl_component::testing::call;

    const FIRST: f64 = 0.8108449102493589;
    const SECOND: f64 = 0.8026457156252791;

    /// scikit-image 0.26: `structural_similarity(a, b, data_range=2, gaussian_weights=True, use_sample_covariance=False,
    /// channel_axis=0)` of each of two pictures of 3x16x20.
    #[test]
    fn it_is_that_of_scikit_image() {
        let (a, b) = made_pictures();
        let loss = call(&Ssim { range: 2.0 }).input("image", a).input("reference", b).run().unwrap().output("loss");
        assert!((loss.double_value(&[]) - (1.0 - (FIRST + SECOND) / 2.0)).abs() < 1e-9);
    }

    #[test]
    fn samples_of_no_weight_do_not_count() {
        let (a, b) = made_pictures();
        let weight = Tensor::from_slice(&[1.0, 0.0]);
        let of = call(&Ssim { range: 2.0 }).input("image", a.set_requires_grad(true)).input("reference", b);
        let loss = of.input("weight", weight).run().unwrap().output("loss");
        assert!((loss.double_value(&[]) - (1.0 - FIRST) / 2.0).abs() < 1e-9);
    }
}
