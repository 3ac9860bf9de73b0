use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, ScalarOps, Sizes, register, single};
use crate::losses::against_reference;
use mtl_component::nn::normalize_rows;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// One minus the mean cosine of the embeddings of the aged picture and of the source, which is held constant: what a
/// verification threshold looks at.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CosineIdentity {}

impl ModuleConfig for CosineIdentity {
    fn describe(&self) -> Result<Description> {
        Ok(against_reference("embedding", "batch size").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(Self {}))
    }
}

impl Module for CosineIdentity {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (own, reference) = (call.get("embedding")?, call.get("reference")?.f_detach()?);
        let product = normalize_rows(own)?.f_mul(&normalize_rows(&reference)?)?;
        let cosine = product.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)?;
        single(cosine.f_mean(None::<Kind>)?.f_neg()?.try_add_scalar(1.0)?)
    }
}

register!(Loss, "cosine_identity", CosineIdentity);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    #[test]
    fn the_reference_gets_no_gradient_and_length_does_not_count() {
        let own = Tensor::from_slice(&[3.0f64, 0.0, 0.0, 2.0]).view([2, 2]).set_requires_grad(true);
        let reference = Tensor::from_slice(&[1.0f64, 0.0, 1.0, 1.0]).view([2, 2]).set_requires_grad(true);
        let called = call(&CosineIdentity {}).input("embedding", own);
        let loss = called.input("reference", reference.shallow_clone()).run().unwrap().output("loss");
        assert!((loss.double_value(&[]) - (1.0 - (1.0 + 0.5f64.sqrt()) / 2.0)).abs() < 1e-12);
        loss.backward();
        assert!(!reference.grad().defined());
    }
}
