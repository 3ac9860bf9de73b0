//! What the classifiers of identities share: their ports, and cosines to a vector of each identity.

use mtl_component::nn::{Classes, Labelled, normalize_rows};
use mtl_component::{Call, DType, Description, Init, Params, Ports, Result, Role, Rows, Sizes};
use tch::Tensor;

/// Embeddings and labels in, a logit of each identity out; beside it the cross-entropy, for which the logits need not be
/// in one place (Partial FC, An et al. 2021, section 3).
pub(crate) fn classifier() -> Description {
    let ports = Ports::new().input("embedding", DType::Float, "batch size").input("label", DType::Int, "batch");
    let ports = ports.below("identities");
    let ports = ports.output("logits", DType::Float, "batch $identities").by_class();
    ports.output("loss", DType::Float, "").aside().into()
}

/// Scale s of the logits (Wang et al. 2018, section 4.3).
pub(crate) fn scale() -> f64 {
    64.0
}

/// Cosines between embeddings and one weight vector an identity.
pub(crate) struct Cosines {
    weight: Rows,
    classes: Classes,
}

impl Cosines {
    /// A vector of each identity, `weight` of `[identities, size]`.
    pub fn new(p: &Params, sizes: &Sizes) -> Result<Self> {
        let shape = [sizes.global("identities")?, sizes.get("size")?];
        let weight = p.class_rows("weight", &shape, Init::XavierUniform, Role::Weight)?;
        Ok(Self { weight, classes: Classes::new(p, shape[0]) })
    }

    /// The cosines `[batch, identities]`, and what they are computed for.
    pub fn forward(&self, call: &Call<'_>) -> Result<(Labelled, Tensor)> {
        let batch = self.classes.of(call.get("embedding")?, call.get("label")?, call)?;
        let weight = normalize_rows(&self.weight.of(batch.rows.as_ref())?)?;
        let cosines = normalize_rows(&batch.embedding)?.f_linear::<Tensor>(&weight, None)?;
        Ok((batch, cosines))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use mtl_component::ModuleConfig;
    use mtl_component::nn::normalize_rows;
    use mtl_component::testing::call;
    use tch::Tensor;

    /// Embeddings of two faces, and their identities.
    pub fn example() -> (Tensor, Tensor) {
        (Tensor::from_slice(&[0.3f64, -1.0, 0.4, 2.0, 0.1, -0.7]).view([2, 3]), Tensor::from_slice(&[2i64, 0]))
    }

    /// The logits of a classifier of four identities, and the cosines that it starts from.
    pub fn logits(head: &dyn ModuleConfig, embedding: &Tensor, label: &Tensor) -> (Tensor, Tensor) {
        let called = call(head).dim("identities", 4).input("embedding", embedding.shallow_clone());
        let done = called.input("label", label.shallow_clone()).run().unwrap();
        let weight = normalize_rows(&done.param("weight")).unwrap().detach();
        let cosines = normalize_rows(&embedding.detach()).unwrap().matmul(&weight.transpose(0, 1));
        (done.output("logits"), cosines)
    }
}
