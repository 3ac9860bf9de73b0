//! Making and naming parameters.

use crate::data::draw::hash_words;
use anyhow::{Result, bail};
use indexmap::IndexMap;
use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// What a parameter is, which decides whether weight decay applies to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weights of convolutions, linear layers, classifiers, PReLU slopes.
    Weight,
    /// Biases.
    Bias,
    /// Scale and shift of a normalisation.
    Norm,
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All the same.
    Const(f64),
    /// Uniform in ±bound.
    Uniform(f64),
    /// Normal with mean 0.
    Normal(f64),
    /// Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 16).
    XavierUniform,
}

/// One parameter or buffer.
#[derive(Debug)]
pub struct Entry {
    /// The tensor; modules hold a clone that shares its memory.
    pub tensor: Tensor,
    /// The role, for parameters; buffers have none.
    pub role: Option<Role>,
}

/// All parameters and buffers of one module by name, in the order of their making.
pub type Store = IndexMap<String, Entry>;

/// Where tensors are made.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// The device.
    pub device: Device,
    /// The kind of floating point numbers.
    pub kind: Kind,
    /// 4-D parameters get channels-last memory.
    pub channels_last: bool,
    /// 3x3 convolutions may take Winograd's algorithm.
    pub winograd: bool,
    /// Seed of the initial values.
    pub seed: u64,
    /// Only shapes are wanted: tensors have no memory of their own.
    pub shapes_only: bool,
}

/// Makes parameters under a path of names, as PyTorch's state dict has them.
#[derive(Clone)]
pub struct Params {
    store: Rc<RefCell<Store>>,
    constants: Rc<RefCell<IndexMap<String, Tensor>>>,
    module: Rc<str>,
    prefix: String,
    placement: Placement,
}

impl Params {
    /// An empty store for the module of that name.
    pub fn new(module: &str, placement: Placement) -> Self {
        Self { store: Rc::default(), constants: Rc::default(), module: module.into(), prefix: String::new(), placement }
    }

    /// The same store one name deeper.
    pub fn pp(&self, name: impl Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { prefix, ..self.clone() }
    }

    /// Where tensors are made.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Takes the finished store out; the builders left over write into a new, unused one.
    pub fn take(&self) -> Store {
        self.store.take()
    }

    /// Makes a trainable parameter.
    ///
    /// Its initial values are a function of the run's seed and its full name, so adding a layer elsewhere
    /// does not change them.
    pub fn param(&self, name: &str, shape: &[i64], init: Init, role: Role) -> Result<Tensor> {
        let tensor = self.make(name, shape, init)?;
        self.insert(name, tensor, Some(role))
    }

    /// Makes a buffer: saved with the weights, never trained.
    pub fn buffer(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let tensor = self.make(name, shape, init)?;
        self.insert(name, tensor, None)
    }

    /// Makes a buffer that counts.
    pub fn counter(&self, name: &str) -> Result<Tensor> {
        let tensor = Tensor::f_zeros([], (Kind::Int64, self.placement.device))?;
        self.insert(name, tensor, None)
    }

    /// Names a tensor that the configuration fixes. It is not saved; weights from elsewhere that hold it must agree.
    pub fn constant(&self, name: &str, tensor: &Tensor) {
        self.constants.borrow_mut().insert(self.pp(name).prefix, tensor.shallow_clone());
    }

    /// Takes the tensors out that the configuration fixes.
    pub fn take_constants(&self) -> IndexMap<String, Tensor> {
        self.constants.take()
    }

    fn insert(&self, name: &str, tensor: Tensor, role: Option<Role>) -> Result<Tensor> {
        let full = self.pp(name).prefix;
        let out = tensor.shallow_clone();
        if self.store.borrow_mut().insert(full.clone(), Entry { tensor, role }).is_some() {
            bail!("the module `{}` makes the parameter `{full}` twice", self.module);
        }
        Ok(out)
    }

    fn make(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let p = self.placement;
        if p.shapes_only {
            return Ok(Tensor::f_zeros([1], (p.kind, Device::Cpu))?.f_expand(shape, false)?);
        }
        // Drawn on the CPU in float32 whatever the device, so that a run starts alike everywhere.
        let cpu = (Kind::Float, Device::Cpu);
        let mut tensor = match init {
            Init::Const(value) => Tensor::f_full(shape, value, cpu)?,
            Init::Uniform(bound) => self.draw(name, shape)?.f_uniform_(-bound, bound)?,
            Init::Normal(deviation) => self.draw(name, shape)?.f_normal_(0.0, deviation)?,
            Init::XavierUniform => {
                let receptive: i64 = shape.iter().skip(2).product();
                let (fan_in, fan_out) = (shape.get(1).unwrap_or(&1) * receptive, shape[0] * receptive);
                let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
                self.draw(name, shape)?.f_uniform_(-bound, bound)?
            }
        };
        if p.channels_last && shape.len() == 4 {
            tensor = mtl_torch::channels_last(&tensor)?;
        }
        Ok(tensor.f_to_device(p.device)?.f_to_kind(p.kind)?)
    }

    fn draw(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let full = format!("{}.{}", self.module, self.pp(name).prefix);
        mtl_torch::seed(hash_words(&[self.placement.seed, hash_text(&full)]))?;
        Ok(Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?)
    }
}

/// FNV-1a, to turn a name into a number that never changes.
fn hash_text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
