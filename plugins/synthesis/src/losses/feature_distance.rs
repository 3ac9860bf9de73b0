use crate::losses::over_samples;
use mtl_component::{
    Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, ScalarOps, Sizes, bail, register, single,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// How far two pictures are apart for an encoder: at each place of each layer the features become a vector of length 1,
/// and the squared distances of these vectors are averaged over places, then over layers (Zhang et al. 2018, "The
/// Unreasonable Effectiveness of Deep Features as a Perceptual Metric", eq. 1 with equal weights). A layer `c2` has the
/// inputs `c2` and `reference_c2`; references are held constant.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FeatureDistance {
    /// The layers that are compared.
    #[serde(default = "layers")]
    #[schemars(length(min = 1, max = 16))]
    layers: Vec<String>,
}

fn layers() -> Vec<String> {
    ["c2", "c3", "c4", "c5"].map(str::to_owned).to_vec()
}

impl ModuleConfig for FeatureDistance {
    fn describe(&self) -> Result<Description> {
        let mut ports = Ports::new();
        for (n, layer) in self.layers.iter().enumerate() {
            let shape = format!("batch channels{n} height{n} width{n}");
            ports = ports.input(layer, DType::Float, &*shape).input(&format!("reference_{layer}"), DType::Float, shape);
        }
        let ports = ports.optional("weight", DType::Float, "batch").output("loss", DType::Float, "");
        let twice = |layer: &String| self.layers.iter().filter(|other| *other == layer).count() > 1;
        let problem = self.layers.iter().find(|layer| twice(layer)).map(|layer| format!("the layer `{layer}` is named twice"));
        Ok(Description::from(ports).problems(problem))
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(self.clone()))
    }
}

impl Module for FeatureDistance {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut sum: Option<Tensor> = None;
        for layer in &self.layers {
            let (own, reference) = (call.get(layer)?, call.get(&format!("reference_{layer}"))?.f_detach()?);
            let apart = unit(own)?.f_sub(&unit(&reference)?)?.f_square()?;
            let apart = apart.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)?;
            let apart = apart.f_mean_dim([1i64, 2].as_slice(), false, None::<Kind>)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&apart)?,
                None => apart,
            });
        }
        let Some(sum) = sum else { bail!("no layer is compared") };
        single(over_samples(&sum.try_div_scalar(self.layers.len() as f64)?, call)?)
    }
}

/// Vectors of length 1 along the channels.
fn unit(features: &Tensor) -> Result<Tensor> {
    const SMALL: f64 = 1e-10;
    let length = features.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, None::<Kind>)?;
    Ok(features.f_div(&length.try_add_scalar(SMALL)?.f_sqrt()?)?)
}

register!(Loss, "feature_distance", FeatureDistance);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::made_pictures;
    use mtl_component::testing::call;

    const FIRST: f64 = 0.04851442922721605;
    const SECOND: f64 = 0.04823290511688426;

    /// The same sums by NumPy 2.4 in double precision, of all rows and of four of them.
    #[test]
    fn it_is_that_of_numpy() {
        let (a, b) = made_pictures();
        let part = |t: &Tensor| t.narrow(2, 3, 4).contiguous();
        let loss = |weight: Option<&[f64]>| {
            let of = FeatureDistance { layers: vec!["c2".into(), "c3".into()] };
            let mut called = call(&of).input("c2", a.shallow_clone()).input("reference_c2", b.shallow_clone());
            called = called.input("c3", part(&a)).input("reference_c3", part(&b));
            if let Some(weight) = weight {
                called = called.input("weight", Tensor::from_slice(weight));
            }
            called.run().unwrap().output("loss").double_value(&[])
        };
        assert!((loss(None) - (FIRST + SECOND) / 2.0).abs() < 1e-9, "{}", loss(None));
        assert!((loss(Some(&[0.0, 1.0])) - SECOND / 2.0).abs() < 1e-9);
    }
}
