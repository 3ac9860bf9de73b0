//! What pictures and their labels are, in numbers: for inspection and data cards.

use crate::source::Pictures;
use mtl_component::Result;
use mtl_standard::picture_header::{self, PictureHeader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most pictures whose headers are looked at, evenly spread.
const LOOKED_AT: usize = 500;

/// Smallest, middle and largest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The middle one.
    pub median: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// That of some numbers; none of no number.
    pub fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*numbers.first()?, *numbers.last()?);
        Some(Self { least, median: numbers[numbers.len() / 2], most })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}, median {}", self.least, self.most, self.median)
    }
}

/// What is known of some pictures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// How many there are.
    pub pictures: usize,
    /// How many people, where that is known.
    pub people: usize,
    /// Pictures of a person.
    pub pictures_a_person: Option<Spread>,
    /// Ages in years.
    pub ages: Option<Spread>,
    /// How many pictures there are of each decade of ages, such as `20-29`.
    pub ages_by_decade: BTreeMap<String, usize>,
    /// Pictures whose age is not known.
    pub age_unknown: usize,
    /// Years between the youngest and the oldest picture of a person.
    pub age_span_of_a_person: Option<Spread>,
    /// Pictures by sex: `male`, `female`, `unknown`.
    pub sex: BTreeMap<String, usize>,
    /// How many pictures were looked at for what follows.
    pub looked_at: usize,
    /// Sizes such as `112x112`, with their numbers.
    pub sizes: BTreeMap<String, usize>,
    /// Formats such as `JPEG`, with their numbers.
    pub formats: BTreeMap<String, usize>,
    /// The quality of JPEG files.
    pub jpeg_quality: Option<Spread>,
    /// Pictures of one channel.
    pub grey: usize,
    /// Pictures whose header cannot be read.
    pub unreadable: usize,
}

impl Facts {
    /// Those of some pictures; `people` are those whom the source tells.
    ///
    /// # Errors
    /// If the source cannot be asked.
    pub fn of(pictures: &Pictures) -> Result<Self> {
        let known = pictures.people.len();
        let mut each = vec![0usize; known];
        let mut spans: BTreeMap<i64, (f32, f32)> = BTreeMap::new();
        let (mut ages, mut decades, mut sexes) = (Vec::new(), BTreeMap::new(), [0usize; 3]);
        for label in &pictures.labels {
            if let Some(count) = each.get_mut(label.identity as usize) {
                *count += 1;
            }
            if let Some(age) = label.age {
                ages.push(f64::from(age));
                let decade = (age / 10.0) as u32 * 10;
                *decades.entry(format!("{decade:02}-{:02}", decade + 9)).or_insert(0) += 1;
                let span = spans.entry(label.identity).or_insert((age, age));
                *span = (span.0.min(age), span.1.max(age));
            }
            sexes[usize::try_from(label.gender).map_or(2, |sex| sex.min(2))] += 1;
        }
        let sex = ["female", "male", "unknown"].into_iter().zip(sexes).filter(|(_, count)| *count > 0);
        let sex = sex.map(|(name, count)| (name.to_owned(), count)).collect();
        let people = each.iter().filter(|count| **count > 0).count();
        let age_unknown = pictures.len() - ages.len();
        let mut facts = Self {
            pictures: pictures.len(),
            people,
            pictures_a_person: Spread::of(each.into_iter().filter(|n| *n > 0).map(|count| count as f64).collect()),
            age_unknown,
            ages: Spread::of(ages),
            ages_by_decade: decades,
            age_span_of_a_person: Spread::of(spans.values().map(|(low, high)| f64::from(high - low)).collect()),
            sex,
            ..Self::default()
        };
        facts.look(pictures)?;
        Ok(facts)
    }

    /// Looks at the headers of some pictures.
    fn look(&mut self, pictures: &Pictures) -> Result<()> {
        let step = pictures.len().div_ceil(LOOKED_AT).max(1);
        let mut qualities = Vec::new();
        for index in (0..pictures.len()).step_by(step) {
            self.looked_at += 1;
            let header = match pictures.source.pictures.encoded(index) {
                Ok(Some(bytes)) => picture_header::read(&bytes),
                Ok(None) => {
                    // What is made has no header, and a size all the same.
                    if let Ok(picture) = pictures.source.pictures.picture(index) {
                        *self.sizes.entry(format!("{}x{}", picture.width, picture.height)).or_insert(0) += 1;
                        *self.formats.entry("made".to_owned()).or_insert(0) += 1;
                    }
                    continue;
                }
                Err(_) => None,
            };
            let Some(PictureHeader { format, size, is_grey, quality }) = header else {
                self.unreadable += 1;
                continue;
            };
            *self.formats.entry(format.name().to_owned()).or_insert(0) += 1;
            if let Some((width, height)) = size {
                *self.sizes.entry(format!("{width}x{height}")).or_insert(0) += 1;
            }
            self.grey += usize::from(is_grey);
            qualities.extend(quality.map(f64::from));
        }
        self.jpeg_quality = Spread::of(qualities);
        Ok(())
    }

    /// The same as lines of a name and what is known.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let counts = |of: &BTreeMap<String, usize>| {
            let mut all: Vec<(&String, &usize)> = of.iter().collect();
            all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let more = if all.len() > 4 { format!(", and {} more", all.len() - 4) } else { String::new() };
            let shown: Vec<String> = all.iter().take(4).map(|(name, count)| format!("{name} ({count})")).collect();
            shown.join(", ") + &more
        };
        let spread = |spread: &Option<Spread>| spread.map(|spread| spread.to_string());
        let mut out = vec![("pictures", self.pictures.to_string())];
        if self.people > 0 {
            out.push(("people", self.people.to_string()));
        }
        out.extend(spread(&self.pictures_a_person).map(|text| ("pictures a person", text)));
        match spread(&self.ages) {
            Some(ages) => out.push(("ages", format!("{ages}; not known of {}", self.age_unknown))),
            None => out.push(("ages", "not known".into())),
        }
        out.extend(spread(&self.age_span_of_a_person).map(|text| ("span of a person", format!("{text} years"))));
        if self.sex.keys().any(|name| name != "unknown") {
            out.push(("sex", counts(&self.sex)));
        }
        let of =
            if self.looked_at < self.pictures { format!(" of {} looked at", self.looked_at) } else { String::new() };
        out.push(("sizes", counts(&self.sizes) + &of));
        out.push(("formats", counts(&self.formats)));
        out.extend(spread(&self.jpeg_quality).map(|text| ("JPEG quality", text)));
        out.extend((self.grey > 0).then(|| ("grey pictures", self.grey.to_string())));
        out.extend((self.unreadable > 0).then(|| ("without a header", self.unreadable.to_string())));
        out
    }
}
