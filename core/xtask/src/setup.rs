//! Brings libtorch into the user's cache, once for all clones, and links this clone to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, Lock, Scratch};
use crate::layout::{self, State};
use crate::link::{self, Change};
use crate::{fetch, needs, unpack};

/// Does the whole set-up for the clone at `root`, and says what it did.
pub fn run(root: &Path, verify: bool) -> Result<()> {
    needs::check_platform()?;
    let link = root.join(".libtorch");
    // Refused now rather than after the download.
    link::current(&link)?;
    let layout = ensure(&cache::root()?, verify, needs::check, fetch::wheels)?;
    match link::point(&link, &layout)? {
        Change::None => {}
        Change::Created => println!("Linked {} to it", link.display()),
        Change::Replaced(old) => println!("Linked {} to it, no longer to {}", link.display(), old.display()),
    }
    if !needs::runs(&["nasm", "-v"]) {
        println!("note: nasm is missing: JPEG files will be decoded by slower code; on Debian: `apt-get install nasm`");
    }
    Ok(())
}

/// Gives the path of a sound layout in `cache`, fetching it if it is absent or broken.
///
/// `needs` is told whether there will be a download; `fetch` puts wheels into the folder it is given.
fn ensure(
    cache: &Path,
    verify: bool,
    needs: impl FnOnce(bool) -> Result<()>,
    fetch: impl FnOnce(&Path) -> Result<Vec<PathBuf>>,
) -> Result<PathBuf> {
    let place = cache.join(layout::NAME);
    let lock = Lock::acquire(cache)?;
    cache::remove_stale(cache, &lock)?;
    let state = layout::check(&place, verify)?;
    needs(state != State::Sound)?;
    match state {
        State::Sound => {
            let depth = if verify { ", every file's content compared" } else { "" };
            println!("libtorch {} is in place: {}{depth}", layout::VERSION, place.display());
            return Ok(place);
        }
        State::Broken(reason) => {
            println!("libtorch in {} is unfinished or damaged: {reason}. It is fetched again", place.display());
        }
        State::Absent => {}
    }
    build(cache, &place, fetch)?;
    println!("libtorch {} was put in place: {}", layout::VERSION, place.display());
    Ok(place)
}

/// Builds the layout beside its place and moves it there whole.
fn build(cache: &Path, place: &Path, fetch: impl FnOnce(&Path) -> Result<Vec<PathBuf>>) -> Result<()> {
    let download = Scratch::create(cache, &format!("{}.download", layout::NAME))?;
    let fresh = Scratch::create(cache, layout::NAME)?;
    for wheel in fetch(download.path())? {
        unpack::wheel(&wheel, fresh.path())?;
    }
    layout::seal(fresh.path())?;
    sync(fresh.path())?;
    put_in_place(cache, fresh.path(), place)?;
    File::open(cache)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot flush {} to disk", cache.display()))
}

/// One flush of the file system is far quicker than one of each of ten thousand headers.
fn sync(folder: &Path) -> Result<()> {
    let flush = || -> std::io::Result<()> { Ok(rustix::fs::syncfs(File::open(folder)?)?) };
    flush().with_context(|| format!("cannot flush {} to disk", folder.display()))
}

/// The damaged layout stays until the new one is ready: programs may be running from it.
fn put_in_place(cache: &Path, fresh: &Path, place: &Path) -> Result<()> {
    let old = Scratch::name(cache, &format!("{}.old", layout::NAME));
    let failure = |from: &Path, to: &Path| format!("cannot rename {} to {}", from.display(), to.display());
    if fs::symlink_metadata(place).is_ok() {
        fs::rename(place, old.path()).with_context(|| failure(place, old.path()))?;
    }
    fs::rename(fresh, place).with_context(|| failure(fresh, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use zip::ZipWriter;
    use zip::write::FileOptions;

    /// Long enough that the archive's middle lies in this entry.
    const BIG: usize = 100_000;

    fn write_wheel(path: &Path, entries: &[(&str, Vec<u8>)]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, content) in entries {
            zip.start_file(*name, FileOptions::default().compression_method(zip::CompressionMethod::Stored)).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
    }

    fn fake_wheels(folder: &Path) -> Result<Vec<PathBuf>> {
        let torch = folder.join("torch.whl");
        write_wheel(
            &torch,
            &[
                ("torch/version.py", format!("__version__ = '{}'\n", layout::VERSION).into()),
                ("torch/lib/libtorch_cpu.so", vec![7; BIG]),
                ("torch/lib/libtorch.so", b"torch".into()),
                ("torch/lib/libc10.so", b"c10".into()),
                ("torch/lib/libgomp.so.1", b"gomp".into()),
                ("torch/lib/libtorch_cuda.so", b"cuda".into()),
                ("torch/include/torch/all.h", b"int x;".into()),
            ],
        );
        let cuda = folder.join("cuda.whl");
        write_wheel(
            &cuda,
            &[
                ("nvidia/cu13/lib/libcudart.so.13", b"cudart".into()),
                ("nvidia/cu13/lib/libcupti.so.13", b"cupti".into()),
            ],
        );
        Ok(vec![torch, cuda])
    }

    fn no_fetch(_: &Path) -> Result<Vec<PathBuf>> {
        panic!("a sound layout was fetched again")
    }

    fn any(_: bool) -> Result<()> {
        Ok(())
    }

    fn names(cache: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_fresh_cache_gets_the_layout_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("deep/mtlrun");
        let downloads = Cell::new(None);
        let needs = |download| {
            downloads.set(Some(download));
            Ok(())
        };
        let place = ensure(&cache, false, needs, fake_wheels).unwrap();
        assert_eq!(downloads.get(), Some(true));
        assert_eq!(names(&cache), [layout::NAME, "setup.lock"]);
        assert_eq!(names(&place), ["build-version", "include", "lib", "manifest.json"]);
        assert_eq!(fs::read_to_string(place.join("build-version")).unwrap().trim_end(), layout::VERSION);
        assert_eq!(fs::read(place.join("include/torch/all.h")).unwrap(), b"int x;");
        assert!(!place.join("lib/libtorch_cuda.so").exists());

        ensure(&cache, true, needs, no_fetch).unwrap();
        assert_eq!(downloads.get(), Some(false));
    }

    #[test]
    fn a_damaged_layout_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let place = ensure(dir.path(), false, any, fake_wheels).unwrap();
        fs::write(place.join("lib/libc10.so"), "damaged").unwrap();
        fs::write(place.join("lib/stray"), "").unwrap();
        ensure(dir.path(), false, any, fake_wheels).unwrap();
        assert_eq!(fs::read(place.join("lib/libc10.so")).unwrap(), b"c10");
        assert!(!place.join("lib/stray").exists());
        assert_eq!(names(dir.path()), [layout::NAME, "setup.lock"]);
    }

    #[test]
    fn an_interrupted_state_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(layout::NAME);
        fs::create_dir_all(place.join("lib")).unwrap();
        fs::create_dir_all(dir.path().join(format!("{}.tmp-4194305/lib", layout::NAME))).unwrap();
        ensure(dir.path(), false, any, fake_wheels).unwrap();
        assert_eq!(layout::check(&place, true).unwrap(), State::Sound);
        assert_eq!(names(dir.path()), [layout::NAME, "setup.lock"]);
    }

    #[test]
    fn a_bad_wheel_is_an_error_that_leaves_nothing() {
        type Damage = fn(&mut Vec<u8>);
        let truncate: Damage = |bytes| bytes.truncate(bytes.len() / 2);
        let flip: Damage = |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        };
        for (damage, expected) in [(truncate, "no complete zip archive"), (flip, "torch/lib/libtorch_cpu.so")] {
            let dir = tempfile::tempdir().unwrap();
            let fetch = |folder: &Path| {
                let wheels = fake_wheels(folder)?;
                let mut bytes = fs::read(&wheels[0])?;
                damage(&mut bytes);
                fs::write(&wheels[0], bytes)?;
                Ok(wheels)
            };
            let error = format!("{:#}", ensure(dir.path(), false, any, fetch).unwrap_err());
            assert!(error.contains("torch.whl") && error.contains(expected), "{error}");
            assert_eq!(names(dir.path()), ["setup.lock"]);
        }
    }

    #[test]
    fn unmet_needs_stop_before_the_download() {
        let dir = tempfile::tempdir().unwrap();
        let needs = |_| Err(crate::fault::UserFault("no pip".into()).into());
        assert!(ensure(dir.path(), false, needs, no_fetch).is_err());
        assert_eq!(names(dir.path()), ["setup.lock"]);
    }

    #[test]
    fn of_two_set_ups_at_once_one_fetches() {
        let dir = tempfile::tempdir().unwrap();
        let fetched = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    ensure(dir.path(), false, any, |folder| {
                        fetched.fetch_add(1, Ordering::SeqCst);
                        fake_wheels(folder)
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
    }
}
