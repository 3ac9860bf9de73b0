//! What identity conditional modules share: their ports, and the residual network that the wanted age gates.

use crate::condition;
use crate::layers::{Activation, ActivationLayer, Norm, NormLayer, small};
use mtl_component::nn::Conv2d;
use mtl_component::{DType, Description, Params, Ports, Result};
use tch::Tensor;

/// Identity features and the wanted age in, features for the decoder out.
pub(crate) fn conditional(norm: Norm) -> Description {
    let shape = "batch channels height width";
    let ports = condition::inputs(Ports::new().input("features", DType::Float, shape));
    let ports = ports.output("features", DType::Float, shape);
    condition::required(if norm == Norm::Batch { ports.batch_statistics("batch height width") } else { ports })
}

/// The residual network of every module: a 1x1 convolution to `width` channels, residual blocks, a 1x1 convolution
/// back (MTLFace, section 3.2, fig. 4b). Parameter names are those of the released code.
pub(crate) struct Network {
    enter: Layer,
    blocks: Vec<Block>,
    leave: Layer,
}

/// What happens to the normalised features of width `width` in front of an activation.
pub(crate) type Gate<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

impl Network {
    /// Of that input, inner and output width.
    pub fn new(
        p: &Params,
        (input, width, output): (i64, i64, i64),
        blocks: u32,
        norm: Norm,
        activation: Activation,
    ) -> Result<Self> {
        Ok(Self {
            enter: Layer::new(&p.pp("conv1"), input, width, norm, activation)?,
            blocks: (0..blocks)
                .map(|i| Block::new(&p.pp("transform").pp(i), width, norm, activation))
                .collect::<Result<_>>()?,
            leave: Layer::new(&p.pp("conv2"), width, output, norm, activation)?,
        })
    }

    /// Features through the network; `gate` is applied in front of every inner activation.
    pub fn forward(&self, x: &Tensor, train: bool, gate: Gate<'_>) -> Result<Tensor> {
        let mut x = gate(&self.enter.forward(x, train)?)?;
        for block in &self.blocks {
            x = block.forward(&x, train, gate)?;
        }
        self.leave.forward(&x, train)
    }
}

/// 1x1 convolution, normalisation, activation.
struct Layer {
    conv: Conv2d,
    norm: NormLayer,
    act: ActivationLayer,
}

impl Layer {
    fn new(p: &Params, input: i64, output: i64, norm: Norm, activation: Activation) -> Result<Self> {
        Ok(Self {
            conv: Conv2d::new(&p.pp(0), input, output, norm.conv(1, 0))?,
            norm: norm.layer(&p.pp(1), output)?,
            act: activation.layer(&p.pp(2), output)?,
        })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.act.forward(&self.norm.forward(&self.conv.forward(x)?, train)?)
    }
}

/// Two 3x3 convolutions, each normalised and gated, and the sum with the input.
struct Block {
    conv1: Conv2d,
    norm1: NormLayer,
    act1: ActivationLayer,
    conv2: Conv2d,
    norm2: NormLayer,
    act2: ActivationLayer,
}

impl Block {
    fn new(p: &Params, width: i64, norm: Norm, activation: Activation) -> Result<Self> {
        let (first, second) = (p.pp("conv1"), p.pp("conv2"));
        Ok(Self {
            conv1: Conv2d::new(&first.pp(0), width, width, norm.conv(3, 1))?,
            norm1: norm.layer(&first.pp(1), width)?,
            act1: activation.layer(&p.pp("relu1"), width)?,
            conv2: Conv2d::new(&second.pp(0), width, width, small(3, 1))?,
            norm2: norm.layer(&second.pp(1), width)?,
            act2: activation.layer(&p.pp("relu2"), width)?,
        })
    }

    fn forward(&self, x: &Tensor, train: bool, gate: Gate<'_>) -> Result<Tensor> {
        let y = gate(&self.norm1.forward(&self.conv1.forward(x)?, train)?)?;
        let y = self.act1.forward(&y)?;
        let y = gate(&self.norm2.forward(&self.conv2.forward(&y)?, train)?)?;
        self.act2.forward(&x.f_add(&y)?)
    }
}
