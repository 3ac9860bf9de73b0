//! Run folders: what is kept of a run so that it can be repeated, resumed, read and compared.
//!
//! [`RunFolder`] alone knows the names in such a folder, its states, and how it is read.

mod environment;
mod lock;
mod overwriting;
mod record;

pub use environment::environment;
pub use lock::Lock;
pub use overwriting::Overwritten;
pub use record::{Record, SWEEP, find};

use crate::recipe::Recipe;
use mtl_component::Registry;
use mtl_recipe::files::{is_leftover, read_bounded, read_text, write_atomically};
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
    /// Replace the run in it.
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
/// The largest record that is read.
const MAX_RECORD: u64 = 256 << 20;
/// Keys of earlier versions that a record of a recipe may hold.
const RETIRED: &[&str] = &["run.checkpoint.best_is_max"];

impl RunFolder {
    /// The run in that folder, whether or not it has started.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Takes the folder of a run that starts or is resumed, and locks it; a new one is made. What stands in it stays as
    /// it is: see [`overwrite`](Self::overwrite).
    ///
    /// # Errors
    /// A mistake if the folder cannot be used so, or another process trains in it.
    pub fn take(out: Option<&Path>, name: &str, existing: Existing) -> Result<(Self, Lock)> {
        let (path, made) = match (out, existing) {
            (Some(out), Existing::Resume) => (out.to_owned(), false),
            (Some(out), _) => (out.to_owned(), make(out)?),
            (None, Existing::Resume) => match newest(&Path::new("runs").join(name)) {
                Some(path) => (path, false),
                None => mistake!("there is no run to resume under runs/{name}: name its folder with --out"),
            },
            (None, _) => (unused(&Path::new("runs").join(name), &timestamp())?, true),
        };
        let run = Self::at(path);
        let path = &run.path;
        not_a_file(path)?;
        if !path.is_dir() {
            mistake!("there is no run to resume in {}: the folder is not there", path.display());
        }
        let lock = Lock::acquire(path, made)?;
        overwriting::recover(path)?;
        let content = content(path)?;
        match existing {
            Existing::Resume if !run.has_started() => {
                mistake!("there is no run to resume in {}: it holds no {RECIPE}", path.display())
            }
            Existing::Refuse if !content.is_empty() => mistake!(
                "the run folder {} is not empty: resume the run with --resume, replace it with --overwrite, or name \
                 another with --out",
                path.display()
            ),
            Existing::Overwrite => run.overwritable(&content)?,
            _ => {}
        }
        Ok((run, lock))
    }

    /// Checks that a folder holds a run and nothing else, so that it may be replaced.
    fn overwritable(&self, content: &[String]) -> Result<()> {
        if content.is_empty() {
            return Ok(());
        }
        let path = self.path.display();
        let record = self.record();
        let recipe = read_text(&self.recipe_path(), MAX_RECORD).ok().and_then(|text| text.parse::<toml::Table>().ok());
        let (Ok(record), Some(_)) = (&record, recipe) else {
            mistake!("{path} is not empty and is not a run folder, or its record is damaged: it is not replaced");
        };
        if record.get("mtlrun").is_none_or(|version| !version.is_string()) {
            mistake!("{path} is not empty, and its {RECORD} is not one of mtlrun: it is not replaced");
        }
        let made = record.get("made").and_then(Value::as_array).cloned().unwrap_or_default();
        let foreign: Vec<&str> = content
            .iter()
            .map(String::as_str)
            .filter(|name| !is_made(name) && !made.iter().any(|m| m.as_str() == Some(name)))
            .collect();
        if !foreign.is_empty() {
            mistake!(
                "{path} holds what its run has not made: {}. Move it elsewhere, or name another folder with --out",
                foreign.join(", ")
            );
        }
        Ok(())
    }

    /// Checks that a recipe reads nothing from the folder, which is about to be replaced.
    ///
    /// # Errors
    /// A mistake that names what it would read.
    pub fn reads_nothing_of(&self, recipe: &Recipe) -> Result<()> {
        let Ok(folder) = self.path.canonicalize() else { return Ok(()) };
        let mut paths: Vec<PathBuf> = recipe.sources.iter().filter_map(|source| source.path.clone()).collect();
        texts(&recipe.root.to_json(), &mut |text| paths.push(PathBuf::from(text)));
        for path in paths.into_iter().filter(|path| path.is_absolute()) {
            let path = path.canonicalize().unwrap_or(path);
            if path.starts_with(&folder) {
                mistake!(
                    "the recipe reads {}, which lies in the run folder {} that is to be replaced: move it elsewhere, or \
                     name another folder with --out",
                    path.display(),
                    self.path.display()
                );
            }
        }
        Ok(())
    }

    /// Moves the old run in the folder aside, until the new one has its first checkpoint.
    ///
    /// # Errors
    /// If a file cannot be moved.
    pub fn overwrite(&self) -> Result<Overwritten> {
        Overwritten::begin(&self.path)
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
            Some(path) => {
                tracing::info!("the newest run there is {}", path.display());
                Ok(Self::at(path))
            }
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
        self.reports().report(evaluator, step)
    }

    /// The cases that an evaluator measured at a step.
    pub fn cases(&self, evaluator: &str, step: u64) -> PathBuf {
        self.reports().cases(evaluator, step)
    }

    /// A picture of an evaluator at a step.
    pub fn picture(&self, evaluator: &str, picture: &str, step: u64) -> PathBuf {
        self.reports().picture(evaluator, picture, step)
    }

    /// What was measured in training.
    pub fn reports(&self) -> ReportFolder {
        ReportFolder::at(self.path.join("eval"))
    }

    /// The folder of an evaluation after training of that name.
    pub fn evaluation(&self, name: &str) -> ReportFolder {
        ReportFolder::at(self.path.join(EVALUATIONS).join(name))
    }

    /// A new folder for an evaluation after training, called by the present time.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new_evaluation(&self) -> Result<ReportFolder> {
        let all = self.path.join(EVALUATIONS);
        std::fs::create_dir_all(&all).with_context(|| format!("making {}", all.display()))?;
        let made = numbered(&all, &timestamp()).with_context(|| format!("making a folder in {}", all.display()))?;
        Ok(ReportFolder::at(made))
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

    /// The recipe that the run was started with.
    ///
    /// # Errors
    /// If it cannot be read, or this program does not know what it names.
    pub fn recipe(&self, registry: &Arc<Registry>, overrides: &[Override]) -> Result<Recipe> {
        Ok(Recipe::read_record(registry, &self.recipe_path(), overrides, RETIRED)?)
    }

    /// What differs in a recipe from the one that the run was started with.
    ///
    /// # Errors
    /// If that one cannot be read.
    pub fn changes(&self, recipe: &Recipe) -> Result<Vec<Change>> {
        let old = self.recipe(&recipe.registry, &[]);
        let old = old.with_context(|| format!("reading the recipe that {} was started with", self.path.display()))?;
        let mut changes = difference(&old.root.to_json(), &recipe.root.to_json());
        // What variables held is recorded as a hash only.
        let now = held(recipe);
        let then = self.record().ok().and_then(|record| record.get(VARIABLES).cloned()).unwrap_or_default();
        for (name, hash) in now.iter().flat_map(|now| now.as_object()).flatten() {
            if then.get(name).is_some_and(|before| before != hash) {
                let text = |text: &str| Some(Value::String(text.into()));
                let (old, new) = (text("another value"), text("the present one"));
                changes.push(Change { path: format!("${{env:{name}}}"), old, new });
            }
        }
        Ok(changes)
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

    /// What differs in the plugins of a recipe from those that the run was started with, or last resumed with; a line each.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn plugin_changes(&self, recipe: &Recipe) -> Result<Vec<String>> {
        if !self.record_path().exists() {
            return Ok(Vec::new());
        }
        let record = self.record()?;
        let last = record.get("resumed").and_then(Value::as_array).and_then(|all| all.last());
        let then = last.unwrap_or(&record).get("plugins").and_then(Value::as_array).cloned().unwrap_or_default();
        let now = recipe.registry.plugins();
        let mut out = Vec::new();
        for before in &then {
            let name = before["name"].as_str().unwrap_or_default();
            let Some(plugin) = now.iter().find(|plugin| plugin.name == name) else {
                out.push(format!("the run had the plugin {name}, and the recipe does not name it"));
                continue;
            };
            if before["sha256"] == plugin.sha256.as_str() {
                continue;
            }
            let from = match (before["sources_sha256"].as_str(), plugin.sources.as_deref()) {
                (Some(then), Some(now)) if then == now => "it was built again from the same src and Cargo.toml",
                (Some(_), Some(_)) => "it was built from other sources",
                _ => "whether its sources are the same is not known",
            };
            let short = |hash: &str| hash.chars().take(12).collect::<String>();
            out.push(format!(
                "the plugin {name} is another file than that of the run: {from} (SHA-256 {}… then, {}… now, {})",
                short(before["sha256"].as_str().unwrap_or_default()),
                short(&plugin.sha256),
                plugin.path.display()
            ));
        }
        Ok(out)
    }

    /// Checks that the plugins of a recipe are those of the run.
    ///
    /// # Errors
    /// A mistake that says what differs, unless that is allowed; then it is told.
    pub fn allow_plugins(&self, recipe: &Recipe, allow: bool) -> Result<()> {
        let changes = self.plugin_changes(recipe)?;
        if !changes.is_empty() && !allow {
            mistake!("{}. Undo the change, start a new run, or say --allow-plugin-change", changes.join("; "));
        }
        changes.iter().for_each(|change| tracing::warn!("{change}"));
        Ok(())
    }

    /// The record of program, machine and data.
    ///
    /// # Errors
    /// A mistake if it cannot be read.
    pub fn record(&self) -> Result<Value> {
        let path = self.record_path();
        let text = match read_bounded(&path, MAX_RECORD) {
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
        write_atomically(&self.recipe_path(), format!("{head}{}", to_toml(&recipe.recorded())?).as_bytes())?;
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
        let mut record = record.clone();
        if let Some(held) = held(recipe) {
            record[VARIABLES] = held;
        }
        write_atomically(&self.record_path(), &serde_json::to_vec_pretty(&record)?)
    }
}

/// The key of a record that holds the environment variables of the recipe.
const VARIABLES: &str = "environment_sha256";

/// The environment variables that a recipe is made of, each with the SHA-256 of what it held; none if there is none.
fn held(recipe: &Recipe) -> Option<Value> {
    use sha2::{Digest, Sha256};
    let hashed = recipe.sources.variables().into_iter().map(|(name, held)| (name, hex::encode(Sha256::digest(held))));
    let hashed: serde_json::Map<String, Value> = hashed.map(|(name, hash)| (name, hash.into())).collect();
    (!hashed.is_empty()).then(|| hashed.into())
}

fn not_a_file(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        mistake!("the run folder {} is a file: name another with --out", path.display());
    }
    Ok(())
}

/// Makes a folder and those above it; false if it was there.
fn make(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    not_a_file(path)?;
    match std::fs::create_dir_all(path) {
        Ok(()) => Ok(true),
        Err(e) => mistake!("cannot make the run folder {}: {e}", path.display()),
    }
}

/// Makes `folder/name`, numbered if runs were started in the same second.
fn unused(folder: &Path, name: &str) -> Result<PathBuf> {
    make(folder)?;
    match numbered(folder, name) {
        Ok(path) => Ok(path),
        Err(e) => mistake!("cannot make the run folder {}: {e}", folder.join(name).display()),
    }
}

/// Makes `folder/name`, or with a number behind the name if others have it.
fn numbered(folder: &Path, name: &str) -> std::io::Result<PathBuf> {
    use std::io::{Error, ErrorKind::AlreadyExists};
    let others = (2..1000).map(|n| folder.join(format!("{name}-{n}")));
    for path in std::iter::once(folder.join(name)).chain(others) {
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() == AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
    Err(Error::new(AlreadyExists, format!("a thousand of that second are in {}", folder.display())))
}

/// What stands in a folder, apart from its lock and from what an interrupted write has left.
fn content(path: &Path) -> Result<Vec<String>> {
    let entries = match path.read_dir() {
        Ok(entries) => entries,
        Err(e) => mistake!("cannot look into the run folder {}: {e}", path.display()),
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != lock::FILE && !is_leftover(name)).collect();
    names.sort();
    Ok(names)
}

/// Whether every run makes a file or folder of that name.
pub fn is_made(name: &str) -> bool {
    const MADE: &[&str] = &[
        RECIPE,
        RECORD,
        "recipe.source",
        "metrics.jsonl",
        "weights.safetensors",
        "averages.safetensors",
        "checkpoints",
        "tb",
        "graph.svg",
        "eval",
        EVALUATIONS,
        "reproduced",
        "profile.json",
        // Runs of earlier versions do not record which files their data keeps.
        "identities.json",
    ];
    let of_rank = name.strip_prefix("profile-rank").and_then(|rest| rest.strip_suffix(".json"));
    MADE.contains(&name)
        || name.ends_with(".identities.json")
        || of_rank.is_some_and(|rank| rank.parse::<usize>().is_ok())
}

/// Calls `each` with every text in a value.
fn texts(value: &Value, each: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(all) => all.iter().for_each(|value| texts(value, each)),
        Value::Object(all) => all.values().for_each(|value| texts(value, each)),
        _ => {}
    }
}

/// A folder of reports of evaluators.
#[derive(Debug, Clone)]
pub struct ReportFolder(PathBuf);

impl ReportFolder {
    /// The reports in that folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The record of an evaluation after training: which run, which checkpoint, and what was measured on.
    pub fn record(&self) -> PathBuf {
        self.0.join("evaluation.json")
    }

    /// The report of an evaluator at a step.
    pub fn report(&self, evaluator: &str, step: u64) -> PathBuf {
        self.0.join(format!("{evaluator}.step-{step}.json"))
    }

    /// The cases that an evaluator measured at a step.
    pub fn cases(&self, evaluator: &str, step: u64) -> PathBuf {
        self.0.join(format!("{evaluator}.step-{step}.cases.safetensors"))
    }

    /// A picture of an evaluator at a step.
    pub fn picture(&self, evaluator: &str, picture: &str, step: u64) -> PathBuf {
        self.0.join(format!("{evaluator}.{picture}.step-{step}.png"))
    }
}

/// The run in a folder that was started last, by its record; by name if two say the same.
fn newest(folder: &Path) -> Option<PathBuf> {
    let entries = folder.read_dir().ok()?.flatten().map(|entry| RunFolder::at(entry.path()));
    let started = entries.filter(RunFolder::has_started).map(|run| {
        let recorded = run.record().ok().and_then(|record| Some(record.get("started")?.as_str()?.to_owned()));
        (recorded, run.path)
    });
    started.max().map(|(_, path)| path)
}

/// The folder of what is measured after training.
const EVALUATIONS: &str = "evaluations";

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
        // What they are is compared by their hashes.
        || path == "plugins"
        || path.starts_with("hook.")
        || (path.starts_with("data.") && (path.ends_with(".workers") || path.ends_with(".prefetch")))
        || (path.starts_with("evaluate.") && path.ends_with(".every"))
        // A resumed run has its weights from its checkpoint.
        || (path.starts_with("model.") && path.contains(".weights."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a run of this program, as far as names and records go.
    fn run_in(path: &Path) -> RunFolder {
        let run = RunFolder::at(path);
        std::fs::create_dir_all(run.checkpoints().join("step-1")).unwrap();
        std::fs::write(run.recipe_path(), "[run]\nname = 'n'\n").unwrap();
        std::fs::write(run.record_path(), r#"{"mtlrun": "0.1.0", "made": ["log.csv"]}"#).unwrap();
        run
    }

    #[test]
    fn a_folder_is_trained_in_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let (run, held) = RunFolder::take(Some(&path), "n", Existing::Refuse).unwrap();
        for existing in [Existing::Refuse, Existing::Resume, Existing::Overwrite] {
            let error = RunFolder::take(Some(&path), "n", existing).unwrap_err();
            assert!(error.to_string().contains("another process trains in"), "{error}");
        }
        drop(held);
        // A folder in which nothing was done is not left behind.
        assert!(!path.exists());
        run_in(&path);
        assert_eq!(RunFolder::take(Some(&path), "n", Existing::Resume).unwrap().0, run);
        assert!(run.has_started());
        assert_eq!(unused(dir.path(), "run").unwrap(), dir.path().join("run-2"));
    }

    #[test]
    fn a_run_is_fresh_running_stopped_or_finished() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::at(dir.path());
        assert_eq!(run.state(), State::Fresh);
        std::fs::write(run.recipe_path(), "").unwrap();
        assert_eq!(run.state(), State::Stopped);
        let held = RunFolder::take(Some(dir.path()), "n", Existing::Resume).unwrap();
        assert_eq!(run.state(), State::Running);
        drop(held);
        std::fs::write(run.weights(), "").unwrap();
        assert_eq!(run.state(), State::Finished);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let error = RunFolder::take(Some(dir.path()), "n", Existing::Refuse).unwrap_err();
        assert!(error.to_string().contains("--resume"), "{error}");
        // It is not ours to replace either, whatever it says of itself.
        assert!(RunFolder::take(Some(dir.path()), "n", Existing::Overwrite).is_err());
        std::fs::write(dir.path().join("run.json"), "{}").unwrap();
        assert!(RunFolder::take(Some(dir.path()), "n", Existing::Overwrite).is_err());
        std::fs::write(dir.path().join("recipe.resolved.toml"), "").unwrap();
        assert!(RunFolder::take(Some(dir.path()), "n", Existing::Overwrite).is_err());
        let run = run_in(dir.path());
        let error = RunFolder::take(Some(dir.path()), "n", Existing::Overwrite).unwrap_err().to_string();
        assert!(error.contains("has not made: x."), "{error}");
        std::fs::rename(dir.path().join("x"), dir.path().join("log.csv")).unwrap();
        std::fs::write(dir.path().join(".run.json.tmp-abc"), "left over").unwrap();
        assert_eq!(RunFolder::take(Some(dir.path()), "n", Existing::Overwrite).unwrap().0, run);
    }

    #[test]
    fn a_parent_that_is_a_file_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let error = RunFolder::take(Some(&dir.path().join("x/run")), "n", Existing::Refuse).unwrap_err();
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn the_newest_run_is_the_one_that_started_last() {
        let dir = tempfile::tempdir().unwrap();
        for (name, started) in [("run9", "2026-01-31T10-00-00Z"), ("run10", "2026-01-31T11-00-00Z"), ("a", "2025")] {
            let run = run_in(&dir.path().join(name));
            std::fs::write(run.record_path(), format!(r#"{{"started": "{started}"}}"#)).unwrap();
        }
        assert_eq!(newest(dir.path()), Some(dir.path().join("run10")));
        assert_eq!(RunFolder::resolve(dir.path()).unwrap().path(), dir.path().join("run10"));
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
