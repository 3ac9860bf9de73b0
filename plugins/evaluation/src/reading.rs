//! Reading pictures of which some may fail.

use mtl_component::{Picture, Result, mistake};
use mtl_faces::source::Pictures;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Pictures by number; where that is allowed, one that cannot be read is a black one, and noted.
pub(crate) struct Reading<'p> {
    pictures: &'p Pictures,
    may_fail: bool,
    failed: Mutex<BTreeMap<usize, String>>,
}

impl<'p> Reading<'p> {
    pub(crate) fn new(pictures: &'p Pictures, may_fail: bool) -> Self {
        Self { pictures, may_fail, failed: Mutex::default() }
    }

    /// One of them.
    ///
    /// # Errors
    /// If it cannot be read, and that is not allowed.
    pub(crate) fn read(&self, index: usize) -> Result<Picture> {
        match self.pictures.read(index) {
            Err(e) if self.may_fail => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(index, format!("{e:#}"));
                Picture::new(1, 1, vec![0; 3])
            }
            found => found,
        }
    }

    /// Those that could not be read, each with the reason.
    pub(crate) fn failed(self) -> BTreeMap<usize, String> {
        self.failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which pictures were left out, and why. The numbers of the others.
    ///
    /// # Errors
    /// A mistake if none could be read.
    pub(crate) fn kept(self) -> Result<Vec<usize>> {
        const NAMED: usize = 5;
        let all = self.pictures.len();
        let failed = self.failed();
        if !failed.is_empty() {
            let named: Vec<String> = failed.values().take(NAMED).map(|why| format!("  {why}")).collect();
            let more =
                if failed.len() > NAMED { format!("\n  … and {} more", failed.len() - NAMED) } else { String::new() };
            tracing::warn!(
                "{} of {all} pictures cannot be read and are left out:\n{}{more}",
                failed.len(),
                named.join("\n")
            );
        }
        if failed.len() == all {
            mistake!("none of the {all} pictures can be read");
        }
        Ok((0..all).filter(|i| !failed.contains_key(i)).collect())
    }
}
