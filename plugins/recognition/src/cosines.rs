//! What the classifiers of identities share: their ports, and cosines to a vector of each identity.

use mtl_component::nn::normalize_rows;
use mtl_component::{DType, Description, Init, Params, Ports, Result, Role, Sizes};
use tch::Tensor;

/// Embeddings and labels in, a logit of each identity out.
pub(crate) fn classifier() -> Description {
    let ports = Ports::new().input("embedding", DType::Float, "batch size").input("label", DType::Int, "batch");
    let ports = ports.below("identities");
    ports.output("logits", DType::Float, "batch $identities").into()
}

/// Scale s of the logits (Wang et al. 2018, section 4.3).
pub(crate) fn scale() -> f64 {
    64.0
}

/// Cosines between embeddings and one weight vector an identity.
pub(crate) struct Cosines {
    weight: Tensor,
}

impl Cosines {
    /// A vector of each identity, `weight` of `[identities, size]`.
    pub fn new(p: &Params, sizes: &Sizes) -> Result<Self> {
        let shape = [sizes.global("identities")?, sizes.get("size")?];
        Ok(Self { weight: p.rows("weight", &shape, Init::XavierUniform, Role::Weight)? })
    }

    /// The cosines `[batch, identities]`.
    pub fn forward(&self, embedding: &Tensor) -> Result<Tensor> {
        Ok(normalize_rows(embedding)?.f_linear::<Tensor>(&normalize_rows(&self.weight)?, None)?)
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
