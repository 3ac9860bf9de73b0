//! What the embeddings of a run say of people and labels.

use super::{FAR_OFF, Place, Set, refuse};
use crate::embedding::rows;
use crate::protocol::FlipTest;
use crate::reading::Reading;
use mtl_component::{Draw, Inference, Registry, Result, mistake};
use mtl_engine::device::configure;
use mtl_engine::inference::{Judges, ModelInference, Progress, Which, open_run};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Which run is asked, and for what.
pub struct Asked<'a> {
    pub run: &'a Path,
    pub checkpoint: &'a Which,
    pub image: &'a str,
    pub embedding: &'a str,
    pub age: &'a str,
    pub flip: FlipTest,
}

/// Cosines from which people are taken for one, and below which pictures are unlike their label. They depend on the run, and
/// are set on the training data itself.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Thresholds {
    /// Of the centres of two people, reached by one in a hundred thousand of different ones; the largest where there are fewer.
    pub people: f64,
    /// How many pairs of people it was set on.
    pub pairs_of_people: usize,
    /// Of a picture to the centre of another person, reached by one in a thousand.
    pub pictures: f64,
    /// How many such it was set on.
    pub pairs_of_pictures: usize,
    /// What half of the centres of different people reach: groups within a person that are less alike are two people.
    pub groups: f64,
}

/// The cosines of a picture to its own person and to another, the picture, and one of the other.
type Mistaken = (f64, f64, Place, Place);

/// What was found.
pub struct Judged {
    /// What it was found by.
    pub thresholds: Thresholds,
    /// A person of the test and the most alike of training, by the cosine of their centres: the most alike first.
    pub overlap: Vec<(f64, Place, Place)>,
    /// Pictures unlike the others of their person, the least alike first: at most a hundredth of all.
    pub outliers: Vec<(f64, Place)>,
    /// Pictures unlike the others of their person and like another one: the cosines to both, and a picture of the other.
    pub mistaken: Vec<Mistaken>,
    /// People of two groups.
    pub mixed: Vec<(f64, Vec<Place>, Vec<Place>)>,
    /// Pictures with another age than estimated, the farthest first, with the estimate.
    pub ages: Vec<(f64, Place)>,
}

/// By how much a picture is more like another person than like its own before that is told.
const MARGIN: f64 = 0.2;
/// Pictures in one pass.
const BATCH: usize = 64;
/// Rates at which thresholds are set.
const OF_PEOPLE: f64 = 1e-5;
const OF_PICTURES: f64 = 1e-3;
/// Of all pictures so many at most are told as unlike their label: faces of children, profiles and bad light are the next.
const TOLD: f64 = 0.01;
/// Most people whose centres are compared to set a threshold.
const MOST: usize = 2000;
/// A person needs so many pictures for one to be unlike the others, and for two groups.
const FEWEST: usize = 3;
const FOR_GROUPS: usize = 6;

/// A person: pictures and the centre of their embeddings, of unit length.
struct Person {
    of: Vec<Place>,
    centre: Vec<f32>,
}

/// An embedding of each picture of a set, of unit length, as far as it can be read.
type Embeddings = Vec<Option<Vec<f32>>>;

/// What a run sees in pictures.
pub struct Seen {
    /// Of each set.
    embeddings: Vec<Embeddings>,
    /// Of each set the ages that the run estimates, if it estimates any.
    ages: Vec<Vec<f64>>,
}

impl Seen {
    /// Looks at all pictures.
    ///
    /// # Errors
    /// A mistake if the run cannot be opened, or lacks what is asked for.
    pub fn of(registry: &Arc<Registry>, asked: &Asked<'_>, sets: &[Set], progress: Progress) -> Result<Self> {
        let run = open_run(registry, asked.run, asked.checkpoint, &[])?;
        configure(&run.recipe)?;
        let model = ModelInference::new(&run.model, &run.recipe, &Judges::default())?.telling(progress);
        for wire in [asked.image, asked.embedding] {
            if !model.has(wire) {
                refuse(asked.run, wire)?;
            }
        }
        let (mut embeddings, mut ages) = (Vec::new(), Vec::new());
        for set in sets {
            let (found, estimated) = embedded(&model, asked, set)?;
            embeddings.push(found);
            ages.push(estimated);
        }
        Ok(Self { embeddings, ages })
    }

    /// The cosine of two pictures, if both can be read.
    pub fn cosine(&self, a: Place, b: Place) -> Option<f64> {
        Some(cosine(self.embedding(a)?, self.embedding(b)?))
    }

    fn embedding(&self, (s, i): Place) -> Option<&[f32]> {
        self.embeddings[s][i].as_deref()
    }

    /// Pictures whose age is estimated far from their label, the farthest first, with the estimate.
    fn unlikely_ages(&self, sets: &[Set]) -> Vec<(f64, Place)> {
        let mut found = Vec::new();
        for (s, set) in sets.iter().enumerate() {
            for (i, estimate) in self.ages[s].iter().enumerate() {
                let Some(age) = set.pictures.labels[i].age.filter(|_| self.embeddings[s][i].is_some()) else {
                    continue;
                };
                if (estimate - f64::from(age)).abs() > FAR_OFF {
                    found.push(((estimate - f64::from(age)).abs(), *estimate, (s, i)));
                }
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.into_iter().map(|(_, estimate, place)| (estimate, place)).collect()
    }
}

/// What follows from what a run has seen.
///
/// # Errors
/// A mistake if there are too few people.
pub fn judged(seen: &Seen, sets: &[Set]) -> Result<Judged> {
    let people = |tested: bool| -> Vec<Person> {
        let of = sets.iter().enumerate().filter(|(_, set)| set.is_test == tested);
        of.flat_map(|(s, set)| people_of(s, set, &seen.embeddings[s])).collect()
    };
    let (trained, tested) = (people(false), people(true));
    if trained.len() < 2 {
        mistake!("{} people are too few to tell what is alike: at least two", trained.len());
    }
    let embedding = |place: Place| seen.embedding(place);
    let thresholds = thresholds(&trained, &embedding)?;
    let overlap = overlap(&trained, &tested, thresholds.people)?;
    let (mut outliers, mut mistaken, mut mixed) = (Vec::new(), Vec::new(), Vec::new());
    for (own, person) in trained.iter().enumerate() {
        let found = unlike(person, &embedding, thresholds.pictures);
        mistaken.extend(like_others(&found, own, &trained, &embedding, thresholds.pictures));
        outliers.extend(found);
        mixed.extend(groups(person, &embedding, thresholds.groups));
    }
    outliers.sort_by(|a: &(f64, Place), b| a.0.total_cmp(&b.0));
    mistaken.sort_by(|a: &Mistaken, b| (b.1 - b.0).total_cmp(&(a.1 - a.0)));
    let all: usize = trained.iter().map(|person| person.of.len()).sum();
    outliers.truncate((all as f64 * TOLD).ceil() as usize);
    mixed.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(Judged { thresholds, overlap, outliers, mistaken, mixed, ages: seen.unlikely_ages(sets) })
}

/// The embedding of each picture, of unit length, none of one that cannot be read; and the ages that are estimated, if the run
/// estimates any.
fn embedded(model: &ModelInference<'_>, asked: &Asked<'_>, set: &Set) -> Result<(Embeddings, Vec<f64>)> {
    let reading = Reading::new(&set.pictures, true);
    let estimates = model.has(asked.age);
    let mut wanted = vec![asked.embedding];
    wanted.extend(estimates.then_some(asked.age));
    let read = |i: usize| reading.read(i);
    let found = model.map_pictures(asked.image, set.pictures.len(), &read, BATCH, &mut |batch| {
        let mut found = model.run(&[(asked.image, batch)], &wanted)?;
        found.extend(model.run(&[(asked.image, &batch.f_flip([3])?)], &wanted[..1])?);
        Ok(found)
    })?;
    let (plain, mirrored) = (rows(&found[0])?, rows(&found[found.len() - 1])?);
    let ages =
        if estimates { Vec::<f64>::try_from(&found[1].f_to_kind(Kind::Double)?.f_reshape([-1])?)? } else { Vec::new() };
    let failed = reading.failed();
    let joined = plain.iter().zip(&mirrored).enumerate().map(|(i, (row, other))| {
        if failed.contains_key(&i) { None } else { asked.flip.combine(row, Some(other)).ok() }
    });
    Ok((joined.collect(), ages))
}

fn people_of(s: usize, set: &Set, embeddings: &[Option<Vec<f32>>]) -> Vec<Person> {
    let mut of: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (i, label) in set.pictures.labels.iter().enumerate().filter(|(i, _)| embeddings[*i].is_some()) {
        of.entry(label.identity).or_default().push(i);
    }
    of.into_values()
        .filter_map(|pictures| {
            let centre = centre(pictures.iter().filter_map(|i| embeddings[*i].as_deref()))?;
            Some(Person { of: pictures.into_iter().map(|i| (s, i)).collect(), centre })
        })
        .collect()
}

/// The mean of unit vectors, of unit length.
fn centre<'e>(of: impl Iterator<Item = &'e [f32]>) -> Option<Vec<f32>> {
    unit(sum(of))
}

fn sum<'e>(of: impl Iterator<Item = &'e [f32]>) -> Vec<f32> {
    let mut sum: Vec<f32> = Vec::new();
    for row in of {
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sum
}

fn unit(sum: Vec<f32>) -> Option<Vec<f32>> {
    let length = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
    (length > 0.0).then(|| sum.iter().map(|v| v / length).collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The value that a share of some numbers reach; the largest where there are fewer.
fn reached_by(mut numbers: Vec<f64>, share: f64) -> f64 {
    let above = (numbers.len() as f64 * share) as usize;
    if numbers.is_empty() {
        return 1.0;
    }
    let at = numbers.len() - 1 - above.min(numbers.len() - 1);
    let (_, value, _) = numbers.select_nth_unstable_by(at, f64::total_cmp);
    value.next_up()
}

fn thresholds<'e>(people: &[Person], embedding: &dyn Fn(Place) -> Option<&'e [f32]>) -> Result<Thresholds> {
    let step = people.len().div_ceil(MOST).max(1);
    let some: Vec<&Person> = people.iter().step_by(step).collect();
    let mut centres = Vec::new();
    for (n, a) in some.iter().enumerate() {
        centres.extend(some[..n].iter().map(|b| cosine(&a.centre, &b.centre)));
    }
    // Each picture beside the centres of some other people.
    let mut draw = Draw::new(&[0xa0d1]);
    let mut pictures = Vec::new();
    for (n, person) in people.iter().enumerate().step_by(step) {
        for row in person.of.iter().filter_map(|place| embedding(*place)) {
            for _ in 0..4 {
                let other = draw.below(people.len() as u64) as usize;
                if other != n {
                    pictures.push(cosine(row, &people[other].centre));
                }
            }
        }
    }
    Ok(Thresholds {
        pairs_of_people: centres.len(),
        groups: reached_by(centres.clone(), 0.5),
        people: reached_by(centres, OF_PEOPLE),
        pairs_of_pictures: pictures.len(),
        pictures: reached_by(pictures, OF_PICTURES),
    })
}

/// Of each person of the test the most alike of training, as far as they reach the threshold.
fn overlap(trained: &[Person], tested: &[Person], threshold: f64) -> Result<Vec<(f64, Place, Place)>> {
    const ROWS: usize = 4096;
    if tested.is_empty() {
        return Ok(Vec::new());
    }
    let matrix = |people: &[Person]| -> Result<Tensor> {
        let flat: Vec<f32> = people.iter().flat_map(|person| person.centre.iter().copied()).collect();
        Ok(Tensor::f_from_slice(&flat)?.f_view([people.len() as i64, -1])?)
    };
    let mut found = Vec::new();
    let columns = matrix(trained)?.f_transpose(0, 1)?;
    for (n, part) in tested.chunks(ROWS).enumerate() {
        let (values, at) = matrix(part)?.f_matmul(&columns)?.f_max_dim(1, false)?;
        let (values, at) = (Vec::<f32>::try_from(&values)?, Vec::<i64>::try_from(&at)?);
        for (i, (value, at)) in values.into_iter().zip(at).enumerate().filter(|(_, (v, _))| f64::from(*v) >= threshold)
        {
            let test = &tested[n * ROWS + i];
            found.push((f64::from(value), trained[at as usize].of[0], test.of[0]));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(found)
}

/// Of pictures unlike their own person those that are like another one, as alike as pictures of one person are and more than to
/// their own.
fn like_others<'e>(
    outliers: &[(f64, Place)],
    own: usize,
    people: &[Person],
    embedding: &dyn Fn(Place) -> Option<&'e [f32]>,
    threshold: f64,
) -> Vec<Mistaken> {
    let mut found = Vec::new();
    for (to_own, place) in outliers {
        let Some(row) = embedding(*place) else { continue };
        let others = people.iter().enumerate().filter(|(person, _)| *person != own);
        let alike = others.map(|(_, person)| (cosine(row, &person.centre), person.of[0]));
        let Some((best, of)) = alike.max_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
        if best >= threshold && best > to_own + MARGIN {
            found.push((*to_own, best, *place, of));
        }
    }
    found
}

/// The pictures of a person that are unlike the others.
fn unlike<'e>(person: &Person, embedding: &dyn Fn(Place) -> Option<&'e [f32]>, threshold: f64) -> Vec<(f64, Place)> {
    if person.of.len() < FEWEST {
        return Vec::new();
    }
    let all = sum(person.of.iter().filter_map(|place| embedding(*place)));
    let mut out = Vec::new();
    for place in &person.of {
        let Some(row) = embedding(*place) else { continue };
        let others = all.iter().zip(row).map(|(all, own)| all - own).collect();
        let Some(centre) = unit(others) else { continue };
        let alike = cosine(row, &centre);
        if alike < threshold {
            out.push((alike, *place));
        }
    }
    out
}

/// Two groups into which the pictures of a person fall, if their centres are as unlike as those of different people: two
/// means, begun with the two least alike pictures.
fn groups<'e>(
    person: &Person,
    embedding: &dyn Fn(Place) -> Option<&'e [f32]>,
    threshold: f64,
) -> Option<(f64, Vec<Place>, Vec<Place>)> {
    if person.of.len() < FOR_GROUPS {
        return None;
    }
    let of: Vec<(Place, &[f32])> = person.of.iter().filter_map(|place| Some((*place, embedding(*place)?))).collect();
    let least = |from: &[f32]| {
        of.iter()
            .map(|(_, row)| (*row, cosine(row, from)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(row, _)| row.to_vec())
    };
    let mut first = least(&person.centre)?;
    let mut second = least(&first)?;
    let mut sides = Vec::new();
    for _ in 0..10 {
        let next: Vec<bool> = of.iter().map(|(_, row)| cosine(row, &first) >= cosine(row, &second)).collect();
        if next == sides {
            break;
        }
        sides = next;
        let side =
            |wanted: bool| centre(of.iter().zip(&sides).filter(|(_, side)| **side == wanted).map(|((_, row), _)| *row));
        (first, second) = (side(true)?, side(false)?);
    }
    let group = |wanted: bool| -> Vec<Place> {
        of.iter().zip(&sides).filter(|(_, side)| **side == wanted).map(|((place, _), _)| *place).collect()
    };
    let (one, other) = (group(true), group(false));
    let alike = cosine(&first, &second);
    // A single picture that is unlike the others is told by itself.
    (one.len() > 1 && other.len() > 1 && alike < threshold).then_some((alike, one, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_numbers_reaches_the_threshold() {
        let numbers: Vec<f64> = (0..1000).map(f64::from).collect();
        let reached = |share| (0..1000).filter(|n| f64::from(*n) >= reached_by(numbers.clone(), share)).count();
        assert_eq!((reached(0.01), reached(1e-5)), (10, 0));
    }

    #[test]
    fn a_person_of_two_groups_and_a_stray_picture_are_told_apart() {
        let towards = |angle: f64| vec![angle.cos() as f32, angle.sin() as f32];
        let rows: Vec<Vec<f32>> = [0.0, 0.1, 0.05, 1.5, 1.55, 1.6].map(towards).to_vec();
        let place = |i: usize| (0, i);
        let embedding = |(_, i): Place| rows.get(i).map(Vec::as_slice);
        let person = |of: &[usize]| Person {
            of: of.iter().map(|i| place(*i)).collect(),
            centre: centre(of.iter().map(|i| rows[*i].as_slice())).unwrap(),
        };
        let (alike, one, other) = groups(&person(&[0, 1, 2, 3, 4, 5]), &embedding, 0.5).unwrap();
        assert!(alike < 0.2 && one.len() == 3 && other.len() == 3);
        let stray = unlike(&person(&[0, 1, 2, 4]), &embedding, 0.5);
        assert_eq!(stray.iter().map(|(_, place)| place.1).collect::<Vec<_>>(), [4]);
    }
}
