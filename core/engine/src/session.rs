//! From a recipe to a model on a device, for training and for using a finished run.

use crate::checkpoint;
use crate::component::Placement;
use crate::data::{Dataset, Open, Plan, stream_seed};
use crate::evaluate::Evaluator;
use crate::graph::{Graph, Model};
use crate::mistake;
use crate::recipe::{EvaluateSlot, Override, Recipe, SAMPLES, Slot, Value};
use crate::runs;
use crate::train::weight_kind;
use crate::weights::load_into;
use anyhow::{Context, Result};
use indexmap::IndexMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Device;

/// Puts the run that a folder of runs stands for into the recipe, so that its record says which one it was.
pub fn pin_weights(recipe: &mut Recipe) -> Result<()> {
    let mut pinned = Vec::new();
    for (name, slot) in &mut recipe.model {
        if let Some(run) = slot.common.weights.as_mut().and_then(|w| w.run.as_mut()) {
            run.0 = runs::resolve(run).with_context(|| format!("`model.{name}.weights`"))?;
            pinned.push((format!("model.{name}.weights.run"), run.0.display().to_string()));
        }
    }
    for (path, run) in pinned {
        recipe.root.replace(&path, Value::String(run));
    }
    Ok(())
}

/// The device that a recipe names.
pub fn device(name: &str) -> Result<Device> {
    let cuda = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
    };
    let Some(index) = cuda else { mistake!("there is no device `{name}`: expected cpu, cuda or cuda:N") };
    mtl_torch::load_cuda()?;
    let count = tch::Cuda::device_count();
    if index as i64 >= count {
        mistake!("the device `{name}` is not there: CUDA reports {count} devices");
    }
    Ok(Device::Cuda(index))
}

/// Threads within an operator: the recipe's, or one a core.
pub fn threads(recipe: &Recipe) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    recipe.run.threads.map_or(cores, |n| n as usize)
}

/// Sets what holds for the whole process.
pub fn configure(recipe: &Recipe) -> Result<()> {
    mtl_torch::set_threads(threads(recipe))
}

/// Where a recipe's tensors are made.
pub fn placement(recipe: &Recipe) -> Result<Placement> {
    Ok(Placement {
        device: device(&recipe.run.device)?,
        kind: weight_kind(recipe.run.precision),
        channels_last: recipe.run.channels_last,
        winograd: recipe.run.winograd(),
        seed: recipe.run.seed as u64,
        shapes_only: false,
    })
}

/// Opens all data streams; sizes that the data decides are added to `dims`.
pub fn open_data(recipe: &Recipe, dims: &mut IndexMap<String, i64>) -> Result<IndexMap<String, Arc<dyn Dataset>>> {
    let mut out = IndexMap::new();
    for (name, data) in &recipe.data {
        let transforms = data.transforms.iter().map(|t| t.open()).collect::<Result<_>>()?;
        let opened = data
            .slot
            .config
            .open(&Open { dims, transforms })
            .with_context(|| format!("opening `data.{name}` ({})", data.slot.registration.name))?;
        if opened.is_empty() {
            mistake!("`data.{name}` holds no sample");
        }
        let sizes = if data.slot.common.declares { opened.sizes() } else { Vec::new() };
        for (size, value) in sizes {
            match dims.get(size) {
                Some(known) if *known != value => mistake!(
                    "`dims.{size}` is {known} (by [dims] or another data stream), but `data.{name}` has {value}: make \
                     them agree, or say `declares = false` there"
                ),
                _ => {
                    dims.insert(size.to_owned(), value);
                }
            }
        }
        out.insert(name.clone(), Arc::from(opened));
    }
    Ok(out)
}

/// The opened data streams and the sizes of the recipe.
pub type Opened = (IndexMap<String, Arc<dyn Dataset>>, IndexMap<String, i64>);

/// Opens all data streams and settles what waited for them: references in the recipe, and sizes in the graph.
pub fn open(recipe: &mut Recipe, graph: &mut Graph) -> Result<Opened> {
    let mut dims = recipe.dims.clone();
    let data = open_data(recipe, &mut dims)?;
    if recipe.waiting() > 0 {
        let mut known: IndexMap<String, i64> = dims.iter().map(|(k, v)| (format!("dims.{k}"), *v)).collect();
        for (name, dataset) in &data {
            known.insert(format!("data.{name}.{SAMPLES}"), dataset.len() as i64);
            known.extend(dataset.sizes().into_iter().map(|(size, n)| (format!("data.{name}.{size}"), n)));
        }
        recipe.settle(&known)?;
        *graph = Graph::new(recipe)?;
    }
    graph.resolve(&dims);
    Ok((data, dims))
}

/// The plan of batches of each stream.
pub fn plans(recipe: &Recipe, data: &IndexMap<String, Arc<dyn Dataset>>) -> Result<IndexMap<String, Arc<Plan>>> {
    let mut out = IndexMap::new();
    for (name, entry) in &recipe.data {
        let dataset = data[name.as_str()].clone();
        let seed = stream_seed(recipe.run.seed as u64, name);
        let sampler = entry.sampler.open(&*dataset, seed)?;
        let batch = entry.slot.common.batch_size as usize;
        out.insert(name.clone(), Arc::new(Plan::new(dataset, sampler, batch, seed, (0, 1))));
    }
    Ok(out)
}

/// Whether the files are there that the evaluators need, but for optional ones.
pub fn files_are_there(recipe: &Recipe) -> Result<()> {
    for (name, slot) in &recipe.evaluate {
        if let Some(file) = missing(slot).filter(|_| !slot.common.optional) {
            mistake!(
                "`evaluate.{name}` needs {}, which is not there: give its path, or drop it with --unset evaluate.{name}",
                file.display()
            );
        }
    }
    Ok(())
}

/// A file that an evaluator needs and that is not there.
fn missing(slot: &Slot<EvaluateSlot, dyn Evaluator>) -> Option<PathBuf> {
    slot.config.files().into_iter().find(|f| !f.exists())
}

/// Takes the evaluators out of the recipe; an optional one whose files are missing is left out.
pub fn evaluators(recipe: &mut Recipe) -> Result<IndexMap<String, Slot<EvaluateSlot, dyn Evaluator>>> {
    files_are_there(recipe)?;
    let mut kept = IndexMap::new();
    for (name, slot) in std::mem::take(&mut recipe.evaluate) {
        match missing(&slot) {
            Some(file) => eprintln!("note: `evaluate.{name}` is left out: there is no {}", file.display()),
            None => {
                kept.insert(name, slot);
            }
        }
    }
    Ok(kept)
}

/// Which checkpoint of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Last,
    /// The best by the recipe's metric.
    Best,
    /// That of a step.
    Step(u64),
}

impl std::str::FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last" => Ok(Self::Last),
            "best" => Ok(Self::Best),
            n => n.parse().map(Self::Step).map_err(|_| format!("expected last, best or a step, found `{n}`")),
        }
    }
}

/// A finished or running run, opened for use.
pub struct OpenRun {
    /// Its folder.
    pub folder: PathBuf,
    /// Its recipe.
    pub recipe: Recipe,
    /// The model with the checkpoint's weights.
    pub model: Model,
    /// The step of the checkpoint.
    pub step: u64,
}

/// Opens a run folder with one of its checkpoints. Settings of the process, such as threads, stay as they are; see
/// [`configure`].
pub fn open_run(run: &Path, which: &Which, overrides: &[Override]) -> Result<OpenRun> {
    let run = &runs::resolve(run)?;
    let path = run.join("recipe.resolved.toml");
    let mut recipe = Recipe::read(&path, overrides)?;
    let saved = checkpoint::read(&choose(run, which)?)?;
    let mut dims = recipe.dims.clone();
    dims.extend(saved.state.dims.clone());
    recipe.settle_from_sizes(&dims)?;
    // Nothing is saved any more, and an override may have dropped the evaluator.
    recipe.run.checkpoint.best = None;
    let mut graph = Graph::new(&mut recipe)?;
    graph.resolve(&dims);
    let model = Model::build(&recipe, graph, placement(&recipe)?)?;
    let averaged = recipe.ema.as_ref().is_some_and(|e| e.evaluate);
    let mut weights = saved.weights;
    if averaged {
        weights.extend(saved.averages);
    }
    let report = load_into(model.tensors(), &weights)?;
    if !report.missing.is_empty() {
        mistake!(
            "the checkpoint lacks {} weights of its recipe, such as `{}`",
            report.missing.len(),
            report.missing[0]
        );
    }
    Ok(OpenRun { folder: run.clone(), recipe, model, step: saved.state.step })
}

fn choose(run: &Path, which: &Which) -> Result<PathBuf> {
    let folder = run.join("checkpoints");
    let all = checkpoint::list(&folder);
    let wanted = match which {
        Which::Last => all.last().map(|(s, _)| *s),
        Which::Best => match checkpoint::best(&folder) {
            Some(best) => Some(best.step),
            None => mistake!(
                "{} has no best checkpoint: set run.checkpoint.best to a metric, such as \"verification.accuracy\"",
                run.display()
            ),
        },
        Which::Step(n) => Some(*n),
    };
    match all.iter().find(|(s, _)| Some(*s) == wanted) {
        Some((_, path)) => Ok(path.clone()),
        None => {
            if all.is_empty() {
                mistake!("{} has no checkpoint: no state of it was saved", run.display());
            }
            let steps: Vec<String> = all.iter().map(|(s, _)| s.to_string()).collect();
            mistake!("{} has no such checkpoint; it has those of the steps: {}", run.display(), steps.join(", "))
        }
    }
}
