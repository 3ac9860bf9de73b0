//! Verification sets of insightface.

use crate::list;
use crate::pair_forms::{self, Entry};
use crate::verification_set::VerificationSet;
use mtl_component::files::read_bounded;
use mtl_component::{
    OpenSource, Picture, PictureSource, PictureSourceConfig, RecipePath, Result, SourceColumn, SourceDescription,
    mistake, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The pictures of a verification set of insightface, such as `agedb_30.bin`, two for each pair. They stay in the file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Bin {
    /// The set.
    path: RecipePath,
    /// A list of the same pairs in the same order, which names their pictures and people: that from which the set was
    /// made. AgeDB's protocol, `04_FINAL_protocol_30_years.mat`, tells ages as well.
    #[serde(default)]
    names: Option<RecipePath>,
}

impl PictureSourceConfig for Bin {
    fn describe(&self) -> Result<SourceDescription> {
        let files = std::iter::once(&self.path).chain(&self.names).map(|path| path.0.clone()).collect();
        Ok(SourceDescription { files, ..SourceDescription::default() })
    }

    fn open(&self) -> Result<OpenSource> {
        open(&self.path, self.names.as_ref().map(|path| path.0.as_path()))
    }
}

/// The column that tells of each picture whether its pair is of one person.
pub const SAME: &str = "same";
/// The largest set whose bytes are looked at for its fingerprint; of a larger one the beginning and the end are.
const HASHED: u64 = 64 << 20;

/// Opens a verification set, with the list that names its pictures if there is one.
///
/// # Errors
/// A mistake if it cannot be read, or the list is of other pairs.
pub fn open(path: &Path, names: Option<&Path>) -> Result<OpenSource> {
    let set = VerificationSet::open(path)?;
    let same: Vec<f64> = set.same().iter().flat_map(|same| [f64::from(u8::from(*same)); 2]).collect();
    let mut fingerprint = format!("verification set {}", digest(path)?);
    let mut columns = vec![SourceColumn { name: SAME.to_owned(), values: same, names: None }];
    let mut entries = Vec::new();
    if let Some(list) = names {
        entries = named(&set, list)?;
        columns.extend(known(&entries));
        fingerprint.push_str(&format!(", names {}", list::fingerprint(&[list])?));
    }
    let len = set.len();
    let opened = OpenSource::new(Arc::new(Set { set, entries }), len, fingerprint);
    Ok(OpenSource { columns, ..opened })
}

/// A hash of a file.
fn digest(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let len = path.metadata()?.len();
    if len <= HASHED {
        hash.update(read_bounded(path, HASHED)?);
    } else {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(path)?;
        let mut part = vec![0; HASHED as usize / 2];
        for at in [0, len - HASHED / 2] {
            file.read_exact_at(&mut part, at)?;
            hash.update(&part);
        }
        hash.update(len.to_le_bytes());
    }
    Ok(hex::encode(hash.finalize()))
}

/// The list of the same pairs.
fn named(set: &VerificationSet, list: &Path) -> Result<Vec<Entry>> {
    let entries = pair_forms::entries(list)?;
    if entries.len() != set.same().len() {
        mistake!(
            "{} has {} pairs, and the list {} has {}: it is of another set",
            set.path().display(),
            set.same().len(),
            list.display(),
            entries.len()
        );
    }
    if let Some(i) = (0..entries.len()).find(|i| entries[*i].same != set.same()[*i]) {
        mistake!(
            "pair {i} is of {} in {} and of {} in the list {}: its order, or its set, is another",
            people(set.same()[i]),
            set.path().display(),
            people(entries[i].same),
            list.display()
        );
    }
    Ok(entries)
}

fn people(same: bool) -> &'static str {
    if same { "one person" } else { "two people" }
}

/// What a list of pairs knows of people and ages.
fn known(entries: &[Entry]) -> Vec<SourceColumn> {
    let mut out = Vec::new();
    if entries.iter().all(|entry| entry.people.is_some()) {
        let mut numbers: HashMap<&str, f64> = HashMap::new();
        let mut names = Vec::new();
        let mut values = Vec::new();
        for name in entries.iter().filter_map(|entry| entry.people.as_ref()).flatten() {
            let next = numbers.len() as f64;
            values.push(*numbers.entry(name).or_insert_with(|| {
                names.push(name.clone());
                next
            }));
        }
        out.push(SourceColumn { name: "identity".into(), values, names: Some(names) });
    }
    if entries.iter().all(|entry| entry.ages.is_some()) {
        let values = entries.iter().filter_map(|entry| entry.ages).flatten().map(f64::from).collect();
        out.push(SourceColumn { name: "age".into(), values, names: None });
    }
    out
}

struct Set {
    set: VerificationSet,
    entries: Vec<Entry>,
}

impl PictureSource for Set {
    fn picture(&self, index: usize) -> Result<Picture> {
        self.set.picture(index)
    }

    fn encoded(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.set.bytes(index).map(Some)
    }

    fn place(&self, index: usize) -> Result<String> {
        Ok(self.set.place(index))
    }

    fn name(&self, index: usize) -> Result<String> {
        Ok(match self.entries.get(index / 2) {
            Some(entry) => [&entry.a, &entry.b][index % 2].clone(),
            None => format!("{}_{}.jpg", index / 2, index % 2),
        })
    }
}

register!(Source, "bin", Bin);
