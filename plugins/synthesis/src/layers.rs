//! Settings and layers that several networks of synthesis share.

use mtl_component::nn::{BatchNorm, Conv, PRelu, instance_norm};
use mtl_component::{Init, Params, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How features are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// By the statistics of the batch (published).
    #[default]
    Batch,
    /// By those of each picture.
    Instance,
    /// Not at all. Weights then start larger (Glorot and Bengio 2010, eq. 16): the published ones let little through, which
    /// a normalisation makes up for.
    None,
}

/// A convolution with the published weights at the start. The last one of a residual branch has them with every
/// normalisation: a block then starts near its shortcut.
pub fn small(kernel: i64, padding: i64) -> Conv {
    Conv::normal(0.01, kernel, padding)
}

/// The activation between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// A learned slope a channel below 0 (published).
    #[default]
    Prelu,
    /// Slope 0.2 below 0.
    LeakyRelu,
    /// 0 below 0.
    Relu,
}

/// A layer of a [`Norm`].
pub enum NormLayer {
    Batch(BatchNorm),
    Instance,
    None,
}

impl Norm {
    /// A convolution with its weights at the start.
    pub fn conv(self, kernel: i64, padding: i64) -> Conv {
        match self {
            Self::Batch | Self::Instance => small(kernel, padding),
            Self::None => Conv { init: Init::XavierUniform, ..small(kernel, padding) },
        }
    }

    /// The layer over `channels`.
    pub fn layer(self, p: &Params, channels: i64) -> Result<NormLayer> {
        Ok(match self {
            Self::Batch => NormLayer::Batch(BatchNorm::new(p, channels)?),
            Self::Instance => NormLayer::Instance,
            Self::None => NormLayer::None,
        })
    }
}

impl NormLayer {
    /// `[batch, channels, h, w]` normalised.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Batch(norm) => norm.forward(x, train),
            Self::Instance => instance_norm(x),
            Self::None => Ok(x.shallow_clone()),
        }
    }
}

/// A layer of an [`Activation`].
pub enum ActivationLayer {
    Prelu(PRelu),
    Leaky,
    Relu,
}

impl Activation {
    /// The layer over `channels`.
    pub fn layer(self, p: &Params, channels: i64) -> Result<ActivationLayer> {
        Ok(match self {
            Self::Prelu => ActivationLayer::Prelu(PRelu::new(p, channels)?),
            Self::LeakyRelu => ActivationLayer::Leaky,
            Self::Relu => ActivationLayer::Relu,
        })
    }
}

impl ActivationLayer {
    /// The activation of each number.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Prelu(layer) => layer.forward(x),
            Self::Leaky => leaky(x),
            Self::Relu => Ok(x.f_relu()?),
        }
    }
}

/// `max(x, 0.2 x)`.
pub fn leaky(x: &Tensor) -> Result<Tensor> {
    mtl_component::nn::leaky_relu(x, 0.2)
}
