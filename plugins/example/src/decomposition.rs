use mtl_component::nn::Linear;
use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Splits features into an age and an identity part by one gate for each channel, which depends on the mean of all
/// channels: s = sigmoid(W2 relu(W1 mean(x))), the age part is s x and the identity part what is left (squeeze and
/// excitation, Hu, Shen and Sun 2018, eq. 3).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChannelGate {
    /// The hidden layer of the gate has so many times fewer numbers than there are channels.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 1))]
    reduction: i64,
}

fn sixteen() -> i64 {
    16
}

impl ModuleConfig for ChannelGate {
    fn describe(&self) -> Result<Description> {
        let shape = "batch channels height width";
        let ports = Ports::new().input("features", DType::Float, shape);
        Ok(ports.output("identity", DType::Float, shape).output("age", DType::Float, shape).into())
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let channels = sizes.get("channels")?;
        let hidden = (channels / self.reduction).max(1);
        let squeeze = Linear::new(&p.pp("squeeze"), channels, hidden)?;
        Ok(Box::new(Gate { squeeze, excite: Linear::new(&p.pp("excite"), hidden, channels)? }))
    }
}

struct Gate {
    squeeze: Linear,
    excite: Linear,
}

impl Module for Gate {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = call.get("features")?;
        let mean = x.f_mean_dim(&[2i64, 3][..], false, None)?;
        let gate = self.excite.forward(&self.squeeze.forward(&mean)?.f_relu()?)?.f_sigmoid()?;
        let age = x.f_mul(&gate.f_unsqueeze(2)?.f_unsqueeze(3)?)?;
        Ok(vec![Some(x.f_sub(&age)?), Some(age)])
    }
}

register!(Module("decomposition"), "channel_gate", ChannelGate);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::testing::call;
    use tch::{Device, Kind};

    #[test]
    fn the_parts_are_the_features_and_the_gate_is_that_of_the_formula() {
        let x = Tensor::arange(16, (Kind::Double, Device::Cpu)).view([1, 4, 2, 2]);
        let config = ChannelGate { reduction: 4 };
        // W1 takes the mean of channel 0, which is 1.5; W2 opens channel 1 alone.
        let called = call(&config).input("features", x.shallow_clone());
        let called = called.param("squeeze.weight", Tensor::from_slice2(&[[1.0, 0.0, 0.0, 0.0]]));
        let called = called.param("squeeze.bias", Tensor::from_slice(&[0.0]));
        let called = called.param("excite.weight", Tensor::from_slice2(&[[0.0], [2.0], [0.0], [0.0]]));
        let tested = called.param("excite.bias", Tensor::from_slice(&[0.0; 4])).run().unwrap();
        let (age, identity) = (tested.output("age"), tested.output("identity"));
        assert!((&age + &identity).allclose(&x, 1e-12, 0.0, false));
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        // The first number of channel 1 is 4, that of channel 2 is 8.
        assert!((age.double_value(&[0, 1, 0, 0]) - 4.0 * sigmoid(3.0)).abs() < 1e-12);
        assert!((age.double_value(&[0, 2, 0, 0]) - 8.0 * 0.5).abs() < 1e-12);
    }
}
