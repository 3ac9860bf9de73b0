//! The lock of a run folder: one process trains in it.

use mtl_recipe::{Result, mistake};
use std::fs::{File, TryLockError};
use std::path::Path;

/// The file that is locked.
pub(super) const FILE: &str = "run.lock";

/// A run folder that no other process trains in while this lives.
#[derive(Debug)]
pub struct Lock {
    // Closing the file gives the lock up, also when the process is killed. None where the file system has no locks.
    _file: Option<File>,
}

impl Lock {
    /// Locks a folder.
    ///
    /// # Errors
    /// A mistake if another process trains in it, or it cannot be written to.
    pub(super) fn acquire(folder: &Path) -> Result<Self> {
        let file = match File::options().create(true).truncate(false).write(true).open(folder.join(FILE)) {
            Ok(file) => file,
            Err(e) => mistake!("cannot write in the run folder {}: {e}", folder.display()),
        };
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                mistake!(
                    "another process trains in {}: wait for it, or name another folder with --out",
                    folder.display()
                )
            }
            Err(TryLockError::Error(_)) => Ok(Self { _file: None }),
        }
    }
}

/// Whether a process trains in the folder.
pub(super) fn is_held(folder: &Path) -> bool {
    let Ok(file) = File::open(folder.join(FILE)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}
