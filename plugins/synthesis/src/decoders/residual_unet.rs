use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register, single};
use crate::layers::{Norm, NormLayer, small};
use mtl_component::nn::{Conv2d, PRelu, upsample_bilinear2d};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The published decoder (MTLFace, section 3.2): four up-sampling blocks with skips from the encoder's c4, c3, c2 and
/// from the picture itself, and the picture plus what they give.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResidualUnet {
    /// Channels after each block; by default half of those before it.
    #[serde(default)]
    widths: Option<[u32; 4]>,
    /// How features are normalised. `none` is faster and nearer to a given picture (Lim et al. 2017, section 3.1).
    #[serde(default)]
    norm: Norm,
}

impl ModuleConfig for ResidualUnet {
    fn describe(&self) -> Result<Description> {
        let map = |name: &str| format!("batch {name} {name}_height {name}_width");
        let ports = Ports::new()
            .input("image", DType::Float, "batch 3 height width")
            .input("c2", DType::Float, map("c2"))
            .input("c3", DType::Float, map("c3"))
            .input("c4", DType::Float, map("c4"))
            .input("features", DType::Float, map("features"))
            .output("image", DType::Float, "batch 3 height width")
            .pictures_like("image");
        let ports = match self.norm {
            Norm::Batch => ports.batch_statistics("batch features_height features_width"),
            Norm::Instance | Norm::None => ports,
        };
        let empty = self.widths.filter(|widths| widths.contains(&0));
        let problem = empty.map(|w| format!("every block needs a channel, found widths = {w:?}"));
        Ok(Description::from(ports).problems(problem))
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let mut before = sizes.get("features")?;
        let mut blocks = Vec::new();
        for (i, skip) in [sizes.get("c4")?, sizes.get("c3")?, sizes.get("c2")?, 3].into_iter().enumerate() {
            let after = self.widths.map_or((before / 2).max(1), |w| i64::from(w[i]));
            blocks.push(Up::new(&p.pp(format!("up_{}", i + 1)), before, skip, after, self.norm)?);
            before = after;
        }
        Ok(Box::new(Decoder { blocks, last: Conv2d::new(&p.pp("conv3"), before, 3, small(1, 0))? }))
    }
}

struct Decoder {
    blocks: Vec<Up>,
    last: Conv2d,
}

impl Module for Decoder {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut x = call.get("features")?.shallow_clone();
        for (block, skip) in self.blocks.iter().zip(["c4", "c3", "c2", "image"]) {
            x = block.forward(&x, call.get(skip)?, call)?;
        }
        single(call.get("image")?.f_add(&self.last.forward(&x)?)?)
    }
}

/// `y = twice(x beside skip) + project(x)`, then `y + twice(y)`; `x` is enlarged to the size of `skip`.
struct Up {
    first: Twice,
    second: Twice,
    shortcut: Conv2d,
}

impl Up {
    fn new(p: &Params, input: i64, skip: i64, output: i64, norm: Norm) -> Result<Self> {
        Ok(Self {
            first: Twice::new(&p.pp("conv"), input + skip, output, norm)?,
            second: Twice::new(&p.pp("conv2"), output, output, norm)?,
            shortcut: Conv2d::new(&p.pp("shortcut"), input, output, norm.conv(1, 0))?,
        })
    }

    fn forward(&self, x: &Tensor, skip: &Tensor, call: &Call<'_>) -> Result<Tensor> {
        let (size, wanted, train) = (x.size(), skip.size(), call.train);
        let x = if size[2] < wanted[2] {
            upsample_bilinear2d(x, [wanted[2], wanted[3]], call.context)?
        } else {
            x.shallow_clone()
        };
        let joined = Tensor::f_cat(&[x.shallow_clone(), skip.shallow_clone()], 1)?;
        let y = self.first.forward(&joined, train)?.f_add(&self.shortcut.forward(&x)?)?;
        Ok(y.f_add(&self.second.forward(&y, train)?)?)
    }
}

/// Normalisation, activation and a 3x3 convolution, two times.
struct Twice {
    norm1: NormLayer,
    act1: PRelu,
    conv1: Conv2d,
    norm2: NormLayer,
    act2: PRelu,
    conv2: Conv2d,
}

impl Twice {
    fn new(p: &Params, input: i64, output: i64, norm: Norm) -> Result<Self> {
        Ok(Self {
            norm1: norm.layer(&p.pp(0), input)?,
            act1: PRelu::new(&p.pp(1), input)?,
            conv1: Conv2d::new(&p.pp(2), input, output, norm.conv(3, 1))?,
            norm2: norm.layer(&p.pp(3), output)?,
            act2: PRelu::new(&p.pp(4), output)?,
            conv2: Conv2d::new(&p.pp(5), output, output, small(3, 1))?,
        })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.conv1.forward(&self.act1.forward(&self.norm1.forward(x, train)?)?)?;
        self.conv2.forward(&self.act2.forward(&self.norm2.forward(&x, train)?)?)
    }
}

register!(Module("decoder"), "residual_unet", ResidualUnet);
