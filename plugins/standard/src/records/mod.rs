//! Record files (RecordIO of dmlc and mxnet): many payloads in one file, found by key.
//!
//! All numbers are little-endian:
//!
//! ```text
//! record := part+                     one part of kind 0, or kinds 1, 2*, 3
//! part   := u32 0xced7230a | u32 kind << 29 | length | data | zeros up to a multiple of 4
//! ```
//!
//! Where a payload holds the magic number at a multiple of 4, the writer ends a part and leaves these four bytes out. An
//! index beside the file, `.idx`, has a line `key<TAB>offset` for each record.

mod header;
mod index;
mod writer;

pub use header::Header;
pub use writer::RecordWriter;

use mtl_component::{Error, ErrorContext as _, Result, bail, mistake};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

const MAGIC: u32 = 0xced7_230a;
/// The bits of a length; those above are the kind of the part.
const LENGTH_BITS: u32 = 29;
/// The longest record, which is the longest that the format can hold.
const MAX_RECORD: usize = (1 << LENGTH_BITS) - 1;
/// The least and the most that is read at once in the hope that it holds the whole record.
const GUESS: [usize; 2] = [512, 64 << 10];

/// The records of a file by key. They are read where they are asked for, by any number of threads; a file that becomes
/// shorter meanwhile is an error.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Key and offset, by key.
    index: Vec<(i64, u64)>,
    /// How much is read at once: what most of the records so far would have needed.
    guess: AtomicUsize,
}

impl Records {
    /// Opens a record file with the index beside it. Without an index the records are found by one walk through the file,
    /// and numbered from 0.
    ///
    /// # Errors
    /// A mistake if the file or its index cannot be used.
    pub fn open(path: &Path) -> Result<Self> {
        let mut records = Self::opened(path)?;
        let beside = path.with_extension("idx");
        records.index = match beside.is_file() {
            true => index::read(&beside, path, records.bytes)?,
            false => records.walked()?,
        };
        Ok(records)
    }

    /// The file without its index.
    fn opened(path: &Path) -> Result<Self> {
        // Opening a pipe would wait for somebody to write into it.
        if path.exists() && !path.is_file() {
            mistake!("{} is no file of records", path.display());
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(e) => mistake!("cannot open the records {}: {e}", path.display()),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes: metadata.len(),
            index: Vec::new(),
            guess: AtomicUsize::new(8 << 10),
        })
    }

    /// Opens a file that is damaged or was cut: the records before the damage, numbered from 0 as they follow each other, and
    /// what is wrong behind them.
    ///
    /// # Errors
    /// A mistake if it cannot be opened at all.
    pub fn before_damage(path: &Path) -> Result<(Self, Option<Error>)> {
        let mut records = Self::opened(path)?;
        let (mut found, error) = records.walk();
        // The last one may be the one that was cut.
        let cut = |records: &Self, at: u64| records.record_at(at, &mut Vec::new()).err();
        let error = match found.last().and_then(|(_, at)| cut(&records, *at)) {
            Some(last) => {
                found.pop();
                Some(error.unwrap_or(last))
            }
            None => error,
        };
        records.index = found;
        Ok((records, error))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The keys from the smallest to the largest.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = i64> + '_ {
        self.index.iter().map(|(key, _)| *key)
    }

    /// The keys within a range.
    pub fn keys_within(&self, range: Range<i64>) -> impl Iterator<Item = i64> + '_ {
        let from = self.index.partition_point(|(key, _)| *key < range.start);
        self.index[from..].iter().map(|(key, _)| *key).take_while(move |key| *key < range.end)
    }

    /// Whether there is a record of that key.
    pub fn has(&self, key: i64) -> bool {
        self.at(key).is_some()
    }

    fn at(&self, key: i64) -> Option<u64> {
        let at = self.index.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(self.index[at].1)
    }

    /// Puts the payload of a record into a buffer, in the place of what it held.
    ///
    /// # Errors
    /// A mistake if there is no such record, or it is damaged; it names the file, the key and the byte.
    pub fn read(&self, key: i64, into: &mut Vec<u8>) -> Result<()> {
        let Some(offset) = self.at(key) else {
            let (first, last) = (self.index.first().map_or(0, |r| r.0), self.index.last().map_or(0, |r| r.0));
            let hint = match (key, first) {
                (0, 1) => ": its keys start at 1, as those made of a list that does",
                _ => "",
            };
            mistake!(
                "{} has no record {key}: it has {} of the keys {first} to {last}{hint}",
                self.path.display(),
                self.index.len()
            )
        };
        self.record_at(offset, into).with_context(|| self.told(key))?;
        Ok(())
    }

    /// The payload of the record that begins at an offset; gives the offset behind it.
    fn record_at(&self, offset: u64, into: &mut Vec<u8>) -> Result<u64> {
        into.clear();
        let mut at = offset;
        loop {
            let first = into.is_empty() && at == offset;
            let start = into.len();
            let guess = self.guess.load(Ordering::Relaxed);
            let room = guess.min(usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX));
            if room < 8 {
                mistake!("at byte {at}: the file ends, and a part of the record should begin there: the file was cut");
            }
            into.resize(start + room, 0);
            self.fill(&mut into[start..], at)?;
            let (kind, length) = head(&into[start..start + 8], at)?;
            let expected: &[u32] = if first { &[0, 1] } else { &[2, 3] };
            if !expected.contains(&kind) {
                mistake!(
                    "at byte {at}: a part of kind {kind}, expected one of {expected:?}: the offset of the index is not that \
                     of a record, or the file is damaged"
                );
            }
            self.holds(at, length)?;
            let end = at + 8 + length as u64;
            if start + length > MAX_RECORD {
                mistake!("at byte {at}: the record is longer than {MAX_RECORD} bytes");
            }
            self.learn(8 + length, guess);
            // The head goes, and what lies behind the part.
            let got = (room - 8).min(length);
            into.copy_within(start + 8..start + 8 + got, start);
            into.resize(start + length, 0);
            if got < length {
                self.fill(&mut into[start + got..], at + 8 + got as u64)?;
            }
            at = end.next_multiple_of(4);
            if kind == 0 || kind == 3 {
                return Ok(at);
            }
            into.extend_from_slice(&MAGIC.to_le_bytes());
        }
    }

    /// The header of a record, without its picture being read, and whether there is one.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn header(&self, key: i64) -> Result<(Header, bool)> {
        const ENOUGH: usize = 128;
        let Some(offset) = self.at(key) else {
            let mut none = Vec::new();
            return self.read(key, &mut none).and_then(|()| bail!("the record {key} has come about"));
        };
        let mut start = [0u8; ENOUGH];
        let room = ENOUGH.min(usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(ENOUGH));
        let short = room >= 8 && {
            self.fill(&mut start[..room], offset)?;
            // A list of labels may be longer, and a header may be split: such records are read whole.
            let found = head(&start[..8], offset).ok().filter(|(kind, _)| *kind == 0);
            found.is_some_and(|(_, length)| length + 8 <= room || Header::is_within(&start[8..room]))
        };
        if !short {
            let mut payload = Vec::new();
            self.read(key, &mut payload)?;
            let (header, picture) = Header::split(&payload).with_context(|| self.told(key))?;
            return Ok((header, !picture.is_empty()));
        }
        let (_, length) = head(&start[..8], offset)?;
        let (header, picture) = Header::split(&start[8..room.min(8 + length)]).with_context(|| self.told(key))?;
        Ok((header, !picture.is_empty()))
    }

    fn told(&self, key: i64) -> String {
        format!("the record {key} of {}", self.path.display())
    }

    fn fill(&self, into: &mut [u8], at: u64) -> Result<()> {
        match self.file.read_exact_at(into, at) {
            Ok(()) => Ok(()),
            Err(e) => mistake!("at byte {at}: {e}; the file had {} bytes when it was opened", self.bytes),
        }
    }

    fn head_at(&self, at: u64) -> Result<(u32, usize)> {
        if self.bytes - at < 8 {
            mistake!("at byte {at}: the file ends within the head of a part: the file was cut");
        }
        let mut bytes = [0u8; 8];
        self.fill(&mut bytes, at)?;
        let (kind, length) = head(&bytes, at)?;
        self.holds(at, length)?;
        Ok((kind, length))
    }

    /// Follows the largest of the recent parts, so that few need a second read and little is read for nothing.
    fn learn(&self, needed: usize, guess: usize) {
        let next = if needed > guess { needed } else { guess - (guess - needed) / 32 };
        self.guess.store(next.clamp(GUESS[0], GUESS[1]), Ordering::Relaxed);
    }

    /// Checks that a part that begins at an offset lies within the file.
    fn holds(&self, at: u64, length: usize) -> Result<()> {
        if at + 8 + length as u64 > self.bytes {
            mistake!(
                "at byte {at}: a part of {length} bytes, and the file ends after {}: the file was cut",
                self.bytes - at - 8
            );
        }
        Ok(())
    }

    /// The offsets of all records in the order of the file.
    fn walked(&self) -> Result<Vec<(i64, u64)>> {
        let (found, error) = self.walk();
        match error {
            Some(error) => {
                Err(error
                    .context(format!("walking through {}, which has no index (.idx) beside it", self.path.display())))
            }
            None => Ok(found),
        }
    }

    /// The same as far as the file is whole, and what is wrong there.
    fn walk(&self) -> (Vec<(i64, u64)>, Option<Error>) {
        let (mut found, mut at, mut inside) = (Vec::new(), 0u64, false);
        while at < self.bytes {
            let (kind, length) = match self.head_at(at) {
                Ok(head) => head,
                Err(error) => return (found, Some(error)),
            };
            if !inside {
                found.push((found.len() as i64, at));
            }
            inside = kind == 1 || kind == 2;
            at = (at + 8 + length as u64).next_multiple_of(4);
        }
        (found, None)
    }
}

/// Kind and length of a part from its first eight bytes.
fn head(bytes: &[u8], at: u64) -> Result<(u32, usize)> {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (magic, lrec) = (word(0), word(4));
    if magic != MAGIC {
        mistake!(
            "at byte {at}: expected a record (the bytes 0a 23 d7 ce), found {:02x} {:02x} {:02x} {:02x}: the index is of another \
             file, or the file was copied as text, cut or damaged",
            bytes[0],
            bytes[1],
            bytes[2],
            bytes[3]
        );
    }
    Ok((lrec >> LENGTH_BITS, (lrec & ((1 << LENGTH_BITS) - 1)) as usize))
}

#[cfg(test)]
mod tests;
