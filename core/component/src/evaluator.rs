//! Evaluators: measuring a model on data of their own.

use crate::cases::Cases;
use crate::metric::Metric;
use crate::picture::{Normalization, Picture};
use crate::report::{ReportCurve, ReportTable};
use crate::source::{OpenSource, SourceUse};
use indexmap::IndexMap;
use mtl_recipe::{Context, Result};
use std::path::{Path, PathBuf};
use tch::Tensor;

/// The configuration of an evaluator.
///
/// ```
/// use mtl_component::{
///     Better, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, OpenEvaluator, Picture, Report, Result,
///     register,
/// };
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
///
/// /// The mean of a wire for black pictures.
/// #[derive(Debug, Clone, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct OnBlack {
///     /// The data port that takes pictures.
///     image: String,
///     /// The wire.
///     wire: String,
/// }
///
/// impl EvaluatorConfig for OnBlack {
///     fn describe(&self) -> Result<EvaluatorDescription> {
///         Ok(EvaluatorDescription {
///             wires: vec![("image", self.image.clone()), ("wire", self.wire.clone())],
///             metrics: vec![Metric::new("mean", Better::Neither)],
///             ..EvaluatorDescription::default()
///         })
///     }
///     fn open(&self, _: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
///         Ok(Box::new(self.clone()))
///     }
/// }
///
/// impl Evaluator for OnBlack {
///     fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
///         let read = |_: usize| Picture::new(112, 112, vec![0; 112 * 112 * 3]);
///         let found = model.outputs(&self.image, 1, &read, 1, &[&self.wire])?;
///         let mean = found[0].f_mean(tch::Kind::Double)?.f_double_value(&[])?;
///         Ok(Report { metrics: [("mean".to_owned(), mean)].into_iter().collect(), ..Report::default() })
///     }
/// }
///
/// register!(Evaluator, "on_black", OnBlack);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait EvaluatorConfig: Send + Sync {
    /// What the check of a recipe has to know of it.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self) -> Result<EvaluatorDescription>;

    /// Reads what it measures on: lists, pairs, folds. It is called once before training.
    ///
    /// # Errors
    /// What the user can mend, such as a missing file or a bad line, is a mistake that names the file and the line.
    fn open(&self, open: &OpenEvaluator) -> Result<Box<dyn Evaluator>>;

    /// A metric on the cases of a report, each of which counts as often as its weight says; none where they do not
    /// determine it. Whether runs differ is tested with it.
    ///
    /// # Errors
    /// If the cases are not those of such an evaluator.
    fn on_cases(&self, metric: &str, cases: &Cases, weights: &[f64]) -> Result<Option<f64>> {
        let _ = (metric, cases, weights);
        Ok(None)
    }
}

/// What the check of a recipe has to know of an evaluator.
#[derive(Debug, Clone, Default)]
pub struct EvaluatorDescription {
    /// The wires that it feeds and reads, by the key that names them.
    pub wires: Vec<(&'static str, String)>,
    /// What is wrong between keys of the configuration; one sentence each.
    pub problems: Vec<String>,
    /// The files that it needs; a missing one is a mistake, or leaves out an optional evaluator.
    pub files: Vec<PathBuf>,
    /// The metrics that a report has, as far as the configuration decides them; the main one first.
    pub metrics: Vec<Metric>,
    /// Where it has its pictures from.
    pub source: SourceUse,
}

/// What an evaluator may use when it is opened.
#[derive(Clone, Default)]
pub struct OpenEvaluator {
    /// The pictures of `source`, where the recipe names one.
    pub source: Option<OpenSource>,
}

/// An evaluator with its data.
///
/// ```
/// use mtl_component::{Evaluator, Inference, Report, Result, mistake};
///
/// /// Measures nothing, and refuses a model without embeddings before the first step.
/// struct Careful;
///
/// impl Evaluator for Careful {
///     fn check(&self, model: &dyn Inference) -> Result<()> {
///         if !model.has("embedding") {
///             mistake!("the graph has no node `embedding`");
///         }
///         Ok(())
///     }
///     fn evaluate(&self, _: &dyn Inference) -> Result<Report> {
///         Ok(Report::default())
///     }
/// }
/// ```
pub trait Evaluator {
    /// Checks, before the first step, what the model decides: that its outputs fit, and that other runs can be opened.
    /// Nothing can be evaluated yet.
    ///
    /// # Errors
    /// What the user can mend is a mistake.
    fn check(&self, model: &dyn Inference) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// The files of the pictures that it looks at, as far as they are files: that none of them is trained on is checked.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn files(&self) -> Result<Vec<&Path>> {
        Ok(Vec::new())
    }

    /// The metrics that its data cannot tell, however good the model, each with the reason: their values are not numbers.
    ///
    /// # Errors
    /// If it cannot be said.
    fn unresolved(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    /// Measures a model.
    ///
    /// # Errors
    /// If the model or the data cannot be measured.
    fn evaluate(&self, model: &dyn Inference) -> Result<Report>;
}

/// What an evaluator found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// The main numbers by name. What the data cannot tell is not a number, which files hold as null.
    pub metrics: IndexMap<String, f64>,
    /// What is said beside metrics, such as how sure they are, each with the metric's name or a topic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<(String, String)>,
    /// Tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<ReportTable>,
    /// Curves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<ReportCurve>,
    /// Everything else, as JSON.
    pub details: serde_json::Value,
    /// Pictures by name, for the run folder and TensorBoard.
    #[serde(skip)]
    pub pictures: Vec<(String, Picture)>,
    /// What was measured at each case, to compare runs by.
    #[serde(skip)]
    pub cases: Option<Cases>,
}

/// Reads the picture of a number; called in several threads.
pub type ReadPicture<'a> = &'a (dyn Fn(usize) -> Result<Picture> + Sync);

/// A model as evaluators see it: a graph that is fed values and asked for others, in evaluation mode. The program
/// implements it.
///
/// ```
/// use mtl_component::{Inference, Result};
/// use tch::Tensor;
///
/// /// The embeddings of a batch that was prepared already, normalised.
/// fn directions(model: &dyn Inference, batch: &Tensor) -> Result<Tensor> {
///     let found = model.run(&[("faces.image", batch)], &["embedding"])?;
///     mtl_component::nn::normalize_rows(&found[0])
/// }
/// ```
pub trait Inference {
    /// Whether the graph has that wire: `node`, `node.port` or `data.port`.
    fn has(&self, wire: &str) -> bool;

    /// The shape of one sample on a wire, without the batch.
    ///
    /// # Errors
    /// If there is no such wire, or a size is not known.
    fn sample_shape(&self, wire: &str) -> Result<Vec<i64>>;

    /// A size of the recipe, such as `age_groups`.
    fn dim(&self, name: &str) -> Option<i64>;

    /// A value of the recipe by its dotted path, such as `evaluate.lfw.flip`, defaults included.
    fn setting(&self, path: &str) -> Option<serde_json::Value>;

    /// Whether the wanted wires depend on a data port; false for a port that does not exist.
    ///
    /// # Errors
    /// If there is no such wanted wire.
    fn needs(&self, wanted: &[&str], port: &str) -> Result<bool>;

    /// The normalisation of the pictures that a wire carries.
    ///
    /// # Errors
    /// If there is no such wire, or it carries no pictures.
    fn normalization(&self, wire: &str) -> Result<Normalization>;

    /// Runs the graph on given values; gives the wanted wires on the CPU.
    ///
    /// Each value is for a data port, such as `faces.image`, or replaces a node's output, which then is not computed.
    /// The wanted wires may depend on no other data port.
    ///
    /// # Errors
    /// If there is no such wire, a value is missing, or an operation fails.
    fn run(&self, given: &[(&str, &Tensor)], wanted: &[&str]) -> Result<Vec<Tensor>>;

    /// Prepares pictures as the data port `feed` takes them and hands them on in batches `[n, 3, height, width]`, in
    /// order. `read` is called for `0..count` in other threads meanwhile.
    ///
    /// # Errors
    /// If a picture cannot be read, or `each` fails.
    fn pictures(
        &self,
        feed: &str,
        count: usize,
        read: ReadPicture<'_>,
        batch_size: usize,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()>;

    /// The wanted wires for the pictures of `0..count`, each as one tensor whose first size is `count`.
    ///
    /// # Errors
    /// As [`pictures`](Self::pictures) and [`run`](Self::run).
    fn outputs(
        &self,
        feed: &str,
        count: usize,
        read: ReadPicture<'_>,
        batch_size: usize,
        wanted: &[&str],
    ) -> Result<Vec<Tensor>> {
        self.map_pictures(feed, count, read, batch_size, &mut |batch| self.run(&[(feed, batch)], wanted))
    }

    /// What `map` makes of each batch of pictures, joined over all of them in order: each of its tensors is `[n, …]` for a
    /// batch of `n` and `[count, …]` in the end. Where several processes train, each maps some of the batches and all get
    /// the whole: `map` has to give all that it finds.
    ///
    /// # Errors
    /// As [`pictures`](Self::pictures), or if `map` fails.
    fn map_pictures(
        &self,
        feed: &str,
        count: usize,
        read: ReadPicture<'_>,
        batch_size: usize,
        map: &mut dyn FnMut(&Tensor) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        joined(map, |each| self.pictures(feed, count, read, batch_size, each))
    }

    /// A finished run as another model, such as a judge.
    ///
    /// # Errors
    /// If there is no such run, or it cannot be opened.
    fn open_run(&self, run: &Path) -> Result<Box<dyn Inference>>;

    /// Whether a module of this model started from the weights of that run.
    fn started_from(&self, run: &Path) -> bool;
}

/// What `map` makes of each batch that `hand_on` gives, joined in their order.
///
/// # Errors
/// If either fails, or tensors of two batches do not fit each other.
pub fn joined(
    map: &mut dyn FnMut(&Tensor) -> Result<Vec<Tensor>>,
    hand_on: impl FnOnce(&mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()>,
) -> Result<Vec<Tensor>> {
    let mut parts: Vec<Vec<Tensor>> = Vec::new();
    hand_on(&mut |batch| {
        let found = map(batch)?;
        parts.resize_with(found.len(), Vec::new);
        parts.iter_mut().zip(found).for_each(|(part, tensor)| part.push(tensor));
        Ok(())
    })?;
    parts.iter().map(|part| Tensor::f_cat(part, 0).context("joining the outputs of batches")).collect()
}
