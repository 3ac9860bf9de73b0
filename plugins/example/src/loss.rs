use mtl_component::{
    Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, ScalarOps, Sizes, register, single,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::{Kind, Tensor};

/// Mean of log(cosh(a (x - y))) / a² over the samples whose target is known, which is quadratic near 0 and linear far
/// from it. A target below 0 is not known.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LogCosh {
    /// Sharpness a: where the quadratic part ends.
    #[serde(default = "one")]
    #[schemars(range(min = 1e-6))]
    sharpness: f64,
}

fn one() -> f64 {
    1.0
}

impl ModuleConfig for LogCosh {
    fn describe(&self) -> Result<Description> {
        let ports = Ports::new().input("input", DType::Float, "batch").input("target", DType::Float, "batch");
        Ok(ports.output("loss", DType::Float, "").into())
    }

    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(self.clone()))
    }
}

impl Module for LogCosh {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let (input, target) = (call.get("input")?, call.get("target")?);
        let known = target.try_ge(0.0)?.f_to_kind(input.kind())?;
        // log cosh z = |z| + log(1 + exp(-2 |z|)) - log 2, which does not overflow.
        let z = input.f_sub(target)?.try_mul_scalar(self.sharpness)?.f_abs()?;
        let log_cosh = z.f_add(&z.try_mul_scalar(-2.0)?.f_exp()?.f_log1p()?)?.try_add_scalar(-(2f64.ln()))?;
        let sum = log_cosh.f_mul(&known)?.f_sum(None::<Kind>)?;
        // The count of all processes, or the gradients of several would be wrong.
        let count = call.context.world.divisor(&known.f_sum(None::<Kind>)?)?;
        single(sum.f_div(&count)?.try_div_scalar(self.sharpness * self.sharpness)?)
    }
}

register!(Loss, "log_cosh", LogCosh);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;

    fn loss(input: &[f64], target: &[f64]) -> f64 {
        let called = call(&LogCosh { sharpness: 1.0 }).input("input", Tensor::from_slice(input));
        called.input("target", Tensor::from_slice(target)).run().unwrap().output("loss").double_value(&[])
    }

    #[test]
    fn it_is_quadratic_near_zero_and_linear_far_from_it() {
        assert!((loss(&[0.01], &[0.0]) - 0.5e-4).abs() < 1e-8);
        assert!((loss(&[1000.0], &[0.0]) - (1000.0 - 2f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn unknown_targets_do_not_count() {
        assert_eq!(loss(&[1.0, 70.0], &[2.0, -1.0]), loss(&[1.0], &[2.0]));
        assert_eq!(loss(&[70.0], &[-1.0]), 0.0);
    }
}
