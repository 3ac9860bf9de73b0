use crate::label::{self, Label};
use crate::list::{self, Face};
use crate::records::{FaceRecords, Image, key_of_name};
use mtl_component::{
    Column, Dataset, DatasetConfig, Description, Draw, Open, OpenDataset, Picture, RecipePath, Result, SampleOut,
    Transform, bail, mistake, register,
};
use mtl_standard::codec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

/// Pictures of faces with identity, age and gender, from lists in the format of SCAF and LCAF, a picture on each line:
/// `id filename age gender`. Several lists can be mixed in every batch. The pictures are files, or lie in a record file
/// (`records`), from which nothing has to be extracted; without a list all pictures of the records are taken, whose ages
/// and genders are not known.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnnotatedFaces {
    /// The list, or one of several with `more`.
    #[serde(default)]
    #[schemars(example = "my_faces/list.txt")]
    list: Option<RecipePath>,
    /// A record file of insightface, such as `train.rec`, or its folder. The names of the list then end in label and key,
    /// such as `000012/00000345.jpg`.
    #[serde(default)]
    #[schemars(example = "faces/train.rec")]
    records: Option<RecipePath>,
    /// The folder that file names in the list start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
    /// Share of this list in a batch, against the shares of `more`.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0))]
    share: f64,
    /// Further lists, mixed into every batch by their shares.
    #[serde(default)]
    more: Vec<More>,
    /// Whether a name of a person means the same person in all lists; without it each list has people of its own.
    #[serde(default)]
    shared_ids: bool,
    /// Width and height of the pictures in pixels.
    #[serde(default = "size")]
    #[schemars(range(min = 1, max = 4096))]
    size: i64,
    /// What happens when a picture cannot be read.
    #[serde(default)]
    on_bad_image: OnBadImage,
}

/// A list that is mixed in.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct More {
    /// The list.
    list: RecipePath,
    /// A record file that holds its pictures, or its folder.
    #[serde(default)]
    records: Option<RecipePath>,
    /// The folder that its file names start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
    /// Share of a batch.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0))]
    share: f64,
}

/// What happens when a picture cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OnBadImage {
    /// Training stops and names the picture and its line.
    #[default]
    Error,
    /// The next picture of the list takes its place; how many there were and the first of them are told.
    Skip,
}

fn one() -> f64 {
    1.0
}
fn size() -> i64 {
    112
}

impl DatasetConfig for AnnotatedFaces {
    fn describe(&self) -> Result<Description> {
        let total = self.share + self.more.iter().map(|m| m.share).sum::<f64>();
        let problem = match (&self.list, &self.records) {
            (None, None) => Some("it needs a `list` of pictures, or `records`".to_owned()),
            (None, Some(_)) if !self.more.is_empty() => {
                Some("`more` lists are mixed with a `list`: give it".to_owned())
            }
            _ => (total <= 0.0).then(|| "the shares of all lists are 0".to_owned()),
        };
        Ok(label::description(self.size).problems(problem))
    }

    fn open(&self, open: &Open<'_>) -> Result<OpenDataset> {
        let edges = label::edges(open.dims, "annotated_faces")?;
        let mut faces: Vec<Face> = Vec::new();
        let (mut parts, mut lists, mut absent, mut packed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let own = match (&self.list, &self.records) {
            (Some(list), records) => (list, records.as_ref(), self.root.as_ref(), self.share),
            (None, Some(records)) => return self.all_of(FaceRecords::open(records)?, edges, open),
            (None, None) => mistake!("it needs a `list` of pictures, or `records`"),
        };
        let more = self.more.iter().map(|m| (&m.list, m.records.as_ref(), m.root.as_ref(), m.share));
        for (path, records, root, share) in std::iter::once(own).chain(more) {
            let root = list::root(path, root.map(|r| r.0.as_path()));
            let read = list::read(path, &root)?;
            match records {
                Some(records) => packed.push(Some(joined(&read, path, records)?)),
                None => {
                    if !root.is_dir() {
                        mistake!("the folder of pictures {} is not there: give it as `root`", root.display());
                    }
                    absent.extend(list::missing(&read, path));
                    packed.push(None);
                }
            }
            parts.push((faces.len()..faces.len() + read.len(), share));
            lists.push(path.0.clone());
            faces.extend(read);
        }
        let skip = self.on_bad_image == OnBadImage::Skip;
        let missing: Vec<bool> = match absent.is_empty() {
            true => Vec::new(),
            false => {
                let from_file =
                    |i: usize| parts.iter().zip(&packed).any(|((part, _), p)| part.contains(&i) && p.is_none());
                faces.iter().enumerate().map(|(i, face)| from_file(i) && !face.file.is_file()).collect()
            }
        };
        if !skip || absent.len() == faces.len() {
            list::report(absent, "pictures are missing")?;
        } else if let Some(first) = absent.first() {
            tracing::warn!("{} of {} pictures are missing and are skipped, such as {first}", absent.len(), faces.len());
        }
        let ranges: Vec<Range<usize>> = parts.iter().map(|(range, _)| range.clone()).collect();
        let (identities, labels) = list::labels_of(&faces, &ranges, self.shared_ids);
        let place = |i: usize| format!("{}:{}", lists[part_of(&ranges, i)].display(), faces[i].line);
        list::contradictions(&faces, &|i| labels[i].identity, &place, lists.len() > 1 && !self.shared_ids)?;
        if identities.len() < 2 {
            mistake!(
                "{} holds one identity (`{}`): recognition needs at least two",
                lists[0].display(),
                identities.first().map_or("", String::as_str)
            );
        }
        let mut fingerprint = list::fingerprint(&lists.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        if lists.len() > 1 && !self.shared_ids {
            fingerprint.push_str(", people of each list");
        }
        let summary = list::summary(&labels, identities.len());
        let count = faces.len();
        let sizes = vec![("identities", identities.len() as i64)];
        let records = vec![("identities.json", serde_json::json!(identities))];
        let samples = Faces {
            faces: Pictures::Listed(faces),
            labels,
            parts: ranges,
            lists,
            packed,
            edges,
            size: self.size as usize,
            skip,
            missing,
            transforms: open.transforms.clone(),
        };
        let opened = OpenDataset::new(Arc::new(samples), count, label::fields(self.size), fingerprint);
        Ok(OpenDataset { sizes, parts, records, summary, ..opened })
    }
}

impl AnnotatedFaces {
    /// All pictures of records, of people whose ages and genders are not known.
    fn all_of(&self, packed: FaceRecords, edges: &'static [f32], open: &Open<'_>) -> Result<OpenDataset> {
        let images = packed.images()?;
        let mut people: Vec<i64> = images.iter().map(|image| image.label).collect();
        people.sort_unstable();
        people.dedup();
        if people.len() < 2 {
            mistake!("{} holds one identity: recognition needs at least two", packed.path().display());
        }
        let number = |label: &i64| people.binary_search(label).unwrap_or_default() as i64;
        let label = |image: &Image| Label { identity: number(&image.label), age: None, gender: -1 };
        let labels: Vec<Label> = images.iter().map(label).collect();
        let names: Vec<String> = people.iter().map(i64::to_string).collect();
        let mut digest = Sha256::new();
        for image in &images {
            digest.update(image.key.to_le_bytes());
            digest.update(image.label.to_le_bytes());
        }
        let (count, path) = (images.len(), packed.path().to_owned());
        let summary = list::summary(&labels, people.len());
        let samples = Faces {
            faces: Pictures::Packed(images),
            labels,
            parts: std::iter::once(0..count).collect(),
            lists: vec![path],
            packed: vec![Some(packed)],
            edges,
            size: self.size as usize,
            skip: self.on_bad_image == OnBadImage::Skip,
            missing: Vec::new(),
            transforms: open.transforms.clone(),
        };
        let fingerprint = format!("records {}", hex::encode(digest.finalize()));
        let opened = OpenDataset::new(Arc::new(samples), count, label::fields(self.size), fingerprint);
        let sizes = vec![("identities", people.len() as i64)];
        Ok(OpenDataset { sizes, records: vec![("identities.json", serde_json::json!(names))], summary, ..opened })
    }
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

/// What the samples are.
enum Pictures {
    /// Lines of lists.
    Listed(Vec<Face>),
    /// All pictures of a record file.
    Packed(Vec<Image>),
}

/// Where a picture is named.
fn place(faces: &Pictures, parts: &[Range<usize>], lists: &[PathBuf], index: usize) -> String {
    let list = lists[part_of(parts, index)].display();
    match faces {
        Pictures::Listed(faces) => format!("{list}:{}", faces[index].line),
        Pictures::Packed(images) => format!("{list}, record {}", images[index].key),
    }
}

/// The part that a sample belongs to.
fn part_of(parts: &[Range<usize>], index: usize) -> usize {
    parts.iter().position(|part| part.contains(&index)).unwrap_or(0)
}

/// The most unreadable pictures that are named of those before one that can be read.
const REASONS: usize = 8;

struct Faces {
    faces: Pictures,
    labels: Vec<Label>,
    parts: Vec<Range<usize>>,
    lists: Vec<PathBuf>,
    /// The records that hold the pictures of each part, where they are not files.
    packed: Vec<Option<FaceRecords>>,
    edges: &'static [f32],
    size: usize,
    skip: bool,
    /// Which were not there when the list was opened; empty if none.
    missing: Vec<bool>,
    transforms: Vec<Arc<dyn Transform>>,
}

impl Faces {
    /// One picture, from its file or its record. What was missing from the start is not looked for again.
    fn read(&self, part: usize, at: usize) -> Result<Picture> {
        match (&self.faces, &self.packed[part]) {
            (Pictures::Listed(faces), None) if self.missing.get(at) == Some(&true) => {
                bail!("there is no file {}", faces[at].file.display())
            }
            (Pictures::Listed(faces), None) => codec::read(&faces[at].file),
            (Pictures::Listed(faces), Some(packed)) => match key_of_name(&faces[at].file) {
                Some((_, key)) => packed.picture(key),
                None => bail!("{} names no record", faces[at].file.display()),
            },
            (Pictures::Packed(images), Some(packed)) => packed.picture(images[at].key),
            (Pictures::Packed(_), None) => bail!("there are no records"),
        }
    }

    /// The picture, its number, and why those before it could not be read.
    fn picture(&self, index: usize) -> Result<(usize, Picture, Vec<String>)> {
        // Within its part the next picture is sought, so that shares hold.
        let part = part_of(&self.parts, index);
        let (range, list) = (&self.parts[part], &self.lists[part]);
        let place = |at: usize| place(&self.faces, &self.parts, &self.lists, at);
        let (mut at, mut skipped) = (index, Vec::new());
        loop {
            match self.read(part, at) {
                Ok(picture) => return Ok((at, picture, skipped)),
                Err(e) if !self.skip => {
                    let what = if matches!(self.faces, Pictures::Listed(_)) { "line" } else { "record" };
                    mistake!("{}: {e:#}. Mend or remove the {what}, or set on_bad_image = \"skip\"", place(at))
                }
                Err(e) => {
                    if skipped.len() < REASONS {
                        skipped.push(format!("{}: {e:#}", place(at)));
                    }
                    at = if at + 1 < range.end { at + 1 } else { range.start };
                    if at == index {
                        mistake!("no picture of {} can be read: {}", list.display(), skipped.join("; "));
                    }
                }
            }
        }
    }
}

impl Dataset for Faces {
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
        static BLOWN_UP: Once = Once::new();
        let (at, mut picture, skipped) = self.picture(index)?;
        let (width, height) = (picture.width, picture.height);
        let side = self.size;
        if width.max(height) < side {
            BLOWN_UP.call_once(|| {
                tracing::warn!(
                    "{} has {width}x{height} pixels and is blown up to {side}x{side}, as are all that are so small: give \
                     larger pictures, or a smaller `size`",
                    place(&self.faces, &self.parts, &self.lists, at)
                );
            });
        }
        out.skipped = skipped;
        for transform in &self.transforms {
            transform.apply(&mut picture, draw)?;
        }
        self.labels[at].write(picture, self.size, self.edges, out)
    }

    fn column(&self, name: &str) -> Result<Option<Column>> {
        Ok(Label::column(&self.labels, name, self.edges))
    }

    fn place(&self, index: usize) -> Result<String> {
        Ok(place(&self.faces, &self.parts, &self.lists, index))
    }

    fn files(&self) -> Result<Vec<&Path>> {
        let Pictures::Listed(faces) = &self.faces else {
            return Ok(self.packed.iter().flatten().map(FaceRecords::path).collect());
        };
        let mut files = Vec::with_capacity(faces.len());
        for (part, packed) in self.parts.iter().zip(&self.packed) {
            match packed {
                Some(packed) => files.push(packed.path()),
                None => files.extend(faces[part.clone()].iter().map(|face| face.file.as_path())),
            }
        }
        Ok(files)
    }
}

register!(Dataset, "annotated_faces", AnnotatedFaces);
