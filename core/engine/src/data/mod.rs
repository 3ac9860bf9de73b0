//! Datasets, samplers, transforms and the loader that feeds them to training.

pub mod draw;
pub mod image;
mod loader;
mod samplers;
mod transforms;

pub(crate) use loader::panic_text;
pub use loader::{Batch, Loader, Plan, load_samples, stream_seed};

use crate::component::Ports;
use anyhow::Result;
use draw::Draw;
use image::Picture;
use std::ops::Range;
use std::sync::Arc;

/// The configuration of a dataset.
pub trait DatasetConfig: Send {
    /// What a batch holds: outputs whose first size is `batch`.
    fn ports(&self) -> Ports;

    /// Rules between keys that no schema can say.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Names of sizes in `[dims]` that are known only once the data is opened.
    fn declares(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Opens the data.
    ///
    /// # Errors
    /// What the user can mend, such as a missing file or a bad line, is a
    /// [`Mistake`](crate::diagnostic::Mistake) that names the file and the line.
    fn open(&self, context: &Open<'_>) -> Result<Box<dyn Dataset>>;
}

/// What a dataset may use when it is opened.
pub struct Open<'a> {
    /// Sizes of the recipe.
    pub dims: &'a indexmap::IndexMap<String, i64>,
    /// Transforms of the recipe, in order.
    pub transforms: Vec<Arc<dyn Transform>>,
}

/// Samples by index. Shared by the loader's threads.
pub trait Dataset: Send + Sync {
    /// The number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fields of a sample in the order of the ports: shape without the batch, and layout.
    fn fields(&self) -> Vec<Field>;

    /// Writes one sample. `draw` is the only source of randomness.
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()>;

    /// Sizes that the data decides, such as the number of identities.
    fn sizes(&self) -> Vec<(&'static str, i64)> {
        Vec::new()
    }

    /// A label of every sample, for balanced sampling.
    fn column(&self, name: &str) -> Option<Column> {
        let _ = name;
        None
    }

    /// Parts that are mixed in every batch, with their shares; one part without sharing by default.
    fn parts(&self) -> Vec<(Range<usize>, f64)> {
        vec![(0..self.len(), 1.0)]
    }

    /// A text that changes when the data changes.
    fn fingerprint(&self) -> String;

    /// What the run folder keeps beside the weights, as (file name, JSON).
    fn records(&self) -> Vec<(&'static str, serde_json::Value)> {
        Vec::new()
    }
}

/// A label of every sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Column {
    /// One number a sample; a negative one is not known.
    pub labels: Vec<i64>,
    /// What the numbers 0, 1, … stand for, where they are a closed list.
    pub names: Option<Vec<String>>,
}

/// One field of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The name of the port.
    pub name: &'static str,
    /// The shape as the graph sees it, without the batch.
    pub shape: Vec<i64>,
    /// How it lies in memory.
    pub layout: Layout,
}

/// How a field lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// 32-bit floats in the order of the shape.
    Float,
    /// 32-bit floats of an image `[channels, height, width]` written pixel by pixel, channels innermost.
    Image,
    /// 64-bit integers.
    Int,
}

/// Where one sample is written.
pub struct SampleOut<'a> {
    pub(crate) floats: Vec<&'a mut [f32]>,
    pub(crate) ints: Vec<&'a mut [i64]>,
    /// For each field, its layout's index into the lists above.
    pub(crate) at: Vec<usize>,
    /// How many samples were passed over since they could not be read; the dataset counts them here.
    pub skipped: u64,
}

impl SampleOut<'_> {
    /// The place of a float or image field, by its number.
    pub fn float(&mut self, field: usize) -> &mut [f32] {
        self.floats[self.at[field]]
    }

    /// The place of an integer field, by its number.
    pub fn int(&mut self, field: usize) -> &mut [i64] {
        self.ints[self.at[field]]
    }
}

/// The configuration of a sampler.
pub trait SamplerConfig: Send {
    /// Makes the sampler for a dataset.
    fn open(&self, data: &dyn Dataset, seed: u64) -> Result<Box<dyn Sampler>>;
}

/// The order of samples, a pure function of the position.
pub trait Sampler: Send + Sync {
    /// The sample at a position of the stream that a part of the data has; `batch` is the number of samples
    /// drawn together over all processes.
    fn index(&self, part: usize, position: u64, batch: u64) -> usize;
}

/// The configuration of an image transform.
pub trait TransformConfig: Send {
    /// Makes the transform.
    fn open(&self) -> Result<Arc<dyn Transform>>;
}

/// A change of an image; the only randomness is `draw`.
pub trait Transform: Send + Sync {
    /// Changes the image.
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()>;

    /// Whether it belongs to the input of the network and is done outside of training as well.
    fn in_evaluation(&self) -> bool {
        false
    }
}
