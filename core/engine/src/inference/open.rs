//! Opening a run that is finished or still training.

use crate::checkpoint;
use crate::device;
use crate::graph::Graph;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::runs::RunFolder;
use crate::weights::load_into;
use mtl_component::{Registry, World};
use mtl_recipe::{Override, Result, mistake};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// A run, opened for use.
pub struct OpenRun {
    /// Its folder.
    pub folder: RunFolder,
    /// Its recipe.
    pub recipe: Arc<Recipe>,
    /// The model with the checkpoint's weights.
    pub model: Model,
    /// The step of the checkpoint.
    pub step: u64,
}

/// Opens a run folder with one of its checkpoints. Settings of the process, such as threads, stay as they are; see
/// [`device::configure`].
///
/// # Errors
/// If there is no such run or checkpoint, or it cannot be read.
pub fn open_run(registry: &Arc<Registry>, run: &Path, which: &Which, overrides: &[Override]) -> Result<OpenRun> {
    let folder = RunFolder::resolve(run)?;
    let recipe = folder.recipe(registry, overrides)?;
    folder.plugin_changes(&recipe)?.iter().for_each(|change| tracing::warn!("{change}"));
    // Nothing is saved any more, and an override may have dropped the evaluator that decides which state is best.
    let recipe = recipe.with(&[("run.checkpoint.best", None)])?;
    let saved = checkpoint::read(&choose(&folder, which)?)?;
    let mut dims = recipe.dims.clone();
    dims.extend(saved.state.dims.clone());
    let graph = Graph::new(&recipe)?.resolved(&dims);
    let model = Model::build(&recipe, graph, device::context(&recipe, World::alone())?)?;
    let mut weights = saved.weights;
    if recipe.ema.as_ref().is_some_and(|ema| ema.evaluate) {
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
    Ok(OpenRun { folder, recipe: Arc::new(recipe), model, step: saved.state.step })
}

fn choose(run: &RunFolder, which: &Which) -> Result<PathBuf> {
    let folder = run.checkpoints();
    let run = run.path().display();
    let all = checkpoint::list(&folder);
    let wanted = match which {
        Which::Last => all.last().map(|(s, _)| *s),
        Which::Best => match checkpoint::best(&folder) {
            Some(best) => Some(best.step),
            None => mistake!(
                "{run} has no best checkpoint: set run.checkpoint.best to a metric, such as \"verification.accuracy\""
            ),
        },
        Which::Step(n) => Some(*n),
    };
    match all.iter().find(|(s, _)| Some(*s) == wanted) {
        Some((_, path)) => Ok(path.clone()),
        None => {
            if all.is_empty() {
                mistake!("{run} has no checkpoint: no state of it was saved");
            }
            let steps: Vec<String> = all.iter().map(|(s, _)| s.to_string()).collect();
            mistake!("{run} has no such checkpoint; it has those of the steps: {}", steps.join(", "))
        }
    }
}
