//! The per-user folder that all clones share, its lock, and the scratch folders in it.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::fault::UserFault;

const SCRATCH_MARK: &str = ".tmp-";

/// `$XDG_CACHE_HOME/mtlrun`, or `~/.cache/mtlrun`.
pub fn root() -> Result<PathBuf> {
    root_from(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

fn root_from(xdg: Option<OsString>, home: Option<OsString>) -> Result<PathBuf> {
    // The XDG rules have relative values ignored.
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(xdg).or_else(|| absolute(home).map(|home| home.join(".cache")));
    let base = base.ok_or_else(|| {
        UserFault(
            "no place for libtorch: neither XDG_CACHE_HOME nor HOME is set to an absolute path; set one of them".into(),
        )
    })?;
    Ok(base.join("mtlrun"))
}

/// The exclusive right to change the cache. It ends with the value, or with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits, and says so, while another set-up is at work.
    pub fn acquire(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create the folder {}", root.display()))?;
        let path = root.join("setup.lock");
        let failure = || format!("cannot lock {}", path.display());
        let file = File::create(&path).with_context(failure)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                println!("Another set-up is at work; waiting for it ({})", path.display());
                file.lock().with_context(failure)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(failure),
        }
        Ok(Self { _file: file })
    }
}

/// A folder of this process that goes away with the value, unless it was renamed before.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Names the scratch folder and creates nothing.
    pub fn name(root: &Path, stem: &str) -> Self {
        Self(root.join(format!("{stem}{SCRATCH_MARK}{}", std::process::id())))
    }

    /// Names and creates the scratch folder.
    pub fn create(root: &Path, stem: &str) -> Result<Self> {
        let scratch = Self::name(root, stem);
        fs::create_dir(&scratch.0).with_context(|| format!("cannot create the folder {}", scratch.0.display()))?;
        Ok(scratch)
    }

    /// Where it is, or will be.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed here is removed as stale by the next set-up, which reports its errors.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the scratch folders that killed set-ups left. The caller holds the lock.
pub fn remove_stale(root: &Path, _lock: &Lock) -> Result<()> {
    for entry in fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", root.display()))?.path();
        if scratch_owner(&path).is_some_and(|owner| !is_other_live_process(owner)) {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove the left-over folder {}", path.display()))?;
            println!("Removed what an interrupted set-up left: {}", path.display());
        }
    }
    Ok(())
}

fn scratch_owner(path: &Path) -> Option<u32> {
    let (stem, owner) = path.file_name()?.to_str()?.rsplit_once(SCRATCH_MARK)?;
    if !stem.starts_with("libtorch-") {
        return None;
    }
    owner.parse().ok()
}

/// A folder under this process's own number is an earlier process's: this one has not made any yet.
fn is_other_live_process(pid: u32) -> bool {
    pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Above the largest process number that Linux gives out.
    const DEAD: u32 = 4_194_305;

    #[test]
    fn xdg_goes_before_home_and_relative_values_are_ignored() {
        let root = |xdg: &str, home: &str| root_from(Some(xdg.into()), Some(home.into()));
        assert_eq!(root("/x", "/h").unwrap(), Path::new("/x/mtlrun"));
        assert_eq!(root("", "/h").unwrap(), Path::new("/h/.cache/mtlrun"));
        assert_eq!(root("x", "/h").unwrap(), Path::new("/h/.cache/mtlrun"));
        assert!(root("x", "").unwrap_err().downcast_ref::<UserFault>().is_some());
    }

    #[test]
    fn only_scratch_folders_of_dead_processes_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        for (name, kept) in [
            (format!("libtorch-2.11.0-cpu.tmp-{DEAD}"), false),
            (format!("libtorch-2.11.0-cpu.download.tmp-{DEAD}"), false),
            (format!("libtorch-2.11.0-cpu.tmp-{}", std::process::id()), false),
            ("libtorch-2.11.0-cpu.tmp-1".into(), true),
            ("libtorch-2.11.0-cpu".into(), true),
            (format!("other.tmp-{DEAD}"), true),
        ] {
            fs::create_dir_all(dir.path().join(&name).join("lib")).unwrap();
            names.push((name, kept));
        }
        let lock = Lock::acquire(dir.path()).unwrap();
        remove_stale(dir.path(), &lock).unwrap();
        for (name, kept) in names {
            assert_eq!(dir.path().join(&name).exists(), kept, "{name}");
        }
    }

    #[test]
    fn a_scratch_folder_goes_unless_it_was_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Scratch::create(dir.path(), "libtorch-a").unwrap();
        let path = gone.path().to_path_buf();
        fs::write(path.join("part"), "x").unwrap();
        drop(gone);
        assert!(!path.exists());

        let kept = Scratch::create(dir.path(), "libtorch-b").unwrap();
        fs::rename(kept.path(), dir.path().join("done")).unwrap();
        drop(kept);
        assert!(dir.path().join("done").exists());
    }

    #[test]
    fn the_lock_keeps_a_second_one_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(dir.path()).unwrap();
        let other = File::open(dir.path().join("setup.lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        other.try_lock().unwrap();
    }
}
