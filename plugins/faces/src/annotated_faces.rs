use crate::label::{self, Label};
use crate::list::{self, Face};
use mtl_component::{
    Column, Dataset, DatasetConfig, Description, Draw, Open, OpenDataset, Picture, RecipePath, Result, SampleOut,
    Transform, mistake, register,
};
use mtl_standard::codec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

/// Pictures of faces with identity, age and gender, from lists in the format of SCAF and LCAF, a picture on each line:
/// `id filename age gender`. Several lists can be mixed in every batch.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnnotatedFaces {
    /// The list, or one of several with `more`.
    #[schemars(example = "my_faces/list.txt")]
    list: RecipePath,
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
        let problem = (total <= 0.0).then(|| "the shares of all lists are 0".to_owned());
        Ok(label::description(self.size).problems(problem))
    }

    fn open(&self, open: &Open<'_>) -> Result<OpenDataset> {
        let edges = label::edges(open.dims, "annotated_faces")?;
        let mut faces: Vec<Face> = Vec::new();
        let (mut parts, mut lists, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        let own = (&self.list, self.root.as_ref(), self.share);
        for (path, root, share) in
            std::iter::once(own).chain(self.more.iter().map(|m| (&m.list, m.root.as_ref(), m.share)))
        {
            let root = list::root(path, root.map(|r| r.0.as_path()));
            let read = list::read(path, &root)?;
            if !root.is_dir() {
                mistake!("the folder of pictures {} is not there: give it as `root`", root.display());
            }
            absent.extend(list::missing(&read, path));
            parts.push((faces.len()..faces.len() + read.len(), share));
            lists.push(path.0.clone());
            faces.extend(read);
        }
        let skip = self.on_bad_image == OnBadImage::Skip;
        let missing: Vec<bool> = match absent.is_empty() {
            true => Vec::new(),
            false => faces.iter().map(|face| !face.file.is_file()).collect(),
        };
        if !skip || absent.len() == faces.len() {
            list::report(absent, "pictures are missing")?;
        } else if let Some(first) = absent.first() {
            tracing::warn!("{} of {} pictures are missing and are skipped, such as {first}", absent.len(), faces.len());
        }
        let ranges: Vec<Range<usize>> = parts.iter().map(|(range, _)| range.clone()).collect();
        let (identities, labels) = list::labels_of(&faces, &ranges, self.shared_ids);
        let place = |i: usize| place(&faces, &ranges, &lists, i);
        list::contradictions(&faces, &|i| labels[i].identity, &place, lists.len() > 1 && !self.shared_ids)?;
        if identities.len() < 2 {
            mistake!(
                "{} holds one identity (`{}`): recognition needs at least two",
                self.list.display(),
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
            faces,
            labels,
            parts: ranges,
            lists,
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

/// The line of a picture.
fn place(faces: &[Face], parts: &[Range<usize>], lists: &[PathBuf], index: usize) -> String {
    let part = parts.iter().position(|part| part.contains(&index)).unwrap_or(0);
    format!("{}:{}", lists[part].display(), faces[index].line)
}

/// The most unreadable pictures that are named of those before one that can be read.
const REASONS: usize = 8;

struct Faces {
    faces: Vec<Face>,
    labels: Vec<Label>,
    parts: Vec<Range<usize>>,
    lists: Vec<PathBuf>,
    edges: &'static [f32],
    size: usize,
    skip: bool,
    /// Which were not there when the list was opened; empty if none.
    missing: Vec<bool>,
    transforms: Vec<Arc<dyn Transform>>,
}

impl Faces {
    /// The part that a sample belongs to: within it the next picture is sought, so that shares hold.
    fn part(&self, index: usize) -> (Range<usize>, &Path) {
        let at = self.parts.iter().position(|part| part.contains(&index)).unwrap_or(0);
        (self.parts[at].clone(), &self.lists[at])
    }

    /// The picture, its number, and why those before it could not be read.
    fn picture(&self, index: usize) -> Result<(usize, Picture, Vec<String>)> {
        let (range, list) = self.part(index);
        let (mut at, mut skipped) = (index, Vec::new());
        loop {
            let face = &self.faces[at];
            // What was missing from the start is not looked for again.
            let found = match self.missing.get(at) {
                Some(true) => Err(None),
                _ => codec::read(&face.file).map_err(Some),
            };
            match found {
                Ok(picture) => return Ok((at, picture, skipped)),
                Err(Some(e)) if !self.skip => mistake!(
                    "{}:{}: {e:#}. Mend or remove the line, or set on_bad_image = \"skip\"",
                    list.display(),
                    face.line
                ),
                Err(e) => {
                    if skipped.len() < REASONS {
                        let why =
                            e.map_or_else(|| format!("there is no file {}", face.file.display()), |e| format!("{e:#}"));
                        skipped.push(format!("{}:{}: {why}", list.display(), face.line));
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
        Ok(self.faces.iter().map(|face| face.file.as_path()).collect())
    }
}

register!(Dataset, "annotated_faces", AnnotatedFaces);
