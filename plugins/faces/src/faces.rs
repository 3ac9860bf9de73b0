use crate::label::{self, Label};
use crate::list::{self, Said};
use crate::source::{Given, KEYS, Pictures};
use crate::with_pictures;
use mtl_component::{
    Code, Column, Dataset, DatasetConfig, Description, Draw, Open, OpenDataset, Picture, RecipePath, Result, SampleOut,
    Transform, bail, mistake, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Once};

with_pictures! {
    /// Pictures of faces with identity, age and gender, from a list in the format of SCAF and LCAF, from records of
    /// insightface, a folder of people, made faces, or any other `source`. Several can be mixed in every batch.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Faces {
        /// Share of these pictures in a batch, against the shares of `more`.
        #[serde(default = "one")]
        #[schemars(range(min = 0.0))]
        share: f64,
        /// Further pictures, mixed into every batch by their shares.
        #[serde(default)]
        more: Vec<More>,
        /// Whether a name of a person means the same person in all sources; without it each has people of its own.
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
}

/// Pictures that are mixed in.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct More {
    /// The list.
    #[serde(default)]
    list: Option<RecipePath>,
    /// A record file that holds its pictures, or its folder; without a list all of its pictures are taken.
    #[serde(default)]
    records: Option<RecipePath>,
    /// A folder of people, each a folder of pictures.
    #[serde(default)]
    folder: Option<RecipePath>,
    /// The folder that the file names of the list start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
    /// Share of a batch.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0))]
    share: f64,
}

impl More {
    fn given(&self) -> Given<'_> {
        Given {
            list: self.list.as_ref(),
            root: self.root.as_ref(),
            records: self.records.as_ref(),
            folder: self.folder.as_ref(),
            ..Given::default()
        }
    }
}

/// What happens when a picture cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OnBadImage {
    /// Training stops and names the picture and where it is from.
    #[default]
    Error,
    /// The next picture of the source takes its place; how many there were and the first of them are told.
    Skip,
}

fn one() -> f64 {
    1.0
}
fn size() -> i64 {
    112
}

impl DatasetConfig for Faces {
    fn describe(&self) -> Result<Description> {
        let total = self.share + self.more.iter().map(|m| m.share).sum::<f64>();
        let mut problems = self.given().problems();
        for (i, more) in self.more.iter().enumerate() {
            let own = more.given().problems();
            problems.extend(own.into_iter().map(|problem| format!("more[{i}]: {problem}")));
            if more.list.is_none() && more.records.is_none() && more.folder.is_none() {
                problems.push(format!("more[{i}]: it needs a `list`, `records` or a `folder`"));
            }
        }
        problems.extend((total <= 0.0).then(|| "the shares of all sources are 0".to_owned()));
        Ok(label::description(self.size).problems(problems).source(self.given().usage(KEYS)))
    }

    fn open(&self, open: &Open<'_>) -> Result<OpenDataset> {
        let edges = label::edges(open.dims, "a dataset of faces")?;
        let mut sources = vec![(self.given().open(open.source.as_ref())?, self.share)];
        for more in &self.more {
            sources.push((more.given().open(None)?, more.share));
        }
        let lists = match &open.source {
            Some(_) => None,
            None => {
                std::iter::once(self.list.as_ref()).chain(self.more.iter().map(|more| more.list.as_ref())).collect()
            }
        };
        let fingerprint = self.fingerprint(lists, &sources)?;
        let mut samples = Samples::joined(sources, self.shared_ids)?.with(edges, self.size, open);
        samples.skip = self.on_bad_image == OnBadImage::Skip;
        samples.opened(fingerprint)
    }
}

impl Faces {
    /// A text that changes when a list or another source changes: that of several lists is one of their bytes together.
    fn fingerprint(&self, lists: Option<Vec<&RecipePath>>, sources: &[(Pictures, f64)]) -> Result<String> {
        let mut text = match lists {
            Some(lists) => list::fingerprint(&lists.iter().map(|list| list.0.as_path()).collect::<Vec<_>>())?,
            None => {
                sources.iter().map(|(source, _)| source.source.fingerprint.as_str()).collect::<Vec<_>>().join(" + ")
            }
        };
        if sources.len() > 1 && !self.shared_ids {
            text.push_str(", people of each list");
        }
        Ok(text)
    }
}

/// The most unreadable pictures that are named of those before one that can be read.
const REASONS: usize = 8;

/// The pictures of some sources as samples.
pub(crate) struct Samples {
    sources: Vec<Pictures>,
    /// The samples of each source.
    parts: Vec<(Range<usize>, f64)>,
    labels: Vec<Label>,
    /// What the sources know of their pictures beside that, by name; -1 where one does not.
    others: BTreeMap<String, Vec<i64>>,
    people: Vec<String>,
    edges: &'static [f32],
    size: i64,
    /// Whether the next picture takes the place of one that cannot be read.
    skip: bool,
    /// Which were not there when the sources were opened; empty if none.
    missing: Vec<bool>,
    transforms: Vec<Arc<dyn Transform>>,
}

impl Samples {
    /// The pictures of sources one after another, each with its share of a batch.
    pub(crate) fn joined(sources: Vec<(Pictures, f64)>, shared: bool) -> Result<Self> {
        let names: Vec<&[String]> = sources.iter().map(|(source, _)| source.people.as_slice()).collect();
        // People of one source keep its order.
        let (people, numbers) = list::together(&names, shared && sources.len() > 1);
        let (mut labels, mut parts) = (Vec::new(), Vec::new());
        for ((source, share), numbers) in sources.iter().zip(numbers) {
            let first = labels.len();
            for (i, label) in source.labels.iter().enumerate() {
                let Some(identity) = numbers.get(label.identity as usize) else {
                    mistake!(
                        "it is not known whom {} shows: training needs an identity of every picture",
                        source.name(i)
                    )
                };
                labels.push(Label { identity: *identity, ..*label });
            }
            parts.push((first..labels.len(), *share));
        }
        if people.len() < 2 {
            let place = sources.first().map(|(source, _)| source.name(0)).unwrap_or_default();
            mistake!(
                "there is one identity (`{}`, such as {place}): recognition needs at least two",
                people.first().map_or("", String::as_str)
            );
        }
        let sources: Vec<Pictures> = sources.into_iter().map(|(source, _)| source).collect();
        let others = others(&sources, &parts, labels.len());
        let (edges, size, skip, missing, transforms) = Default::default();
        let mut all = Self { sources, parts, labels, others, people, edges, size, skip, missing, transforms };
        all.contradictions(shared)?;
        // What was joined is not kept twice.
        for source in &mut all.sources {
            source.labels = Vec::new();
            source.people = Vec::new();
            source.source.columns = Vec::new();
        }
        Ok(all)
    }

    /// Where sources contradict each other; each has looked into itself.
    fn contradictions(&self, shared: bool) -> Result<()> {
        if self.sources.len() < 2 {
            return Ok(());
        }
        let mut said = Vec::new();
        for (source, ((range, _), pictures)) in self.parts.iter().zip(&self.sources).enumerate() {
            for (i, label) in pictures.labels.iter().enumerate() {
                let Some(file) = pictures.source.pictures.file(i)? else { break };
                let identity = pictures.people[label.identity as usize].as_str();
                said.push((range.start + i, Said { source, file, identity, label: self.labels[range.start + i] }));
            }
        }
        let place = |i: usize| self.place(said[i].0);
        let found = list::contradictions(said.iter().map(|(_, said)| *said), &place, true);
        match found {
            Err(e) if !shared => mistake!(
                "{e}\nEach list numbers its own people; say `shared_ids = true` if a name means the same person in all lists"
            ),
            found => found,
        }
    }

    /// The same with age groups of these edges, as pictures of that size, changed by the transforms of the stream.
    pub(crate) fn with(self, edges: &'static [f32], size: i64, open: &Open<'_>) -> Self {
        Self { edges, size, transforms: open.transforms.clone(), ..self }
    }

    /// The dataset of them.
    pub(crate) fn opened(mut self, fingerprint: String) -> Result<OpenDataset> {
        let mut absent = Vec::new();
        for (pictures, (range, _)) in self.sources.iter().zip(&self.parts) {
            absent.extend(pictures.missing()?.into_iter().map(|(i, text)| (range.start + i, text)));
        }
        if !absent.is_empty() {
            if self.skip && absent.len() < self.labels.len() {
                tracing::warn!(
                    "{} of {} pictures are missing and are skipped, such as {}",
                    absent.len(),
                    self.labels.len(),
                    absent[0].1
                );
            } else {
                list::report(absent.iter().map(|(_, text)| text.clone()).collect(), "pictures are missing")?;
            }
            self.missing = vec![false; self.labels.len()];
            absent.iter().for_each(|(i, _)| self.missing[*i] = true);
        }
        let summary = list::summary(&self.labels, self.people.len());
        let (count, parts) = (self.labels.len(), self.parts.clone());
        let sizes = vec![("identities", self.people.len() as i64)];
        let records = vec![("identities.json", serde_json::json!(self.people))];
        let fields = label::fields(self.size);
        let opened = OpenDataset::new(Arc::new(self), count, fields, fingerprint);
        Ok(OpenDataset { sizes, parts, records, summary, ..opened })
    }

    /// The source that a sample belongs to, and its number there.
    fn of(&self, index: usize) -> (usize, usize) {
        let part = self.parts.iter().position(|(range, _)| range.contains(&index)).unwrap_or(0);
        (part, index - self.parts[part].0.start)
    }

    /// One picture. What was missing from the start is not looked for again.
    fn read(&self, index: usize) -> Result<Picture> {
        let (part, at) = self.of(index);
        let pictures = &self.sources[part].source.pictures;
        if self.missing.get(index) == Some(&true) {
            match pictures.file(at)? {
                Some(file) => bail!("there is no file {}", file.display()),
                None => bail!("it is not there"),
            }
        }
        pictures.picture(at)
    }

    /// The picture, its number, and why those before it could not be read.
    fn picture(&self, index: usize) -> Result<(usize, Picture, Vec<String>)> {
        // Within its source the next picture is sought, so that shares hold.
        let range = &self.parts[self.of(index).0].0;
        let (mut at, mut skipped) = (index, Vec::new());
        loop {
            match self.read(at) {
                Ok(picture) => return Ok((at, picture, skipped)),
                // A fault of the source's code, and not of the picture.
                Err(e) if e.code() == Code::Panic => return Err(e.context(self.place(at)?)),
                Err(e) if !self.skip => {
                    mistake!("{}: {e:#}. Mend or remove it, or set on_bad_image = \"skip\"", self.place(at)?)
                }
                Err(e) => {
                    if skipped.len() < REASONS {
                        skipped.push(format!("{}: {e:#}", self.place(at)?));
                    }
                    at = if at + 1 < range.end { at + 1 } else { range.start };
                    if at == index {
                        mistake!("no picture can be read: {}", skipped.join("; "));
                    }
                }
            }
        }
    }
}

/// The columns of sources that say more than a label does, such as the capture of made faces, for all samples.
fn others(sources: &[Pictures], parts: &[(Range<usize>, f64)], count: usize) -> BTreeMap<String, Vec<i64>> {
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (source, (range, _)) in sources.iter().zip(parts) {
        for column in &source.source.columns {
            if !["identity", "age", "gender"].contains(&column.name.as_str()) {
                let values = found.entry(column.name.clone()).or_insert_with(|| vec![-1; count]);
                let known = |value: f64| if value.is_nan() { -1 } else { value as i64 };
                values[range.clone()].iter_mut().zip(&column.values).for_each(|(to, value)| *to = known(*value));
            }
        }
    }
    found
}

impl Dataset for Samples {
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
        static BLOWN_UP: Once = Once::new();
        let (at, mut picture, skipped) = self.picture(index)?;
        let (width, height) = (picture.width, picture.height);
        let side = self.size as usize;
        if width.max(height) < side {
            let place = self.place(at)?;
            BLOWN_UP.call_once(|| {
                tracing::warn!(
                    "{place} has {width}x{height} pixels and is blown up to {side}x{side}, as are all that are so small: give \
                     larger pictures, or a smaller `size`"
                );
            });
        }
        out.skipped = skipped;
        for transform in &self.transforms {
            transform.apply(&mut picture, draw)?;
        }
        self.labels[at].write(picture, side, self.edges, out)
    }

    fn column(&self, name: &str) -> Result<Option<Column>> {
        let other = || Some(Column { labels: self.others.get(name)?.clone(), names: None });
        Ok(Label::column(&self.labels, name, self.edges).or_else(other))
    }

    fn place(&self, index: usize) -> Result<String> {
        let (part, at) = self.of(index);
        self.sources[part].source.pictures.place(at)
    }

    fn files(&self) -> Result<Vec<&Path>> {
        let mut files = Vec::new();
        for source in &self.sources {
            files.extend(source.files()?);
        }
        Ok(files)
    }
}

register!(Dataset, "faces", Faces);
register!(Dataset, "annotated_faces", Faces);
