//! What data on the disk is: record files, verification sets, lists, tables, folders of pictures.

use crate::facts::Facts;
use crate::label::Label;
use crate::list;
use crate::pair_forms;
use crate::records::FaceRecords;
use crate::source::{Holds, Pictures};
use crate::sources;
use crate::tiles::tiled;
use crate::verification_set::VerificationSet;
use mtl_component::files::{read_bounded, read_text};
use mtl_component::{ErrorContext as _, Picture, Result, mistake};
use mtl_recipe::files::write_atomically;
use mtl_standard::codec;
use mtl_standard::mat::{self, Mat};
use mtl_standard::npy;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What is looked at.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Record files, verification sets, lists, tables, pictures, or folders
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The folder that the file names of a list start from; without it the folder of the list
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write the file of this record to --out
    #[arg(long, value_name = "KEY", requires = "out", allow_negative_numbers = true, conflicts_with = "pair")]
    key: Option<i64>,
    /// Write the two pictures of this pair of a verification set, from 0, side by side to --out
    #[arg(long, value_name = "NUMBER", requires = "out")]
    pair: Option<usize>,
    /// The file for what --key or --pair names
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a sheet of pictures, evenly spread, to this PNG file
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Pictures on a sheet, a row of them, and pixels a side of each.
const SHEET: (usize, usize, usize) = (64, 8, 112);

impl Inspect {
    /// What each path holds, as text or JSON.
    ///
    /// # Errors
    /// A mistake for what cannot be read.
    pub fn run(&self) -> Result<String> {
        let mut found = Vec::new();
        for path in &self.paths {
            let mut facts = Map::new();
            facts.insert("path".into(), path.display().to_string().into());
            facts.extend(self.one(path)?);
            found.push(facts);
        }
        if self.json {
            return Ok(serde_json::to_string_pretty(&found)?);
        }
        let mut text = String::new();
        for (name, fact) in found.iter().flatten() {
            let fact = fact.as_str().map_or_else(|| fact.to_string(), str::to_owned);
            // What files hold may be meant for the terminal.
            let fact = plain(&fact);
            let _ = match name.as_str() {
                "path" => writeln!(text, "{fact}"),
                name => writeln!(text, "  {:<22} {fact}", name.replace('_', " ")),
            };
        }
        Ok(text.trim_end().to_owned())
    }

    fn one(&self, path: &Path) -> Result<Map<String, Value>> {
        let holds = Holds::of(path)?;
        if self.key.is_some() && holds != Holds::Records {
            mistake!("--key is of a record, and {} holds none", path.display());
        }
        if self.pair.is_some() && holds != Holds::Bin {
            mistake!("--pair is of a verification set, and {} is none", path.display());
        }
        match holds {
            Holds::Records => self.records(path),
            Holds::Bin => self.verification_set(path),
            Holds::Mat => matlab(path),
            Holds::Folder => {
                let pictures = Pictures::of(sources::folder::open(path)?)?;
                let is = if pictures.people.is_empty() { "a folder of pictures" } else { "a folder of people" };
                self.pictures(is, &pictures)
            }
            Holds::Picture => {
                let pictures = Pictures::of_files(vec![path.to_owned()])?;
                self.pictures("a picture", &pictures)
            }
            Holds::Other => self.text(path),
        }
    }

    /// What all pictures have.
    fn pictures(&self, is: &str, pictures: &Pictures) -> Result<Map<String, Value>> {
        let mut facts = Map::new();
        facts.insert("is".into(), is.into());
        facts.extend(self.of(pictures)?);
        Ok(facts)
    }

    fn of(&self, pictures: &Pictures) -> Result<Map<String, Value>> {
        if let Some(path) = &self.sheet {
            self.write_sheet(path, pictures)?;
        }
        let facts = Facts::of(pictures)?;
        if self.json {
            return Ok(serde_json::to_value(&facts)?.as_object().cloned().unwrap_or_default());
        }
        Ok(facts.lines().into_iter().map(|(name, text)| (name.replace(' ', "_"), text.into())).collect())
    }

    fn write_sheet(&self, path: &Path, pictures: &Pictures) -> Result<()> {
        if path.extension().is_none_or(|ending| ending != "png") {
            mistake!("--sheet must end in .png, found {}", path.display());
        }
        let (most, columns, side) = SHEET;
        let step = pictures.len().div_ceil(most).max(1);
        let shown: Vec<Picture> = (0..pictures.len()).step_by(step).map(|i| pictures.read(i)).collect::<Result<_>>()?;
        write_atomically(path, &codec::png(&tiled(&shown, columns, side)?)?)
    }

    fn records(&self, path: &Path) -> Result<Map<String, Value>> {
        let opened = FaceRecords::open(path).and_then(|records| {
            let images = records.images()?;
            Ok((records, images))
        });
        let (records, images, damage) = match opened {
            Ok((records, images)) => (records, images, None),
            // As far as it can be read.
            Err(error) => {
                let (records, damage) = FaceRecords::before_damage(path)?;
                let images = records.images()?;
                let damage = damage.unwrap_or(error);
                (records, images, Some(format!("{damage:#}")))
            }
        };
        if let (Some(key), Some(out)) = (self.key, &self.out) {
            write_atomically(out, &records.bytes(key)?)?;
        }
        let mut facts = Map::new();
        let keys = images.iter().take(5).map(|image| image.key).collect::<Vec<_>>();
        let labels = images.iter().map(|image| image.label);
        let labels = (labels.clone().min().unwrap_or(0), labels.max().unwrap_or(0));
        facts.insert("is".into(), "a record file of pictures".into());
        facts.insert("file".into(), records.path().display().to_string().into());
        if let Some(damage) = damage {
            facts.insert(
                "damaged".into(),
                format!("{damage}. What follows is of the records before, counted from 0").into(),
            );
        }
        facts.insert("form".into(), records.form()?.into());
        facts.insert("records".into(), records.len().into());
        facts.insert("labels".into(), format!("{} to {}", labels.0, labels.1).into());
        facts.insert("first_keys".into(), json!(keys));
        let property = property(records.path())?;
        let pictures = Pictures::of(sources::records::of(records, images, None)?)?;
        if let Some(property) = property {
            let people = property.split(',').next().and_then(|text| text.trim().parse::<usize>().ok());
            let text = if people == Some(pictures.people.len()) {
                property
            } else {
                format!("{property}, which is another number of people")
            };
            facts.insert("property".into(), text.into());
        }
        facts.extend(self.of(&pictures)?);
        Ok(facts)
    }

    fn verification_set(&self, path: &Path) -> Result<Map<String, Value>> {
        let set = VerificationSet::open(path)?;
        if let (Some(pair), Some(out)) = (self.pair, &self.out) {
            if pair >= set.same().len() {
                mistake!("{} has the pairs 0 to {}, and no pair {pair}", path.display(), set.same().len() - 1);
            }
            let both = [set.picture(2 * pair)?, set.picture(2 * pair + 1)?];
            write_atomically(out, &codec::png(&tiled(&both, 2, both[0].width)?)?)?;
        }
        let same = set.same().iter().filter(|same| **same).count();
        let mut facts = Map::new();
        facts.insert("is".into(), "a verification set of insightface".into());
        facts.insert("pairs".into(), set.same().len().into());
        facts.insert("of_one_person".into(), same.into());
        let pictures = Pictures::of(sources::bin::open(path, None)?)?;
        facts.extend(self.of(&pictures)?);
        facts.remove("ages");
        Ok(facts)
    }

    /// A text: a list of some kind, or a table.
    fn text(&self, path: &Path) -> Result<Map<String, Value>> {
        let start = read_start(path)?;
        if start.starts_with(&npy::MAGIC) {
            return numpy(&start);
        }
        let text = match read_text(path, list::MAX_BYTES) {
            Ok(text) => text,
            Err(e) => mistake!(
                "{} is neither records, a verification set, a picture nor a file of MATLAB, and no text: {e}",
                path.display()
            ),
        };
        let counts = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        let Some(first) = text.lines().find(counts) else { mistake!("{} is empty", path.display()) };
        if list::is_annotated(first.trim()) {
            let pictures = Pictures::of(sources::list::open(path, self.root.as_deref(), None)?)?;
            let missing = pictures.missing()?.len();
            let mut facts = self.pictures("an annotated list", &pictures)?;
            if missing > 0 {
                facts.insert("missing_files".into(), missing.into());
            }
            return Ok(facts);
        }
        let lines = text.lines().filter(counts).count();
        let mut facts = Map::new();
        let tabs: Vec<&str> = first.split('\t').collect();
        let (entries, faults) = pair_forms::parse(&text);
        if faults.is_empty() && !entries.is_empty() {
            facts.insert("is".into(), format!("a list of pairs, in the form of {}", pair_forms::form(&text)).into());
            facts.insert("pairs".into(), entries.len().into());
            facts.insert("of_one_person".into(), entries.iter().filter(|entry| entry.same).count().into());
        } else if first.contains(',') && first.split(',').all(|field| field.trim().parse::<f64>().is_err()) {
            facts.insert("is".into(), "a table with a header".into());
            facts.insert("columns".into(), json!(first.split(',').map(str::trim).collect::<Vec<_>>()));
            facts.insert("rows".into(), (lines - 1).into());
        } else if tabs.len() >= 3 {
            facts.insert("is".into(), "a list with tabs, such as those of insightface, mxnet and CVLface".into());
            facts.insert("fields".into(), tabs.len().into());
            facts.insert("lines".into(), lines.into());
            facts.insert("to_read_it".into(), "mtlrun data convert lst".into());
        } else {
            // Its faults as a list of pairs say least: what an annotated list lacks is told.
            list::read(path, &list::root(path, self.root.as_deref())).context(
                "it is neither a list of pairs nor a table, and read as an annotated list, `id filename age gender`",
            )?;
        }
        Ok(facts)
    }
}

/// A text without what a terminal would take for commands.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn read_start(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut start = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(2 * npy::MAX_HEADER as u64)
        .read_to_end(&mut start)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(start)
}

/// An array of NumPy: what its header says.
fn numpy(start: &[u8]) -> Result<Map<String, Value>> {
    let Some(header) = npy::header(start) else { mistake!("it begins as an array of NumPy, and its header was cut") };
    let mut facts = Map::new();
    facts.insert("is".into(), "an array of NumPy".into());
    facts.insert("header".into(), header.into());
    Ok(facts)
}

/// A file of MATLAB: its variables.
fn matlab(path: &Path) -> Result<Map<String, Value>> {
    let variables = mat::read(path)?;
    let mut facts = Map::new();
    facts.insert("is".into(), "a file of MATLAB, version 5".into());
    for (name, value) in &variables {
        let is = match value {
            Mat::Numbers(numbers) => format!("{} numbers", numbers.len()),
            Mat::Text(_) => "a text".into(),
            Mat::Cells(cells) => format!("{} cells", cells.len()),
            Mat::Structures(fields) => {
                let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                format!("a structure of {}", names.join(", "))
            }
            Mat::Other => "something that is not read".into(),
        };
        facts.insert(format!("variable {name}"), is.into());
    }
    if let Ok((entries, _)) = pair_forms::read(path) {
        let ages: Vec<Label> = entries
            .iter()
            .filter_map(|entry| entry.ages)
            .flatten()
            .map(|age| Label { identity: 0, age: Some(age), gender: -1 })
            .collect();
        facts.insert("pairs".into(), entries.len().into());
        facts.insert("of_one_person".into(), entries.iter().filter(|entry| entry.same).count().into());
        facts.insert("ages_known_of".into(), ages.len().into());
    }
    Ok(facts)
}

/// The first line of the file `property` beside a record file. It is compared, and never trusted.
fn property(records: &Path) -> Result<Option<String>> {
    let path = records.with_file_name("property");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = read_bounded(&path, 1 << 16).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned()))
}
