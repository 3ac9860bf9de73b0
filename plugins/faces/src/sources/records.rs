//! Record files of insightface.

use super::columns;
use crate::label::Label;
use crate::list;
use crate::records::{FaceRecords, Image};
use crate::table::Table;
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

/// All pictures of a record file of insightface, such as `train.rec`, with the labels in it. Their ages and genders are
/// those of a table, or not known; a `list` joins them as well.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Records {
    /// The record file, or its folder.
    path: RecipePath,
    /// A table with the header `key,age,gender`: years, and 1 for male or 0 for female, of the record of that key. One of
    /// the two columns may be left out, and `-` stands for what is not known.
    #[serde(default)]
    ages: Option<RecipePath>,
}

impl PictureSourceConfig for Records {
    fn describe(&self) -> Result<SourceDescription> {
        let files = [Some(&self.path), self.ages.as_ref()].into_iter().flatten().map(|path| path.0.clone());
        Ok(SourceDescription { files: files.collect(), ..SourceDescription::default() })
    }

    fn open(&self) -> Result<OpenSource> {
        let packed = FaceRecords::open(&self.path)?;
        let images = packed.images()?;
        of(packed, images, self.ages.as_ref().map(|path| path.0.as_path()))
    }
}

/// As many keys and labels are hashed at once.
const HASHED: usize = 4096;

/// Opens a record file, or the only one in a folder.
///
/// # Errors
/// A mistake if there is none, it is damaged, or its labels are no whole numbers.
pub fn open(path: &Path) -> Result<OpenSource> {
    let packed = FaceRecords::open(path)?;
    let images = packed.images()?;
    of(packed, images, None)
}

/// The source of these pictures of records, by key, with what a table knows of them.
///
/// # Errors
/// A mistake if the table cannot be used.
pub fn of(packed: FaceRecords, images: Vec<Image>, ages: Option<&Path>) -> Result<OpenSource> {
    let mut people: Vec<i64> = images.iter().map(|image| image.label).collect();
    people.dedup();
    people.sort_unstable();
    people.dedup();
    // Labels that count people are their numbers already.
    let counted = people.iter().zip(0..).all(|(label, number)| *label == number);
    let number = |label: &i64| match counted {
        true => *label,
        false => people.binary_search(label).unwrap_or_default() as i64,
    };
    let mut digest = Sha256::new();
    let mut part = Vec::with_capacity(16 * HASHED);
    for images in images.chunks(HASHED) {
        part.clear();
        images.iter().for_each(|image| part.extend([image.key, image.label].map(i64::to_le_bytes).as_flattened()));
        digest.update(&part);
    }
    let names = people.iter().map(i64::to_string).collect();
    let columns = match ages {
        Some(table) => {
            let label = |image: &Image| Label { identity: number(&image.label), age: None, gender: -1 };
            let mut labels: Vec<Label> = images.iter().map(label).collect();
            join(table, &images, &mut labels)?;
            for Label { age, gender, .. } in &labels {
                digest.update(age.unwrap_or(-1.0).to_le_bytes());
                digest.update(gender.to_le_bytes());
            }
            columns(&labels, names)
        }
        // There are millions, and nothing but the person is known of them.
        None => {
            let values = images.iter().map(|image| number(&image.label) as f64).collect();
            vec![SourceColumn { name: "identity".into(), values, names: Some(names) }]
        }
    };
    let fingerprint = format!("records {}", hex::encode(digest.finalize()));
    let len = images.len();
    let opened = OpenSource::new(Arc::new(Packed { packed, images }), len, fingerprint);
    Ok(OpenSource { columns, ..opened })
}

/// Adds the ages and genders of a table to the labels of pictures, by key.
fn join(table: &Path, images: &[Image], labels: &mut [Label]) -> Result<()> {
    let mut open = Table::open(table)?;
    let (key, age, gender) = (open.column("key")?, open.find("age"), open.find("gender"));
    if age.or(gender).is_none() {
        mistake!("the table {} has neither a column `age` nor `gender`", table.display());
    }
    let mut known: HashMap<i64, (u64, Option<f32>, i64)> = HashMap::new();
    let mut faults = Vec::new();
    for record in open.reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(e) => mistake!("cannot read the table {}: {e}", table.display()),
        };
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).unwrap_or_default();
        let of = |at: Option<usize>| at.map_or(list::UNKNOWN, field);
        let row = || -> std::result::Result<(i64, Option<f32>, i64), String> {
            let wrong = |_| format!("expected the key of a record, found {:?}", field(key));
            Ok((field(key).parse().map_err(wrong)?, list::age(of(age))?, list::gender(of(gender))?))
        };
        match row() {
            Ok((key, age, gender)) => {
                if known.insert(key, (line, age, gender)).is_some() {
                    faults.push((line, format!("the key {key} stands there twice")));
                }
            }
            Err(reason) => faults.push((line, reason)),
        }
    }
    for (image, label) in images.iter().zip(labels) {
        if let Some((_, age, gender)) = known.remove(&image.key) {
            (label.age, label.gender) = (age, gender);
        }
    }
    faults.extend(known.iter().map(|(key, (line, ..))| (*line, format!("there is no picture of the key {key}"))));
    faults.sort();
    let faults = faults.into_iter().map(|(line, reason)| format!("{}:{line}: {reason}", table.display())).collect();
    list::report(faults, &format!("the table {} does not fit its records", table.display()))
}

struct Packed {
    packed: FaceRecords,
    images: Vec<Image>,
}

impl PictureSource for Packed {
    fn picture(&self, index: usize) -> Result<Picture> {
        self.packed.picture(self.images[index].key)
    }

    fn encoded(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.packed.bytes(self.images[index].key).map(Some)
    }

    fn place(&self, index: usize) -> Result<String> {
        Ok(format!("{}, record {}", self.packed.path().display(), self.images[index].key))
    }

    fn name(&self, index: usize) -> Result<String> {
        let Image { key, label } = self.images[index];
        Ok(format!("{label:06}/{key:08}.jpg"))
    }
}

register!(Source, "records", Records);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_standard::records::{Header, RecordWriter};

    #[test]
    fn a_table_gives_ages_and_genders_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RecordWriter::create(&dir.path().join("train.rec")).unwrap();
        for key in [4, 2, 9] {
            let header = Header { labels: vec![key as f32], is_list: false, id: key, id2: 0 };
            writer.write(key as i64, &header.joined(b"x")).unwrap();
        }
        writer.finish().unwrap();
        let table = dir.path().join("ages.csv");
        let open = |text: &str| {
            std::fs::write(&table, text).unwrap();
            let path = RecipePath(dir.path().join("train.rec"));
            Records { path, ages: Some(RecipePath(table.clone())) }.open()
        };
        let source = open("key, age, gender\n9,30.5,1\n2,-,0\n").unwrap();
        let values = |name: &str| source.column(name).unwrap().values.clone();
        assert_eq!(values("age")[2], 30.5);
        assert!(values("age")[..2].iter().all(|age| age.is_nan()));
        assert_eq!((values("gender")[0], values("gender")[2]), (0.0, 1.0));
        let plain = super::open(dir.path()).unwrap();
        assert_ne!(plain.fingerprint, source.fingerprint);
        for (text, told) in [
            ("key,age\n3,1\n", "ages.csv:2: there is no picture of the key 3"),
            ("key,age\n2,1\n2,1\n", "ages.csv:3: the key 2 stands there twice"),
            (
                "key,age\n2,-1\n",
                "ages.csv:2: expected an age from 0 to 120, found -1: where it is not known, write `-`",
            ),
            ("key,gender\n2,m\n", "found \"m\": write 1 for male"),
            ("key,race\n2,1\n", "neither a column `age` nor `gender`"),
            ("id,age\n2,1\n", "no column `key`"),
        ] {
            let error = open(text).err().unwrap().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
