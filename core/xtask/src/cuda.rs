//! Builds the part of the shim that needs CUDA's own headers, on any machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{self, Lock, Scratch};
use crate::{fetch, needs, unpack};

/// The folder of the headers in the cache.
const HEADERS: &str = "cuda-headers-13.0";
const LIBRARY: &str = "libmtl_torch_cuda.so";

/// Fetches the headers where they are not yet, and puts the library beside those of libtorch.
pub fn build(root: &Path) -> Result<()> {
    let cache = cache::root()?;
    let lock = Lock::acquire(&cache)?;
    cache::remove_stale(&cache, &lock)?;
    let headers = headers(&cache, fetch::cuda_headers)?;
    let libtorch = root.join(".libtorch").canonicalize().context("cannot find the libtorch of the set-up")?;
    let fresh = Scratch::create(&cache, "cuda-part")?;
    let built = fresh.path().join(LIBRARY);
    compile(root, &libtorch, &headers, &built)?;
    let place = libtorch.join("lib").join(LIBRARY);
    // Programs may be running from the old one.
    fs::rename(&built, &place).with_context(|| format!("cannot put {} in place", place.display()))?;
    println!("The part for CUDA was put in place: {}", place.display());
    Ok(())
}

/// The folder of the headers, fetched if it is not there.
fn headers(cache: &Path, fetch: impl FnOnce(&Path) -> Result<Vec<PathBuf>>) -> Result<PathBuf> {
    let place = cache.join(HEADERS);
    if place.is_dir() {
        return Ok(place);
    }
    let download = Scratch::create(cache, &format!("{HEADERS}.download"))?;
    let fresh = Scratch::create(cache, HEADERS)?;
    for wheel in fetch(download.path())? {
        unpack::cuda_headers(&wheel, fresh.path())?;
    }
    for header in ["cuda_runtime_api.h", "nccl.h"] {
        ensure!(fresh.path().join(header).exists(), "the wheels that pip fetched do not hold {header}");
    }
    fs::rename(fresh.path(), &place).with_context(|| format!("cannot put {} in place", place.display()))?;
    Ok(place)
}

fn compile(root: &Path, libtorch: &Path, headers: &Path, out: &Path) -> Result<()> {
    let sources = root.join("core/torch/csrc");
    let compiler = needs::compiler().unwrap_or_else(|| "c++".into());
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    command.args(words).args(["-std=c++17", "-O2", "-w", "-fPIC", "-shared", "-D_GLIBCXX_USE_CXX11_ABI=1"]);
    let include = libtorch.join("include");
    let own = [sources.join("cuda/wheel"), sources.join("wheel"), sources.clone()];
    for folder in own.iter().chain([&headers.to_owned(), &include, &include.join("torch/csrc/api/include")]) {
        command.arg("-I").arg(folder);
    }
    // What it needs of libtorch_cuda is found in the program, which has loaded that before.
    command.arg(sources.join("cuda/cuda.cpp")).arg("-o").arg(out);
    command.arg("-L").arg(libtorch.join("lib")).args(["-ltorch_cpu", "-lc10"]);
    println!("Building {LIBRARY} with {compiler}");
    let status = command.status().with_context(|| format!("cannot run {compiler}"))?;
    if !status.success() {
        bail!("{compiler} could not build {LIBRARY} ({status}), for the reason it gives above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_lack_what_is_needed_are_not_kept() {
        let cache = tempfile::tempdir().unwrap();
        let error = headers(cache.path(), |_| Ok(Vec::new())).unwrap_err().to_string();
        assert!(error.contains("cuda_runtime_api.h"), "{error}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        fs::create_dir(cache.path().join(HEADERS)).unwrap();
        headers(cache.path(), |_| panic!("they are there")).unwrap();
    }
}
