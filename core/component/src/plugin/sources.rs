//! A hash of sources, which the build of the boundary and the build of a plugin take.

use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

/// What decides the boundary, in the folder `core` of the sources of mtlrun.
pub const BOUNDARY: &[&str] = &[
    "recipe/src",
    "recipe/Cargo.toml",
    "torch/src",
    "torch/csrc",
    "torch/build.rs",
    "torch/Cargo.toml",
    "component/src",
    "component/build.rs",
    "component/Cargo.toml",
];

/// The SHA-256 of files, and of all files in folders, by their paths relative to `root` and their bytes, as hexadecimal
/// digits.
pub fn hash(root: &Path, parts: &[&str]) -> io::Result<String> {
    let mut files = Vec::new();
    parts.iter().try_for_each(|part| walk(&root.join(part), &mut files))?;
    let mut named: Vec<(String, PathBuf)> = files
        .into_iter()
        .map(|file| (file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned(), file))
        .collect();
    named.sort();
    let mut all = Sha256::new();
    for (name, file) in named {
        let bytes = std::fs::read(file)?;
        all.update(format!("{name}\n{}\n", bytes.len()));
        all.update(&bytes);
    }
    Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn walk(path: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        out.push(path.to_owned());
        return Ok(());
    }
    for entry in path.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What an editor or a merge leaves is no source, and folders are not entered by links.
        let left =
            name.starts_with(['.', '#']) || name.ends_with('~') || name.ends_with(".orig") || name.ends_with(".rej");
        let linked = entry.file_type()?.is_symlink() && entry.path().is_dir();
        if !left && !linked {
            walk(&entry.path(), out)?;
        }
    }
    Ok(())
}

/// The compiler in what `rustc -vV` prints: its release, and the commit that it was built from.
pub fn compiler(told: &str) -> String {
    let line = |what: &str| told.lines().find_map(|line| line.strip_prefix(what)).unwrap_or("unknown").trim();
    format!("{} ({})", line("release:"), line("commit-hash:"))
}
