use mtl_component::nn::normalize_rows;
use mtl_component::{
    Call, DType, Description, Init, Module, ModuleConfig, Params, Ports, Result, Role, ScalarOps, Sizes, register,
    single,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// A classifier by the cosine between an embedding and the centre of each person, divided by a learned temperature
/// (Wang et al. 2017, NormFace, with 1 / s in the place of their scale s).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Temperature {
    /// Where the temperature starts.
    #[serde(default = "start")]
    #[schemars(range(min = 1e-3, max = 1.0))]
    start: f64,
}

fn start() -> f64 {
    0.03
}

impl ModuleConfig for Temperature {
    fn describe(&self) -> Result<Description> {
        let ports = Ports::new().input("embedding", DType::Float, "batch size");
        let ports = ports.input("label", DType::Int, "batch").below("identities");
        Ok(ports.output("logits", DType::Float, "batch $identities").into())
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let shape = [sizes.global("identities")?, sizes.get("size")?];
        Ok(Box::new(Cosines {
            // A row for each person: what can be cut over several processes.
            centres: p.rows("weight", &shape, Init::Normal(0.01), Role::Weight)?,
            log: p.param("log_temperature", &[], Init::Const(self.start.ln()), Role::Norm)?,
        }))
    }
}

struct Cosines {
    centres: Tensor,
    log: Tensor,
}

impl Module for Cosines {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let embedding = normalize_rows(call.get("embedding")?)?;
        let cosines = embedding.f_matmul(&normalize_rows(&self.centres)?.f_tr()?)?;
        single(cosines.f_mul(&self.log.try_mul_scalar(-1.0)?.f_exp()?)?)
    }
}

register!(Module("head"), "temperature", Temperature);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    #[test]
    fn logits_are_cosines_over_the_temperature() {
        let config = Temperature { start: 0.5 };
        let called = call(&config).dim("identities", 2).input("embedding", Tensor::from_slice2(&[[3.0, 4.0]]));
        let called = called.param("weight", Tensor::from_slice2(&[[2.0, 0.0], [0.0, -1.0]]));
        // Starting values are drawn in single precision.
        let called = called.param("log_temperature", Tensor::from(0.5f64.ln()));
        let tested = called.input("label", Tensor::from_slice(&[0i64])).run().unwrap();
        let logits = tested.output("logits");
        // The cosines are 0.6 and -0.8.
        assert!((logits.double_value(&[0, 0]) - 1.2).abs() < 1e-12);
        assert!((logits.double_value(&[0, 1]) + 1.6).abs() < 1e-12);
        // d logit / d log t = -logit.
        logits.sum(tch::Kind::Double).backward();
        assert!((tested.param("log_temperature").grad().double_value(&[]) + 1.2 - 1.6).abs() < 1e-12);
    }
}
