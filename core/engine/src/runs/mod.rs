//! Run folders: what is kept of a run so that it can be repeated, resumed, read and compared.
//!
//! [`RunFolder`] alone knows the names in such a folder, its states, and how it is read.

mod environment;
mod lock;
mod record;

pub use environment::environment;
pub use lock::Lock;
pub use record::{Record, SWEEP, find};

use crate::recipe::Recipe;
use mtl_component::Registry;
use mtl_recipe::files::write_atomically;
use mtl_recipe::{Change, Context, Override, Result, difference, mistake, to_toml};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to do with a folder that holds something already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it.
    Refuse,
    /// Resume the run in it.
    Resume,
    /// Empty it first.
    Overwrite,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not started: there is no record of a recipe.
    Fresh,
    /// A process trains in it.
    Running,
    /// It has started, is not finished, and no process trains in it.
    Stopped,
    /// Its weights are complete.
    Finished,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fresh => "not started",
            Self::Running => "running",
            Self::Stopped => "not finished",
            Self::Finished => "done",
        })
    }
}

/// The folder of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

/// The record of the recipe, which marks a run folder.
const RECIPE: &str = "recipe.resolved.toml";
/// The record of program, machine and data.
const RECORD: &str = "run.json";
/// Keys of earlier versions that a record of a recipe may hold.
const RETIRED: &[&str] = &["run.checkpoint.best_is_max"];

impl RunFolder {
    /// The run in that folder, whether or not it has started.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder of a run that starts or is resumed. Nothing is changed yet: see [`prepare`](Self::prepare).
    ///
    /// # Errors
    /// A mistake if the folder cannot be used so.
    pub fn choose(out: Option<&Path>, name: &str, existing: Existing) -> Result<Self> {
        let path = match (out, existing) {
            (Some(out), _) => out.to_owned(),
            (None, Existing::Resume) => match newest(&Path::new("runs").join(name)) {
                Some(path) => path,
                None => mistake!("there is no run to resume under runs/{name}: name its folder with --out"),
            },
            (None, _) => unused(&Path::new("runs").join(name), &timestamp()),
        };
        let run = Self::at(path);
        let path = &run.path;
        if path.exists() && !path.is_dir() {
            mistake!("the run folder {} is a file: name another with --out", path.display());
        }
        let filled = path.read_dir().is_ok_and(|d| d.flatten().any(|entry| entry.file_name() != lock::FILE));
        match existing {
            Existing::Resume if !run.has_started() => {
                mistake!("there is no run to resume in {}: it holds no {RECIPE}", path.display())
            }
            Existing::Refuse if filled => mistake!(
                "the run folder {} is not empty: resume the run with --resume, empty the folder with --overwrite, or \
                 name another with --out",
                path.display()
            ),
            Existing::Overwrite if filled && !run.has_started() && !run.record_path().exists() => {
                mistake!("{} is not empty and is not a run folder: it is not emptied", path.display())
            }
            _ => {}
        }
        let mut above = path.as_path();
        while let Some(parent) = above.parent().filter(|p| !p.as_os_str().is_empty()) {
            if parent.exists() && !parent.is_dir() {
                mistake!("cannot make the run folder {}: {} is a file", path.display(), parent.display());
            }
            above = parent;
        }
        Ok(run)
    }

    /// The run that a path means: a run folder itself, or the newest run in a folder of runs.
    ///
    /// # Errors
    /// A mistake if there is none.
    pub fn resolve(path: &Path) -> Result<Self> {
        let run = Self::at(path);
        if run.has_started() {
            return Ok(run);
        }
        match newest(path) {
            Some(path) => Ok(Self::at(path)),
            None if path.exists() => mistake!(
                "{} is not a run folder and holds none: there is no {RECIPE}. Train the run first, or name another",
                path.display()
            ),
            None => mistake!("there is no run {}: train it first, or name another", path.display()),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record of the recipe: with everything it extends, absolute paths and defaults.
    pub fn recipe_path(&self) -> PathBuf {
        self.path.join(RECIPE)
    }

    /// The record of program, machine and data.
    pub fn record_path(&self) -> PathBuf {
        self.path.join(RECORD)
    }

    /// The numbers of training and evaluation, one JSON object a line.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The weights of a finished run.
    pub fn weights(&self) -> PathBuf {
        self.path.join("weights.safetensors")
    }

    /// The moving averages of a finished run.
    pub fn averages(&self) -> PathBuf {
        self.path.join("averages.safetensors")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The folder of event files for TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tb")
    }

    /// The drawing of the graph.
    pub fn drawing(&self) -> PathBuf {
        self.path.join("graph.svg")
    }

    /// The report of an evaluator at a step.
    pub fn report(&self, evaluator: &str, step: u64) -> PathBuf {
        self.path.join(format!("eval/{evaluator}.step-{step}.json"))
    }

    /// The cases that an evaluator measured at a step.
    pub fn cases(&self, evaluator: &str, step: u64) -> PathBuf {
        self.path.join(format!("eval/{evaluator}.step-{step}.cases.safetensors"))
    }

    /// A picture of an evaluator at a step.
    pub fn picture(&self, evaluator: &str, picture: &str, step: u64) -> PathBuf {
        self.path.join(format!("eval/{evaluator}.{picture}.step-{step}.png"))
    }

    /// Whether a recipe has been recorded.
    pub fn has_started(&self) -> bool {
        self.recipe_path().exists()
    }

    /// How far the run has come.
    pub fn state(&self) -> State {
        if !self.has_started() {
            State::Fresh
        } else if lock::is_held(&self.path) {
            State::Running
        } else if self.weights().exists() {
            State::Finished
        } else {
            State::Stopped
        }
    }

    /// Makes the folder and locks it, emptying it first where that was asked for.
    ///
    /// # Errors
    /// A mistake if the folder cannot be made, or another process trains in it.
    pub fn prepare(&self, existing: Existing) -> Result<Lock> {
        let path = &self.path;
        if let Err(e) = std::fs::create_dir_all(path) {
            mistake!("cannot make the run folder {}: {e}", path.display());
        }
        let held = Lock::acquire(path)?;
        if existing == Existing::Overwrite {
            let emptying = || format!("emptying {}", path.display());
            for entry in path.read_dir().with_context(emptying)? {
                let entry = entry.with_context(emptying)?;
                if entry.file_name() == lock::FILE {
                    continue;
                }
                let folder = entry.file_type().with_context(emptying)?.is_dir();
                let remove = if folder { std::fs::remove_dir_all::<PathBuf> } else { std::fs::remove_file };
                remove(entry.path()).with_context(emptying)?;
            }
        }
        Ok(held)
    }

    /// The recipe that the run was started with.
    ///
    /// # Errors
    /// If it cannot be read, or this program does not know what it names.
    pub fn recipe(&self, registry: &Arc<Registry>, overrides: &[Override]) -> Result<Recipe> {
        Ok(Recipe::read_without(registry, &self.recipe_path(), overrides, RETIRED)?)
    }

    /// What differs in a recipe from the one that the run was started with.
    ///
    /// # Errors
    /// If that one cannot be read.
    pub fn changes(&self, recipe: &Recipe) -> Result<Vec<Change>> {
        let old = self.recipe(&recipe.registry, &[]);
        let old = old.with_context(|| format!("reading the recipe that {} was started with", self.path.display()))?;
        Ok(difference(&old.root.to_json(), &recipe.root.to_json()))
    }

    /// Checks that a run may be resumed with this recipe; returns what differs of what may.
    ///
    /// # Errors
    /// A mistake that lists what may not differ, unless that is allowed.
    pub fn allow(&self, recipe: &Recipe, allow: bool) -> Result<Vec<Change>> {
        let changes = self.changes(recipe)?;
        let barred: Vec<String> =
            changes.iter().filter(|c| !may_change(&c.path)).map(|change| format!("  {change}")).collect();
        if !barred.is_empty() && !allow {
            mistake!(
                "the recipe differs from the one that {} was started with:\n{}\nUndo the change, start a new run, or \
                 say --allow-recipe-change",
                self.path.display(),
                barred.join("\n")
            );
        }
        Ok(changes)
    }

    /// The record of program, machine and data.
    ///
    /// # Errors
    /// A mistake if it cannot be read.
    pub fn record(&self) -> Result<Value> {
        let path = self.record_path();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) => mistake!("cannot read the record {}: {e}", path.display()),
        };
        match serde_json::from_slice(&text) {
            Ok(record) => Ok(record),
            Err(e) => mistake!("the record {} is damaged: {e}", path.display()),
        }
    }

    /// Writes the recipe, the texts that it comes from, and the record of program, machine and data.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write_record(&self, recipe: &Recipe, record: &Value) -> Result<()> {
        let head = "# The recipe of this run with everything it extends, absolute paths and defaults.\n";
        write_atomically(&self.recipe_path(), format!("{head}{}", to_toml(&recipe.root)?).as_bytes())?;
        for source in recipe.sources.iter() {
            let Some(path) = &source.path else { continue };
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let parent = path.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
            let target = self.path.join("recipe.source").join(match parent {
                Some(parent) => format!("{parent}/{name}"),
                None => name,
            });
            write_atomically(&target, source.text.as_bytes())?;
        }
        write_atomically(&self.record_path(), &serde_json::to_vec_pretty(record)?)
    }
}

/// `folder/name`, numbered if runs were started in the same second.
fn unused(folder: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|n| folder.join(format!("{name}-{n}")));
    std::iter::once(folder.join(name)).chain(numbered).find(|path| !path.exists()).unwrap_or_else(|| folder.join(name))
}

fn newest(folder: &Path) -> Option<PathBuf> {
    let entries = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| RunFolder::at(path).has_started()).max()
}

/// The time as `2026-01-31T12-30-59Z`, which sorts as time does.
fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%SZ").to_string()
}

/// Recipe paths that may change when a run is resumed.
fn may_change(path: &str) -> bool {
    const FREE: &[&str] = &[
        "run.steps",
        "run.name",
        "run.device",
        "run.threads",
        "run.log_every",
        "run.histogram_every",
        "run.images_every",
    ];
    FREE.contains(&path)
        || path.starts_with("run.checkpoint")
        || path.starts_with("hook.")
        || (path.starts_with("data.") && (path.ends_with(".workers") || path.ends_with(".prefetch")))
        || (path.starts_with("evaluate.") && path.ends_with(".every"))
        // A resumed run has its weights from its checkpoint.
        || (path.starts_with("model.") && path.contains(".weights."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_trained_in_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::at(dir.path().join("run"));
        let held = run.prepare(Existing::Refuse).unwrap();
        for existing in [Existing::Resume, Existing::Overwrite] {
            let error = run.prepare(existing).unwrap_err();
            assert!(error.to_string().contains("another process trains in"), "{error}");
        }
        drop(held);
        assert_eq!(RunFolder::choose(Some(run.path()), "n", Existing::Refuse).unwrap(), run);
        run.prepare(Existing::Overwrite).unwrap();
        assert_eq!(unused(dir.path(), "run"), dir.path().join("run-2"));
    }

    #[test]
    fn a_run_is_fresh_running_stopped_or_finished() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::at(dir.path());
        assert_eq!(run.state(), State::Fresh);
        std::fs::write(run.recipe_path(), "").unwrap();
        assert_eq!(run.state(), State::Stopped);
        let held = run.prepare(Existing::Resume).unwrap();
        assert_eq!(run.state(), State::Running);
        drop(held);
        std::fs::write(run.weights(), "").unwrap();
        assert_eq!(run.state(), State::Finished);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let error = RunFolder::choose(Some(dir.path()), "n", Existing::Refuse).unwrap_err();
        assert!(error.to_string().contains("--resume"), "{error}");
        // It is not ours to empty either.
        assert!(RunFolder::choose(Some(dir.path()), "n", Existing::Overwrite).is_err());
        assert!(dir.path().join("x").exists());
    }

    #[test]
    fn a_parent_that_is_a_file_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let error = RunFolder::choose(Some(&dir.path().join("x/run")), "n", Existing::Refuse).unwrap_err();
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn only_lengths_intervals_and_places_may_change() {
        for path in ["run.steps", "data.faces.workers", "evaluate.age.every", "run.checkpoint.every"] {
            assert!(may_change(path), "{path}");
        }
        for path in ["run.seed", "data.faces.list", "model.identity.margin", "phase.recognition.optimizer.lr"] {
            assert!(!may_change(path), "{path}");
        }
    }

    #[test]
    fn the_time_sorts_as_text() {
        let now = timestamp();
        assert_eq!(now.len(), "2026-01-31T12-30-59Z".len());
        assert!(now.starts_with("20") && now.ends_with('Z') && &now[10..11] == "T", "{now}");
    }
}
