//! Faces in record files, as insightface and its like pack them.
//!
//! | form | written by | how it is told |
//! |---|---|---|
//! | with a block of identities | `RecBuilder`, `face2rec2`, `dataset_merge` | record 0 has two labels or more, and no picture |
//! | without | `im2rec`, `shuffle_rec`, `SeqRecBuilder`, CVLface | record 0 is missing, or has a picture |
//!
//! In a block, the labels of record 0 are the first and last key of the identities' records, each of which has the range
//! `[first, last)` of its pictures' keys as labels.

use crate::label_cache;
use mtl_component::{Error, ErrorContext as _, Picture, Result, mistake};
use mtl_standard::codec;
use mtl_standard::records::{Header, Records};
use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The bytes that every record begins with.
pub const RECORD_MAGIC: [u8; 4] = [0x0a, 0x23, 0xd7, 0xce];
/// Whole numbers from here on are not all floats: bounds and labels are rounded.
const ROUNDED: f32 = 16_777_216.0;
/// No label and no key is as large.
const LARGEST: f32 = 1e15;
/// How far a rounded bound may be from the true one.
const NEAR: i64 = 2;

/// Record files with faces.
#[derive(Debug)]
pub struct FaceRecords {
    records: Records,
}

/// A picture of a record file, by its key, and the number of the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The key of the record.
    pub key: i64,
    /// The label as written, or the place of the person's record in the block.
    pub label: i64,
}

impl FaceRecords {
    /// Opens a `.rec` file, or the only one in a folder.
    ///
    /// # Errors
    /// A mistake if there is none, or it cannot be used.
    pub fn open(path: &Path) -> Result<Self> {
        let records = Records::open(&file_of(path)?)?;
        if records.is_empty() {
            mistake!("{} holds no record", records.path().display());
        }
        Ok(Self { records })
    }

    /// Opens a file that is damaged or was cut: the records before the damage, numbered as they follow each other, and what is
    /// wrong behind them.
    ///
    /// # Errors
    /// A mistake if there is none, or nothing of it can be read.
    pub fn before_damage(path: &Path) -> Result<(Self, Option<Error>)> {
        let (records, error) = Records::before_damage(&file_of(path)?)?;
        if records.is_empty() {
            mistake!(
                "nothing of {} can be read: {}",
                path.display(),
                error.map_or(String::new(), |e| format!("{e:#}"))
            );
        }
        Ok((Self { records }, error))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.records.path()
    }

    /// Whether there is a record of that key.
    pub fn has(&self, key: i64) -> bool {
        self.records.has(key)
    }

    /// The label of a record.
    ///
    /// # Errors
    /// A mistake if it cannot be read, or is no whole number.
    pub fn label(&self, key: i64) -> Result<i64> {
        self.whole(key, self.records.header(key)?.0.labels[0])
    }

    /// How many records there are, those of labels included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The form of the file, in words.
    ///
    /// # Errors
    /// A mistake if its first record cannot be read.
    pub fn form(&self) -> Result<&'static str> {
        Ok(match self.block()? {
            Some(_) => "with a block of identities, as insightface packs it",
            None if self.path().with_extension("idx").is_file() => "without a block of identities",
            None => "without a block of identities and without an index",
        })
    }

    /// The bytes of the picture of a record.
    ///
    /// # Errors
    /// A mistake if there is none.
    pub fn bytes(&self, key: i64) -> Result<Vec<u8>> {
        self.of_picture(key, |bytes| Ok(bytes.to_vec()))
    }

    /// The picture of a record.
    ///
    /// # Errors
    /// A mistake if there is none that can be read.
    pub fn picture(&self, key: i64) -> Result<Picture> {
        self.of_picture(key, codec::decode)
    }

    /// What is made of the bytes of a picture, which a thread reads into one buffer again and again.
    fn of_picture<T>(&self, key: i64, make: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        thread_local!(static PAYLOAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        PAYLOAD.with_borrow_mut(|payload| {
            self.records.read(key, payload)?;
            let made = Header::split(payload).and_then(|(_, picture)| match picture {
                [] => mistake!("it holds labels, and no picture"),
                bytes => make(bytes),
            });
            made.with_context(|| format!("the record {key} of {}", self.path().display()))
        })
    }

    /// The pictures by key, with their labels.
    ///
    /// # Errors
    /// A mistake if the file is damaged, or its labels are no whole numbers.
    pub fn images(&self) -> Result<Vec<Image>> {
        let found = match self.block()? {
            Some(people) => self.of_block(&people)?,
            None => match label_cache::kept(self.path(), self.len()) {
                Some(kept) => kept.into_iter().map(|(key, label)| Image { key, label }).collect(),
                None => {
                    let images = self.of_headers()?;
                    let found: Vec<(i64, i64)> = images.iter().map(|image| (image.key, image.label)).collect();
                    label_cache::keep(self.path(), self.len(), &found);
                    images
                }
            },
        };
        if found.is_empty() {
            mistake!("{} holds no picture", self.path().display());
        }
        Ok(found)
    }

    /// The keys of the identities' records, if there is a block of them.
    fn block(&self) -> Result<Option<Range<i64>>> {
        if !self.has(0) {
            return Ok(None);
        }
        let (header, has_picture) = self.records.header(0)?;
        if has_picture || !header.is_list || header.labels.len() < 2 {
            return Ok(None);
        }
        let [mut first, mut last] = [self.whole(0, header.labels[0])?, self.whole(0, header.labels[1])?];
        if last as f32 >= ROUNDED {
            // Its own bounds are floats as well.
            let person = |key: i64| -> Result<bool> { Ok(self.has(key) && !self.records.header(key)?.1) };
            for _ in 0..NEAR {
                first += if person(first - 1)? { -1 } else { i64::from(!person(first)?) };
                last += if person(last)? { 1 } else { -i64::from(!person(last - 1)?) };
            }
        }
        Ok(Some(first..last))
    }

    fn of_block(&self, people: &Range<i64>) -> Result<Vec<Image>> {
        let mut ranges: Vec<Range<i64>> = Vec::new();
        for key in people.clone() {
            let (header, _) = self.records.header(key)?;
            let [first, last, ..] = header.labels[..] else {
                mistake!("the record {key} of {} is one of an identity, and has no range", self.path().display())
            };
            ranges.push(self.whole(key, first)?..self.whole(key, last)?);
        }
        let mut images = Vec::new();
        let mut start = ranges.first().map_or(1, |range| range.start);
        for (person, range) in ranges.iter().enumerate() {
            let rounded = range.end as f32 >= ROUNDED;
            let end = match ranges.get(person + 1) {
                Some(next) if rounded || range.end != next.start => self.change(range.end)?,
                // The pictures of the last person end where the people's own records begin.
                None if rounded => people.start,
                _ => range.end.min(people.start),
            };
            images.extend(self.records.keys_within(start..end).map(|key| Image { key, label: person as i64 }));
            start = end;
        }
        Ok(images)
    }

    /// The key near one at which another person's pictures begin: bounds are floats, and large ones are rounded.
    fn change(&self, near: i64) -> Result<i64> {
        let label = |key: i64| -> Result<Option<i64>> {
            if !self.has(key) {
                return Ok(None);
            }
            let (header, has_picture) = self.records.header(key)?;
            has_picture.then(|| self.whole(key, header.labels[0])).transpose()
        };
        for key in near - NEAR..=near + NEAR {
            if let (Some(before), Some(here)) = (label(key - 1)?, label(key)?)
                && before != here
            {
                return Ok(key);
            }
        }
        mistake!(
            "{}: the pictures of two people should meet at the key {near}, and no label changes within {NEAR} of it: the block \
             of identities does not fit the pictures",
            self.path().display()
        )
    }

    fn of_headers(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        let mut rounded = false;
        for key in self.records.keys() {
            let (header, has_picture) = self.records.header(key)?;
            if has_picture {
                rounded |= header.labels[0] >= ROUNDED;
                images.push(Image { key, label: self.whole(key, header.labels[0])? });
            }
        }
        if rounded {
            tracing::warn!(
                "{} has labels of {ROUNDED} and more, which floats do not tell apart: people may be mixed up",
                self.path().display()
            );
        }
        Ok(images)
    }

    /// A label as a whole number.
    fn whole(&self, key: i64, label: f32) -> Result<i64> {
        if !(0.0..LARGEST).contains(&label) || label.fract() != 0.0 {
            mistake!(
                "the record {key} of {} has the label {label}, expected a whole number from 0",
                self.path().display()
            );
        }
        Ok(label as i64)
    }
}

/// The `.rec` file that a path means.
fn file_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let entries = path.read_dir().with_context(|| format!("reading {}", path.display()))?;
    let ending = |p: &PathBuf| p.extension().is_some_and(|e| e == "rec");
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(ending).collect();
    found.sort();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => mistake!("{} holds no .rec file", path.display()),
        several => {
            let names: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
            mistake!("{} holds several .rec files: name one of {}", path.display(), names.join(", "))
        }
    }
}

/// The label and the key that the name of an extracted picture tells, such as `000012/00000345.jpg`: folders of labels and
/// files of keys, as MTLFace's `convert_insightface.py` writes them.
pub fn key_of_name(name: &Path) -> Option<(i64, i64)> {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let label = name.parent()?.file_name()?.to_str().and_then(digits)?;
    let key = name.file_stem()?.to_str().and_then(digits)?;
    Some((label, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_standard::records::RecordWriter;
    use serde_json::Value;

    fn reference(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/records").join(name)
    }

    /// Files that mxnet 1.9.1 has written in the layouts of insightface's tools.
    #[test]
    fn pictures_and_labels_are_those_of_each_layout() {
        let truth: Value = serde_json::from_slice(&std::fs::read(reference("faces.json")).unwrap()).unwrap();
        for (name, truth) in truth.as_object().unwrap() {
            let faces = FaceRecords::open(&reference(&format!("{name}.rec"))).unwrap();
            let number = |value: &Value| value.as_i64().unwrap();
            let images = truth["images"].as_array().unwrap().iter();
            let mut wanted: Vec<Image> = images.map(|i| Image { key: number(&i[0]), label: number(&i[1]) }).collect();
            wanted.sort_by_key(|image| image.key);
            assert_eq!(faces.images().unwrap(), wanted, "{name}");
            for image in wanted {
                assert!(faces.picture(image.key).unwrap().width > 0, "{name}");
            }
        }
    }

    fn packed(records: &[(i64, Vec<f32>, &[u8])]) -> (tempfile::TempDir, Result<Vec<Image>>) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RecordWriter::create(&dir.path().join("train.rec")).unwrap();
        for (key, labels, picture) in records {
            let header = Header { labels: labels.clone(), is_list: labels.len() > 1, id: *key as u64, id2: 0 };
            writer.write(*key, &header.joined(picture)).unwrap();
        }
        writer.finish().unwrap();
        let images = FaceRecords::open(dir.path()).and_then(|faces| faces.images());
        (dir, images)
    }

    #[test]
    fn rounded_bounds_are_put_where_the_label_changes() {
        // Beyond 2^24 floats are even: people meet at 16777219, and their ranges say 16777220; their own records begin at
        // 16777221, and the block says 16777220.
        let base = 16_777_216i64;
        let mut records = vec![(0, vec![(base + 5) as f32, (base + 7) as f32], &b""[..])];
        for key in base..base + 5 {
            records.push((key, vec![if key < base + 3 { 0.0 } else { 1.0 }], b"x"));
        }
        records.push((base + 5, vec![base as f32, (base + 3) as f32], b""));
        records.push((base + 6, vec![(base + 3) as f32, (base + 5) as f32], b""));
        let (_dir, images) = packed(&records);
        let labels: Vec<(i64, i64)> =
            images.unwrap().into_iter().map(|image| (image.key - base, image.label)).collect();
        assert_eq!(labels, [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)]);
    }

    #[test]
    fn a_picture_with_two_labels_at_key_0_is_no_block() {
        let (_dir, images) = packed(&[(0, vec![5.0, 9.0], b"x"), (1, vec![6.0], b"y")]);
        assert_eq!(images.unwrap(), [Image { key: 0, label: 5 }, Image { key: 1, label: 6 }]);
        let (dir, images) = packed(&[(1, vec![1.5], b"x")]);
        let error = images.unwrap_err().to_string();
        assert!(error.contains("the record 1 of") && error.contains("has the label 1.5"), "{error}");
        let error = format!("{:#}", FaceRecords::open(dir.path()).unwrap().picture(1).unwrap_err());
        assert!(error.contains("the record 1 of"), "{error}");
        let (_dir, images) = packed(&[(1, vec![1.0], b"")]);
        assert!(images.unwrap_err().to_string().contains("holds no picture"));
    }

    #[test]
    fn names_of_extracted_pictures_tell_label_and_key() {
        for (name, wanted) in [
            ("scaf/000012/00000345.jpg", Some((12, 345))),
            ("7/8.png", Some((7, 8))),
            ("Ann/00000345.jpg", None),
            ("00000345.jpg", None),
            ("1/2_3.jpg", None),
        ] {
            assert_eq!(key_of_name(Path::new(name)), wanted, "{name}");
        }
    }
}
