//! Pairs of pictures that are drawn from what is known of them.

use crate::label::Label;
use mtl_component::{Draw, Result, mistake};
use std::collections::BTreeMap;

/// Two pictures to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// One picture.
    pub a: usize,
    /// The other.
    pub b: usize,
    /// Whether they show the same person.
    pub same: bool,
}

/// The pictures of each person.
fn people(labels: &[Label]) -> BTreeMap<i64, Vec<usize>> {
    let mut people: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(i, l)| people.entry(l.identity).or_default().push(i));
    people
}

/// `count` pairs of pictures, of one person and of two people of the same gender in turn.
///
/// # Errors
/// A mistake if there are no such pairs.
pub fn of_any_age(labels: &[Label], count: usize, seed: u64) -> Result<Vec<Pair>> {
    let mut draw = Draw::new(&[seed, 0x7a12]);
    let people = people(labels);
    let several: Vec<&Vec<usize>> = people.values().filter(|p| p.len() > 1).collect();
    let mut genders: BTreeMap<i64, Vec<&Vec<usize>>> = BTreeMap::new();
    people.values().for_each(|p| genders.entry(labels[p[0]].gender).or_default().push(p));
    let alike: Vec<&Vec<&Vec<usize>>> = genders.values().filter(|g| g.len() > 1).collect();
    if several.is_empty() || alike.is_empty() {
        mistake!(
            "real pairs need a person with two pictures and two people of one gender, found {} pictures of {} people",
            labels.len(),
            people.len()
        );
    }
    let mut below = |n: usize| draw.below(n as u64) as usize;
    let mut out = Vec::with_capacity(count);
    for i in 0..count {
        let same = i.is_multiple_of(2);
        let (first, second) = if same {
            let person = several[below(several.len())];
            (person, person)
        } else {
            let group = alike[below(alike.len())];
            let at = below(group.len());
            (group[at], group[(at + 1 + below(group.len() - 1)) % group.len()])
        };
        let at = below(first.len());
        let other = if same { (at + 1 + below(first.len() - 1)) % first.len() } else { below(second.len()) };
        out.push(Pair { a: first[at], b: second[other], same });
    }
    Ok(out)
}

/// `count` pairs of the same and of different people in turn, the ages at least `gap` years apart, different people of the
/// same gender. People come in order, so that contiguous folds share few of them. Pictures whose age is not known are in
/// no pair, unless no gap is wanted.
///
/// # Errors
/// A mistake if there are no such pairs, or too few.
pub fn with_gap(labels: &[Label], gap: f32, count: usize, seed: u64) -> Result<Vec<Pair>> {
    let mut draw = Draw::new(&[seed, 0x9a12]);
    let people: Vec<Vec<usize>> = people(labels).into_values().collect();
    let far = |a: usize, b: usize| match (labels[a].age, labels[b].age) {
        (Some(a), Some(b)) => (a - b).abs() >= gap,
        _ => gap <= 0.0,
    };
    let spans = |pictures: &Vec<usize>| {
        let ages = pictures.iter().filter_map(|i| labels[*i].age);
        let (low, high) =
            ages.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), age| (age.min(low), age.max(high)));
        pictures.len() > 1 && (gap <= 0.0 || high - low >= gap)
    };
    let gender = |person: usize| labels[people[person][0]].gender;
    let mut of_gender: BTreeMap<i64, usize> = BTreeMap::new();
    (0..people.len()).for_each(|person| *of_gender.entry(gender(person)).or_default() += 1);
    // People who can be told from another of their gender.
    let alike: Vec<usize> = (0..people.len()).filter(|person| of_gender[&gender(*person)] > 1).collect();
    if !people.iter().any(spans) || alike.is_empty() {
        mistake!(
            "no verification pairs with ages {gap} years apart can be made of {} people and their ages: ask for \
             more people, wider ages or a smaller gap",
            people.len()
        );
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..1000 * count {
        if out.len() == count {
            return Ok(out);
        }
        let same = out.len().is_multiple_of(2);
        let person = alike[out.len() * alike.len() / count];
        let other = if same { person } else { alike[draw.below(alike.len() as u64) as usize] };
        let mut of = |person: usize| people[person][draw.below(people[person].len() as u64) as usize];
        let (a, b) = (of(person), of(other));
        if a != b && far(a, b) && (same || (other != person && gender(other) == gender(person))) {
            out.push(Pair { a, b, same });
        }
    }
    if out.len() < count {
        mistake!("only {} of {count} verification pairs with a gap of {gap} years could be made", out.len());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::MadeFaces;

    fn labels() -> Vec<Label> {
        let label = |identity, age, gender| Label { identity, age: Some(age), gender };
        vec![label(4, 20.0, 1), label(4, 30.0, 1), label(7, 20.0, 0), label(7, 50.0, 0), label(9, 20.0, 1)]
    }

    #[test]
    fn real_pairs_are_of_one_person_and_of_two_of_a_gender() {
        let labels = labels();
        let pairs = of_any_age(&labels, 40, 1).unwrap();
        for (i, p) in pairs.iter().enumerate() {
            let (a, b) = (&labels[p.a], &labels[p.b]);
            assert!(p.a != p.b && p.same == (i % 2 == 0) && (a.identity == b.identity) == p.same);
            assert_eq!(a.gender, b.gender);
        }
        let error = of_any_age(&labels[1..2], 4, 1).unwrap_err();
        assert!(error.to_string().contains("1 pictures of 1 people"), "{error}");
    }

    #[test]
    fn pairs_keep_their_gap_and_gender() {
        let of = |ages: &[f32]| -> Vec<Label> {
            let keys = serde_json::json!({ "identities": 12, "ages": ages, "ages_each": 3, "captures": 2, "size": 16 });
            let collection = serde_json::from_value::<MadeFaces>(keys).unwrap().collection().unwrap();
            (0..collection.shots.len()).map(|i| collection.label(i)).collect()
        };
        let labels = of(&[]);
        let pairs = with_gap(&labels, 20.0, 40, 1).unwrap();
        assert_eq!(pairs.iter().filter(|p| p.same).count(), 20);
        for p in &pairs {
            let (a, b) = (labels[p.a], labels[p.b]);
            assert!((a.age.unwrap() - b.age.unwrap()).abs() >= 20.0);
            assert_eq!(a.gender, b.gender);
            assert_eq!(a.identity == b.identity, p.same);
        }
        assert_eq!(pairs, with_gap(&labels, 20.0, 40, 1).unwrap());
        let error = with_gap(&of(&[30.0]), 20.0, 4, 1).unwrap_err();
        assert!(error.to_string().contains("smaller gap"), "{error}");
    }
}
