//! The lock of a run folder: one process trains in it.

use mtl_recipe::{Result, bail, mistake};
use rustix::fs::{Mode, OFlags};
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file that is locked.
pub(super) const FILE: &str = "run.lock";

/// A run folder that no other process trains in while this lives.
#[derive(Debug)]
pub struct Lock {
    // Closing the file gives the lock up, also when the process is killed.
    file: File,
    folder: PathBuf,
    /// The folder was made for this run.
    made: bool,
}

impl Lock {
    /// Locks a folder. One that was `made` for it is removed again if nothing else has come into it.
    ///
    /// # Errors
    /// A mistake if another process trains in it, or it cannot be written to.
    pub(super) fn acquire(folder: &Path, made: bool) -> Result<Self> {
        let path = folder.join(FILE);
        // A link would make a file elsewhere, and a pipe would wait for its other end.
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => File::from(file),
            Err(e) => mistake!("cannot write in the run folder {}: {}", folder.display(), std::io::Error::from(e)),
        };
        if !file.metadata().is_ok_and(|found| found.is_file()) {
            mistake!("{} is not a regular file: it cannot be locked", path.display());
        }
        match file.try_lock() {
            // Where the file system has no locks there is none.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                mistake!(
                    "another process trains in {}: wait for it, or name another folder with --out",
                    folder.display()
                )
            }
        }
        let lock = Self { file, folder: folder.to_owned(), made };
        if !lock.is_there() {
            mistake!("another process has just left {}: try again", folder.display());
        }
        Ok(lock)
    }

    /// The locked folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn is_there(&self) -> bool {
        let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let (Ok(held), Ok(found)) = (self.file.metadata(), self.folder.join(FILE).metadata()) else { return false };
        same(held, found)
    }

    /// Checks that the folder is still the one that was locked.
    ///
    /// # Errors
    /// If it was moved or removed.
    pub fn check(&self) -> Result<()> {
        if !self.is_there() {
            bail!("the run folder {} was moved or removed while the run was going on", self.folder.display());
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let alone = || self.folder.read_dir().is_ok_and(|mut all| all.all(|e| e.is_ok_and(|e| e.file_name() == FILE)));
        if self.made && self.is_there() && alone() {
            let _ = std::fs::remove_file(self.folder.join(FILE));
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}

/// Whether a process trains in the folder.
pub(super) fn is_held(folder: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(folder.join(FILE), flags, Mode::empty()) else { return false };
    matches!(File::from(file).try_lock_shared(), Err(TryLockError::WouldBlock))
}
