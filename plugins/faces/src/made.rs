//! Collections of made faces: which people, ages and captures, and the pictures of them.

use crate::label::Label;
use mtl_component::{Draw, Picture, RecipePath, Result, mistake};
use mtl_made_faces::{Identity, Sex, VERSION, render};
use mtl_recipe::files::write_atomically;
use mtl_standard::codec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Faces of the project's own making: every picture is a pure function of seed, person, age and capture. The capture
/// (pose, light, expression, background, camera) does not know the age.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MadeFaces {
    /// Number of people.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub identities: u64,
    /// The first person; collections of one seed whose ranges of people do not meet share nobody.
    #[serde(default)]
    pub first: u64,
    /// The ages of everyone in years; without them `ages_each` are drawn for each person.
    #[serde(default)]
    pub ages: Vec<f32>,
    /// How many ages are drawn for each person, evenly spread from `youngest` to `oldest`.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 1000))]
    pub ages_each: u32,
    /// The lowest age that is drawn, in years.
    #[serde(default = "youngest")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub youngest: f32,
    /// The highest age that is drawn, in years.
    #[serde(default = "oldest")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub oldest: f32,
    /// Pictures of each person at each age.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 10_000))]
    pub captures: u64,
    /// Width and height of the pictures in pixels.
    #[serde(default = "size")]
    #[schemars(range(min = 8, max = 1024))]
    pub size: i64,
    /// Seed of the collection.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// Whether a picture is kept once it has been rendered.
    #[serde(default)]
    pub cache: Cache,
    /// The folder of a cache on disk.
    #[serde(default)]
    pub cache_folder: Option<RecipePath>,
}

/// Whether a picture is kept once it has been rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// It is rendered each time.
    #[default]
    None,
    /// In memory: three bytes a pixel.
    Memory,
    /// As PNG files in `cache_folder`, for later runs as well.
    Disk,
}

fn eight() -> u32 {
    8
}
fn four() -> u64 {
    4
}
fn one() -> i64 {
    1
}
fn size() -> i64 {
    112
}
fn youngest() -> f32 {
    4.0
}
fn oldest() -> f32 {
    84.0
}

/// Most pictures of a collection.
const MOST_PICTURES: u64 = 20_000_000;
/// People have numbers up to here.
const MOST_PEOPLE: u64 = 1 << 53;

impl MadeFaces {
    /// Rules between keys.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(age) = self.ages.iter().find(|a| !(0.0..=100.0).contains(*a)) {
            out.push(format!("ages are from 0 to 100 years, found {age}"));
        }
        if self.youngest >= self.oldest {
            out.push(format!("youngest ({}) must be below oldest ({})", self.youngest, self.oldest));
        }
        if (self.cache == Cache::Disk) != self.cache_folder.is_some() {
            out.push("cache = \"disk\" and cache_folder go together".into());
        }
        if self.first.checked_add(self.identities).is_none_or(|end| end > MOST_PEOPLE) {
            out.push(format!("people are numbered from 0 to {MOST_PEOPLE}"));
        }
        let ages = if self.ages.is_empty() { self.ages_each as u64 } else { self.ages.len() as u64 };
        let pictures = self.identities.saturating_mul(self.captures).saturating_mul(ages);
        if pictures > MOST_PICTURES {
            out.push(format!("{pictures} pictures are more than {MOST_PICTURES}: fewer people, ages or captures"));
        }
        out
    }

    /// A text that changes when the pictures change.
    pub fn description(&self) -> String {
        let ages = if self.ages.is_empty() {
            format!("{} ages from {} to {}", self.ages_each, self.youngest, self.oldest)
        } else {
            format!("ages {:?}", self.ages)
        };
        format!(
            "made faces, version {VERSION}, seed {}: people {}..{}, {ages}, {} captures, {} pixels",
            self.seed,
            self.first,
            self.first + self.identities,
            self.captures,
            self.size
        )
    }

    /// The ages of a person.
    fn ages_of(&self, identity: u64) -> Vec<f32> {
        if !self.ages.is_empty() {
            return self.ages.clone();
        }
        let mut draw = Draw::new(&[self.seed as u64, identity, 0xa6e5]);
        let step = f64::from(self.oldest - self.youngest) / f64::from(self.ages_each);
        let at = |k: u32, draw: &mut Draw| f64::from(self.youngest) + step * (f64::from(k) + draw.uniform());
        (0..self.ages_each).map(|k| at(k, &mut draw).round() as f32).collect()
    }

    /// The people and pictures of the collection.
    pub fn collection(&self) -> Result<Collection> {
        let people: Vec<Identity> =
            (self.first..self.first + self.identities).map(|n| Identity::new(self.seed as u64, n)).collect();
        let ages: Vec<Vec<f32>> = people.iter().map(|p| self.ages_of(p.number)).collect();
        let mut shots = Vec::new();
        for (person, ages) in ages.iter().enumerate() {
            for age in ages {
                shots.extend((0..self.captures).map(|capture| Shot { person, age: *age, capture }));
            }
        }
        let kept = match self.cache {
            Cache::Memory => Kept::Memory(shots.iter().map(|_| OnceLock::new()).collect()),
            Cache::Disk => match &self.cache_folder {
                Some(folder) => Kept::Disk(folder.0.clone()),
                None => mistake!("cache = \"disk\" needs a cache_folder"),
            },
            Cache::None => Kept::Nothing,
        };
        Ok(Collection { people, shots, size: self.size as usize, kept })
    }
}

/// One picture: who, when, which capture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shot {
    /// The place of the person in the collection.
    pub person: usize,
    /// Age in years.
    pub age: f32,
    /// Number of the capture.
    pub capture: u64,
}

enum Kept {
    Nothing,
    Memory(Vec<OnceLock<Box<[u8]>>>),
    Disk(PathBuf),
}

/// People, and pictures of them that are rendered when asked for.
pub struct Collection {
    /// The people.
    pub people: Vec<Identity>,
    /// The pictures, by person, age and capture.
    pub shots: Vec<Shot>,
    size: usize,
    kept: Kept,
}

impl Collection {
    /// What is known of a picture.
    pub fn label(&self, index: usize) -> Label {
        let shot = self.shots[index];
        let gender = i64::from(self.people[shot.person].sex == Sex::Male);
        Label { identity: shot.person as i64, age: Some(shot.age), gender }
    }

    /// The true picture of the same person and capture at another age.
    pub fn at_age(&self, index: usize, age: f32) -> Result<Picture> {
        Picture::new(self.size, self.size, self.render(self.shots[index], age))
    }

    fn render(&self, shot: Shot, age: f32) -> Vec<u8> {
        render(&self.people[shot.person], age, shot.capture, self.size).rgb
    }

    /// A picture by its number, which is kept if that is wanted.
    pub fn shot(&self, index: usize) -> Result<Picture> {
        let shot = self.shots[index];
        let draw = || self.render(shot, shot.age);
        let pixels = match &self.kept {
            Kept::Nothing => draw(),
            Kept::Memory(all) => all[index].get_or_init(|| draw().into()).to_vec(),
            Kept::Disk(folder) => {
                let person = &self.people[shot.person];
                let name = format!(
                    "v{VERSION}-{}-{}-{}-{}-{}.png",
                    person.seed, person.number, shot.age, shot.capture, self.size
                );
                let path = folder.join(name);
                // A file that is broken or of another size is rendered again.
                match codec::read(&path) {
                    Ok(picture) if (picture.width, picture.height) == (self.size, self.size) => picture.data,
                    _ => {
                        let pixels = draw();
                        let picture = Picture::new(self.size, self.size, pixels)?;
                        write_atomically(&path, &codec::png(&picture)?)?;
                        picture.data
                    }
                }
            }
        };
        Picture::new(self.size, self.size, pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(more: serde_json::Value) -> MadeFaces {
        let mut keys = serde_json::json!({ "identities": 6, "ages_each": 3, "captures": 2, "size": 16 });
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(keys).unwrap()
    }

    #[test]
    fn every_person_has_ages_in_the_range_and_captures() {
        let faces = small(serde_json::json!({ "youngest": 10.0, "oldest": 70.0 }));
        let collection = faces.collection().unwrap();
        assert_eq!(collection.shots.len(), 6 * 3 * 2);
        assert!(collection.shots.iter().all(|s| (10.0..=70.0).contains(&s.age)));
        assert_eq!(collection.label(7).identity, 1);
    }

    #[test]
    fn a_cache_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let plain = small(serde_json::json!({})).collection().unwrap();
        let memory = small(serde_json::json!({ "cache": "memory" })).collection().unwrap();
        let keys = serde_json::json!({ "cache": "disk", "cache_folder": dir.path() });
        let disk = small(keys).collection().unwrap();
        for _ in 0..2 {
            for i in [0, 9] {
                let picture = plain.shot(i).unwrap();
                assert_eq!(picture, memory.shot(i).unwrap());
                assert_eq!(picture, disk.shot(i).unwrap());
            }
        }
        let file = dir.path().read_dir().unwrap().next().unwrap().unwrap().path();
        std::fs::write(&file, "cut off").unwrap();
        assert_eq!(plain.shot(0).unwrap(), disk.shot(0).unwrap());
        assert_eq!(plain.shot(9).unwrap(), disk.shot(9).unwrap());
        assert_eq!(dir.path().read_dir().unwrap().count(), 2);
    }
}
