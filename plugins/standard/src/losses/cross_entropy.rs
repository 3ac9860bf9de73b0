use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, nn, register, single};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Mean cross-entropy of logits and class labels. A negative label is not known and does not count.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CrossEntropy {
    /// Share of the target that is spread over all classes (Szegedy et al. 2016, section 7).
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    label_smoothing: f64,
}

impl ModuleConfig for CrossEntropy {
    fn describe(&self) -> Result<Description> {
        let ports = Ports::new().input("logits", DType::Float, "batch classes").input("target", DType::Int, "batch");
        Ok(ports.below("classes").output("loss", DType::Float, "").into())
    }
    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(self.clone()))
    }
}

impl Module for CrossEntropy {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (logits, target) = (call.get("logits")?, call.get("target")?);
        single(nn::cross_entropy(logits, target, self.label_smoothing, call.context.world)?)
    }
}

register!(Loss, "cross_entropy", CrossEntropy);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    #[test]
    fn labels_that_are_not_known_do_not_count() {
        let loss = |labels: &[i64]| {
            let logits = Tensor::from_slice(&[2.0f64, 0.0, 0.0, 1.0]).view([2, 2]);
            let logits = logits.narrow(0, 0, labels.len() as i64);
            let called = call(&CrossEntropy { label_smoothing: 0.0 }).input("logits", logits);
            called.input("target", Tensor::from_slice(labels)).run().unwrap().output("loss").double_value(&[])
        };
        assert!((loss(&[0]) - (1.0 + (-2.0f64).exp()).ln()).abs() < 1e-12);
        assert_eq!(loss(&[0, -1]), loss(&[0]));
        assert_eq!(loss(&[-1, -1]), 0.0);
    }
}
