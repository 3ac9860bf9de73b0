//! Fetches the weights of a face detector, which are never in the repository.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::cache::{self, Lock, Scratch};
use crate::fetch;

/// A detector whose weights a package of PyPI holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Detector {
    /// MTCNN, three small networks: the weights in facenet-pytorch 2.6.0 (MIT licence), 2 MB
    Mtcnn,
}

/// The files of MTCNN and their SHA-256.
const MTCNN: [(&str, &str); 3] = [
    ("onet.pt", "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),
    ("pnet.pt", "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"),
    ("rnet.pt", "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"),
];

/// Fetches the weights where they are not yet, and checks them.
pub fn fetch(detector: Detector) -> Result<()> {
    let Detector::Mtcnn = detector;
    let cache = cache::root()?;
    let lock = Lock::acquire(&cache)?;
    cache::remove_stale(&cache, &lock)?;
    let place = cache.join("detectors/mtcnn");
    if place.is_dir() {
        for (name, wanted) in MTCNN {
            let bytes =
                fs::read(place.join(name)).with_context(|| format!("cannot read {}", place.join(name).display()))?;
            is_the_file(&bytes, name, wanted)?;
        }
        println!("The weights of MTCNN are there already: {}", place.display());
        return Ok(());
    }
    let download = Scratch::create(&cache, "mtcnn.download")?;
    let fresh = Scratch::create(&cache, "mtcnn")?;
    let wheels = fetch::detector(download.path())?;
    unpack(&wheels[0], fresh.path())?;
    fs::create_dir_all(cache.join("detectors")).context("cannot make the folder of detectors")?;
    fs::rename(fresh.path(), &place).with_context(|| format!("cannot put {} in place", place.display()))?;
    println!("The weights of MTCNN (facenet-pytorch, MIT licence) were put in place: {}", place.display());
    Ok(())
}

fn unpack(wheel: &Path, folder: &Path) -> Result<()> {
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = ZipArchive::new(file).context("the wheel is no complete zip archive")?;
    for (name, wanted) in MTCNN {
        let mut bytes = Vec::new();
        let mut entry = archive
            .by_name(&format!("facenet_pytorch/data/{name}"))
            .with_context(|| format!("the wheel {} holds no {name}", wheel.display()))?;
        entry.read_to_end(&mut bytes).with_context(|| format!("{name} cannot be unpacked"))?;
        is_the_file(&bytes, name, wanted)?;
        fs::write(folder.join(name), bytes).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn is_the_file(bytes: &[u8], name: &str, wanted: &str) -> Result<()> {
    let found = hex::encode(Sha256::digest(bytes));
    ensure!(found == wanted, "{name} has the SHA-256 {found}, expected {wanted}: it is another file, and is not used");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_not_used() {
        let error = is_the_file(b"x", "pnet.pt", MTCNN[1].1).unwrap_err().to_string();
        assert!(error.contains("pnet.pt has the SHA-256 2d711642") && error.contains("is not used"), "{error}");
    }
}
