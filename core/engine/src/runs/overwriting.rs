//! Replacing a run: the old one is moved aside, and removed once the new one has its first checkpoint.
//!
//! Whatever moment the process is killed at, the folder holds the old run or a new one with a checkpoint when the next
//! one has recovered it.

use super::content;
use mtl_recipe::files::sync_folder;
use mtl_recipe::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder within the run folder that the old run waits in.
const ASIDE: &str = ".old.tmp-run";
/// The mark in it that says that all of the old run is there; what stands beside it is of the new run.
const WHOLE: &str = "whole";
/// Where what is to be removed goes first, so that no half of it is taken for a run.
const REMOVED: &str = ".removed.tmp-run";

/// An old run that waits for the first checkpoint of the new one. Unless that comes, it is put back.
#[derive(Debug)]
pub struct Overwritten {
    folder: PathBuf,
    done: bool,
}

impl Overwritten {
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        let aside = folder.join(ASIDE);
        let moving = || format!("moving the old run in {} aside", folder.display());
        fs::create_dir(&aside).with_context(moving)?;
        let begun = Self { folder: folder.to_owned(), done: false };
        for name in content(folder)? {
            fs::rename(folder.join(&name), aside.join(&name)).with_context(moving)?;
        }
        fs::write(aside.join(WHOLE), "").with_context(moving)?;
        sync_folder(&aside)?;
        sync_folder(folder)?;
        Ok(begun)
    }

    /// Removes the old run, since the new one has a checkpoint.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&mut self) -> Result<()> {
        self.done = true;
        remove(&self.folder, ASIDE)
    }
}

impl Drop for Overwritten {
    fn drop(&mut self) {
        if !self.done
            && let Err(e) = put_back(&self.folder)
        {
            tracing::warn!("the old run could not be put back from {}: {e:#}", self.folder.join(ASIDE).display());
        }
    }
}

fn remove(folder: &Path, name: &str) -> Result<()> {
    let removing = || format!("removing {}", folder.join(name).display());
    let removed = folder.join(REMOVED);
    if name != REMOVED {
        fs::create_dir_all(&removed).with_context(removing)?;
        fs::rename(folder.join(name), removed.join(name)).with_context(removing)?;
    }
    fs::remove_dir_all(&removed).with_context(removing)
}

/// Puts the old run back in the place of what the new one has made.
fn put_back(folder: &Path) -> Result<()> {
    let aside = folder.join(ASIDE);
    let putting = || format!("putting back the old run of {}", folder.display());
    if aside.join(WHOLE).exists() {
        let removed = folder.join(REMOVED);
        fs::create_dir_all(&removed).with_context(putting)?;
        for name in content(folder)? {
            fs::rename(folder.join(&name), removed.join(&name)).with_context(putting)?;
        }
        sync_folder(folder)?;
        // From here on what stands in the folder is of the old run.
        fs::remove_file(aside.join(WHOLE)).with_context(putting)?;
        sync_folder(&aside)?;
        remove(folder, REMOVED)?;
    }
    for name in content(&aside)? {
        fs::rename(aside.join(&name), folder.join(&name)).with_context(putting)?;
    }
    sync_folder(folder)?;
    fs::remove_dir_all(&aside).with_context(putting)
}

/// Ends what a killed process has begun. The folder is locked.
pub(super) fn recover(folder: &Path) -> Result<()> {
    if folder.join(ASIDE).is_dir() {
        let begun = folder.join(ASIDE).join(WHOLE).exists();
        if begun && !crate::checkpoint::list(&folder.join("checkpoints")).is_empty() {
            remove(folder, ASIDE)?;
        } else {
            put_back(folder)?;
            tracing::info!(
                "the old run in {} was put back: the one that was to replace it was stopped",
                folder.display()
            );
        }
    }
    if folder.join(REMOVED).is_dir() {
        remove(folder, REMOVED)?;
    }
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if mtl_recipe::files::is_leftover(&name) && entry.file_type().is_ok_and(|t| t.is_file()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(folder: &Path) {
        fs::create_dir_all(folder.join("checkpoints/step-4")).unwrap();
        fs::write(folder.join("run.json"), "old").unwrap();
        fs::write(folder.join("metrics.jsonl"), "old").unwrap();
    }

    fn is_old(folder: &Path) -> bool {
        let names = content(folder).unwrap();
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        names == ["checkpoints", "metrics.jsonl", "run.json"]
            && text("run.json") == "old"
            && text("metrics.jsonl") == "old"
    }

    #[test]
    fn the_old_run_is_put_back_unless_the_new_one_has_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let mut old = Overwritten::begin(dir.path()).unwrap();
        assert!(content(dir.path()).unwrap().is_empty());
        fs::write(dir.path().join("run.json"), "new").unwrap();
        drop(old);
        assert!(is_old(dir.path()));
        old = Overwritten::begin(dir.path()).unwrap();
        fs::write(dir.path().join("run.json"), "new").unwrap();
        old.remove().unwrap();
        drop(old);
        assert_eq!(content(dir.path()).unwrap(), ["run.json"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Killed while the old run is moved aside, while the new one starts, and while the old one is put back.
    #[test]
    fn every_interrupted_state_is_recovered() {
        let interrupted: [fn(&Path); 4] = [
            |folder| {
                fs::create_dir(folder.join(ASIDE)).unwrap();
                fs::rename(folder.join("run.json"), folder.join(ASIDE).join("run.json")).unwrap();
            },
            |folder| {
                std::mem::forget(Overwritten::begin(folder).unwrap());
                fs::write(folder.join("run.json"), "new").unwrap();
                fs::create_dir_all(folder.join("checkpoints/step-1.tmp-x")).unwrap();
            },
            |folder| {
                std::mem::forget(Overwritten::begin(folder).unwrap());
                fs::write(folder.join("run.json"), "new").unwrap();
                fs::create_dir(folder.join(REMOVED)).unwrap();
                fs::rename(folder.join("run.json"), folder.join(REMOVED).join("run.json")).unwrap();
            },
            |folder| {
                std::mem::forget(Overwritten::begin(folder).unwrap());
                fs::remove_file(folder.join(ASIDE).join(WHOLE)).unwrap();
                fs::rename(folder.join(ASIDE).join("run.json"), folder.join("run.json")).unwrap();
            },
        ];
        for (n, interrupt) in interrupted.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            filled(dir.path());
            interrupt(dir.path());
            recover(dir.path()).unwrap();
            assert!(is_old(dir.path()), "case {n}: {:?}", content(dir.path()));
        }
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        std::mem::forget(Overwritten::begin(dir.path()).unwrap());
        fs::create_dir_all(dir.path().join("checkpoints/step-1")).unwrap();
        recover(dir.path()).unwrap();
        assert_eq!(content(dir.path()).unwrap(), ["checkpoints"]);
    }
}
