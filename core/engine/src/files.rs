//! Files that are written whole or not at all.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Writes a file under another name, makes it durable, then renames it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = folder.join(format!(".{name}.tmp-{}", std::process::id()));
    let written = write_durably(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path).with_context(|| format!("renaming to {}", path.display())))
        .and_then(|()| sync_folder(folder));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

/// Writes a file and waits until it is on the disk.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("writing {} bytes to {}", bytes.len(), path.display()))?;
    file.sync_all().with_context(|| format!("syncing {}", path.display()))
}

/// Makes renames in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).with_context(|| format!("syncing the folder {}", folder.display()))
}
