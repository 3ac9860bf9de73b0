//! Files that are written whole or not at all.

use crate::error::{Context, Error, Result};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes a file under another name, makes it durable, then renames it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    stream_atomically(path, |file| Ok(file.write_all(bytes)?))
}

/// [`write_atomically`] for what is made piece by piece.
pub fn stream_atomically(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| refused("make the folder", folder, e))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // A random name that is made anew: whoever may write in the folder can neither guess it nor lay a link there.
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{}.tmp-", name.chars().take(100).collect::<String>()))
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|e| refused("write in the folder", folder, e))?;
    let (file, temporary) = temporary.into_parts();
    stream_into(file, path, content)
        .and_then(|()| temporary.persist(path).with_context(|| format!("renaming to {}", path.display())))
        .and_then(|()| sync_folder(folder))
        .with_context(|| format!("writing {}", path.display()))
}

/// Writes a file that is not there yet, and waits until it is on the disk.
pub fn stream_durably(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let file = File::create_new(path).map_err(|e| refused("write", path, e))?;
    stream_into(file, path, content)
}

fn stream_into(file: File, path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    content(&mut buffered)
        .and_then(|()| Ok(buffered.flush()?))
        .with_context(|| format!("writing {}", path.display()))?;
    buffered.get_ref().sync_all().with_context(|| format!("syncing {}", path.display()))
}

/// Makes a folder of a random name that begins so, in another folder.
pub fn temporary_folder(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let made = tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o777)).tempdir_in(folder);
    Ok(made.map_err(|e| refused("write in the folder", folder, e))?.keep())
}

/// Whether a name in a folder is what an interrupted write has left there.
pub fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.contains(".tmp-")
}

/// Reads a regular file of at most so many bytes. A pipe, which may never end or never begin, and a device are refused
/// before they are opened.
///
/// # Errors
/// Why it cannot be read.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// What the bytes of a file are that is often found under the name of another: what a download or a clone has left in its
/// place.
pub fn left_instead(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.trim_ascii_start();
    let begins = |text: &str| start.get(..text.len()).is_some_and(|it| it.eq_ignore_ascii_case(text.as_bytes()));
    if bytes.is_empty() {
        Some("it is empty")
    } else if begins("<!doctype html") || begins("<html") {
        Some("it is a web page: the link that was downloaded leads to a page, and not to the file")
    } else if begins("version https://git-lfs") {
        Some("it is a pointer of git LFS: fetch the file itself with `git lfs pull`")
    } else {
        None
    }
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

/// Reads a text file of at most so many bytes, as [`read_bounded`], without the byte order mark that some editors put
/// before it.
///
/// # Errors
/// Why it cannot be read, or where it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = read_bounded(path, limit)?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is UTF-16 text: save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let byte = e.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("it is not UTF-8 text (byte {byte})"))
    })?;
    // Files that were put together have the marks of their parts.
    const MARK: char = '\u{feff}';
    Ok(if text.contains(MARK) { text.replace(&format!("\n{MARK}"), "\n") } else { text })
}

/// Makes renames in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).with_context(|| format!("syncing the folder {}", folder.display()))
}
