use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, ScalarOps, Sizes, register};
use mtl_component::nn::{BatchNorm, Conv, Conv2d, adaptive_avg_pool2d, adaptive_max_pool2d};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Splits features into an identity and an age part by attention (MTLFace, section 3.1, eq. 1): the gated features
/// are one part, what is left is the other.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AttentionDecomposition {
    /// How the average- and max-pooled features of the channel gate are joined.
    #[serde(default)]
    pooling: Pooling,
    /// The part that is gated; the other is what is left.
    #[serde(default)]
    gates: Gates,
    /// Which attention is used (the paper's ablation, table 5).
    #[serde(default)]
    branches: Branches,
}

/// How pooled features are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Pooling {
    /// Added (CVPR code).
    #[default]
    Sum,
    /// Side by side (TPAMI package).
    Concat,
}

/// The part that is gated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Gates {
    /// The age part (CVPR code).
    #[default]
    Age,
    /// The identity part (TPAMI package).
    Identity,
}

/// Which attention is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Branches {
    /// The mean of channel and spatial attention, side by side, as published.
    #[default]
    Both,
    /// Channel attention alone.
    Channel,
    /// Spatial attention alone.
    Spatial,
    /// Channel, then spatial attention on its result, as CBAM (Woo et al. 2018).
    Sequential,
}

/// Cells of pooling into 1x1, 2x2 and 3x3.
const CELLS: i64 = 1 + 4 + 9;

impl ModuleConfig for AttentionDecomposition {
    fn describe(&self) -> Result<Description> {
        let shape = "batch channels height width";
        let ports = Ports::new().input("features", DType::Float, shape).output("identity", DType::Float, shape);
        // Channel attention pools all places of a picture into one.
        let places = if self.branches == Branches::Spatial { "batch height width" } else { "batch" };
        Ok(ports.output("age", DType::Float, shape).batch_statistics(places).into())
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let channels = sizes.get("channels")?;
        let spatial = match self.branches {
            Branches::Channel => None,
            _ => Some(SpatialGate::new(&p.pp("spatial"))?),
        };
        let channel = match self.branches {
            Branches::Spatial => None,
            _ => Some(ChannelGate::new(&p.pp("channel"), channels, self.pooling)?),
        };
        Ok(Box::new(Decomposition { config: self.clone(), channel, spatial }))
    }
}

struct Decomposition {
    config: AttentionDecomposition,
    channel: Option<ChannelGate>,
    spatial: Option<SpatialGate>,
}

impl Module for Decomposition {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = call.get("features")?;
        let gated = match (&self.channel, &self.spatial) {
            (Some(channel), Some(spatial)) if self.config.branches == Branches::Sequential => {
                let y = x.f_mul(&channel.gate(x, call)?)?;
                y.f_mul(&spatial.gate(&y, call.train)?)?
            }
            (Some(channel), Some(spatial)) => {
                let (c, s) = (channel.gate(x, call)?, spatial.gate(x, call.train)?);
                x.f_mul(&c)?.f_add(&x.f_mul(&s)?)?.try_mul_scalar(0.5)?
            }
            (Some(channel), None) => x.f_mul(&channel.gate(x, call)?)?,
            (None, Some(spatial)) => x.f_mul(&spatial.gate(x, call.train)?)?,
            (None, None) => x.shallow_clone(),
        };
        let rest = x.f_sub(&gated)?;
        Ok(match self.config.gates {
            Gates::Age => vec![Some(rest), Some(gated)],
            Gates::Identity => vec![Some(gated), Some(rest)],
        })
    }
}

/// One factor a channel, from features pooled into 1x1, 2x2 and 3x3 cells.
struct ChannelGate {
    pooling: Pooling,
    conv1: Conv2d,
    conv2: Conv2d,
    norm: BatchNorm,
}

impl ChannelGate {
    fn new(p: &Params, channels: i64, pooling: Pooling) -> Result<Self> {
        let cells = channels * CELLS;
        let input = if pooling == Pooling::Concat { 2 * cells } else { cells };
        let inner = (cells / 16).max(1);
        Ok(Self {
            pooling,
            conv1: Conv2d::new(&p.pp(0), input, inner, Conv::new(1, 1, 0))?,
            conv2: Conv2d::new(&p.pp(2), inner, channels, Conv::new(1, 1, 0))?,
            norm: BatchNorm::with_momentum(&p.pp(3), channels, 0.01)?,
        })
    }

    fn gate(&self, x: &Tensor, call: &Call<'_>) -> Result<Tensor> {
        let batch = x.size()[0];
        let (mut means, mut maxima) = (Vec::new(), Vec::new());
        for side in [1, 2, 3] {
            means.push(adaptive_avg_pool2d(x, side, call.context)?.f_reshape([batch, -1])?);
            maxima.push(adaptive_max_pool2d(x, side, call.context)?.f_reshape([batch, -1])?);
        }
        let (mean, max) = (Tensor::f_cat(&means, 1)?, Tensor::f_cat(&maxima, 1)?);
        let pooled = match self.pooling {
            Pooling::Sum => mean.f_add(&max)?,
            Pooling::Concat => Tensor::f_cat(&[mean, max], 1)?,
        };
        let pooled = pooled.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        let y = self.conv2.forward(&self.conv1.forward(&pooled)?.f_relu()?)?;
        Ok(self.norm.forward(&y, call.train)?.f_sigmoid()?)
    }
}

/// One factor a place, from the maximum and the mean over channels.
struct SpatialGate {
    conv: Conv2d,
    norm: BatchNorm,
}

impl SpatialGate {
    fn new(p: &Params) -> Result<Self> {
        Ok(Self {
            conv: Conv2d::new(&p.pp(0), 2, 1, Conv::new(7, 1, 3))?,
            norm: BatchNorm::with_momentum(&p.pp(1), 1, 0.01)?,
        })
    }

    fn gate(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let max = x.f_amax([1], true)?;
        let mean = x.f_mean_dim([1].as_slice(), true, None::<tch::Kind>)?;
        let y = self.conv.forward(&Tensor::f_cat(&[max, mean], 1)?)?;
        Ok(self.norm.forward(&y, train)?.f_sigmoid()?)
    }
}

register!(Module("decomposition"), "attention_decomposition", AttentionDecomposition);
