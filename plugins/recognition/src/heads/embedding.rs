use mtl_component::{Call, DType, Description, Init, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use mtl_component::nn::{BatchNorm, Linear};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The identity embedding: BatchNorm, dropout, a linear layer over the flattened features, BatchNorm (Deng et al.
/// 2019, option E). It is not normalised; heads and evaluators do that.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Embedding {
    /// Numbers of an embedding.
    #[serde(default = "size")]
    #[schemars(range(min = 1, max = 65536))]
    size: i64,
    /// Probability that a feature is dropped in training.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    dropout: f64,
}

fn size() -> i64 {
    512
}
fn half() -> f64 {
    0.5
}

impl ModuleConfig for Embedding {
    fn describe(&self) -> Result<Description> {
        let ports = Ports::new().input("features", DType::Float, "batch channels height width");
        let ports = ports.output("embedding", DType::Float, format!("batch {}", self.size));
        Ok(ports.batch_statistics("batch").into())
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let channels = sizes.get("channels")?;
        let flat = channels * sizes.get("height")? * sizes.get("width")?;
        Ok(Box::new(Layers {
            norm: BatchNorm::new(&p.pp(0), channels)?,
            dropout: self.dropout,
            linear: Linear::with(&p.pp(3), flat, self.size, Init::XavierUniform, Init::Const(0.0))?,
            norm_out: BatchNorm::new(&p.pp(4), self.size)?,
        }))
    }
}

struct Layers {
    norm: BatchNorm,
    dropout: f64,
    linear: Linear,
    norm_out: BatchNorm,
}

impl Module for Layers {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut x = self.norm.forward(call.get("features")?, call.train)?;
        if call.train && self.dropout > 0.0 {
            x = x.f_dropout(self.dropout, true)?;
        }
        // PyTorch's flatten goes through channels first, whatever the memory layout.
        let x = self.linear.forward(&x.f_flatten(1, -1)?)?;
        single(self.norm_out.forward(&x, call.train)?)
    }
}

register!(Module("head"), "embedding", Embedding);
