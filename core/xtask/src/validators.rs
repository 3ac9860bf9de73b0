//! The validators of recipes that editors and continuous integration use, for the tests to compare ours with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Lock;
use crate::needs;

const VALIDATORS: [&str; 2] = ["taplo==0.9.3", "check-jsonschema==0.39.0"];

/// Programs that read what a run writes.
const CLIENTS: [&str; 3] = ["tensorboard==2.20.0", "safetensors==0.6.2", "numpy==2.3.4"];

/// The environment that holds the validators in `cache`, made where it is not; none where Python cannot make one.
pub fn ensure(cache: &Path) -> Result<Option<PathBuf>> {
    environment(cache, "validators", &VALIDATORS)
}

/// As [`ensure`], for the programs that read what a run writes.
pub fn clients(cache: &Path) -> Result<Option<PathBuf>> {
    environment(cache, "clients", &CLIENTS)
}

/// What writes and reads record files; an old program, which needs an environment and a NumPy of its own.
const MXNET: [&str; 2] = ["mxnet==1.9.1", "numpy==1.23.5"];

/// As [`ensure`], for mxnet. It has no wheels for Python 3.12 and newer.
pub fn mxnet(cache: &Path) -> Result<Option<PathBuf>> {
    environment(cache, "mxnet", &MXNET)
}

fn environment(cache: &Path, name: &str, packages: &[&str]) -> Result<Option<PathBuf>> {
    let place = cache.join(format!("{name}-{}", packages.join("-").replace("==", "-")));
    let _lock = Lock::acquire(cache)?;
    // Written last: without it an earlier set-up was cut off.
    let complete = place.join("complete");
    if complete.exists() {
        return Ok(Some(place));
    }
    let _ = fs::remove_dir_all(&place);
    println!("Installing {} in {}", packages.join(", "), place.display());
    let folder = place.display().to_string();
    let python = place.join("bin/python").display().to_string();
    let pip = [&[&*python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"], packages].concat();
    if !needs::runs(&["python3", "-m", "venv", &folder]) {
        println!("note: python3 cannot make an environment: {} are left out of the tests", packages.join(", "));
        return Ok(None);
    }
    let status = Command::new(pip[0]).args(&pip[1..]).status().context("cannot run the new environment's Python")?;
    if !status.success() {
        println!("note: pip could not install {}: they are left out of the tests", packages.join(", "));
        return Ok(None);
    }
    fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(Some(place))
}
