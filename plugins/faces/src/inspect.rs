//! What data on the disk is: record files, lists, folders of pictures.

use crate::list;
use crate::records::{FaceRecords, RECORD_MAGIC};
use crate::source::files;
use mtl_component::files::read_bounded;
use mtl_component::{ErrorContext as _, Result, mistake};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is looked at.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Record files, lists, or folders
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Write this record's picture to --out
    #[arg(long, value_name = "KEY", requires = "out", allow_negative_numbers = true)]
    key: Option<i64>,
    /// The file for the picture of --key
    #[arg(long, value_name = "FILE", requires = "key")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// What each path holds, as text or JSON.
    ///
    /// # Errors
    /// A mistake for what is none of them, or cannot be read.
    pub fn run(&self) -> Result<String> {
        let mut found = Vec::new();
        for path in &self.paths {
            found.push(self.one(path)?);
        }
        if self.json {
            return Ok(serde_json::to_string_pretty(&found)?);
        }
        let mut text = String::new();
        for facts in found.iter().filter_map(Value::as_object) {
            for (name, fact) in facts {
                let fact = fact.as_str().map_or_else(|| fact.to_string(), str::to_owned);
                let _ = match name.as_str() {
                    "path" => writeln!(text, "{fact}"),
                    name => writeln!(text, "  {:<22} {fact}", name.replace('_', " ")),
                };
            }
        }
        Ok(text.trim_end().to_owned())
    }

    fn one(&self, path: &Path) -> Result<Value> {
        let packed = path.is_dir()
            && path.read_dir().is_ok_and(|entries| {
                entries.filter_map(|entry| Some(entry.ok()?.path())).any(|p| p.extension().is_some_and(|e| e == "rec"))
            });
        if packed || (path.is_file() && begins_with(path, &RECORD_MAGIC)?) {
            return self.records(path);
        }
        if self.key.is_some() {
            mistake!("--key is of a record, and {} holds none", path.display());
        }
        if path.is_dir() {
            let found = files(&[path.to_owned()])?;
            let mut folders: BTreeMap<Option<PathBuf>, usize> = BTreeMap::new();
            found.iter().for_each(|file| *folders.entry(file.parent().map(Path::to_owned)).or_default() += 1);
            let counts: Vec<usize> = folders.into_values().collect();
            return Ok(json!({
                "path": path.display().to_string(), "is": "a folder of pictures", "pictures": found.len(),
                "folders_with_pictures": counts.len(), "pictures_a_folder": spread(counts),
            }));
        }
        if !path.exists() {
            mistake!("there is no {}", path.display());
        }
        let faces = list::read(path, &list::root(path, None))
            .context("it is neither a record file nor a folder, and read as a list of `id filename age gender`")?;
        let (people, labels) = list::labels(&faces);
        let ages: Vec<f32> = labels.iter().filter_map(|label| label.age).collect();
        let mut each = vec![0usize; people.len()];
        labels.iter().for_each(|label| each[label.identity as usize] += 1);
        let youngest = ages.iter().copied().fold(f32::INFINITY, f32::min);
        let oldest = ages.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let range = if ages.is_empty() { "none".to_owned() } else { format!("{youngest} to {oldest}") };
        Ok(json!({
            "path": path.display().to_string(), "is": "an annotated list", "holds": list::summary(&labels, people.len()),
            "pictures_a_person": spread(each), "ages": range, "missing_files": list::missing(&faces, path).len(),
        }))
    }

    fn records(&self, path: &Path) -> Result<Value> {
        let records = FaceRecords::open(path)?;
        if let (Some(key), Some(out)) = (self.key, &self.out) {
            let bytes = records.bytes(key)?;
            mtl_recipe::files::write_atomically(out, &bytes)?;
        }
        let images = records.images()?;
        let mut each: BTreeMap<i64, usize> = BTreeMap::new();
        images.iter().for_each(|image| *each.entry(image.label).or_default() += 1);
        let first = records.picture(images[0].key)?;
        let keys = images.iter().take(5).map(|image| image.key).collect::<Vec<_>>();
        let labels = format!("{} to {}", each.keys().next().unwrap_or(&0), each.keys().last().unwrap_or(&0));
        let mut facts = json!({
            "path": records.path().display().to_string(),
            "is": "a record file of pictures",
            "form": records.form()?,
            "records": records.len(), "pictures": images.len(), "people": each.len(), "labels": labels,
            "pictures_a_person": spread(each.into_values().collect()),
            "first_picture": format!("{}x{}", first.width, first.height), "first_keys": keys,
        });
        if let Some(property) = property(records.path())? {
            let people = property.split(',').next().and_then(|text| text.trim().parse::<usize>().ok());
            let agrees = people == facts["people"].as_u64().map(|n| n as usize);
            facts["property"] =
                if agrees { property } else { format!("{property}, which is another number of people") }.into();
        }
        Ok(facts)
    }
}

/// The first line of the file `property` beside a record file. It is compared, and never trusted.
fn property(records: &Path) -> Result<Option<String>> {
    let path = records.with_file_name("property");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = read_bounded(&path, 1 << 16).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().escape_debug().to_string()))
}

fn begins_with(path: &Path, start: &[u8; 4]) -> Result<bool> {
    let mut bytes = [0u8; 4];
    let mut file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    Ok(file.read_exact(&mut bytes).is_ok() && bytes == *start)
}

/// Smallest, middle and largest of some counts, in words.
fn spread(mut counts: Vec<usize>) -> String {
    counts.sort_unstable();
    match counts[..] {
        [] => "none".into(),
        _ => format!("{} to {}, median {}", counts[0], counts[counts.len() - 1], counts[counts.len() / 2]),
    }
}
