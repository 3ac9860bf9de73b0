//! Record files of insightface.

use super::columns;
use crate::label::Label;
use crate::records::{FaceRecords, Image};
use mtl_component::{
    OpenSource, Picture, PictureSource, PictureSourceConfig, RecipePath, Result, SourceDescription, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

/// All pictures of a record file of insightface, such as `train.rec`, with the labels in it; ages and genders are not
/// known. A `list` joins them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Records {
    /// The record file, or its folder.
    path: RecipePath,
}

impl PictureSourceConfig for Records {
    fn describe(&self) -> Result<SourceDescription> {
        Ok(SourceDescription { files: vec![self.path.0.clone()], ..SourceDescription::default() })
    }

    fn open(&self) -> Result<OpenSource> {
        open(&self.path)
    }
}

/// Opens a record file, or the only one in a folder.
///
/// # Errors
/// A mistake if there is none, it is damaged, or its labels are no whole numbers.
pub fn open(path: &Path) -> Result<OpenSource> {
    let packed = FaceRecords::open(path)?;
    let images = packed.images()?;
    of(packed, images)
}

/// The source of these pictures of records.
///
/// # Errors
/// None today.
pub fn of(packed: FaceRecords, images: Vec<Image>) -> Result<OpenSource> {
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
    let label = |image: &Image| Label { identity: number(&image.label), age: None, gender: -1 };
    let labels: Vec<Label> = images.iter().map(label).collect();
    let mut digest = Sha256::new();
    for image in &images {
        digest.update(image.key.to_le_bytes());
        digest.update(image.label.to_le_bytes());
    }
    let fingerprint = format!("records {}", hex::encode(digest.finalize()));
    let names = people.iter().map(i64::to_string).collect();
    let len = images.len();
    let opened = OpenSource::new(Arc::new(Packed { packed, images }), len, fingerprint);
    Ok(OpenSource { columns: columns(&labels, names), ..opened })
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
