//! The files of opened data: whether they are those of a record.

use mtl_recipe::files::read_bounded;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The largest file whose bytes are compared.
const MAX_BYTES: u64 = 4 << 30;

/// Hashes of what is known of the files of a stream, in their order. A file that cannot be read counts as empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Of their sizes in bytes.
    pub sizes: String,
    /// Of the times at which they were changed.
    pub times: String,
    /// Of their bytes, where these were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

impl Files {
    /// What is known of these files; `deep` reads them.
    pub fn of(files: &[&Path], deep: bool) -> Option<Self> {
        if files.is_empty() {
            return None;
        }
        let found: Vec<Option<fs::Metadata>> = files.par_iter().map(|file| fs::metadata(file).ok()).collect();
        let hash = |of: &dyn Fn(&fs::Metadata) -> [u8; 16]| {
            let mut hash = Sha256::new();
            found.iter().for_each(|file| hash.update(file.as_ref().map_or([0; 16], of)));
            hex::encode(hash.finalize())
        };
        let times = |file: &fs::Metadata| {
            let nanoseconds = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
            nanoseconds.to_le_bytes()
        };
        let bytes = deep.then(|| {
            let each: Vec<[u8; 32]> = files.par_iter().map(|file| digest(file).unwrap_or_default()).collect();
            hex::encode(Sha256::digest(each.as_flattened()))
        });
        Some(Self { sizes: hash(&|file| u128::from(file.len()).to_le_bytes()), times: hash(&times), bytes })
    }

    /// Why these files are other ones than those of a record; none if nothing says so.
    pub fn replaced_since(&self, then: &Self) -> Option<&'static str> {
        if self.sizes != then.sizes {
            return Some("sizes of files differ");
        }
        let both = self.bytes.as_ref().zip(then.bytes.as_ref());
        both.filter(|(now, then)| now != then).map(|_| "bytes of files differ")
    }

    /// What is not known of files that are not said to be other ones; none if nothing is in doubt.
    pub fn doubt(&self, then: &Self) -> Option<&'static str> {
        if self.bytes.is_some() && self.bytes == then.bytes {
            return None;
        }
        if self.bytes.is_some() {
            return Some("the record holds no hash of their bytes: --deep was not given when it was made");
        }
        (self.times != then.times).then_some("they have the same sizes but were changed at other times")
    }
}

/// The size of a regular file.
pub(crate) fn size(file: &Path) -> Option<u64> {
    fs::metadata(file).ok().filter(fs::Metadata::is_file).map(|found| found.len())
}

/// A hash of the bytes of a file.
pub(crate) fn digest(file: &Path) -> io::Result<[u8; 32]> {
    Ok(Sha256::digest(read_bounded(file, MAX_BYTES)?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn replaced_files_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "one").unwrap();
        fs::write(&b, "two").unwrap();
        let files = [a.as_path(), b.as_path()];
        let then = Files::of(&files, true).unwrap();
        assert_eq!((then.replaced_since(&then), then.doubt(&then)), (None, None));
        // The same size and time, other bytes.
        fs::write(&b, "six").unwrap();
        let set = |at: SystemTime| fs::File::options().write(true).open(&b).unwrap().set_modified(at).unwrap();
        set(SystemTime::now() - Duration::from_secs(60));
        let now = Files::of(&files, false).unwrap();
        assert_eq!(now.replaced_since(&then), None);
        assert!(now.doubt(&then).unwrap().contains("other times"));
        let now = Files::of(&files, true).unwrap();
        assert_eq!(now.replaced_since(&then), Some("bytes of files differ"));
        let shallow = Files { bytes: None, ..then };
        assert!(now.doubt(&shallow).unwrap().contains("no hash"));
        fs::write(&b, "longer").unwrap();
        assert_eq!(Files::of(&files, false).unwrap().replaced_since(&now), Some("sizes of files differ"));
    }
}
