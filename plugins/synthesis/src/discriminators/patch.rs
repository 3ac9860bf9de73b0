use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use crate::condition;
use crate::layers::{self, NormLayer};
use mtl_component::nn::{Conv, Conv2d, SpectralConv2d};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The published discriminator (MTLFace, section 3.2; patches as Isola et al. 2017, section 3.2.2): 4x4 convolutions
/// that judge overlapping patches. The wanted age enters as one-hot planes beside the features.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Patch {
    /// Channels of the first layer; each later one doubles them, up to eight times.
    #[serde(default = "width")]
    #[schemars(range(min = 1, max = 4096))]
    width: i64,
    /// Layers that halve the size; one more follows that does not, and the judgement.
    #[serde(default = "layers")]
    #[schemars(range(min = 1, max = 6))]
    layers: u32,
    /// How the layers between the first and the last are normalised.
    #[serde(default)]
    norm: PatchNorm,
    /// The layers that come before the wanted age enters: 0 puts it beside the picture.
    #[serde(default = "condition_after")]
    #[schemars(range(min = 0, max = 6))]
    condition_after: u32,
}

/// How the layers of the discriminator are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PatchNorm {
    /// The weights by their largest singular value (published).
    #[default]
    Spectral,
    /// The features by the statistics of the batch.
    Batch,
    /// The features by those of each picture.
    Instance,
    /// Not at all.
    None,
}

fn width() -> i64 {
    64
}
fn layers() -> u32 {
    4
}
fn condition_after() -> u32 {
    1
}

impl ModuleConfig for Patch {
    fn describe(&self) -> Result<Description> {
        let by = 1 << self.layers;
        let ports = condition::inputs(Ports::new().input("image", DType::Float, "batch 3 height width"));
        let ports = ports.output("judgement", DType::Float, format!("batch 1 height/{by}-2 width/{by}-2"));
        let ports = match self.norm {
            PatchNorm::Batch => ports.batch_statistics(format!("batch height/{by}-1 width/{by}-1")),
            _ => ports,
        };
        let most = self.layers;
        let problem = (self.condition_after > most)
            .then(|| format!("condition_after is at most layers = {most}, found {}", self.condition_after));
        Ok(condition::required(ports).problems(problem))
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let groups = sizes.global("age_groups")?;
        let joins = |layer: u32| if layer == self.condition_after { groups } else { 0 };
        let input = 3 + joins(0);
        let first = Conv2d::new(&p.pp("conv1"), input, self.width, Conv::plain(input, 4, 2, 1))?;
        let main = p.pp("main");
        let mut middle = Vec::new();
        let mut before = self.width;
        for layer in 1..=self.layers {
            let after = (2 * before).min(8 * self.width);
            let stride = if layer == self.layers { 1 } else { 2 };
            // The released code counts layers and activations in one sequence; normalisations get names of their own.
            let place = 2 * (layer - 1);
            middle.push(Layer::new(&main, place, before + joins(layer), after, stride, self.norm)?);
            before = after;
        }
        let last = Conv2d::new(&main.pp(2 * self.layers), before, 1, Conv::plain(before, 4, 1, 1))?;
        Ok(Box::new(Discriminator { first, middle, last, groups, condition_after: self.condition_after }))
    }
}

struct Discriminator {
    first: Conv2d,
    middle: Vec<Layer>,
    last: Conv2d,
    groups: i64,
    condition_after: u32,
}

impl Module for Discriminator {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let image = call.get("image")?;
        let code = condition::shares(call, self.groups, image.kind())?.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        let join = |x: Tensor, layer: u32| -> Result<Tensor> {
            if layer != self.condition_after {
                return Ok(x);
            }
            let size = x.size();
            let planes = code.f_to_kind(x.kind())?.f_expand([size[0], self.groups, size[2], size[3]], false)?;
            Ok(Tensor::f_cat(&[x, planes], 1)?)
        };
        let mut x = layers::leaky(&self.first.forward(&join(image.shallow_clone(), 0)?)?)?;
        for (layer, number) in self.middle.iter().zip(1..) {
            x = layers::leaky(&layer.forward(&join(x, number)?, call.train)?)?;
        }
        single(self.last.forward(&x)?)
    }
}

/// A convolution of a [`PatchNorm`].
enum Layer {
    Spectral(SpectralConv2d),
    Normed(Conv2d, NormLayer),
}

impl Layer {
    fn new(p: &Params, place: u32, input: i64, output: i64, stride: i64, norm: PatchNorm) -> Result<Self> {
        let conv = Conv::plain(input, 4, stride, 1);
        let own = match norm {
            PatchNorm::Spectral => return Ok(Self::Spectral(SpectralConv2d::new(&p.pp(place), input, output, conv)?)),
            PatchNorm::Batch => layers::Norm::Batch,
            PatchNorm::Instance => layers::Norm::Instance,
            PatchNorm::None => layers::Norm::None,
        };
        let norm = own.layer(&p.pp(format!("norm{place}")), output)?;
        Ok(Self::Normed(Conv2d::new(&p.pp(place), input, output, conv)?, norm))
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Spectral(conv) => conv.forward(x, train),
            Self::Normed(conv, norm) => norm.forward(&conv.forward(x)?, train),
        }
    }
}

register!(Module("discriminator"), "patch", Patch);
