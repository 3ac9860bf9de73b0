//! Writing of record files.

use super::{LENGTH_BITS, MAGIC, MAX_RECORD};
use mtl_component::{ErrorContext as _, Result, bail, mistake};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a record file and its index. Both are written beside their places, and put there when all is written.
#[derive(Debug)]
pub struct RecordWriter {
    data: Fresh,
    index: Fresh,
    offset: u64,
}

/// A file that is not in its place yet.
#[derive(Debug)]
struct Fresh {
    place: PathBuf,
    path: PathBuf,
    file: BufWriter<File>,
}

impl Fresh {
    fn create(place: PathBuf) -> Result<Self> {
        let Some(name) = place.file_name() else { mistake!("{} is no name of a file", place.display()) };
        let path = place.with_file_name(format!(".{}.tmp-{}", name.to_string_lossy(), std::process::id()));
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { place, path, file: BufWriter::with_capacity(1 << 20, file) })
    }

    fn finish(&mut self) -> Result<()> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .and_then(|()| fs::rename(&self.path, &self.place))
            .with_context(|| format!("writing {}", self.place.display()))?;
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Gone already when it is in its place.
        let _ = fs::remove_file(&self.path);
    }
}

impl RecordWriter {
    /// Begins a file of that name, with the index beside it.
    ///
    /// # Errors
    /// If they cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { data: Fresh::create(path.to_owned())?, index: Fresh::create(path.with_extension("idx"))?, offset: 0 })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If it is too long, or the disk is full.
    pub fn write(&mut self, key: i64, payload: &[u8]) -> Result<()> {
        if payload.len() > MAX_RECORD {
            bail!("the record {key} has {} bytes, and the format holds at most {MAX_RECORD}", payload.len());
        }
        writeln!(self.index.file, "{key}\t{}", self.offset)?;
        let magic = MAGIC.to_le_bytes();
        let groups = payload.chunks_exact(4).enumerate().filter(|(_, group)| *group == magic).map(|(at, _)| 4 * at);
        let cuts: Vec<usize> = groups.collect();
        let mut start = 0;
        for (n, cut) in cuts.iter().enumerate() {
            self.part(if n == 0 { 1 } else { 2 }, &payload[start..*cut])?;
            start = cut + 4;
        }
        self.part(if cuts.is_empty() { 0 } else { 3 }, &payload[start..])
    }

    fn part(&mut self, kind: u32, data: &[u8]) -> Result<()> {
        let file = &mut self.data.file;
        file.write_all(&MAGIC.to_le_bytes())?;
        file.write_all(&(kind << LENGTH_BITS | data.len() as u32).to_le_bytes())?;
        file.write_all(data)?;
        let padding = data.len().next_multiple_of(4) - data.len();
        file.write_all(&[0; 3][..padding])?;
        self.offset += (8 + data.len() + padding) as u64;
        Ok(())
    }

    /// Puts both files in their places, the index last.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn finish(mut self) -> Result<()> {
        self.data.finish()?;
        self.index.finish()
    }
}
