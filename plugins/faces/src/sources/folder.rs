//! Folders of pictures.

use super::columns;
use crate::label::Label;
use crate::picture_files::files;
use mtl_component::{
    OpenSource, Picture, PictureSource, PictureSourceConfig, RecipePath, Result, SourceDescription, mistake, register,
};
use mtl_standard::codec;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The pictures of a folder. Where it holds folders of pictures, each of these is a person, as in CASIA-WebFace and LFW;
/// people and pictures come in the order in which one counts: `10` after `9`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Folder {
    /// The folder.
    path: RecipePath,
}

impl PictureSourceConfig for Folder {
    fn describe(&self) -> Result<SourceDescription> {
        Ok(SourceDescription { files: vec![self.path.0.clone()], ..SourceDescription::default() })
    }

    fn open(&self) -> Result<OpenSource> {
        open(&self.path)
    }
}

/// Opens a folder.
///
/// # Errors
/// A mistake if it is not there, or holds no picture.
pub fn open(path: &Path) -> Result<OpenSource> {
    if !path.is_dir() {
        mistake!("there is no folder {}", path.display());
    }
    let mut found: Vec<(String, PathBuf)> = files(&[path.to_owned()])?
        .into_iter()
        .map(|file| {
            let name = file.strip_prefix(path).unwrap_or(&file).display().to_string();
            (name, file)
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| counted(a, b));
    let person = |name: &str| Some(Path::new(name).parent()?.to_str()?.to_owned()).filter(|folder| !folder.is_empty());
    let mut people: Vec<String> = found.iter().filter_map(|(name, _)| person(name)).collect();
    people.dedup();
    let mut hash = Sha256::new();
    let mut labels = Vec::with_capacity(found.len());
    let mut number = -1;
    let mut before = None;
    for (name, _) in &found {
        let own = person(name);
        if own.is_some() && own != before {
            number += 1;
            before.clone_from(&own);
        }
        labels.push(Label { identity: if own.is_some() { number } else { -1 }, age: None, gender: -1 });
        hash.update(name.as_bytes());
        hash.update([0]);
    }
    let (len, fingerprint) = (found.len(), format!("folder {}", hex::encode(hash.finalize())));
    let pictures = Files { files: found };
    let opened = OpenSource::new(Arc::new(pictures), len, fingerprint);
    Ok(OpenSource { columns: if people.is_empty() { Vec::new() } else { columns(&labels, people) }, ..opened })
}

/// Files that are named, of which nothing else is known.
///
/// # Errors
/// None today.
pub fn of_files(files: Vec<PathBuf>) -> Result<OpenSource> {
    let files: Vec<(String, PathBuf)> = files.into_iter().map(|file| (file.display().to_string(), file)).collect();
    let len = files.len();
    Ok(OpenSource::new(Arc::new(Files { files }), len, String::new()))
}

/// The order in which one counts: digits that stand together are a number.
fn counted(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (m, n) = (digits(left), digits(right));
        let order = if m > 0 && n > 0 {
            let (x, y) = (left[..m].trim_start_matches('0'), right[..n].trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            left.chars().next().cmp(&right.chars().next())
        };
        // What is equal as numbers is told apart by its zeros, at the end.
        if order != Ordering::Equal || left.is_empty() {
            return order.then_with(|| a.cmp(b));
        }
        let step =
            |text: &str, digits: usize| if digits > 0 { digits } else { text.chars().next().map_or(0, char::len_utf8) };
        let (m, n) = if m > 0 && n > 0 { (m, n) } else { (step(left, 0), step(right, 0)) };
        (left, right) = (&left[m..], &right[n..]);
    }
}

struct Files {
    /// The names in the folder, and the files.
    files: Vec<(String, PathBuf)>,
}

impl PictureSource for Files {
    fn picture(&self, index: usize) -> Result<Picture> {
        codec::read(&self.files[index].1)
    }

    fn encoded(&self, index: usize) -> Result<Option<Vec<u8>>> {
        codec::read_bytes(&self.files[index].1).map(Some)
    }

    fn place(&self, index: usize) -> Result<String> {
        Ok(self.files[index].1.display().to_string())
    }

    fn name(&self, index: usize) -> Result<String> {
        Ok(self.files[index].0.clone())
    }

    fn file(&self, index: usize) -> Result<Option<&Path>> {
        Ok(Some(&self.files[index].1))
    }
}

register!(Source, "folder", Folder);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_the_order_in_which_one_counts() {
        let mut names = ["b/10.jpg", "b/9.jpg", "a/1.jpg", "b/09.jpg", "10/1.jpg", "9/1.jpg", "b/9a.jpg", "é/1.jpg"];
        names.sort_by(|a, b| counted(a, b));
        assert_eq!(names, ["9/1.jpg", "10/1.jpg", "a/1.jpg", "b/09.jpg", "b/9.jpg", "b/9a.jpg", "b/10.jpg", "é/1.jpg"]);
    }

    #[test]
    fn folders_are_people() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10/a.jpg", "9/b.png", "9/a.jpg", "top.jpg", "9/notes.txt"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = open(dir.path()).unwrap();
        let identity = found.column("identity").unwrap();
        let names: Vec<String> = (0..found.len).map(|i| found.pictures.name(i).unwrap()).collect();
        assert_eq!(names, ["9/a.jpg", "9/b.png", "10/a.jpg", "top.jpg"]);
        assert_eq!(identity.names.as_deref().unwrap(), ["9", "10"]);
        assert_eq!(identity.values[..3], [0.0, 0.0, 1.0]);
        assert!(identity.values[3].is_nan());
    }
}
