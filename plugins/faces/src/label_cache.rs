//! The labels of large record files without a block of identities, kept from one opening to the next: finding them takes a
//! walk through all headers.

use crate::picture_files::user_cache;
use mtl_component::Result;
use mtl_recipe::files::stream_atomically;
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files with fewer records are walked through in no time.
const FEWEST: usize = 50_000;
/// What the file begins with.
const MARK: &[u8; 8] = b"mtllabl1";
/// How much of the record file tells it from others.
const START: u64 = 4096;

/// The file for the labels of a record file: by its size, its time and its first bytes, and those of its index.
fn file_of(folder: &Path, records: &Path) -> Option<PathBuf> {
    let mut hash = Sha256::new();
    let mut tell = |file: &Metadata| {
        for number in [file.len() as i64, file.mtime(), file.mtime_nsec()] {
            hash.update(number.to_le_bytes());
        }
    };
    tell(&records.metadata().ok()?);
    if let Ok(index) = records.with_extension("idx").metadata() {
        tell(&index);
    }
    let mut start = Vec::new();
    File::open(records).ok()?.take(START).read_to_end(&mut start).ok()?;
    hash.update(&start);
    Some(folder.join(hex::encode(hash.finalize())))
}

/// Keys and labels of the pictures of a record file as they were found before; none if they are not kept, or the file is
/// another.
pub fn kept(records: &Path, count: usize) -> Option<Vec<(i64, i64)>> {
    if count < FEWEST {
        return None;
    }
    kept_in(&user_cache("labels")?, records, count)
}

fn kept_in(folder: &Path, records: &Path, count: usize) -> Option<Vec<(i64, i64)>> {
    let bytes = std::fs::read(file_of(folder, records)?).ok()?;
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    let body = body.strip_prefix(MARK)?;
    if sum != Sha256::digest(body).as_slice() || !body.len().is_multiple_of(16) || body.len() / 16 > count {
        return None;
    }
    let number = |bytes: &[u8]| {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        i64::from_le_bytes(eight)
    };
    Some(body.chunks_exact(16).map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect())
}

/// Keeps keys and labels of the pictures of a record file. What cannot be kept is found again.
pub fn keep(records: &Path, count: usize, images: &[(i64, i64)]) {
    if let Some(folder) = user_cache("labels").filter(|_| count >= FEWEST) {
        keep_in(&folder, records, images);
    }
}

fn keep_in(folder: &Path, records: &Path, images: &[(i64, i64)]) {
    let Some(path) = file_of(folder, records) else { return };
    let mut body = Vec::with_capacity(images.len() * 16);
    for (key, label) in images {
        body.extend(key.to_le_bytes());
        body.extend(label.to_le_bytes());
    }
    let written = |out: &mut dyn Write| -> Result<()> {
        out.write_all(MARK)?;
        out.write_all(&body)?;
        Ok(out.write_all(&Sha256::digest(&body))?)
    };
    if let Err(e) = stream_atomically(&path, written) {
        tracing::debug!("the labels of {} are not kept: {e:#}", records.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_kept_until_the_records_change() {
        let dir = tempfile::tempdir().unwrap();
        let (records, cache) = (dir.path().join("train.rec"), dir.path().join("cache"));
        std::fs::write(&records, "first").unwrap();
        let images = vec![(1, 7), (2, 7)];
        assert_eq!(kept_in(&cache, &records, 2), None);
        keep_in(&cache, &records, &images);
        assert_eq!(kept_in(&cache, &records, 2), Some(images));
        // More than there are, damaged, and of another file.
        assert_eq!(kept_in(&cache, &records, 1), None);
        let file = cache.read_dir().unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(kept_in(&cache, &records, 2), None);
        keep_in(&cache, &records, &[]);
        std::fs::write(&records, "other").unwrap();
        assert_eq!(kept_in(&cache, &records, 2), None);
    }
}
