//! Sources of pictures: files of a list, records, what is rendered on demand.

use crate::picture::Picture;
use mtl_recipe::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The configuration of a source of pictures, which datasets and evaluators read: `source = { component = "…" }` beside
/// their own keys.
///
/// ```
/// use mtl_component::{
///     OpenSource, Picture, PictureSource, PictureSourceConfig, Result, SourceColumn, SourceDescription, register,
/// };
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
/// use std::sync::Arc;
///
/// /// Grey pictures from black to white.
/// #[derive(Debug, Clone, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Greys {}
///
/// impl PictureSourceConfig for Greys {
///     fn describe(&self) -> Result<SourceDescription> {
///         Ok(SourceDescription::default())
///     }
///     fn open(&self) -> Result<OpenSource> {
///         let brightness = SourceColumn { name: "age".into(), values: (0..256).map(f64::from).collect(), names: None };
///         Ok(OpenSource::new(Arc::new(self.clone()), 256, "greys".into()).with(brightness))
///     }
/// }
///
/// impl PictureSource for Greys {
///     fn picture(&self, index: usize) -> Result<Picture> {
///         Picture::new(1, 1, vec![index as u8; 3])
///     }
/// }
///
/// register!(Source, "greys", Greys);
/// assert_eq!(Greys {}.open()?.pictures.picture(7)?.data, [7, 7, 7]);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait PictureSourceConfig: Send + Sync {
    /// What the check of a recipe has to know of it.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self) -> Result<SourceDescription>;

    /// Opens the pictures and what is known of them, without reading every picture.
    ///
    /// # Errors
    /// What the user can mend, such as a missing file or a bad line, is a mistake that names the file and the line.
    fn open(&self) -> Result<OpenSource>;
}

/// What the check of a recipe has to know of a source.
#[derive(Debug, Clone, Default)]
pub struct SourceDescription {
    /// What is wrong between keys of the configuration; one sentence each.
    pub problems: Vec<String>,
    /// The files that it needs.
    pub files: Vec<PathBuf>,
}

/// Where a component has its pictures from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceUse {
    /// It reads no pictures from a `source`.
    #[default]
    No,
    /// It needs a `source`; its own keys name nothing in the place of one, as this text says.
    Needed(&'static str),
    /// This key of its own stands for a source.
    Own(&'static str),
    /// It can do without one.
    Optional,
}

impl SourceUse {
    /// What is wrong where a source is given, or none is.
    pub fn problem(self, given: bool) -> Option<String> {
        match (self, given) {
            (Self::No, true) => Some("it reads no `source` of pictures: drop it, such as by --unset".into()),
            (Self::Needed(keys), false) => Some(format!("it needs a `source` of pictures, or {keys}")),
            (Self::Own(key), true) => {
                Some(format!("`{key}` and `source` are two sources of pictures: give one, and --unset the other"))
            }
            _ => None,
        }
    }
}

/// An opened source and what is known of its pictures.
#[derive(Clone)]
pub struct OpenSource {
    /// The pictures. Shared by the loader's threads.
    pub pictures: Arc<dyn PictureSource>,
    /// How many there are.
    pub len: usize,
    /// What is known of each, by name.
    pub columns: Vec<SourceColumn>,
    /// A text that changes when the pictures, or what is known of them, change.
    pub fingerprint: String,
}

impl OpenSource {
    /// Pictures of which nothing is known.
    pub fn new(pictures: Arc<dyn PictureSource>, len: usize, fingerprint: String) -> Self {
        Self { pictures, len, columns: Vec::new(), fingerprint }
    }

    /// Adds what is known of each picture.
    pub fn with(mut self, column: SourceColumn) -> Self {
        self.columns.push(column);
        self
    }

    /// A column by its name, if the source has it.
    pub fn column(&self, name: &str) -> Option<&SourceColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// What is known of each picture of a source under one name, such as `identity` or `age`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceColumn {
    /// The name.
    pub name: String,
    /// One number a picture; what is not known is NaN.
    pub values: Vec<f64>,
    /// What the numbers 0, 1, … stand for, where they are a closed list.
    pub names: Option<Vec<String>>,
}

/// Pictures by number. They are asked for in several threads.
///
/// ```
/// use mtl_component::{Picture, PictureSource, Result};
///
/// /// White pictures.
/// struct White;
///
/// impl PictureSource for White {
///     fn picture(&self, _: usize) -> Result<Picture> {
///         Picture::new(8, 8, vec![255; 8 * 8 * 3])
///     }
/// }
///
/// assert_eq!(White.place(3)?, "picture 3");
/// assert!(White.variant(3, "age", 40.0)?.is_none());
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait PictureSource: Send + Sync {
    /// A picture as it is kept, before any transform.
    ///
    /// # Errors
    /// If it cannot be read; what the user can mend is a mistake. The error need not say which picture it is.
    fn picture(&self, index: usize) -> Result<Picture>;

    /// The bytes of the file of a picture, where it has some: what is copied, compared and looked into.
    ///
    /// # Errors
    /// If they cannot be read.
    fn encoded(&self, index: usize) -> Result<Option<Vec<u8>>> {
        let _ = index;
        Ok(None)
    }

    /// The same picture with another value of a column, such as the same person at another age: only a source that
    /// makes its pictures has it.
    ///
    /// # Errors
    /// If it cannot be made.
    fn variant(&self, index: usize, column: &str, value: f64) -> Result<Option<Picture>> {
        let _ = (index, column, value);
        Ok(None)
    }

    /// Where a picture is from, such as a line of a list, for messages.
    ///
    /// # Errors
    /// If it cannot be said.
    fn place(&self, index: usize) -> Result<String> {
        Ok(format!("picture {index}"))
    }

    /// The name by which lists of pairs and people name the picture, such as a path in a folder.
    ///
    /// # Errors
    /// If it cannot be said.
    fn name(&self, index: usize) -> Result<String> {
        self.place(index)
    }

    /// The file of a picture, if it is one of its own.
    ///
    /// # Errors
    /// If it cannot be said.
    fn file(&self, index: usize) -> Result<Option<&Path>> {
        let _ = index;
        Ok(None)
    }
}
