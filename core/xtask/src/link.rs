//! The link `.libtorch` in the repository root, which the build and every binary's rpath go through.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::fault::UserFault;

/// What [`point`] found and did.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The link was right already.
    None,
    /// There was no link.
    Created,
    /// The link led to this path before.
    Replaced(PathBuf),
}

/// Where the link leads, if it is there; refuses what is no link, so that nobody's files are lost.
pub fn current(link: &Path) -> Result<Option<PathBuf>> {
    let metadata = match fs::symlink_metadata(link) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", link.display()));
        }
    };
    if !metadata.is_symlink() {
        let kind = if metadata.is_dir() { "folder" } else { "file" };
        return Err(UserFault(format!(
            "{} should be a link that the set-up makes, but is a real {kind}; move it away and run the set-up again",
            link.display()
        ))
        .into());
    }
    let target = fs::read_link(link).with_context(|| format!("cannot read the link {}", link.display()))?;
    Ok(Some(target))
}

/// Makes `link` lead to `target`, with no instant at which a right link is absent.
pub fn point(link: &Path, target: &Path) -> Result<Change> {
    let before = current(link)?;
    if before.as_deref() == Some(target) {
        return Ok(Change::None);
    }
    let mut name = link.file_name().context("the link has no name")?.to_os_string();
    name.push(format!(".tmp-{}", std::process::id()));
    let fresh = link.with_file_name(name);
    let failure = || format!("cannot point {} at {}", link.display(), target.display());
    symlink(target, &fresh).with_context(failure)?;
    if let Err(error) = fs::rename(&fresh, link) {
        let _ = fs::remove_file(&fresh);
        return Err(error).with_context(failure);
    }
    Ok(before.map_or(Change::Created, Change::Replaced))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_created_kept_and_replaced_even_when_dangling() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join(".libtorch"), dir.path().join("layout"));
        fs::create_dir(&target).unwrap();
        assert_eq!(point(&link, &target).unwrap(), Change::Created);
        assert_eq!(point(&link, &target).unwrap(), Change::None);

        let gone = dir.path().join("gone");
        fs::remove_file(&link).unwrap();
        symlink(&gone, &link).unwrap();
        assert_eq!(point(&link, &target).unwrap(), Change::Replaced(gone));
        assert_eq!(fs::read_link(&link).unwrap(), target);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a scratch link was left");
    }

    #[test]
    fn a_real_folder_or_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join(".libtorch");
        fs::create_dir(&link).unwrap();
        let error = point(&link, dir.path()).unwrap_err();
        assert!(error.to_string().contains("real folder"), "{error}");
        assert!(error.downcast_ref::<UserFault>().is_some());
        assert!(link.is_dir());

        fs::remove_dir(&link).unwrap();
        fs::write(&link, "mine").unwrap();
        assert!(point(&link, dir.path()).unwrap_err().to_string().contains("real file"));
        assert_eq!(fs::read_to_string(&link).unwrap(), "mine");
    }
}
