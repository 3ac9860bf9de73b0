//! What is read of runs: their recipe, how far they have come, and what was measured.

use super::{RETIRED, RunFolder, State};
use indexmap::{IndexMap, IndexSet};
use mtl_recipe::files::{read_bounded, read_text};
use mtl_recipe::{Context, Result, mistake};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The file in which a sweep lists its points, in order; each is a run folder beside it.
pub const SWEEP: &str = "sweep.json";

/// The largest record that is read.
const MAX_BYTES: u64 = 4 << 30;

/// A run as it was recorded.
pub struct Record {
    /// The folder.
    pub folder: RunFolder,
    /// It is a point of a sweep.
    pub point: bool,
    /// The resolved recipe.
    pub recipe: Value,
    /// The newest step in its metrics.
    pub step: u64,
    /// The newest figures of evaluation, as `evaluator.metric`.
    pub metrics: IndexMap<String, f64>,
    /// The figures whose newest value the data could not tell.
    pub unresolved: IndexSet<String>,
    /// All figures by name, as (step, value).
    pub curves: IndexMap<String, Vec<(u64, f64)>>,
    /// How far it has come.
    pub state: State,
}

impl Record {
    /// Reads the run in that folder.
    ///
    /// # Errors
    /// If its recipe cannot be read.
    pub fn read(folder: &RunFolder) -> Result<Self> {
        let path = folder.recipe_path();
        let text = read_text(&path, MAX_BYTES).with_context(|| format!("reading {}", path.display()))?;
        let mut recipe: toml::Value = match toml::from_str(&text) {
            Ok(recipe) => recipe,
            Err(e) => mistake!("{} is not TOML: {e}", path.display()),
        };
        // Keys that this version no longer has would make old and new runs of one recipe look different.
        for path in RETIRED {
            let Some((above, key)) = path.rsplit_once('.') else { continue };
            let table = above.split('.').try_fold(&mut recipe, |value, key| value.get_mut(key));
            table.and_then(toml::Value::as_table_mut).and_then(|table| table.remove(key));
        }
        let (mut step, mut metrics, mut curves) = (0, IndexMap::new(), IndexMap::<String, Vec<(u64, f64)>>::new());
        let mut unresolved = IndexSet::new();
        // A byte that is no text costs its line, and not the file.
        let lines = read_bounded(&folder.metrics(), MAX_BYTES).unwrap_or_default();
        for line in String::from_utf8_lossy(&lines).lines() {
            // The last line of a run that was killed may be cut off.
            let Ok(Value::Object(line)) = serde_json::from_str(line) else { continue };
            let at = line.get("step").and_then(Value::as_u64).unwrap_or(0);
            step = step.max(at);
            // A measurement that is not a number replaces what was measured before.
            for name in line.iter().filter(|(_, v)| v.is_null()).filter_map(|(n, _)| n.strip_prefix("eval/")) {
                let metric = name.replacen('/', ".", 1);
                metrics.shift_remove(&metric);
                unresolved.insert(metric);
            }
            for (name, value) in line.iter().filter_map(|(n, v)| Some((n, v.as_f64()?))) {
                match name.strip_prefix("eval/") {
                    Some(metric) => {
                        let metric = metric.replacen('/', ".", 1);
                        unresolved.shift_remove(&metric);
                        curves.entry(metric.clone()).or_default().push((at, value));
                        metrics.insert(metric, value);
                    }
                    None if name == "step" => {}
                    None => curves.entry(name.clone()).or_default().push((at, value)),
                }
            }
        }
        Ok(Self {
            folder: folder.clone(),
            point: false,
            recipe: serde_json::to_value(recipe)?,
            step,
            metrics,
            unresolved,
            curves,
            state: folder.state(),
        })
    }

    /// The name of the run.
    pub fn name(&self) -> String {
        self.folder.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// What the point of a sweep is called without its seed.
    pub fn variant(&self) -> Option<String> {
        let name = self.point.then(|| self.name())?;
        let parts: Vec<&str> = name.split(',').filter(|part| !part.starts_with("seed=")).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }

    /// The steps that it is to train.
    pub fn steps(&self) -> u64 {
        self.at("run.steps").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The value of the recipe at a dotted path.
    pub fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.recipe, |value, key| value.get(key))
    }
}

/// The places of the points in the sweep of a folder.
fn points(folder: &Path) -> HashMap<String, usize> {
    let names: Option<Vec<String>> =
        read_bounded(&folder.join(SWEEP), MAX_BYTES).ok().and_then(|text| serde_json::from_slice(&text).ok());
    names.unwrap_or_default().into_iter().zip(0..).collect()
}

/// The runs among the given folders and in them, sorted by path; those of a sweep in its order.
///
/// # Errors
/// A mistake if a folder is not there or holds none.
pub fn find(folders: &[PathBuf]) -> Result<Vec<Record>> {
    let (mut out, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for folder in folders {
        let mut found = Vec::new();
        walk(folder, &mut found, 6)?;
        if found.is_empty() {
            mistake!("there is no run in {}: no recipe.resolved.toml", folder.display());
        }
        found.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
        let mut sweeps: HashMap<PathBuf, HashMap<String, usize>> = HashMap::new();
        let mut places = HashMap::new();
        for path in &found {
            let above = path.parent().unwrap_or(Path::new(".")).to_owned();
            let sweep = sweeps.entry(above).or_insert_with_key(|folder| points(folder));
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            places.insert(path.clone(), sweep.get(&name).copied());
        }
        found.sort_by_cached_key(|path| {
            (path.parent().map(Path::to_owned), places[path].unwrap_or(usize::MAX), path.clone())
        });
        for path in found {
            // One that is damaged does not hide the others.
            match Record::read(&RunFolder::at(&path)) {
                Ok(record) => out.push(Record { point: places[&path].is_some(), ..record }),
                Err(e) => tracing::warn!("{} is left out: {e:#}", path.display()),
            }
        }
    }
    Ok(out)
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>, depth: u32) -> Result<()> {
    if RunFolder::at(folder).has_started() {
        out.push(folder.to_owned());
        return Ok(());
    }
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(e) => mistake!("cannot look into {}: {e}", folder.display()),
    };
    let (mut folders, mut links) = (Vec::new(), Vec::new());
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push(entry.path()),
            Ok(kind) if kind.is_symlink() => links.push(entry.path()),
            _ => {}
        }
    }
    // A link to a run counts as it, after the runs that are here themselves; other folders are not searched by links.
    let linked = links.into_iter().filter(|link| RunFolder::at(link).has_started());
    for path in folders.into_iter().chain(linked).filter(|_| depth > 0) {
        walk(&path, out, depth - 1)?;
    }
    Ok(())
}
