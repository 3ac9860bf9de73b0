use mtl_component::{Call, DType, Description, Module, ModuleConfig, Params, Ports, Result, Sizes, register};
use mtl_component::nn::{BatchNorm, Conv, Conv2d, PRelu};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Settings that all improved residual networks share.
struct Shape {
    units: [u32; 4],
    width: u32,
    squeeze: bool,
}

impl Shape {
    fn channels(&self) -> [i64; 4] {
        let w = i64::from(self.width);
        [w, 2 * w, 4 * w, 8 * w]
    }

    fn ports(&self) -> Ports {
        let [a, b, c, d] = self.channels();
        Ports::new()
            .input("image", DType::Float, "batch 3 height width")
            .output("c1", DType::Float, format!("batch {a} height width"))
            .output("c2", DType::Float, format!("batch {a} height/2 width/2"))
            .output("c3", DType::Float, format!("batch {b} height/4 width/4"))
            .output("c4", DType::Float, format!("batch {c} height/8 width/8"))
            .output("c5", DType::Float, format!("batch {d} height/16 width/16"))
            .batch_statistics("batch height/16 width/16")
    }

    fn build(&self, p: &Params) -> Result<Box<dyn Module>> {
        let channels = self.channels();
        let stem = channels[0];
        let input = p.pp("input_layer");
        let mut stages = Vec::new();
        let mut before = stem;
        for (i, (units, after)) in self.units.iter().zip(channels).enumerate() {
            let stage = p.pp(format!("block{}", i + 1));
            let mut list = Vec::new();
            for unit in 0..*units {
                let stride = if unit == 0 { 2 } else { 1 };
                list.push(Unit::new(&stage.pp(unit), before, after, stride, self.squeeze)?);
                before = after;
            }
            stages.push(list);
        }
        Ok(Box::new(Network {
            conv: Conv2d::new(&input.pp(0), 3, stem, Conv::new(3, 1, 1))?,
            norm: BatchNorm::new(&input.pp(1), stem)?,
            act: PRelu::new(&input.pp(2), stem)?,
            stages,
        }))
    }
}

struct Network {
    conv: Conv2d,
    norm: BatchNorm,
    act: PRelu,
    stages: Vec<Vec<Unit>>,
}

impl Module for Network {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = self.conv.normalized(call.get("image")?, &self.norm, call.train)?;
        let mut x = self.act.forward(&x)?;
        let mut outputs = vec![call.wants("c1").then(|| x.shallow_clone())];
        for (stage, name) in self.stages.iter().zip(["c2", "c3", "c4", "c5"]) {
            for unit in stage {
                x = unit.forward(&x, call.train)?;
            }
            outputs.push(call.wants(name).then(|| x.shallow_clone()));
        }
        Ok(outputs)
    }
}

/// `shortcut(x) + residual(x)`; no activation follows the sum.
struct Unit {
    shortcut: Shortcut,
    norm1: BatchNorm,
    conv1: Conv2d,
    norm2: BatchNorm,
    act: PRelu,
    conv2: Conv2d,
    norm3: BatchNorm,
    squeeze: Option<Squeeze>,
}

enum Shortcut {
    /// As it is, or every other pixel: the original's max-pool of one pixel.
    Pick(i64),
    Project(Conv2d, BatchNorm),
}

impl Unit {
    fn new(p: &Params, input: i64, output: i64, stride: i64, squeeze: bool) -> Result<Self> {
        let shortcut = if input == output {
            Shortcut::Pick(stride)
        } else {
            let s = p.pp("shortcut_layer");
            Shortcut::Project(
                Conv2d::new(&s.pp(0), input, output, Conv::new(1, stride, 0))?,
                BatchNorm::new(&s.pp(1), output)?,
            )
        };
        let r = p.pp("res_layer");
        Ok(Self {
            shortcut,
            norm1: BatchNorm::new(&r.pp(0), input)?,
            conv1: Conv2d::new(&r.pp(1), input, output, Conv::new(3, 1, 1))?,
            norm2: BatchNorm::new(&r.pp(2), output)?,
            act: PRelu::new(&r.pp(3), output)?,
            conv2: Conv2d::new(&r.pp(4), output, output, Conv::new(3, stride, 1))?,
            norm3: BatchNorm::new(&r.pp(5), output)?,
            squeeze: squeeze.then(|| Squeeze::new(&r.pp(6), output)).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = match &self.shortcut {
            Shortcut::Pick(1) => x.shallow_clone(),
            Shortcut::Pick(stride) => {
                let end = i64::MAX;
                x.f_slice(2, None, Some(end), *stride)?.f_slice(3, None, Some(end), *stride)?
            }
            Shortcut::Project(conv, norm) => conv.normalized(x, norm, train)?,
        };
        let r = self.conv1.normalized(&self.norm1.forward(x, train)?, &self.norm2, train)?;
        let mut r = self.conv2.normalized(&self.act.forward(&r)?, &self.norm3, train)?;
        if let Some(squeeze) = &self.squeeze {
            r = squeeze.forward(&r)?;
        }
        // Nothing before needs `r` as it was for its gradient.
        Ok(r.f_add_(&shortcut)?)
    }
}

/// Squeeze and excitation (Hu et al. 2018) with reduction 16.
struct Squeeze {
    fc1: Conv2d,
    fc2: Conv2d,
}

impl Squeeze {
    fn new(p: &Params, channels: i64) -> Result<Self> {
        let inner = (channels / 16).max(1);
        Ok(Self {
            fc1: Conv2d::new(&p.pp("fc1"), channels, inner, Conv::new(1, 1, 0))?,
            fc2: Conv2d::new(&p.pp("fc2"), inner, channels, Conv::new(1, 1, 0))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = x.f_adaptive_avg_pool2d([1, 1])?;
        let gate = self.fc2.forward(&self.fc1.forward(&gate)?.f_relu()?)?.f_sigmoid()?;
        Ok(x.f_mul(&gate)?)
    }
}

fn width() -> u32 {
    64
}

macro_rules! network {
    ($name:literal, $type:ident, $units:expr, $squeeze:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// Improved residual network (MTLFace, section 3.1; Deng et al. 2019, section 3.1). The image's sides must
        /// be multiples of 16; outputs c1 to c5 are the stem and the four stages.
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $type {
            /// Channels of the stem and the first stage; each later stage doubles them.
            #[serde(default = "width")]
            #[schemars(range(min = 1, max = 1024))]
            width: u32,
            /// Units of the four stages, instead of the network's own.
            #[serde(default)]
            depths: Option<[u32; 4]>,
        }

        impl $type {
            fn shape(&self) -> Shape {
                Shape { units: self.depths.unwrap_or($units), width: self.width, squeeze: $squeeze }
            }
        }

        impl ModuleConfig for $type {
            fn describe(&self) -> Result<Description> {
                let empty = self.depths.filter(|depths| depths.contains(&0));
                let problem = empty.map(|d| format!("every stage needs a unit, found depths = {d:?}"));
                Ok(Description::from(self.shape().ports()).problems(problem))
            }
            fn build(&self, params: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
                self.shape().build(params)
            }
        }

        register!(Module("backbone"), $name, $type);
    };
}

network!("ir18", Ir18, [2, 2, 2, 2], false, "18 layers.");
network!("ir34", Ir34, [3, 4, 6, 3], false, "34 layers.");
network!("ir50", Ir50, [3, 4, 14, 3], false, "50 layers.");
network!("ir64", Ir64, [3, 4, 10, 3], false, "The released code's \"64\": in truth shallower than `ir50`.");
network!("ir101", Ir101, [3, 13, 30, 3], false, "101 layers.");
network!("ir152", Ir152, [3, 8, 36, 3], false, "152 layers, of units with two convolutions; AdaFace's IR_152 has bottlenecks of 2,048 channels.");
network!("irse50", Irse50, [3, 4, 14, 3], true, "50 layers with squeeze and excitation.");
network!("irse101", Irse101, [3, 13, 30, 3], true, "101 layers with squeeze and excitation.");
network!("irse152", Irse152, [3, 8, 36, 3], true, "152 layers with squeeze and excitation.");
