//! Data streams: datasets, samplers and transforms.

use crate::draw::Draw;
use crate::picture::{Normalization, Picture};
use crate::ports::Description;
use indexmap::IndexMap;
use mtl_recipe::Result;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The configuration of a dataset.
pub trait DatasetConfig: Send + Sync {
    /// What a batch holds, as outputs whose first size is `batch`; what is wrong with the configuration; and the names
    /// of sizes that the opened data decides.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self) -> Result<Description>;

    /// Opens the data.
    ///
    /// # Errors
    /// What the user can mend, such as a missing file or a bad line, is a mistake that names the file and the line.
    fn open(&self, open: &Open<'_>) -> Result<OpenDataset>;
}

/// What a dataset may use when it is opened.
pub struct Open<'a> {
    /// Sizes of the recipe.
    pub dims: &'a IndexMap<String, i64>,
    /// Transforms of the recipe, in order.
    pub transforms: Vec<Arc<dyn Transform>>,
}

/// An opened dataset and what is known of it.
#[derive(Clone)]
pub struct OpenDataset {
    /// The samples. Shared by the loader's threads.
    pub samples: Arc<dyn Dataset>,
    /// The number of samples.
    pub len: usize,
    /// The fields of a sample in the order of the ports: shape without the batch, and layout.
    pub fields: Vec<Field>,
    /// Sizes that the data decides, such as the number of identities.
    pub sizes: Vec<(&'static str, i64)>,
    /// Parts that are mixed in every batch, with their shares. They are consecutive and hold all samples.
    pub parts: Vec<(Range<usize>, f64)>,
    /// A text that changes when the data changes.
    pub fingerprint: String,
    /// What the run folder keeps beside the weights, as (file name, JSON). The names of what a size counts are kept as
    /// `<size>.json`, an array of texts: rows of weights are told apart by them.
    pub records: Vec<(&'static str, serde_json::Value)>,
    /// What the data holds, in a few words for the user; empty if its length says it all.
    pub summary: String,
}

impl OpenDataset {
    /// A dataset of one part, without sizes or records of its own.
    pub fn new(samples: Arc<dyn Dataset>, len: usize, fields: Vec<Field>, fingerprint: String) -> Self {
        let parts = vec![(0..len, 1.0)];
        let (sizes, records, summary) = Default::default();
        Self { samples, len, fields, sizes, parts, fingerprint, records, summary }
    }
}

/// Samples by index.
pub trait Dataset: Send + Sync {
    /// Writes one sample. `draw` is the only source of randomness.
    ///
    /// # Errors
    /// If the sample cannot be read; the error names it.
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()>;

    /// A label of every sample, for balanced sampling; none if the data has no label of that name.
    ///
    /// # Errors
    /// If the labels cannot be read.
    fn column(&self, name: &str) -> Result<Option<Column>> {
        let _ = name;
        Ok(None)
    }

    /// Where a sample is from, such as a line of a list, for messages.
    fn place(&self, index: usize) -> String {
        format!("sample {index}")
    }

    /// The files of the samples, in order, as far as they are files.
    fn files(&self) -> Vec<&Path> {
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
    floats: Vec<&'a mut [f32]>,
    ints: Vec<&'a mut [i64]>,
    /// For each field, its layout's index into the lists above.
    at: Vec<usize>,
    /// The samples that were skipped because they could not be read: where each is from, and why. The dataset puts them
    /// here.
    pub skipped: Vec<String>,
}

impl<'a> SampleOut<'a> {
    /// The places of the float fields and of the integer fields of one sample, each in order; `at` holds for each field
    /// its index among those of its sort.
    pub fn new(floats: Vec<&'a mut [f32]>, ints: Vec<&'a mut [i64]>, at: Vec<usize>) -> Self {
        Self { floats, ints, at, skipped: Vec::new() }
    }

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
pub trait SamplerConfig: Send + Sync {
    /// Makes the sampler for a dataset.
    ///
    /// # Errors
    /// If the dataset lacks what the sampler needs, such as a label.
    fn open(&self, data: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>>;
}

/// The order of samples, a pure function of the position.
pub trait Sampler: Send + Sync {
    /// The sample at a position of the stream that a part of the data has; `batch` is the number of samples drawn
    /// together over all processes.
    ///
    /// # Errors
    /// If there is none.
    fn index(&self, part: usize, position: u64, batch: u64) -> Result<usize>;
}

/// The configuration of a picture transform.
pub trait TransformConfig: Send + Sync {
    /// What the engine has to know of it.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self) -> Result<TransformDescription> {
        Ok(TransformDescription::default())
    }

    /// Makes the transform.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    fn open(&self) -> Result<Arc<dyn Transform>>;
}

/// What the engine has to know of a transform.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TransformDescription {
    /// It belongs to the input of the network and is done outside of training as well.
    pub in_evaluation: bool,
    /// The normalisation that it sets, if it sets one.
    pub normalization: Option<Normalization>,
    /// Width and height in pixels that it brings every picture to, if it does.
    pub size: Option<(i64, i64)>,
}

/// A change of a picture; the only randomness is `draw`.
pub trait Transform: Send + Sync {
    /// Changes the picture.
    ///
    /// # Errors
    /// If it cannot be changed so.
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()>;
}
