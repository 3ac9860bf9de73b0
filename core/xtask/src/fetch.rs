//! Has pip fetch the wheels that libtorch is taken from, so that the user's own pip settings apply.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// One Python is named for all machines: the wheels are only unpacked, never installed.
const TARGET: [&str; 18] = [
    "--no-deps",
    "--only-binary=:all:",
    "--implementation",
    "cp",
    "--python-version",
    "3.11",
    "--abi",
    "cp311",
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux_2_25_x86_64",
    "--platform",
    "manylinux_2_18_x86_64",
    "--platform",
    "manylinux_2_17_x86_64",
    "--platform",
    "manylinux2014_x86_64",
];

const WHEELS: [&str; 3] = ["torch==2.11.0", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// The headers of CUDA and NCCL, in the versions that this torch is built with.
const CUDA_HEADERS: [&str; 4] = [
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-nccl-cu13==2.28.9",
];

/// Downloads what libtorch is taken from into `folder` and gives the wheels' paths.
pub fn wheels(folder: &Path) -> Result<Vec<PathBuf>> {
    download(folder, &WHEELS, "550 MB")
}

/// As [`wheels`], for the headers that the part for CUDA is built with.
pub fn cuda_headers(folder: &Path) -> Result<Vec<PathBuf>> {
    download(folder, &CUDA_HEADERS, "200 MB")
}

/// As [`wheels`], for the package that holds the weights of a detector.
pub fn detector(folder: &Path) -> Result<Vec<PathBuf>> {
    download(folder, &["facenet-pytorch==2.6.0"], "2 MB")
}

fn download(folder: &Path, names: &[&str], size: &str) -> Result<Vec<PathBuf>> {
    println!("Fetching {} with pip (about {size})", names.join(", "));
    let (destination, temporary) = (folder.join("wheels"), folder.join("pip"));
    for sub in [&destination, &temporary] {
        fs::create_dir(sub).with_context(|| format!("cannot create the folder {}", sub.display()))?;
    }
    let status = Command::new("python3")
        .args(["-m", "pip", "--disable-pip-version-check", "download"])
        .args(TARGET)
        .arg("--dest")
        .arg(&destination)
        .args(names)
        // pip unpacks large files in a temporary folder, and /tmp is often small; here a killed pip's rests are found.
        .env("TMPDIR", &temporary)
        .status()
        .context("cannot run python3")?;
    if !status.success() {
        bail!(
            "pip could not fetch the wheels ({status}), for the reason it gives above; nothing was changed. \
             pip uses its own settings (`python3 -m pip config list`, PIP_* variables); \
             put the cause right and run the set-up again"
        );
    }
    let wheels =
        found(&destination).with_context(|| format!("cannot list what pip put into {}", destination.display()))?;
    ensure!(
        wheels.len() == names.len(),
        "expected {} wheels from pip, found {} in {}",
        names.len(),
        wheels.len(),
        destination.display()
    );
    Ok(wheels)
}

fn found(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut wheels = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheels.push(path);
        }
    }
    wheels.sort();
    Ok(wheels)
}
