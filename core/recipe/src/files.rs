//! Files that are written whole or not at all.

use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a file under another name, makes it durable, then renames it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    stream_atomically(path, |file| Ok(file.write_all(bytes)?))
}

/// [`write_atomically`] for what is made piece by piece.
pub fn stream_atomically(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| refused("make the folder", folder, e))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = folder.join(format!(".{name}.tmp-{}", std::process::id()));
    let written = stream_durably(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path).with_context(|| format!("renaming to {}", path.display())))
        .and_then(|()| sync_folder(folder));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

/// Writes a file and waits until it is on the disk.
pub fn stream_durably(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let file = File::create(path).map_err(|e| refused("write", path, e))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    content(&mut buffered)
        .and_then(|()| Ok(buffered.flush()?))
        .with_context(|| format!("writing {}", path.display()))?;
    buffered.get_ref().sync_all().with_context(|| format!("syncing {}", path.display()))
}

/// A place that cannot be written to is the user's choice of a path; a full disk is a failure.
fn refused(what: &str, path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        AlreadyExists | IsADirectory | NotADirectory | PermissionDenied | ReadOnlyFilesystem => {
            Error::mistake(format!("cannot {what} {}: {error}", path.display()))
        }
        _ => Error::from(error).context(format!("cannot {what} {}", path.display())),
    }
}

/// Makes renames in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).with_context(|| format!("syncing the folder {}", folder.display()))
}
