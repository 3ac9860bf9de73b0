//! Data streams: datasets, samplers and transforms.

use crate::draw::Draw;
use crate::picture::{Normalization, Picture};
use crate::ports::Description;
use crate::source::OpenSource;
use indexmap::IndexMap;
use mtl_recipe::{Result, bail, mistake};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The configuration of a dataset.
///
/// ```
/// use mtl_component::{
///     DType, Dataset, DatasetConfig, Description, Draw, Field, Layout, Open, OpenDataset, Ports, Result, SampleOut, register,
/// };
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
/// use std::sync::Arc;
///
/// /// Points on a line y = 2 x.
/// #[derive(Debug, Clone, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Line {
///     /// Number of points.
///     points: usize,
/// }
///
/// impl DatasetConfig for Line {
///     fn describe(&self) -> Result<Description> {
///         Ok(Ports::new().output("x", DType::Float, "batch 1").output("y", DType::Float, "batch").into())
///     }
///     fn open(&self, _: &Open<'_>) -> Result<OpenDataset> {
///         let field = |name, shape| Field { name, shape, layout: Layout::Float };
///         let fields = vec![field("x", vec![1]), field("y", Vec::new())];
///         Ok(OpenDataset::new(Arc::new(self.clone()), self.points, fields, format!("line of {}", self.points)))
///     }
/// }
///
/// impl Dataset for Line {
///     fn sample(&self, index: usize, _: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
///         out.float(0)[0] = index as f32;
///         out.float(1)[0] = 2.0 * index as f32;
///         Ok(())
///     }
/// }
///
/// register!(Dataset, "line", Line);
/// assert_eq!(Line { points: 5 }.describe()?.ports.outputs[1].name, "y");
/// # Ok::<(), mtl_component::Error>(())
/// ```
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
    /// The pictures of `source`, where the recipe names one.
    pub source: Option<OpenSource>,
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

/// Samples by index. They are asked for in several threads.
///
/// ```
/// use mtl_component::{Dataset, Draw, Place, Result, SampleOut};
///
/// /// Noise: the index and the run's seed decide it, through `draw`.
/// struct Noise;
///
/// impl Dataset for Noise {
///     fn sample(&self, _: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
///         out.float(0).fill_with(|| draw.range(-1.0, 1.0) as f32);
///         Ok(())
///     }
/// }
///
/// let mut values = [0f32; 3];
/// let mut out = SampleOut::new(vec![Place::Floats(&mut values)]);
/// Noise.sample(0, &mut Draw::new(&[1]), &mut out)?;
/// assert!(values[0] != values[1]);
/// assert_eq!(Noise.place(7)?, "sample 7");
/// # Ok::<(), mtl_component::Error>(())
/// ```
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
    ///
    /// # Errors
    /// If it cannot be said.
    fn place(&self, index: usize) -> Result<String> {
        Ok(format!("sample {index}"))
    }

    /// The files of the samples, in order, as far as they are files.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn files(&self) -> Result<Vec<&Path>> {
        Ok(Vec::new())
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
    /// A picture `[3, height, width]`, written by [`SampleOut::picture`]: on the way to a GPU it is bytes, which are
    /// normalised there.
    Picture,
    /// 64-bit integers.
    Int,
}

/// The place of one field of one sample.
#[derive(Debug)]
pub enum Place<'a> {
    /// 32-bit floats.
    Floats(&'a mut [f32]),
    /// 64-bit integers.
    Ints(&'a mut [i64]),
    /// The bytes of a picture, and how they become floats.
    Pixels(&'a mut [u8], Option<Normalization>),
}

/// Where one sample is written.
pub struct SampleOut<'a> {
    /// The places of its fields, in their order.
    pub places: Vec<Place<'a>>,
    /// The samples that were skipped because they could not be read: where each is from, and why. The dataset puts them
    /// here.
    pub skipped: Vec<String>,
}

impl<'a> SampleOut<'a> {
    /// The places of the fields of one sample, in their order.
    pub fn new(places: Vec<Place<'a>>) -> Self {
        Self { places, skipped: Vec::new() }
    }

    /// The place of a float or image field, by its number.
    ///
    /// # Panics
    /// If the field has no floats.
    pub fn float(&mut self, field: usize) -> &mut [f32] {
        match &mut self.places[field] {
            Place::Floats(values) => values,
            other => panic!("the field {field} has no place for floats, but {other:?}"),
        }
    }

    /// The place of an integer field, by its number.
    ///
    /// # Panics
    /// If the field has no integers.
    pub fn int(&mut self, field: usize) -> &mut [i64] {
        match &mut self.places[field] {
            Place::Ints(values) => values,
            other => panic!("the field {field} has no place for integers, but {other:?}"),
        }
    }

    /// Writes a picture field, by its number.
    ///
    /// # Errors
    /// If the picture has another size, or the field holds none.
    pub fn picture(&mut self, field: usize, picture: &Picture) -> Result<()> {
        match &mut self.places[field] {
            Place::Floats(values) => picture.write(values),
            Place::Pixels(bytes, normalization) => {
                picture.fits(bytes.len())?;
                bytes.copy_from_slice(&picture.data);
                *normalization = Some(picture.normalization);
                Ok(())
            }
            Place::Ints(_) => bail!("the field {field} holds integers, and not a picture"),
        }
    }
}

/// The configuration of a sampler.
///
/// ```
/// use mtl_component::{OpenDataset, Result, Sampler, SamplerConfig, register};
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
///
/// /// The samples from the last to the first.
/// #[derive(Debug, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Backwards {}
///
/// impl SamplerConfig for Backwards {
///     fn open(&self, data: &OpenDataset, _: u64) -> Result<Box<dyn Sampler>> {
///         Ok(Box::new(Order(data.parts.iter().map(|(part, _)| (part.start, part.len())).collect())))
///     }
/// }
///
/// /// The first sample and the number of samples of each part.
/// struct Order(Vec<(usize, usize)>);
///
/// impl Sampler for Order {
///     fn index(&self, part: usize, position: u64, _: u64) -> Result<usize> {
///         let (start, len) = self.0[part];
///         Ok(start + len - 1 - (position % len as u64) as usize)
///     }
/// }
///
/// register!(Sampler, "backwards", Backwards);
/// assert_eq!(Order(vec![(10, 3)]).index(0, 1, 4)?, 11);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait SamplerConfig: Send + Sync {
    /// Makes the sampler for a dataset.
    ///
    /// # Errors
    /// If the dataset lacks what the sampler needs, such as a label.
    fn open(&self, data: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>>;

    /// Makes the sampler for a dataset that follows another one (`pairs_with`), for whose samples it finds partners.
    ///
    /// # Errors
    /// If it finds no partners, or one of the datasets lacks what it needs.
    fn open_beside(&self, data: &OpenDataset, leader: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>> {
        let _ = (data, leader, seed);
        mistake!(
            "this sampler finds no partners for the samples of another stream: use `partner`, or drop `pairs_with`"
        )
    }
}

/// A sample for one of another stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partner {
    /// Its number.
    pub index: usize,
    /// Whether it is a partner, and does not only stand in the place of one.
    pub is_paired: bool,
}

/// The order of samples, a pure function of the position: a run that is resumed asks for any position first.
///
/// ```
/// use mtl_component::{Draw, Result, Sampler};
///
/// /// Drawn with replacement.
/// struct Drawn { seed: u64, len: u64 }
///
/// impl Sampler for Drawn {
///     fn index(&self, part: usize, position: u64, _: u64) -> Result<usize> {
///         Ok(Draw::new(&[self.seed, part as u64, position]).below(self.len) as usize)
///     }
/// }
///
/// let order = Drawn { seed: 1, len: 100 };
/// assert_eq!(order.index(0, 41, 8)?, order.index(0, 41, 8)?);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait Sampler: Send + Sync {
    /// The sample at a position of the stream that a part of the data has; `batch` is the number of samples drawn
    /// together over all processes.
    ///
    /// # Errors
    /// If there is none.
    fn index(&self, part: usize, position: u64, batch: u64) -> Result<usize>;

    /// The partner of a sample that the leading stream has at a position of both; only of samplers that were made beside
    /// one.
    ///
    /// # Errors
    /// If there is none.
    fn partner(&self, leader: usize, position: u64) -> Result<Partner> {
        bail!("no partner of sample {leader} is known at position {position}")
    }
}

/// The configuration of a picture transform.
///
/// ```
/// use mtl_component::{Draw, Picture, Result, Transform, TransformConfig, register};
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
/// use std::sync::Arc;
///
/// /// The negative of a picture.
/// #[derive(Debug, Clone, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Negative {
///     /// Probability.
///     probability: f64,
/// }
///
/// impl TransformConfig for Negative {
///     fn open(&self) -> Result<Arc<dyn Transform>> {
///         Ok(Arc::new(self.clone()))
///     }
/// }
///
/// impl Transform for Negative {
///     fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
///         if draw.chance(self.probability) {
///             picture.data.iter_mut().for_each(|value| *value = 255 - *value);
///         }
///         Ok(())
///     }
/// }
///
/// register!(Transform, "negative", Negative);
/// let mut picture = Picture::new(1, 1, vec![0, 5, 255])?;
/// Negative { probability: 1.0 }.open()?.apply(&mut picture, &mut Draw::new(&[1]))?;
/// assert_eq!(picture.data, [255, 250, 0]);
/// # Ok::<(), mtl_component::Error>(())
/// ```
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
///
/// ```
/// use mtl_component::{Draw, Picture, Result, Transform};
///
/// /// A black margin.
/// struct Margin(usize);
///
/// impl Transform for Margin {
///     fn apply(&self, picture: &mut Picture, _: &mut Draw) -> Result<()> {
///         let row = picture.width * 3;
///         picture.data.chunks_exact_mut(row).take(self.0).for_each(|line| line.fill(0));
///         Ok(())
///     }
/// }
///
/// let mut picture = Picture::new(1, 2, vec![9; 6])?;
/// Margin(1).apply(&mut picture, &mut Draw::new(&[1]))?;
/// assert_eq!(picture.data, [0, 0, 0, 9, 9, 9]);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait Transform: Send + Sync {
    /// Changes the picture.
    ///
    /// # Errors
    /// If it cannot be changed so.
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()>;
}
