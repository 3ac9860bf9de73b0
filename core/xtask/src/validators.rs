//! The validators of recipes that editors and continuous integration use, for the tests to compare ours with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Lock;
use crate::needs;

const PACKAGES: [&str; 2] = ["taplo==0.9.3", "check-jsonschema==0.39.0"];

/// The environment of its own that holds them in `cache`, made where it is not; none where Python cannot make one.
pub fn ensure(cache: &Path) -> Result<Option<PathBuf>> {
    let place = cache.join(format!("validators-{}", PACKAGES.join("-").replace("==", "-")));
    let _lock = Lock::acquire(cache)?;
    // Written last: without it an earlier set-up was cut off.
    let complete = place.join("complete");
    if complete.exists() {
        return Ok(Some(place));
    }
    let _ = fs::remove_dir_all(&place);
    println!("Installing {} in {}", PACKAGES.join(" and "), place.display());
    let folder = place.display().to_string();
    let python = place.join("bin/python").display().to_string();
    let pip = [&[&*python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"], &PACKAGES[..]].concat();
    if !needs::runs(&["python3", "-m", "venv", &folder]) {
        println!("note: python3 cannot make an environment: taplo and check-jsonschema are left out of the tests");
        return Ok(None);
    }
    let status = Command::new(pip[0]).args(&pip[1..]).status().context("cannot run the new environment's Python")?;
    if !status.success() {
        println!("note: pip could not install them: taplo and check-jsonschema are left out of the tests");
        return Ok(None);
    }
    fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(Some(place))
}
