//! Files of pictures, those in folders, and where the user keeps what belongs to them.

use mtl_component::{ErrorContext as _, Result, mistake};
use std::path::{Path, PathBuf};

/// The files among the given paths, and the pictures in the folders among them, sorted by name in each.
///
/// # Errors
/// A mistake for a path that is not there, and for a folder without pictures.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut found = Vec::new();
            walk(path, &mut found)?;
            if found.is_empty() {
                mistake!("{} holds no picture ({})", path.display(), ENDINGS.map(|e| format!(".{e}")).join(", "));
            }
            found.sort();
            out.extend(found);
        } else if path.is_file() {
            out.push(path.clone());
        } else {
            mistake!("there is no picture or folder {}", path.display());
        }
    }
    Ok(out)
}

/// The endings of pictures that are looked for in folders.
pub const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];

/// Whether a file is a picture by its name.
pub fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        // Hidden files are not meant, such as those that macOS lays beside each file of an archive.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".") || name == "__MACOSX") {
            continue;
        }
        if path.is_dir() {
            walk(&path, out)?;
        } else if is_picture(&path) {
            out.push(path);
        }
    }
    Ok(())
}

/// A folder in words: the current one has no name of its own.
pub fn folder_text(folder: &Path) -> String {
    if folder.as_os_str().is_empty() { ".".into() } else { folder.display().to_string() }
}

/// The user's own folder for things of a kind that can be had again, such as labels and weights of detectors:
/// `$XDG_CACHE_HOME/mtlrun/KIND`, or below `~/.cache`, as the set-up has it.
pub fn user_cache(kind: &str) -> Option<PathBuf> {
    let absolute = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("mtlrun").join(kind))
}
