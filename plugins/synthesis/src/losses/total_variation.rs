use anyhow::Result;
use mtl_core::component::{Block, Call, DType, Forward, Params, Ports, Sizes, single};
use mtl_core::register;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// Mean absolute difference of neighbouring pixels, down and across (Rudin et al. 1992, in the anisotropic form):
/// keeps speckles out of generated pictures.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TotalVariation {}

impl Block for TotalVariation {
    fn ports(&self) -> Ports {
        Ports::new().input("image", DType::Float, "batch channels height width").output("loss", DType::Float, "")
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Forward>> {
        Ok(Box::new(Self {}))
    }
}

impl Forward for TotalVariation {
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

    #[test]
    fn steps_down_and_across_are_counted() {
        let image = Tensor::from_slice(&[0.0f64, 1.0, 3.0, 3.0]).view([1, 1, 2, 2]);
        let ports = TotalVariation {}.ports();
        let call = Call { inputs: vec![Some(image)], ports: &ports, train: true, wanted: &[true], step: 1, total: 1 };
        let loss = TotalVariation {}.forward(&call).unwrap().remove(0).unwrap();
        assert_eq!(loss.double_value(&[]), (3.0 + 2.0) / 2.0 + (1.0 + 0.0) / 2.0);
    }
}
