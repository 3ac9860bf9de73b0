//! Making and naming parameters.

use crate::context::{Context, World};
use crate::draw::hash_words;
use crate::host::drawing;
use indexmap::IndexMap;
use mtl_recipe::{Result, bail};
use mtl_torch::full;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use tch::{Device, Kind, Tensor};

/// Rows of a class matrix that are drawn together. Each block has a seed of its own, so that a matrix that is cut over
/// several processes starts with the same values.
pub const ROWS_PER_BLOCK: i64 = 1024;

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
    /// Whether it has a row for each class.
    pub rows: bool,
    /// Which rows these are, where the classes are cut over the processes of the run.
    pub shard: Option<Shard>,
    /// The rows that take part in a step, where not all do.
    pub sampled: Option<Sampled>,
}

/// Some rows of a parameter, which a module has drawn for a step: their gradient is taken, and only they move.
#[derive(Debug)]
pub struct Sample {
    /// Their values `[n, …]`, which record gradients.
    pub leaf: Tensor,
    /// Which rows they are, `[n]`.
    pub rows: Tensor,
}

/// Where a module leaves the rows that it has drawn, for the optimizer.
pub type Sampled = Rc<RefCell<Option<Sample>>>;

/// A parameter with a row for each class, of which a step may use some.
#[derive(Debug)]
pub struct Rows {
    /// All rows that are here.
    pub tensor: Tensor,
    sampled: Option<Sampled>,
}

impl Rows {
    /// The given rows, which record gradients in the place of the parameter; all of them where none are given.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn of(&self, rows: Option<&Tensor>) -> Result<Tensor> {
        let (Some(rows), Some(sampled)) = (rows, &self.sampled) else { return Ok(self.tensor.shallow_clone()) };
        let leaf = tch::no_grad(|| self.tensor.f_index_select(0, rows))?.f_detach()?;
        mtl_torch::set_requires_grad(&[&leaf], self.tensor.requires_grad())?;
        *sampled.borrow_mut() = Some(Sample { leaf: leaf.shallow_clone(), rows: rows.shallow_clone() });
        Ok(leaf)
    }
}

/// Some rows of a matrix whose rows are cut over the processes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The first row that is here.
    pub first: i64,
    /// The rows of all processes.
    pub total: i64,
}

impl Shard {
    /// The rows of a process: all have equally many, but for the last ones.
    pub fn rows(total: i64, world: World) -> Range<i64> {
        let each = Self::each(total, world);
        let first = (world.rank() as i64 * each).min(total);
        first..(first + each).min(total)
    }

    /// The most rows that a process has.
    pub fn each(total: i64, world: World) -> i64 {
        (total + world.size() as i64 - 1) / world.size() as i64
    }
}

/// All parameters and buffers of one module by name, in the order of their making.
pub type Parameters = IndexMap<String, Entry>;

/// Makes parameters under a path of names, as PyTorch's state dict has them.
#[derive(Clone)]
pub struct Params {
    store: Rc<RefCell<Parameters>>,
    constants: Rc<RefCell<IndexMap<String, Tensor>>>,
    module: Rc<str>,
    prefix: String,
    context: Arc<Context>,
    /// Rows of classes are cut over the processes.
    cut: bool,
    /// The share of the rows of classes that take part in a step.
    sample_rate: f64,
}

impl Params {
    /// An empty store for the module of that name.
    pub fn new(module: &str, context: Arc<Context>) -> Self {
        Self {
            store: Rc::default(),
            constants: Rc::default(),
            module: module.into(),
            prefix: String::new(),
            context,
            cut: false,
            sample_rate: 1.0,
        }
    }

    /// The same, where rows of classes are cut over the processes of the run.
    #[must_use]
    pub fn cutting_classes(self) -> Self {
        Self { cut: self.context.world.size() > 1 && !self.context.shapes_only, ..self }
    }

    /// The same, where only a share of the classes takes part in a step.
    #[must_use]
    pub fn sampling_classes(self, sample_rate: f64) -> Self {
        Self { sample_rate, ..self }
    }

    /// The share of the classes that takes part in a step of training; 1 is all of them.
    pub fn sample_rate(&self) -> f64 {
        self.sample_rate
    }

    /// The classes of so many whose rows this process holds, if they are cut over several.
    pub fn own_classes(&self, classes: i64) -> Option<Range<i64>> {
        self.cut.then(|| Shard::rows(classes, self.context.world))
    }

    /// The same store one name deeper.
    pub fn pp(&self, name: impl Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { prefix, ..self.clone() }
    }

    /// Where the run computes, and which of its processes this one is.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Takes the finished store out; the builders left over write into a new, unused one.
    pub fn take(&self) -> Parameters {
        self.store.take()
    }

    /// Makes a trainable parameter.
    ///
    /// Its initial values are a function of the run's seed and its full name, so adding a layer elsewhere
    /// does not change them.
    pub fn param(&self, name: &str, shape: &[i64], init: Init, role: Role) -> Result<Tensor> {
        let tensor = self.make(name, shape, init)?;
        self.insert(name, Entry { tensor, role: Some(role), rows: false, shard: None, sampled: None })
    }

    /// Makes a trainable matrix, or a vector, with a row for each class: `[classes, …]`.
    ///
    /// Where classes are cut over processes it has the rows of [`own_classes`](Self::own_classes) only.
    ///
    /// As [`param`](Self::param), but drawn in blocks of [`ROWS_PER_BLOCK`] rows, each seeded by the run's seed, the
    /// full name and the number of the block, so that any process can draw the rows that it holds.
    ///
    /// # Errors
    /// If the tensor cannot be made, or the module has a parameter of that name already.
    pub fn rows(&self, name: &str, shape: &[i64], init: Init, role: Role) -> Result<Tensor> {
        Ok(self.class_rows(name, shape, init, role)?.tensor)
    }

    /// As [`rows`](Self::rows), for a module that may draw some of them for a step.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn class_rows(&self, name: &str, shape: &[i64], init: Init, role: Role) -> Result<Rows> {
        let tensor = if self.context.shapes_only {
            self.make(name, shape, init)?
        } else {
            let (classes, bound) = (shape.first().copied().unwrap_or(0), init.distribution(shape));
            let block = |rows: Range<i64>| -> Result<Tensor> {
                let mut part = shape.to_vec();
                part[0] = rows.end - rows.start;
                bound.draw(&part, || self.seed(name, &[(rows.start / ROWS_PER_BLOCK) as u64]))
            };
            let own = self.own_classes(classes).unwrap_or(0..classes);
            let starts = (0..classes).step_by(ROWS_PER_BLOCK as usize);
            let blocks = starts.map(|start| start..(start + ROWS_PER_BLOCK).min(classes));
            let blocks = blocks.filter(|rows| rows.start < own.end && own.start < rows.end);
            // A block is drawn whole, so that its rows are the same wherever the matrix is cut.
            let parts = blocks.map(|rows| {
                let (first, end) = (rows.start.max(own.start), rows.end.min(own.end));
                Ok(block(rows.clone())?.f_narrow(0, first - rows.start, end - first)?)
            });
            let mut parts = parts.collect::<Result<Vec<_>>>()?;
            if parts.is_empty() {
                let mut none = shape.to_vec();
                none[0] = 0;
                parts.push(Tensor::f_zeros(&none, (Kind::Float, Device::Cpu))?);
            }
            self.place(Tensor::f_cat(&parts, 0)?)?
        };
        let total = shape.first().copied().unwrap_or(0);
        let shard = self.own_classes(total).map(|own| Shard { first: own.start, total });
        let sampled = (self.sample_rate < 1.0).then(Sampled::default);
        let entry = Entry { tensor, role: Some(role), rows: true, shard, sampled: sampled.clone() };
        Ok(Rows { tensor: self.insert(name, entry)?, sampled })
    }

    /// Makes a buffer: saved with the weights, never trained.
    pub fn buffer(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let tensor = self.make(name, shape, init)?;
        self.insert(name, Entry { tensor, role: None, rows: false, shard: None, sampled: None })
    }

    /// Makes a buffer that counts.
    pub fn counter(&self, name: &str) -> Result<Tensor> {
        let tensor = Tensor::f_zeros([], (Kind::Int64, self.context.device))?;
        self.insert(name, Entry { tensor, role: None, rows: false, shard: None, sampled: None })
    }

    /// Names a tensor that the configuration fixes. It is not saved; weights from elsewhere that hold it must agree.
    pub fn constant(&self, name: &str, tensor: &Tensor) {
        self.constants.borrow_mut().insert(self.pp(name).prefix, tensor.shallow_clone());
    }

    /// Takes the tensors out that the configuration fixes.
    pub fn take_constants(&self) -> IndexMap<String, Tensor> {
        self.constants.take()
    }

    fn insert(&self, name: &str, entry: Entry) -> Result<Tensor> {
        let full = self.pp(name).prefix;
        let out = entry.tensor.shallow_clone();
        if self.store.borrow_mut().insert(full.clone(), entry).is_some() {
            bail!("the module `{}` makes the parameter `{full}` twice", self.module);
        }
        Ok(out)
    }

    fn make(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        if self.context.shapes_only {
            return Ok(Tensor::f_zeros([], (self.context.kind, Device::Cpu))?.f_expand(shape, false)?);
        }
        self.place(init.distribution(shape).draw(shape, || self.seed(name, &[]))?)
    }

    /// A tensor drawn on the CPU where and as the run wants it.
    fn place(&self, mut tensor: Tensor) -> Result<Tensor> {
        if self.context.channels_last && tensor.dim() == 4 {
            tensor = mtl_torch::channels_last(&tensor)?;
        }
        Ok(tensor.f_to_device(self.context.device)?.f_to_kind(self.context.kind)?)
    }

    /// Seeds the draw of a parameter, or of a part of it.
    fn seed(&self, name: &str, part: &[u64]) -> Result<()> {
        let full = format!("{}.{}", self.module, self.pp(name).prefix);
        let words: Vec<u64> = [self.context.seed, hash_text(&full)].iter().chain(part).copied().collect();
        Ok(mtl_torch::seed(hash_words(&words))?)
    }
}

/// A distribution whose parameters do not depend on the shape any more.
#[derive(Clone, Copy)]
enum Distribution {
    Const(f64),
    Uniform(f64),
    Normal(f64),
}

impl Init {
    /// The distribution for a parameter of that shape.
    fn distribution(self, shape: &[i64]) -> Distribution {
        match self {
            Self::Const(value) => Distribution::Const(value),
            Self::Uniform(bound) => Distribution::Uniform(bound),
            Self::Normal(deviation) => Distribution::Normal(deviation),
            Self::XavierUniform => {
                let receptive: i64 = shape.iter().skip(2).product();
                let (fan_in, fan_out) = (shape.get(1).unwrap_or(&1) * receptive, shape[0] * receptive);
                Distribution::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
            }
        }
    }
}

impl Distribution {
    /// A tensor of that shape. It is drawn on the CPU in float32 whatever the device, so that a run starts alike
    /// everywhere; `seed` is called before anything random is drawn.
    fn draw(self, shape: &[i64], seed: impl Fn() -> Result<()>) -> Result<Tensor> {
        // The generator is the process's: nothing else may draw between the seed and the last number.
        let _alone = drawing().lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = (Kind::Float, Device::Cpu);
        let empty = || -> Result<Tensor> {
            seed()?;
            Ok(Tensor::f_empty(shape, cpu)?)
        };
        Ok(match self {
            Self::Const(value) => full(shape, value, cpu)?,
            Self::Uniform(bound) => empty()?.f_uniform_(-bound, bound)?,
            Self::Normal(deviation) => empty()?.f_normal_(0.0, deviation)?,
        })
    }
}

/// FNV-1a, to turn a name into a number that never changes.
fn hash_text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(seed: u64, classes: i64) -> Tensor {
        let context = Context { seed, ..Context::cpu(Kind::Float) };
        Params::new("head", Arc::new(context)).rows("weight", &[classes, 3], Init::Normal(1.0), Role::Weight).unwrap()
    }

    #[test]
    fn a_class_matrix_is_drawn_by_blocks_of_rows() {
        let (whole, longer) = (matrix(1, 2000), matrix(1, 5000));
        assert_eq!(whole.size(), [2000, 3]);
        // Whole blocks do not depend on how many classes follow them.
        assert!(whole.narrow(0, 0, ROWS_PER_BLOCK).equal(&longer.narrow(0, 0, ROWS_PER_BLOCK)));
        let (first, second) = (longer.narrow(0, 0, ROWS_PER_BLOCK), longer.narrow(0, ROWS_PER_BLOCK, ROWS_PER_BLOCK));
        assert!(!first.equal(&second), "blocks have seeds of their own");
        assert!(!matrix(2, 2000).equal(&whole));
        let deviation = longer.std(true).double_value(&[]);
        assert!((deviation - 1.0).abs() < 0.05, "{deviation}");
    }

    #[test]
    fn the_parts_of_a_matrix_that_is_cut_are_those_of_the_whole() {
        let whole = matrix(1, 2500);
        for size in [2, 3, 7] {
            let parts = (0..size).map(|rank| {
                let world = World::new(rank, size, rank).unwrap();
                let context = Context { seed: 1, world, ..Context::cpu(Kind::Float) };
                let params = Params::new("head", Arc::new(context)).cutting_classes();
                let part = params.rows("weight", &[2500, 3], Init::Normal(1.0), Role::Weight).unwrap();
                let entry = &params.take()["weight"];
                let own = Shard::rows(2500, world);
                assert_eq!(entry.shard, Some(Shard { first: own.start, total: 2500 }));
                assert_eq!(part.size(), [own.end - own.start, 3]);
                part
            });
            assert!(Tensor::cat(&parts.collect::<Vec<_>>(), 0).equal(&whole), "{size}");
        }
        assert_eq!(Shard::rows(4, World::new(3, 5, 3).unwrap()), 3..4);
        assert_eq!(Shard::rows(4, World::new(4, 5, 4).unwrap()), 4..4);
    }

    #[test]
    fn a_parameter_is_a_function_of_seed_and_name() {
        let draw = |name: &str| {
            let params = Params::new("m", Arc::new(Context::cpu(Kind::Float)));
            params.param(name, &[4, 4], Init::XavierUniform, Role::Weight).unwrap()
        };
        assert!(draw("a").equal(&draw("a")));
        assert!(!draw("a").equal(&draw("b")));
    }

    #[test]
    fn a_parameter_may_be_a_single_number() {
        for shapes_only in [false, true] {
            let context = Context { shapes_only, ..Context::cpu(Kind::Float) };
            let params = Params::new("m", Arc::new(context));
            let made = params.param("temperature", &[], Init::Const(0.5), Role::Norm).unwrap();
            assert_eq!(made.size(), [0i64; 0]);
        }
    }

    #[test]
    fn a_name_is_used_once() {
        let params = Params::new("m", Arc::new(Context::cpu(Kind::Float)));
        let _ = params.param("a", &[1], Init::Const(0.0), Role::Bias).unwrap();
        let error = params.param("a", &[1], Init::Const(0.0), Role::Bias).unwrap_err();
        assert!(error.to_string().contains("makes the parameter `a` twice"), "{error}");
    }
}
