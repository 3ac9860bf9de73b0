//! Run folders: what is kept of a run so that it can be repeated, resumed, read and compared.

use crate::files::write_atomically;
use crate::mistake;
use crate::recipe::{Recipe, difference, to_toml};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to do with a folder that holds something already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it.
    Refuse,
    /// Go on with the run in it.
    Resume,
    /// Empty it first.
    Overwrite,
}

/// The folder of a run that starts or goes on. Nothing is changed yet: see [`prepare`].
pub fn folder(out: Option<&Path>, name: &str, existing: Existing) -> Result<PathBuf> {
    let path = match (out, existing) {
        (Some(out), _) => out.to_owned(),
        (None, Existing::Resume) => match newest(&Path::new("runs").join(name)) {
            Some(path) => path,
            None => mistake!("there is no run to resume under runs/{name}: name its folder with --out"),
        },
        (None, _) => unused(&Path::new("runs").join(name), &timestamp()),
    };
    if path.exists() && !path.is_dir() {
        mistake!("the run folder {} is a file: name another with --out", path.display());
    }
    let filled = path.read_dir().is_ok_and(|d| d.flatten().any(|entry| entry.file_name() != LOCK));
    match existing {
        Existing::Resume if !path.join("recipe.resolved.toml").exists() => {
            mistake!("there is no run to resume in {}: it holds no recipe.resolved.toml", path.display())
        }
        Existing::Refuse if filled => mistake!(
            "the run folder {} is not empty: go on with it by --resume, empty it by --overwrite, or name another with \
             --out",
            path.display()
        ),
        Existing::Overwrite
            if filled && !path.join("run.json").exists() && !path.join("recipe.resolved.toml").exists() =>
        {
            mistake!("{} is not empty and no run folder: it is not emptied", path.display())
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
    Ok(path)
}

/// A run folder that no other process trains in while this lives.
#[derive(Debug)]
pub struct Lock {
    // Closing the file gives the lock up, also when the process is killed. None where the file system has no locks.
    _file: Option<File>,
}

const LOCK: &str = "run.lock";

fn lock(path: &Path) -> Result<Lock> {
    let file = path.join(LOCK);
    let file = match File::options().create(true).truncate(false).write(true).open(&file) {
        Ok(file) => file,
        Err(e) => mistake!("cannot write in the run folder {}: {e}", path.display()),
    };
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: Some(file) }),
        Err(TryLockError::WouldBlock) => {
            mistake!("another process trains in {}: wait for it, or name another folder with --out", path.display())
        }
        Err(TryLockError::Error(_)) => Ok(Lock { _file: None }),
    }
}

/// Makes the folder that [`folder`] has chosen and locks it, emptying it first where that was asked for.
pub fn prepare(path: &Path, existing: Existing) -> Result<Lock> {
    if let Err(e) = std::fs::create_dir_all(path) {
        mistake!("cannot make the run folder {}: {e}", path.display());
    }
    let held = lock(path)?;
    if existing == Existing::Overwrite {
        let emptying = || format!("emptying {}", path.display());
        for entry in path.read_dir().with_context(emptying)? {
            let entry = entry.with_context(emptying)?;
            if entry.file_name() == LOCK {
                continue;
            }
            let folder = entry.file_type().with_context(emptying)?.is_dir();
            let remove = if folder { std::fs::remove_dir_all::<PathBuf> } else { std::fs::remove_file };
            remove(entry.path()).with_context(emptying)?;
        }
    }
    Ok(held)
}

/// `folder/name`, numbered if runs were started in the same second.
fn unused(folder: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|n| folder.join(format!("{name}-{n}")));
    std::iter::once(folder.join(name)).chain(numbered).find(|path| !path.exists()).unwrap_or_else(|| folder.join(name))
}

/// The run that a path means: a run folder itself, or the newest run in a folder of runs.
///
/// # Errors
/// A mistake if there is none.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join("recipe.resolved.toml").exists() {
        return Ok(path.to_owned());
    }
    match newest(path) {
        Some(run) => Ok(run),
        None if path.exists() => mistake!(
            "{} is no run folder, and none is in it: there is no recipe.resolved.toml. Train the run first, or name \
             another",
            path.display()
        ),
        None => mistake!("there is no run {}: train it first, or name another", path.display()),
    }
}

fn newest(folder: &Path) -> Option<PathBuf> {
    let mut runs: Vec<PathBuf> = folder
        .read_dir()
        .ok()?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("recipe.resolved.toml").exists())
        .collect();
    runs.sort();
    runs.pop()
}

/// The time as `2026-01-31T12-30-59Z`, which sorts as time does.
fn timestamp() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to date in the Gregorian calendar, with years that start in March (Hinnant 2013, "chrono-compatible
    // low-level date algorithms", civil_from_days).
    let z = days as i64 + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60)
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
        || (path.starts_with("data.") && (path.ends_with(".workers") || path.ends_with(".prefetch")))
        || (path.starts_with("evaluate.") && path.ends_with(".every"))
        // A run that goes on has its weights from its checkpoint.
        || (path.starts_with("model.") && path.contains(".weights."))
}

/// Checks that a run may go on with this recipe; returns what changed of what may.
pub fn compare(folder: &Path, recipe: &Recipe, allow: bool) -> Result<Vec<String>> {
    let old = Recipe::read(&folder.join("recipe.resolved.toml"), &[])
        .with_context(|| format!("reading the recipe that {} was started with", folder.display()))?;
    let mut changes = difference(&old.root.to_json(), &recipe.root.to_json());
    // What waits for the data is compared once it is known.
    changes.retain(|(path, ..)| !recipe.waits(path));
    let text = |list: &[&(String, String, String)]| {
        list.iter().map(|(path, old, new)| format!("  {path}: {old} -> {new}")).collect::<Vec<_>>()
    };
    let barred: Vec<_> = changes.iter().filter(|(p, ..)| !may_change(p)).collect();
    if !barred.is_empty() && !allow {
        mistake!(
            "the recipe differs from the one that {} was started with:\n{}\nUndo the change, start a new run, or say \
             --allow-recipe-change",
            folder.display(),
            text(&barred).join("\n")
        );
    }
    Ok(text(&changes.iter().collect::<Vec<_>>()))
}

/// Writes the recipe and where it comes from.
pub fn record(folder: &Path, recipe: &Recipe, run: &Value) -> Result<()> {
    let schema = "# The recipe of this run with everything it extends, absolute paths and defaults.\n";
    write_atomically(&folder.join("recipe.resolved.toml"), format!("{schema}{}", to_toml(&recipe.root)?).as_bytes())?;
    for source in recipe.sources.iter() {
        let Some(path) = &source.path else { continue };
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let parent = path.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        let target = folder.join("recipe.source").join(match parent {
            Some(parent) => format!("{parent}/{name}"),
            None => name,
        });
        write_atomically(&target, source.text.as_bytes())?;
    }
    write_atomically(&folder.join("run.json"), &serde_json::to_vec_pretty(run)?)
}

/// What is known of the program, the machine and the sources.
pub fn environment(recipe: &Recipe, overrides: &[String]) -> Value {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|t| {
        let line = t.lines().find(|l| l.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| {
        let line = t.lines().find(|l| l.starts_with("MemTotal"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib >> 10)
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|t| t.trim().to_owned());
    json!({
        "started": timestamp(),
        "argv": std::env::args().collect::<Vec<_>>(),
        "overrides": overrides,
        "folder": std::env::current_dir().ok(),
        "mtlrun": env!("CARGO_PKG_VERSION"),
        "libtorch": mtl_torch::version().ok(),
        "cpu_capability": mtl_torch::cpu_capability().ok(),
        "git": {
            "commit": git(&["rev-parse", "HEAD"]),
            "changed": git(&["status", "--porcelain"]).map(|s| s.lines().map(str::to_owned).collect::<Vec<_>>()),
        },
        "seed": recipe.run.seed,
        "device": recipe.run.device,
        "threads": crate::session::threads(recipe),
        "machine": { "host": host, "cpu": cpu, "memory_mib": memory, "os": std::env::consts::OS },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_trained_in_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let held = prepare(&path, Existing::Refuse).unwrap();
        for existing in [Existing::Resume, Existing::Overwrite] {
            let error = prepare(&path, existing).unwrap_err();
            assert!(error.to_string().contains("another process trains in"), "{error}");
        }
        drop(held);
        assert_eq!(folder(Some(&path), "n", Existing::Refuse).unwrap(), path);
        prepare(&path, Existing::Overwrite).unwrap();
        assert_eq!(unused(dir.path(), "run"), dir.path().join("run-2"));
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let error = folder(Some(dir.path()), "n", Existing::Refuse).unwrap_err();
        assert!(error.to_string().contains("--resume"), "{error}");
        // It is not ours to empty either.
        assert!(folder(Some(dir.path()), "n", Existing::Overwrite).is_err());
        assert!(dir.path().join("x").exists());
    }

    #[test]
    fn a_parent_that_is_a_file_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let error = folder(Some(&dir.path().join("x/run")), "n", Existing::Refuse).unwrap_err();
        assert_eq!(crate::diagnostic::exit_code(&error), 2);
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
}
