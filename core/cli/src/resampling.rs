//! Whether two variants differ on the cases (pairs, pictures) of an evaluation: the paired bootstrap.
//!
//! In every draw the same people are picked with repetition for all runs, and the mean over the runs of each variant is
//! taken on their cases; the interval holds the middle 95 % of the differences so found (Efron and Tibshirani, An
//! Introduction to the Bootstrap, 1993, chapters 8 and 13). A picture counts as often as its person is drawn, a pair of
//! two people as often as the product says. Where people have few pairs each, the interval is rather too wide. Where
//! people are not known, cases are drawn one by one, as if they were independent, and the interval is rather too narrow.
//! Either says what other cases would have changed, not other seeds: of those there are too few to draw from, and their
//! deviation stands beside it.

use crate::figures::{Difference, Figure, Interval};
use mtl_component::{Better, Cases, Draw, Result};
use mtl_engine::inference::read_cases;
use mtl_engine::recipe::Recipe;
use mtl_engine::runs::Record;
use rayon::prelude::*;

/// Draws of an interval.
pub const DRAWS: usize = 2000;
/// Sums that are taken in another order differ by no more than this, relative to one.
const SAME: f64 = 1e-9;

/// A metric of a run, measured again on drawn cases.
#[derive(Debug)]
pub struct Resample {
    seed: i64,
    /// The metric on all cases.
    whole: f64,
    /// Which cases.
    of: String,
    /// The metric on the cases of each draw.
    draws: Vec<f64>,
    /// Whether people were drawn, and not cases.
    by_person: bool,
}

/// Draws a metric of a run, whose recipe knows the evaluators; none if the run has kept no cases, or they do not
/// determine the metric.
///
/// # Errors
/// If the cases are not those of the measured metric, in words.
pub fn resample(run: &Record, recipe: &Recipe, metric: &str) -> Result<Option<Resample>, String> {
    let Some((evaluator, name)) = metric.split_once('.') else { return Ok(None) };
    let Some(measured) = run.metrics.get(metric) else { return Ok(None) };
    let step = run.curves.get(metric).and_then(|curve| curve.last()).map(|(step, _)| *step);
    let path = run.folder.cases(evaluator, step.unwrap_or_default());
    let Ok(cases) = read_cases(&path) else { return Ok(None) };
    let Some(entry) = recipe.evaluate.get(evaluator) else { return Ok(None) };
    let config = &*entry.slot.config;
    let on = |weights: &[f64]| config.on_cases(name, &cases, weights).map_err(|e| format!("{e:#}"));
    let Some(whole) = on(&vec![1.0; cases.len()])?.filter(|_| !cases.is_empty()) else { return Ok(None) };
    // An evaluation of an earlier version with other settings wrote its cases over those of the run.
    let same = (whole - measured).abs() <= SAME * measured.abs().max(1.0);
    if !same {
        return Err(format!("{} gives {whole}, and {measured} was measured in training", path.display()));
    }
    let units = Units::of(&cases);
    let draw = |draw: usize| Ok(on(&units.weights(draw))?.unwrap_or(f64::NAN));
    let by_person = units.people.is_some();
    Ok(Some(Resample {
        seed: recipe.run.seed,
        whole,
        draws: (0..DRAWS).into_par_iter().map(draw).collect::<Result<_, String>>()?,
        of: format!("{} of {}", cases.len(), cases.of),
        by_person,
    }))
}

/// What is drawn: people where they are known, else cases.
struct Units {
    cases: usize,
    count: usize,
    /// The one or two people of each case, by number.
    people: Option<Vec<(usize, usize)>>,
}

impl Units {
    fn of(cases: &Cases) -> Self {
        let person = cases.column("person").map(|person| (person, person));
        let both = || Some((cases.column("a")?, cases.column("b")?));
        let Some((a, b)) = person.or_else(both) else {
            return Self { cases: cases.len(), count: cases.len(), people: None };
        };
        let mut all: Vec<u64> = a.iter().chain(b).map(|person| person.to_bits()).collect();
        all.sort_unstable();
        all.dedup();
        let number = |person: &f64| all.binary_search(&person.to_bits()).unwrap_or(0);
        let people = a.iter().map(number).zip(b.iter().map(number)).collect();
        Self { cases: cases.len(), count: all.len(), people: Some(people) }
    }

    /// How often each case counts in a draw. The same in every run: only the number of the draw and of the units decide.
    fn weights(&self, draw: usize) -> Vec<f64> {
        let mut source = Draw::new(&[draw as u64, self.count as u64]);
        let mut drawn = vec![0.0; self.count];
        (0..self.count).for_each(|_| drawn[source.below(self.count as u64) as usize] += 1.0);
        match &self.people {
            None => drawn,
            Some(people) => people.iter().take(self.cases).map(|people| weight(&drawn, *people)).collect(),
        }
    }
}

/// How often a case of one or two people counts, where each person is drawn so often.
fn weight(drawn: &[f64], (a, b): (usize, usize)) -> f64 {
    if a == b { drawn[a] } else { drawn[a] * drawn[b] }
}

/// Which way a figure of a run is better, as its evaluator says; none where that is not known.
pub fn direction(recipe: &Recipe, metric: &str) -> Option<Better> {
    let (evaluator, name) = metric.split_once('.')?;
    let found = recipe.evaluate.get(evaluator)?.metrics().find(|metric| metric.name == name)?.better;
    (found != Better::Neither).then_some(found)
}

/// The difference between two groups of runs. None where too few draws determine it.
///
/// # Errors
/// If the runs were not measured on the same cases, in words.
pub fn difference(from: &[&Resample], to: &[&Resample]) -> Result<Option<Difference>, String> {
    let all: Vec<&Resample> = from.iter().chain(to).copied().collect();
    let by_person = alike(&all)?;
    let apart = |of: &dyn Fn(&Resample) -> f64| mean(to, of) - mean(from, of);
    let Some((low, high)) = middle(&|draw| apart(&|run| run.draws[draw])) else { return Ok(None) };
    let same_seed = |run: &&&Resample| Some(run.whole - from.iter().find(|other| other.seed == run.seed)?.whole);
    let by_seed: Vec<f64> = to.iter().filter_map(|run| same_seed(&run)).collect();
    let deviation = Figure::of(&by_seed).filter(|figure| figure.count > 1).map(|figure| figure.deviation);
    Ok(Some(Difference { mean: apart(&|run| run.whole), deviation, low, high, by_person }))
}

/// How sure the mean of a group of runs is. None where too few draws determine it.
///
/// # Errors
/// If the runs were not measured on the same cases, in words.
pub fn interval(group: &[&Resample]) -> Result<Option<Interval>, String> {
    let by_person = alike(group)?;
    let found = middle(&|draw| mean(group, &|run| run.draws[draw]));
    Ok(found.map(|(low, high)| Interval { low, high, by_person }))
}

/// Whether people were drawn for all of these runs, which were measured on the same cases.
fn alike(runs: &[&Resample]) -> Result<bool, String> {
    if let Some((first, others)) = runs.split_first()
        && let Some(other) = others.iter().find(|run| run.of != first.of)
    {
        return Err(format!("measured on other cases: {} and {}", first.of, other.of));
    }
    let by_person = runs.iter().all(|run| run.by_person);
    if !by_person && runs.iter().any(|run| run.by_person) {
        return Err("whose pictures they are is known in some of these runs only".into());
    }
    Ok(by_person)
}

fn mean(group: &[&Resample], of: &dyn Fn(&Resample) -> f64) -> f64 {
    group.iter().map(|run| of(run)).sum::<f64>() / group.len() as f64
}

/// The middle 95 % of a number in all draws. A draw without a pair of different people, say, determines nothing.
fn middle(of: &dyn Fn(usize) -> f64) -> Option<(f64, f64)> {
    let mut found: Vec<f64> = (0..DRAWS).map(of).filter(|value| value.is_finite()).collect();
    if found.len() < DRAWS * 9 / 10 {
        return None;
    }
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[((found.len() - 1) as f64 * share).round() as usize];
    Some((at(0.025), at(0.975)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: i64, whole: f64, of: impl Fn(&mut Draw) -> f64) -> Resample {
        let draws = (0..DRAWS).map(|draw| of(&mut Draw::new(&[draw as u64, 9]))).collect();
        Resample { seed, whole, of: "pairs".into(), draws, by_person: false }
    }

    fn cases(columns: &[(&str, &[f64])]) -> Cases {
        let columns = columns.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect();
        Cases { of: "pairs".into(), columns }
    }

    #[test]
    fn people_are_drawn_and_pairs_count_by_both() {
        let pairs = cases(&[("a", &[5.0, 5.0, 9.0, 7.0]), ("b", &[5.0, 9.0, 7.0, 7.0])]);
        let units = Units::of(&pairs);
        assert_eq!(units.count, 3);
        for draw in 0..50 {
            let weights = units.weights(draw);
            // Of the people 5, 7 and 9.
            let (five, seven) = (weights[0], weights[3]);
            let nine = 3.0 - five - seven;
            assert_eq!(weights, [five, five * nine, nine * seven, seven]);
        }
        let pictures = Units::of(&cases(&[("person", &[4.0, 4.0, 8.0])]));
        assert!((0..20).all(|draw| matches!(pictures.weights(draw)[..], [a, b, c] if a == b && a + c == 2.0)));
        let unknown = Units::of(&cases(&[("error", &[1.0, 2.0, 3.0])]));
        assert!((0..20).all(|draw| unknown.weights(draw).iter().sum::<f64>() == 3.0) && unknown.people.is_none());
    }

    #[test]
    fn weights_are_those_of_the_reference() {
        let numbers: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/reference/numbers.json")).unwrap();
        let people = &numbers["by_person"];
        let list = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let expected = &people["bootstrap_weights"];
        let drawn = list(&expected["multiplicity_of_person"]);
        for (kind, columns, name) in [("same", ["person", "person"], "fnmr"), ("different", ["a", "b"], "fmr")] {
            let [a, b] = columns.map(|column| list(&people[kind][column]));
            let (mut wrong, mut all) = (0.0, 0.0);
            for ((a, b), error) in a.iter().zip(&b).zip(list(&people[kind]["error"])) {
                let weight = weight(&drawn, (*a as usize, *b as usize));
                (wrong, all) = (wrong + weight * error, all + weight);
            }
            assert!((wrong / all - expected[name].as_f64().unwrap()).abs() < 1e-12, "{name}: {}", wrong / all);
        }
    }

    /// The share of simulated lists whose middle 95 % of drawn rates holds the true one. Errors come from a score that each
    /// person shifts.
    fn coverage(by_person: bool) -> f64 {
        const PEOPLE: u64 = 60;
        const PAIRS: u64 = 900;
        const ROUNDS: u64 = 150;
        let simulate = |round: u64| -> Cases {
            let mut draw = Draw::new(&[round, 5]);
            let shift: Vec<f64> = (0..PEOPLE).map(|_| draw.uniform() + draw.uniform() + draw.uniform()).collect();
            let pair = |pair: u64| {
                let mut list = Draw::new(&[7, pair]);
                let a = list.below(PEOPLE);
                let b = (a + 1 + list.below(PEOPLE - 1)) % PEOPLE;
                let error = shift[a as usize] + shift[b as usize] + draw.uniform() > 4.0;
                (a as f64, b as f64, f64::from(u8::from(error)))
            };
            let all: Vec<(f64, f64, f64)> = (0..PAIRS).map(pair).collect();
            let column = |of: fn(&(f64, f64, f64)) -> f64| all.iter().map(of).collect::<Vec<f64>>();
            let (a, b, error) = (column(|p| p.0), column(|p| p.1), column(|p| p.2));
            let people: &[(&str, &[f64])] = &[("a", &a), ("b", &b), ("error", &error)];
            cases(if by_person { people } else { &people[2..] })
        };
        let rate = |cases: &Cases, weights: &[f64]| {
            let errors = cases.column("error").unwrap();
            errors.iter().zip(weights).map(|(e, w)| e * w).sum::<f64>() / weights.iter().sum::<f64>()
        };
        let whole = |round: u64| rate(&simulate(round), &[1.0; PAIRS as usize]);
        let truth = (0..3000).map(|round| whole(10_000 + round)).sum::<f64>() / 3000.0;
        let holds = |round: u64| {
            let cases = simulate(round);
            let units = Units::of(&cases);
            let draws: Vec<f64> = (0..300).map(|draw| rate(&cases, &units.weights(draw))).collect();
            let (low, high) = middle(&|draw| draws[draw % draws.len()]).unwrap();
            f64::from(u8::from((low..=high).contains(&truth)))
        };
        (0..ROUNDS).map(holds).sum::<f64>() / ROUNDS as f64
    }

    #[test]
    fn draws_of_people_hold_the_truth_as_often_as_they_say() {
        // Of 150 lists; the deviation of a share of 0.95 is 0.018.
        let (by_person, independent) = (coverage(true), coverage(false));
        assert!(by_person >= 0.89, "{by_person}");
        assert!(independent < 0.75, "pairs are not independent: {independent}");
    }

    #[test]
    fn what_moves_together_has_no_interval_of_its_own() {
        // Both runs swing with the drawn cases by 1, and one is better by 0.1 in every draw.
        let (a, b) = (drawn(1, 0.5, Draw::uniform), drawn(1, 0.6, |d| d.uniform() + 0.1));
        let found = difference(&[&a], &[&b]).unwrap().unwrap();
        assert!((found.low - 0.1).abs() < 1e-12 && (found.high - 0.1).abs() < 1e-12, "{found:?}");
        assert_eq!(found.deviation, None, "one seed has none");
    }

    #[test]
    fn the_interval_holds_the_middle_of_the_draws() {
        let (a, b) = (drawn(1, 0.0, |_| 0.0), drawn(2, 0.5, Draw::uniform));
        let found = difference(&[&a], &[&b]).unwrap().unwrap();
        assert!((found.low - 0.025).abs() < 0.02 && (found.high - 0.975).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn seeds_are_compared_with_themselves_in_any_order() {
        let run = |seed, value: f64| drawn(seed, value, move |_| value);
        // Seeds matter as much as 1.0; the second variant is better by 0.1 and 0.3 with its seeds, whose order differs.
        let first = [run(1, 0.0), run(2, 1.0)];
        let second = [run(2, 1.1), run(1, 0.3), run(5, 7.0)];
        let found = difference(&first.each_ref(), &second.each_ref()[..2]).unwrap().unwrap();
        assert!((found.mean - 0.2).abs() < 1e-12 && (found.deviation.unwrap() - 0.02f64.sqrt()).abs() < 1e-12);
        let more = difference(&first.each_ref(), &second.each_ref()).unwrap().unwrap();
        assert!((more.deviation.unwrap() - 0.02f64.sqrt()).abs() < 1e-12, "a seed that one lacks is left out");
    }

    #[test]
    fn what_cannot_be_compared_is_not() {
        let (a, half) = (drawn(1, 0.0, |_| 0.0), drawn(1, 0.0, |d| if d.chance(0.5) { f64::NAN } else { 0.0 }));
        assert_eq!(difference(&[&a], &[&half]), Ok(None));
        let other = Resample { of: "others".into(), ..drawn(1, 0.0, |_| 0.0) };
        assert!(difference(&[&a], &[&other]).unwrap_err().contains("pairs and others"));
    }
}
