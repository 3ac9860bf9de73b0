//! Annotated lists.

use super::columns;
use crate::list::{self, Face, Said};
use crate::records::{FaceRecords, key_of_name};
use mtl_component::{
    OpenSource, Picture, PictureSource, PictureSourceConfig, RecipePath, Result, SourceDescription, bail, mistake,
    register,
};
use mtl_standard::codec;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pictures of an annotated list in the format of SCAF and LCAF, a picture on each line: `id filename age gender`. They
/// are files, or lie in a record file, from which nothing has to be extracted.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct List {
    /// The list.
    path: RecipePath,
    /// The folder that its file names start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
    /// A record file of insightface that holds its pictures, or its folder. The names of the list then end in label and
    /// key, such as `000012/00000345.jpg`.
    #[serde(default)]
    records: Option<RecipePath>,
}

impl PictureSourceConfig for List {
    fn describe(&self) -> Result<SourceDescription> {
        let files = [Some(&self.path), self.records.as_ref()].into_iter().flatten().map(|path| path.0.clone());
        Ok(SourceDescription { files: files.collect(), ..SourceDescription::default() })
    }

    fn open(&self) -> Result<OpenSource> {
        let given = |path: &Option<RecipePath>| path.as_ref().map(|path| path.0.clone());
        open(&self.path, given(&self.root).as_deref(), given(&self.records).as_deref())
    }
}

/// Opens a list. Whether its files are there is not looked into.
///
/// # Errors
/// A mistake if the list has faulty lines, or does not fit its records.
pub fn open(path: &Path, root: Option<&Path>, records: Option<&Path>) -> Result<OpenSource> {
    let root = list::root(path, root);
    let faces = list::read(path, &root)?;
    let packed = match records {
        Some(records) => Some(joined(&faces, path, records)?),
        None if !root.as_os_str().is_empty() && !root.is_dir() => {
            mistake!("the folder of pictures {} is not there: give it as `root`", root.display())
        }
        None => None,
    };
    let (people, labels) = list::labels(&faces);
    let said = faces.iter().zip(&labels);
    let said = said.map(|(face, label)| Said { source: 0, file: &face.file, identity: &face.identity, label: *label });
    list::contradictions(said, &|i| Ok(format!("{}:{}", path.display(), faces[i].line)), false)?;
    list::warn_of_zeros(&faces);
    let (len, fingerprint) = (faces.len(), list::fingerprint(&[path])?);
    let lines = Lines { list: path.to_owned(), root, faces, packed };
    Ok(OpenSource { columns: columns(&labels, people), ..OpenSource::new(Arc::new(lines), len, fingerprint) })
}

/// How many joined pictures are compared with the labels of their records.
const COMPARED: usize = 100;

/// The records that hold the pictures of a list.
fn joined(faces: &[Face], list: &Path, records: &Path) -> Result<FaceRecords> {
    let packed = FaceRecords::open(records)?;
    let mut faults = Vec::new();
    for (n, face) in faces.iter().enumerate() {
        let place = || format!("{}:{}", list.display(), face.line);
        match key_of_name(&face.file) {
            None => faults.push(format!(
                "{}: expected a name that ends in label and key, such as 000012/00000345.jpg, found {}",
                place(),
                face.file.display()
            )),
            Some((_, key)) if !packed.has(key) => {
                faults.push(format!("{}: {} has no record {key}", place(), packed.path().display()));
            }
            Some((label, key)) if n < COMPARED => {
                let found = packed.label(key)?;
                if found != label {
                    faults.push(format!(
                        "{}: the name says the label {label}, and the record {key} of {} has {found}: the list is of other \
                         records",
                        place(),
                        packed.path().display()
                    ));
                }
            }
            Some(_) => {}
        }
    }
    list::report(faults, &format!("the list {} does not fit its records", list.display()))?;
    Ok(packed)
}

struct Lines {
    list: PathBuf,
    root: PathBuf,
    faces: Vec<Face>,
    /// The records that hold the pictures, where they are not files.
    packed: Option<FaceRecords>,
}

impl Lines {
    fn key(&self, index: usize) -> Result<i64> {
        match key_of_name(&self.faces[index].file) {
            Some((_, key)) => Ok(key),
            None => bail!("{} names no record", self.faces[index].file.display()),
        }
    }
}

impl PictureSource for Lines {
    fn picture(&self, index: usize) -> Result<Picture> {
        match &self.packed {
            Some(packed) => packed.picture(self.key(index)?),
            None => codec::read(&self.faces[index].file),
        }
    }

    fn encoded(&self, index: usize) -> Result<Option<Vec<u8>>> {
        match &self.packed {
            Some(packed) => packed.bytes(self.key(index)?),
            None => codec::read_bytes(&self.faces[index].file),
        }
        .map(Some)
    }

    fn place(&self, index: usize) -> Result<String> {
        Ok(format!("{}:{}", self.list.display(), self.faces[index].line))
    }

    fn name(&self, index: usize) -> Result<String> {
        let file = &self.faces[index].file;
        Ok(file.strip_prefix(&self.root).unwrap_or(file).display().to_string())
    }

    fn file(&self, index: usize) -> Result<Option<&Path>> {
        Ok(self.packed.is_none().then(|| self.faces[index].file.as_path()))
    }
}

register!(Source, "list", List);
