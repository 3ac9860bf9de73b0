use crate::losses::{against_truth, over_samples};
use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Reduction, Tensor};

/// Mean absolute difference of the pixels of two pictures; the reference is held constant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PixelL1 {}

impl ModuleConfig for PixelL1 {
    fn describe(&self) -> Result<Description> {
        Ok(against_truth("image").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for PixelL1 {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (image, reference) = (call.get("image")?, call.get("reference")?.f_detach()?);
        if call.optional("weight").is_none() {
            return single(image.f_l1_loss(&reference, Reduction::Mean)?);
        }
        let each = image.f_l1_loss(&reference, Reduction::None)?;
        single(over_samples(&each.f_mean_dim([1i64, 2, 3].as_slice(), false, None::<Kind>)?, call)?)
    }
}

register!(Loss, "pixel_l1", PixelL1);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    #[test]
    fn weights_of_one_change_nothing_and_those_of_zero_leave_samples_out() {
        let image = Tensor::from_slice(&[0.0f64, 1.0, 4.0, 4.0]).view([2, 1, 1, 2]);
        let reference = Tensor::from_slice(&[1.0f64, 1.0, 1.0, 2.0]).view([2, 1, 1, 2]);
        let loss = |weight: Option<[f64; 2]>| {
            let called = call(&PixelL1 {}).input("image", image.shallow_clone());
            let called = called.input("reference", reference.shallow_clone());
            let called = match weight {
                Some(weight) => called.input("weight", Tensor::from_slice(&weight)),
                None => called,
            };
            called.run().unwrap().output("loss").double_value(&[])
        };
        assert_eq!([None, Some([1.0, 1.0]), Some([1.0, 0.0])].map(loss), [1.5, 1.5, 0.25]);
    }
}
