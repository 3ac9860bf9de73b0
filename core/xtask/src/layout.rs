//! The folder that stands for libtorch: what must be in it, and how its soundness is told.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The folder's name in the cache.
pub const NAME: &str = "libtorch-2.11.0-cpu";
/// What `build-version` must say; [`CUDA_LIBS`] are those of this build.
pub const VERSION: &str = "2.11.0+cu130";
/// The libraries taken from the torch wheel. libtorch_cuda is left out: the CPU needs none of it, and it is large.
pub const TORCH_LIBS: [&str; 4] = ["libtorch_cpu.so", "libtorch.so", "libc10.so", "libgomp.so.1"];
/// The libraries from the other wheels, which libtorch_cpu is linked against even where no GPU is used.
pub const CUDA_LIBS: [&str; 2] = ["libcudart.so.13", "libcupti.so.13"];

const MANIFEST: &str = "manifest.json";
const BUILD_VERSION: &str = "build-version";

/// What a sound layout holds. It is written last, so a folder without it is unfinished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: String,
    files: BTreeMap<String, FileRecord>,
    include: TreeRecord,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
    /// Lets an unchanged file go unread: another date than this one has it hashed again.
    modified_ns: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TreeRecord {
    files: u64,
    bytes: u64,
    /// Over every file's path, size and content, in the order of the paths.
    sha256: String,
}

/// What [`check`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is there.
    Absent,
    /// Something is there that cannot be used, for the reason given.
    Broken(String),
    /// All is as recorded.
    Sound,
}

/// Reads only sizes and dates, unless `verify` asks for every file's content or a date has changed.
pub fn check(layout: &Path, verify: bool) -> Result<State> {
    match fs::symlink_metadata(layout) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::Absent),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", layout.display()));
        }
    }
    let path = layout.join(MANIFEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            return Ok(State::Broken(format!("{MANIFEST} cannot be read ({error})")));
        }
    };
    let mut manifest: Manifest = match serde_json::from_str(&text) {
        Ok(manifest) => manifest,
        Err(error) => {
            return Ok(State::Broken(format!("{MANIFEST} cannot be understood ({error})")));
        }
    };
    let recorded = manifest.clone();
    if let Some(reason) = manifest.disagreement(layout, verify)? {
        return Ok(State::Broken(reason));
    }
    if manifest != recorded {
        // Dates differ though contents agree, as after a copy: with the new dates the next check is quick again.
        manifest.write(layout)?;
    }
    Ok(State::Sound)
}

/// Records what lies in `layout`, which must be complete, and writes the manifest.
pub fn seal(layout: &Path) -> Result<()> {
    let version = layout.join(BUILD_VERSION);
    let version = fs::read_to_string(&version).with_context(|| format!("cannot read {}", version.display()))?;
    let version = version.trim_end().to_string();
    ensure!(
        version == VERSION,
        "expected torch {VERSION}, but the wheel that pip fetched holds {version}; \
         pip may be set to another package index (see `python3 -m pip config list` and PIP_* variables)"
    );
    let mut files = BTreeMap::new();
    for name in required() {
        let path = layout.join(&name);
        let metadata = fs::metadata(&path)
            .with_context(|| format!("the wheels did not hold all that is needed: {name} is missing"))?;
        let record = FileRecord { bytes: metadata.len(), sha256: sha256(&path)?, modified_ns: modified_ns(&metadata) };
        files.insert(name, record);
    }
    let include = tree_record(&layout.join("include"), true)?;
    ensure!(include.files > 0, "the torch wheel did not hold any header below torch/include");
    Manifest { version, files, include }.write(layout)
}

/// Writes the file that says which build of torch the layout is.
pub fn write_build_version(layout: &Path, version: &str) -> Result<()> {
    let path = layout.join(BUILD_VERSION);
    fs::write(&path, format!("{version}\n")).with_context(|| format!("cannot write {}", path.display()))
}

fn required() -> impl Iterator<Item = String> {
    let libs = TORCH_LIBS.iter().chain(&CUDA_LIBS).map(|lib| format!("lib/{lib}"));
    libs.chain([BUILD_VERSION.to_string()])
}

impl Manifest {
    /// The first way in which the folder is not as recorded. Dates that differ for equal contents are taken over.
    fn disagreement(&mut self, layout: &Path, verify: bool) -> Result<Option<String>> {
        if self.version != VERSION {
            return Ok(Some(format!("it is torch {}, expected {VERSION}", self.version)));
        }
        for name in required() {
            let Some(record) = self.files.get_mut(&name) else {
                return Ok(Some(format!("{MANIFEST} does not record {name}")));
            };
            let path = layout.join(&name);
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) => return Ok(Some(format!("{name} cannot be read ({error})"))),
            };
            if metadata.len() != record.bytes {
                return Ok(Some(format!("{name} has {} bytes, expected {}", metadata.len(), record.bytes)));
            }
            let modified_ns = modified_ns(&metadata);
            if verify || modified_ns != record.modified_ns {
                let found = sha256(&path)?;
                if found != record.sha256 {
                    return Ok(Some(format!("{name} has the SHA-256 {found}, expected {}", record.sha256)));
                }
                record.modified_ns = modified_ns;
            }
        }
        let include = layout.join("include");
        if !include.is_dir() {
            return Ok(Some("the folder include is missing".into()));
        }
        let found = tree_record(&include, verify)?;
        if (found.files, found.bytes) != (self.include.files, self.include.bytes) {
            return Ok(Some(format!(
                "include has {} files of {} bytes, expected {} of {}",
                found.files, found.bytes, self.include.files, self.include.bytes
            )));
        }
        if verify && found.sha256 != self.include.sha256 {
            return Ok(Some("a file in include was changed: the folder's SHA-256 differs".into()));
        }
        Ok(None)
    }

    fn write(&self, layout: &Path) -> Result<()> {
        let path = layout.join(MANIFEST);
        let fresh = layout.join(format!("{MANIFEST}.new"));
        let write = || -> io::Result<()> {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            fs::write(&fresh, text)?;
            File::open(&fresh)?.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn modified_ns(metadata: &Metadata) -> i64 {
    metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()
}

fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    hash_into(path, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

fn hash_into(path: &Path, hasher: &mut Sha256) -> Result<()> {
    let mut copy = || io::copy(&mut File::open(path)?, &mut HashWriter(hasher));
    copy().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and adds up the files below `top`; reads them only where `hash` asks for it.
fn tree_record(top: &Path, hash: bool) -> Result<TreeRecord> {
    let mut found = Vec::new();
    walk(top, &mut found).with_context(|| format!("cannot look through {}", top.display()))?;
    let mut hasher = Sha256::new();
    if hash {
        found.sort();
        for (path, bytes) in &found {
            let name = path.strip_prefix(top).unwrap_or(path);
            hasher.update(name.as_os_str().as_encoded_bytes());
            // A size after a terminated name keeps two trees apart that differ only in where a file ends.
            hasher.update([0]);
            hasher.update(bytes.to_le_bytes());
            hash_into(path, &mut hasher)?;
        }
    }
    Ok(TreeRecord {
        files: found.len() as u64,
        bytes: found.iter().map(|(_, bytes)| bytes).sum(),
        sha256: hex::encode(hasher.finalize()),
    })
}

fn walk(folder: &Path, found: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::FileTimes;
    use std::time::{Duration, SystemTime};

    fn sound_layout() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lib")).unwrap();
        fs::create_dir_all(dir.path().join("include/torch")).unwrap();
        for lib in TORCH_LIBS.iter().chain(&CUDA_LIBS) {
            fs::write(dir.path().join("lib").join(lib), format!("content of {lib}")).unwrap();
        }
        fs::write(dir.path().join("include/torch/a.h"), "int a;").unwrap();
        fs::write(dir.path().join("include/b.h"), "int b;").unwrap();
        write_build_version(dir.path(), VERSION).unwrap();
        seal(dir.path()).unwrap();
        dir
    }

    fn set_modified(path: &Path, modified: SystemTime) {
        File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
    }

    /// Writes other bytes of the same number and puts the date back, as a failing disk would have it.
    fn corrupt_unseen(path: &Path) {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
        set_modified(path, modified);
    }

    fn reason(layout: &Path, verify: bool) -> String {
        match check(layout, verify).unwrap() {
            State::Broken(reason) => reason,
            state => panic!("expected a broken layout, found {state:?}"),
        }
    }

    #[test]
    fn a_sealed_layout_is_sound_and_an_absent_one_is_absent() {
        let dir = sound_layout();
        assert_eq!(check(dir.path(), false).unwrap(), State::Sound);
        assert_eq!(check(dir.path(), true).unwrap(), State::Sound);
        assert_eq!(check(&dir.path().join("none"), false).unwrap(), State::Absent);
    }

    #[test]
    fn a_layout_without_a_readable_manifest_is_broken() {
        let dir = sound_layout();
        let manifest = dir.path().join(MANIFEST);
        fs::write(&manifest, "{\"version\": \"2.1").unwrap();
        assert!(reason(dir.path(), false).contains("cannot be understood"));
        fs::remove_file(&manifest).unwrap();
        assert!(reason(dir.path(), false).contains("cannot be read"));
    }

    #[test]
    fn a_missing_or_shortened_library_is_named() {
        let dir = sound_layout();
        let lib = dir.path().join("lib/libtorch_cpu.so");
        fs::write(&lib, "short").unwrap();
        assert_eq!(reason(dir.path(), false), "lib/libtorch_cpu.so has 5 bytes, expected 26");
        fs::remove_file(&lib).unwrap();
        assert!(reason(dir.path(), false).starts_with("lib/libtorch_cpu.so cannot be read"));
    }

    #[test]
    fn equal_sizes_with_other_contents_need_a_date_or_verify_to_be_seen() {
        let dir = sound_layout();
        let lib = dir.path().join("lib/libc10.so");
        corrupt_unseen(&lib);
        assert_eq!(check(dir.path(), false).unwrap(), State::Sound);
        assert!(reason(dir.path(), true).starts_with("lib/libc10.so has the SHA-256"));
        set_modified(&lib, SystemTime::now() + Duration::from_secs(60));
        assert!(reason(dir.path(), false).starts_with("lib/libc10.so has the SHA-256"));
    }

    #[test]
    fn a_new_date_for_equal_contents_is_taken_over() {
        let dir = sound_layout();
        let lib = dir.path().join("lib/libtorch.so");
        let later = SystemTime::now() + Duration::from_secs(60);
        set_modified(&lib, later);
        assert_eq!(check(dir.path(), false).unwrap(), State::Sound);
        let text = fs::read_to_string(dir.path().join(MANIFEST)).unwrap();
        let manifest: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(manifest.files["lib/libtorch.so"].modified_ns, modified_ns(&fs::metadata(&lib).unwrap()));
    }

    #[test]
    fn a_lost_header_is_seen_and_a_changed_one_on_verify() {
        let dir = sound_layout();
        let header = dir.path().join("include/torch/a.h");
        corrupt_unseen(&header);
        assert_eq!(check(dir.path(), false).unwrap(), State::Sound);
        assert!(reason(dir.path(), true).contains("include was changed"));
        fs::remove_file(&header).unwrap();
        assert_eq!(reason(dir.path(), false), "include has 1 files of 6 bytes, expected 2 of 12");
        fs::remove_dir_all(dir.path().join("include")).unwrap();
        assert!(reason(dir.path(), false).contains("include is missing"));
    }

    #[test]
    fn a_manifest_that_records_less_or_another_version_is_not_trusted() {
        let dir = sound_layout();
        let text = fs::read_to_string(dir.path().join(MANIFEST)).unwrap();
        let sealed: Manifest = serde_json::from_str(&text).unwrap();

        let mut other = sealed.clone();
        other.version = "2.10.0+cu128".into();
        other.write(dir.path()).unwrap();
        assert!(reason(dir.path(), false).contains("2.10.0+cu128"));

        let mut less = sealed;
        less.files.remove("lib/libcupti.so.13");
        less.write(dir.path()).unwrap();
        assert!(reason(dir.path(), false).contains("does not record lib/libcupti.so.13"));
    }

    #[test]
    fn an_incomplete_or_foreign_folder_is_not_sealed() {
        let dir = sound_layout();
        fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        write_build_version(dir.path(), "2.11.0+cu128").unwrap();
        assert!(seal(dir.path()).unwrap_err().to_string().contains("2.11.0+cu128"));
        write_build_version(dir.path(), VERSION).unwrap();
        fs::remove_file(dir.path().join("lib/libgomp.so.1")).unwrap();
        assert!(seal(dir.path()).unwrap_err().to_string().contains("lib/libgomp.so.1"));
        assert!(!dir.path().join(MANIFEST).exists());
    }
}
