//! Where a pickle is read from.

use mtl_recipe::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes by their position.
pub trait Input {
    /// How many there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `at` on, at least `wanted` of them and possibly more.
    ///
    /// # Errors
    /// If there are fewer, or they cannot be read.
    fn from(&mut self, at: u64, wanted: usize) -> Result<&[u8]>;
}

/// A whole input in memory.
impl Input for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn from(&mut self, at: u64, wanted: usize) -> Result<&[u8]> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        if rest.len() < wanted {
            bail!("the pickle ends at byte {} within an opcode at {at}", <[u8]>::len(self));
        }
        Ok(rest)
    }
}

/// A file of which a window is held; long byte strings are stepped over.
#[derive(Debug)]
pub struct FileInput<'f> {
    file: &'f File,
    len: u64,
    start: u64,
    window: Vec<u8>,
}

impl<'f> FileInput<'f> {
    /// The bytes that are read at a time.
    const WINDOW: usize = 1 << 14;

    /// The file from its beginning.
    ///
    /// # Errors
    /// If its length cannot be told.
    pub fn new(file: &'f File) -> Result<Self> {
        Ok(Self { file, len: file.metadata()?.len(), start: 0, window: Vec::new() })
    }
}

impl Input for FileInput<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn from(&mut self, at: u64, wanted: usize) -> Result<&[u8]> {
        if at.checked_add(wanted as u64).is_none_or(|end| end > self.len) {
            bail!("the pickle ends at byte {} within an opcode at {at}", self.len);
        }
        let held = self.start..self.start + self.window.len() as u64;
        if !(held.contains(&at) && at + wanted as u64 <= held.end) {
            let most = (self.len - at).min(wanted.max(Self::WINDOW) as u64) as usize;
            self.window.resize(most, 0);
            self.start = at;
            let read = self.file.read_exact_at(&mut self.window, at);
            if read.is_err() {
                self.window.clear();
            }
            read.with_context(|| format!("reading {most} bytes from byte {at}"))?;
        }
        Ok(&self.window[(at - self.start) as usize..])
    }
}
