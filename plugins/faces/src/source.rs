//! Pictures that evaluators look at: files of an annotated list, or made faces.

use crate::label::Label;
use crate::list;
use crate::made::{Collection, MadeFaces};
use anyhow::Result;
use mtl_core::data::image::Picture;
use mtl_core::mistake;
use mtl_core::recipe::RecipePath;
use std::path::PathBuf;

/// Pictures by number.
pub enum Pictures {
    /// Files.
    Files(Vec<PathBuf>),
    /// Made faces.
    Made(Collection),
}

impl Pictures {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Made(collection) => collection.shots.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    pub fn read(&self, index: usize) -> Result<Picture> {
        match self {
            Self::Files(files) => match Picture::read(&files[index]) {
                Ok(picture) => Ok(picture),
                Err(e) => mistake!("{e:#}"),
            },
            Self::Made(collection) => collection.picture(index),
        }
    }
}

/// What is wrong when not exactly one of a list, named by its key, and `made` faces is given, or with the latter.
pub fn problems(key: &str, list: Option<&RecipePath>, made: Option<&MadeFaces>) -> Vec<String> {
    match (list, made) {
        (None, None) => vec![format!("it needs `{key}`, or `made` faces")],
        (Some(_), Some(_)) => vec![format!("`{key}` and `made` are two sources: give one")],
        (_, made) => made.map(MadeFaces::problems).unwrap_or_default(),
    }
}

/// The pictures of an annotated list or of made faces with what is known of them; identities are numbered.
pub fn labelled(
    list: Option<&RecipePath>,
    given: Option<&RecipePath>,
    made: Option<&MadeFaces>,
) -> Result<(Pictures, Vec<Label>)> {
    if let Some(made) = made {
        let collection = made.open()?;
        let labels = (0..collection.shots.len()).map(|i| collection.label(i)).collect();
        return Ok((Pictures::Made(collection), labels));
    }
    let Some(path) = list else { mistake!("no pictures are given: name a `list` or `made` faces") };
    let root = &list::root(path, given.map(|g| g.0.as_path()));
    let faces = list::read(path, root)?;
    list::report(list::missing(&faces, path), "pictures are missing")?;
    let (_, labels) = list::labels(&faces);
    Ok((Pictures::Files(faces.into_iter().map(|f| f.file).collect()), labels))
}
