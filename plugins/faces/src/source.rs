//! The pictures that a component reads, from whatever source, and what is known of them.

use crate::label::Label;
use crate::list;
use crate::made::MadeFaces;
use crate::records::RECORD_MAGIC;
use crate::sources;
use indexmap::IndexMap;
use mtl_component::{
    Code, ErrorContext as _, OpenSource, Picture, PictureSource, RecipePath, Result, SourceUse, mistake,
};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pictures by number, and what is known of each.
#[derive(Clone)]
pub struct Pictures {
    /// Where they are from.
    pub source: OpenSource,
    /// What is known of each. People whom the source does not tell are all different.
    pub labels: Vec<Label>,
    /// The names of the people whom the source tells; the numbers of the others follow.
    pub people: Vec<String>,
}

impl Pictures {
    /// What a source knows of its pictures.
    ///
    /// # Errors
    /// If its columns do not fit its pictures.
    pub fn of(source: OpenSource) -> Result<Self> {
        let column = |name: &str| match source.column(name) {
            Some(column) if column.values.len() != source.len => mistake!(
                "the source of pictures gives {} values of `{name}` for {} pictures",
                column.values.len(),
                source.len
            ),
            found => Ok(found),
        };
        let (identity, age, gender) = (column("identity")?, column("age")?, column("gender")?);
        let value = |column: Option<&mtl_component::SourceColumn>, i: usize| {
            column.map(|column| column.values[i]).filter(|value| !value.is_nan())
        };
        let largest = identity.map_or(-1.0, |column| column.values.iter().copied().fold(-1.0, f64::max));
        let people = identity.and_then(|column| column.names.clone());
        let people = people.unwrap_or_else(|| (0..=largest as i64).map(|number| number.to_string()).collect());
        if largest >= people.len() as f64 {
            mistake!("the source of pictures has {} people, and one with the number {largest}", people.len());
        }
        let mut others = people.len() as i64..;
        let labels = (0..source.len)
            .map(|i| Label {
                identity: value(identity, i).map_or_else(|| others.next().unwrap_or_default(), |number| number as i64),
                age: value(age, i).map(|age| age as f32),
                gender: value(gender, i).map_or(-1, |gender| gender as i64),
            })
            .collect();
        Ok(Self { source, labels, people })
    }

    /// Pictures of files, of which nothing else is known.
    pub fn of_files(files: Vec<PathBuf>) -> Result<Self> {
        Self::of(sources::folder::of_files(files)?)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.source.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their files, as far as they are files.
    ///
    /// # Errors
    /// If the source cannot say it.
    pub fn files(&self) -> Result<Vec<&Path>> {
        (0..self.len()).filter_map(|i| self.source.pictures.file(i).transpose()).collect()
    }

    /// One of them in words: its file, or where it is from.
    pub fn name(&self, index: usize) -> String {
        match self.source.pictures.file(index) {
            Ok(Some(file)) => file.display().to_string(),
            _ => self.source.pictures.place(index).unwrap_or_else(|_| format!("picture {index}")),
        }
    }

    /// One of them.
    ///
    /// # Errors
    /// A mistake if it cannot be read.
    pub fn read(&self, index: usize) -> Result<Picture> {
        match self.source.pictures.picture(index) {
            Ok(picture) => Ok(picture),
            // A fault of the source's code, and not of the picture.
            Err(e) if e.code() == Code::Panic => Err(e.context(self.name(index))),
            Err(e) => mistake!("{}: {e:#}", self.name(index)),
        }
    }

    /// These of them, in this order.
    pub fn only(&self, wanted: &[usize]) -> Self {
        let column = |column: &mtl_component::SourceColumn| mtl_component::SourceColumn {
            values: wanted.iter().map(|i| column.values[*i]).collect(),
            ..column.clone()
        };
        let pictures = Chosen { of: self.source.pictures.clone(), wanted: wanted.to_vec() };
        let source = OpenSource {
            pictures: Arc::new(pictures),
            len: wanted.len(),
            columns: self.source.columns.iter().map(column).collect(),
            fingerprint: self.source.fingerprint.clone(),
        };
        let labels = wanted.iter().map(|i| self.labels[*i]).collect();
        Self { source, labels, people: self.people.clone() }
    }

    /// One of them as it is, of whatever shape: without a word on what becomes of it in training.
    ///
    /// # Errors
    /// A mistake if it cannot be read.
    pub fn decoded(&self, index: usize) -> Result<Picture> {
        let bytes = match self.source.pictures.encoded(index) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return self.read(index),
            Err(e) => mistake!("{}: {e:#}", self.name(index)),
        };
        match mtl_standard::codec::decode(&bytes) {
            Ok(picture) => Ok(picture),
            Err(e) => mistake!("{} is no picture: {e:#}", self.name(index)),
        }
    }

    /// The pictures whose files are not there: where each is named.
    ///
    /// # Errors
    /// If the source cannot say it.
    pub fn missing(&self) -> Result<Vec<(usize, String)>> {
        let mut out = Vec::new();
        for i in 0..self.len() {
            if let Some(file) = self.source.pictures.file(i)?
                && !file.is_file()
            {
                let text = format!("{}: there is no file {}", self.source.pictures.place(i)?, file.display());
                out.push((i, text));
            }
        }
        Ok(out)
    }

    /// The same, if all files are there.
    ///
    /// # Errors
    /// A mistake that names the first of those that are not.
    pub fn complete(self) -> Result<Self> {
        list::report(self.missing()?.into_iter().map(|(_, text)| text).collect(), "pictures are missing")?;
        Ok(self)
    }
}

/// Some pictures of a source.
struct Chosen {
    of: Arc<dyn PictureSource>,
    wanted: Vec<usize>,
}

impl PictureSource for Chosen {
    fn picture(&self, index: usize) -> Result<Picture> {
        self.of.picture(self.wanted[index])
    }

    fn encoded(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.of.encoded(self.wanted[index])
    }

    fn variant(&self, index: usize, column: &str, value: f64) -> Result<Option<Picture>> {
        self.of.variant(self.wanted[index], column, value)
    }

    fn place(&self, index: usize) -> Result<String> {
        self.of.place(self.wanted[index])
    }

    fn name(&self, index: usize) -> Result<String> {
        self.of.name(self.wanted[index])
    }

    fn file(&self, index: usize) -> Result<Option<&Path>> {
        self.of.file(self.wanted[index])
    }
}

/// The keys of a component that stand for a source: short forms of `source = { … }`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// An annotated list.
    pub list: Option<&'a RecipePath>,
    /// The folder that its file names start from.
    pub root: Option<&'a RecipePath>,
    /// Records, or those of the list.
    pub records: Option<&'a RecipePath>,
    /// A folder of pictures.
    pub folder: Option<&'a RecipePath>,
    /// A verification set.
    pub bin: Option<&'a RecipePath>,
    /// Made faces.
    pub made: Option<&'a MadeFaces>,
}

impl Given<'_> {
    /// The keys that name a source each.
    fn named(&self) -> Vec<&'static str> {
        let keys = [
            ("list", self.list.is_some()),
            // With a list these are its pictures, and no source of their own.
            ("records", self.records.is_some() && self.list.is_none()),
            ("folder", self.folder.is_some()),
            ("bin", self.bin.is_some()),
            ("made", self.made.is_some()),
        ];
        keys.into_iter().filter_map(|(key, is_given)| is_given.then_some(key)).collect()
    }

    /// How a component with these keys uses a source; `keys` are those that it has.
    pub fn usage(&self, keys: &'static str) -> SourceUse {
        self.named().first().map_or(SourceUse::Needed(keys), |key| SourceUse::Own(key))
    }

    /// What is wrong between them.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let [first, second, ..] = self.named()[..] {
            out.push(format!("`{first}` and `{second}` are two sources: give one, and --unset the other"));
        }
        if self.root.is_some() && self.list.is_none() {
            out.push("`root` is where the names of a `list` start, and there is none".into());
        }
        out.extend(self.made.map(MadeFaces::problems).unwrap_or_default());
        out
    }

    /// The files that they name.
    pub fn files(&self) -> Vec<PathBuf> {
        [self.list, self.records, self.folder, self.bin].into_iter().flatten().map(|path| path.0.clone()).collect()
    }

    /// Opens the source that they name, or takes the one that was given beside them.
    ///
    /// # Errors
    /// A mistake if there is none, or it cannot be opened.
    pub fn open(&self, beside: Option<&OpenSource>) -> Result<Pictures> {
        fn path(given: Option<&RecipePath>) -> Option<&Path> {
            given.map(|path| path.0.as_path())
        }
        let source = if let Some(beside) = beside {
            beside.clone()
        } else if let Some(list) = self.list {
            sources::list::open(list, path(self.root), path(self.records))?
        } else if let Some(records) = self.records {
            sources::records::open(records)?
        } else if let Some(folder) = self.folder {
            sources::folder::open(folder)?
        } else if let Some(bin) = self.bin {
            sources::bin::open(bin, None)?
        } else if let Some(made) = self.made {
            mtl_component::PictureSourceConfig::open(made)?
        } else {
            mistake!("no pictures are given: name a `source`, or a key that stands for one, such as `list`")
        };
        Pictures::of(source)
    }
}

/// The keys of [`with_pictures!`](crate::with_pictures).
pub const KEYS: &str = "`list`, `records`, `folder`, `bin` or `made` faces";

/// A configuration with the keys that stand for a source of pictures: `list`, `root`, `records`, `folder`, `bin` and `made`.
/// `given` gives them together.
#[macro_export]
macro_rules! with_pictures {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        $visibility struct $name {
            /// The annotated list: lines of `id filename age gender`.
            #[serde(default)]
            list: Option<$crate::RecipePath>,
            /// The folder that its file names start from; without it the folder of the list.
            #[serde(default)]
            root: Option<$crate::RecipePath>,
            /// A record file of insightface, such as `train.rec`, or its folder: with a list the pictures that its names
            /// tell by label and key, such as `000012/00000345.jpg`, and without one all of them.
            #[serde(default)]
            #[schemars(example = "faces/train.rec")]
            records: Option<$crate::RecipePath>,
            /// A folder of people, each a folder of pictures.
            #[serde(default)]
            folder: Option<$crate::RecipePath>,
            /// A verification set of insightface, such as `agedb_30.bin`.
            #[serde(default)]
            bin: Option<$crate::RecipePath>,
            /// Made faces.
            #[serde(default)]
            made: Option<$crate::made::MadeFaces>,
            $($body)*
        }

        impl $name {
            /// The keys that stand for a source.
            fn given(&self) -> $crate::source::Given<'_> {
                $crate::source::Given {
                    list: self.list.as_ref(),
                    root: self.root.as_ref(),
                    records: self.records.as_ref(),
                    folder: self.folder.as_ref(),
                    bin: self.bin.as_ref(),
                    made: self.made.as_ref(),
                }
            }
        }
    };
}

/// What a path holds, told by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Records of pictures, or a folder with a record file.
    Records,
    /// A verification set.
    Bin,
    /// A file of MATLAB.
    Mat,
    /// A folder.
    Folder,
    /// A picture.
    Picture,
    /// Something else, such as a text.
    Other,
}

impl Holds {
    /// Looks into a path.
    ///
    /// # Errors
    /// A mistake if it is not there, or cannot be opened.
    pub fn of(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let entries = path.read_dir().with_context(|| format!("reading {}", path.display()))?;
            let is_rec = |path: PathBuf| path.extension().is_some_and(|ending| ending == "rec");
            let packed = entries.filter_map(|entry| Some(entry.ok()?.path())).any(is_rec);
            return Ok(if packed { Self::Records } else { Self::Folder });
        }
        let kind = match path.metadata() {
            Ok(kind) => kind,
            Err(e) => mistake!("cannot open {}: {e}", path.display()),
        };
        if !kind.is_file() {
            mistake!("{} is neither a file nor a folder", path.display());
        }
        let mut start = Vec::new();
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        file.by_ref().take(16).read_to_end(&mut start).with_context(|| format!("reading {}", path.display()))?;
        Ok(match start.as_slice() {
            start if start.starts_with(&RECORD_MAGIC) => Self::Records,
            [0x80, 2..=5, ..] => Self::Bin,
            start if mtl_standard::mat::is_mat(start) => Self::Mat,
            [0xff, 0xd8, ..] | [0x89, b'P', b'N', b'G', ..] | [b'B', b'M', ..] | [b'R', b'I', b'F', b'F', ..] => {
                Self::Picture
            }
            _ => Self::Other,
        })
    }
}

/// Opens what lies at a path: records, a verification set, a folder, a picture, or an annotated list.
///
/// # Errors
/// A mistake if it is none of them, or cannot be opened.
pub fn at(path: &Path, root: Option<&Path>, records: Option<&Path>) -> Result<Pictures> {
    let source = match Holds::of(path)? {
        Holds::Records => sources::records::open(path)?,
        Holds::Bin => sources::bin::open(path, None)?,
        Holds::Folder => sources::folder::open(path)?,
        Holds::Picture => sources::folder::of_files(vec![path.to_owned()])?,
        Holds::Mat => mistake!(
            "{} is a file of MATLAB, which tells of pictures and holds none: see `mtlrun data convert`",
            path.display()
        ),
        Holds::Other => sources::list::open(path, root, records)?,
    };
    Pictures::of(source)
}

/// A picture of each of the first `count` people: of the first person the first, of the second the second, and so on
/// in turn, so that ages mix where a person's pictures are in their order.
pub fn one_per_identity(labels: &[Label], count: usize) -> Vec<usize> {
    let mut people: IndexMap<i64, Vec<usize>> = IndexMap::new();
    labels.iter().enumerate().for_each(|(i, l)| people.entry(l.identity).or_default().push(i));
    people.values().take(count).enumerate().map(|(n, pictures)| pictures[n % pictures.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_give_their_pictures_in_turn() {
        let label = |identity, age, gender| Label { identity, age: Some(age), gender };
        let labels = [label(4, 20.0, 1), label(4, 30.0, 1), label(7, 20.0, 0), label(7, 50.0, 0), label(9, 20.0, 1)];
        assert_eq!(one_per_identity(&labels, 2), [0, 3]);
        assert_eq!(one_per_identity(&labels, 9), [0, 3, 4]);
    }

    #[test]
    fn whom_the_source_does_not_tell_is_another_person() {
        let files = vec!["a.jpg".into(), "b.jpg".into()];
        let pictures = Pictures::of_files(files).unwrap();
        assert_eq!(pictures.labels.iter().map(|label| label.identity).collect::<Vec<_>>(), [0, 1]);
        assert!(pictures.people.is_empty());
        assert!(pictures.complete().err().unwrap().to_string().contains("there is no file a.jpg"));
    }

    #[test]
    fn two_sources_are_one_too_many() {
        let path = RecipePath("x".into());
        let both = Given { list: Some(&path), folder: Some(&path), ..Given::default() };
        assert!(both.problems()[0].contains("`list` and `folder` are two sources"));
        let joined = Given { list: Some(&path), records: Some(&path), ..Given::default() };
        assert_eq!((joined.problems(), joined.usage(KEYS)), (Vec::new(), SourceUse::Own("list")));
    }
}
