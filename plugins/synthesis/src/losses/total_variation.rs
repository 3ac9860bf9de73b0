use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// Mean absolute difference of neighbouring pixels, down and across (Rudin et al. 1992, in the anisotropic form):
/// keeps speckles out of generated pictures.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TotalVariation {}

impl ModuleConfig for TotalVariation {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("image", DType::Float, "batch channels height width").output("loss", DType::Float, "").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for TotalVariation {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let image = call.get("image")?;
        let step = |dim: i64| -> Result<Tensor> {
            let n = image.size()[dim as usize] - 1;
            let apart = image.f_narrow(dim, 1, n)?.f_sub(&image.f_narrow(dim, 0, n)?)?;
            Ok(apart.f_abs()?.f_mean(None::<Kind>)?)
        };
        single(step(2)?.f_add(&step(3)?)?)
    }
}

register!(Loss, "total_variation", TotalVariation);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    #[test]
    fn steps_down_and_across_are_counted() {
        let image = Tensor::from_slice(&[0.0f64, 1.0, 3.0, 3.0]).view([1, 1, 2, 2]);
        let loss = call(&TotalVariation {}).input("image", image).run().unwrap().output("loss");
        assert_eq!(loss.double_value(&[]), (3.0 + 2.0) / 2.0 + (1.0 + 0.0) / 2.0);
    }
}
