//! How sure a rate is: Wilson's interval with the number of pairs that count as independent.
//!
//! Pairs that share a person are not independent. Where the people are known, the variance of a rate is that of sums over
//! people (Fogliato, Patil and Perona, Confidence Intervals for Error Rates in 1:1 Matching Tasks, IJCV 2024), and the
//! interval is Wilson's at the number of independent pairs that would have this variance.

use serde::Serialize;
use std::collections::HashMap;

/// The quantile of the normal distribution that leaves 2.5 % above it.
const Z: f64 = 1.959_963_984_540_054;
/// Fewer errors than these say little (the rule of 30: Doddington et al. 2000).
const FEW_ERRORS: usize = 30;

/// What is said where people are not known.
pub const INDEPENDENT: &str = "pairs treated as independent: probably too narrow";
/// What is said where they are.
pub const BY_PERSON: &str = "by person";

/// A rate of errors with the middle 95 % of what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// The share of trials that are errors.
    pub rate: f64,
    /// Errors.
    pub errors: usize,
    /// Trials.
    pub trials: usize,
    /// The number of independent trials that would be as sure.
    pub effective_trials: f64,
    /// The least that it may be.
    pub low: f64,
    /// The most that it may be.
    pub high: f64,
    /// Whether fewer than 30 errors were seen.
    pub few_errors: bool,
}

/// Wilson's interval of a share of `trials` independent trials (Wilson 1927).
pub fn wilson(rate: f64, trials: f64) -> (f64, f64) {
    let square = Z * Z;
    let centre = (rate + square / (2.0 * trials)) / (1.0 + square / trials);
    let half = Z / (1.0 + square / trials) * (rate * (1.0 - rate) / trials + square / (4.0 * trials * trials)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// The rate of errors among pairs, of which `people` gives the two people, the same twice in a same pair; without it the
/// pairs are treated as independent. None of no pairs.
pub fn rate(errors: &[bool], people: Option<&[(i64, i64)]>) -> Option<Rate> {
    let trials = errors.len();
    let wrong = errors.iter().filter(|e| **e).count();
    if trials == 0 {
        return None;
    }
    let (n, rate) = (trials as f64, wrong as f64 / trials as f64);
    let independent = rate * (1.0 - rate) / n;
    let (effective, low, high) = match people {
        Some(people) if wrong > 0 && wrong < trials => {
            let variance = variance_by_person(errors, people, rate).max(independent);
            let effective = rate * (1.0 - rate) / variance;
            let (low, high) = wilson(rate, effective);
            (effective, low, high)
        }
        // Without variance the people count: by the rule of three at most 3 of so many can be missed.
        Some(people) => {
            let mut all: Vec<i64> = people.iter().flat_map(|(a, b)| [*a, *b]).collect();
            all.sort_unstable();
            all.dedup();
            let effective = (all.len() as f64).min(n);
            let beyond = (3.0 / effective).min(1.0);
            if wrong == 0 { (effective, 0.0, beyond) } else { (effective, 1.0 - beyond, 1.0) }
        }
        None => {
            let (low, high) = wilson(rate, n);
            // Rounding leaves a trace of what is none.
            (n, if wrong == 0 { 0.0 } else { low }, if wrong == trials { 1.0 } else { high })
        }
    };
    Some(Rate { rate, errors: wrong, trials, effective_trials: effective, low, high, few_errors: wrong < FEW_ERRORS })
}

/// The variance of a rate whose errors depend on both people of a pair: sums of residuals over each person, less those
/// over each pair of people, which would count twice.
fn variance_by_person(errors: &[bool], people: &[(i64, i64)], rate: f64) -> f64 {
    let mut of_person: HashMap<i64, f64> = HashMap::new();
    let mut of_pair: HashMap<(i64, i64), f64> = HashMap::new();
    for (error, (a, b)) in errors.iter().zip(people) {
        let residual = f64::from(u8::from(*error)) - rate;
        *of_person.entry(*a).or_default() += residual;
        if a != b {
            *of_person.entry(*b).or_default() += residual;
            *of_pair.entry((*a.min(b), *a.max(b))).or_default() += residual;
        }
    }
    let squares = |sums: &mut dyn Iterator<Item = &f64>| -> f64 { sums.map(|sum| sum * sum).sum() };
    let n = errors.len() as f64;
    (squares(&mut of_person.values()) - squares(&mut of_pair.values())) / (n * n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::Draw;
    use serde_json::Value;

    fn close(found: f64, expected: &Value) {
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-9, "found {found}, expected {expected}");
    }

    fn numbers() -> Value {
        serde_json::from_str(include_str!("../../../../tests/reference/numbers.json")).unwrap()
    }

    #[test]
    fn intervals_are_those_of_the_reference() {
        let numbers = numbers();
        for case in numbers["intervals"]["cases"].as_array().unwrap() {
            let (errors, n) = (case["errors"].as_f64().unwrap(), case["n"].as_f64().unwrap());
            let (low, high) = wilson(errors / n, n);
            close(low, &case["wilson"][0]);
            close(high, &case["wilson"][1]);
        }
        let list = |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect::<Vec<_>>();
        for kind in ["same", "different"] {
            let case = &numbers["by_person"][kind];
            let people: Vec<(i64, i64)> = match kind {
                "same" => list(&case["person"]).into_iter().map(|p| (p, p)).collect(),
                _ => list(&case["a"]).into_iter().zip(list(&case["b"])).collect(),
            };
            let errors: Vec<bool> = list(&case["error"]).into_iter().map(|e| e == 1).collect();
            let found = rate(&errors, Some(&people)).unwrap();
            close(found.rate, &case["rate"]);
            close(variance_by_person(&errors, &people, found.rate), &case["variance_by_person"]);
            close(found.effective_trials, &case["n_effective"]);
            close(found.low, &case["wilson"][0]);
            close(found.high, &case["wilson"][1]);
        }
    }

    #[test]
    fn no_interval_is_a_point() {
        let none = rate(&[false; 300], None).unwrap();
        assert!(none.low == 0.0 && (none.high - 0.012_643).abs() < 1e-6, "{none:?}");
        let people: Vec<(i64, i64)> = (0..300).map(|i| (i % 20, i % 20)).collect();
        let none = rate(&[false; 300], Some(&people)).unwrap();
        assert!((none.high - 0.15).abs() < 1e-12, "twenty people: {none:?}");
        let all = rate(&[true; 300], Some(&people)).unwrap();
        assert!((all.low - 0.85).abs() < 1e-12 && all.high == 1.0, "{all:?}");
        assert_eq!(rate(&[], None), None);
    }

    /// The share of simulated lists whose interval holds the true rate, by person and with independent pairs. Errors come
    /// from a normal score that each person shifts.
    fn coverage(same: bool, people: i64, pairs: u64, rounds: u64) -> (f64, f64) {
        let normal = |draw: &mut Draw| {
            (-2.0 * draw.uniform().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * draw.uniform()).cos()
        };
        let simulate = |round: u64| {
            let mut draw = Draw::new(&[round, people as u64, u64::from(same)]);
            let shift: Vec<f64> = (0..people).map(|_| normal(&mut draw)).collect();
            (0..pairs)
                .map(|pair| {
                    // The pairs of a list stay the same whoever the people are.
                    let mut list = Draw::new(&[7, pair]);
                    let a = list.below(people as u64) as i64;
                    let b = if same { a } else { (a + 1 + list.below(people as u64 - 1) as i64) % people };
                    let score = (shift[a as usize] + shift[b as usize]) / 2.0_f64.sqrt() + normal(&mut draw);
                    ((a, b), score > 1.5)
                })
                .unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let truth = {
            let all = (0..4 * rounds).map(|round| {
                let errors = simulate(1_000_000 + round).1;
                errors.iter().filter(|e| **e).count() as f64 / errors.len() as f64
            });
            all.sum::<f64>() / (4 * rounds) as f64
        };
        let holds = |found: Rate| f64::from(u8::from((found.low..=found.high).contains(&truth)));
        let (mut by_person, mut independent) = (0.0, 0.0);
        for round in 0..rounds {
            let (people, errors) = simulate(round);
            by_person += holds(rate(&errors, Some(&people)).unwrap());
            independent += holds(rate(&errors, None).unwrap());
        }
        (by_person / rounds as f64, independent / rounds as f64)
    }

    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says() {
        // Of 300 lists; the deviation of a share of 0.95 is 0.013.
        for same in [true, false] {
            let (by_person, independent) = coverage(same, 100, 3000, 300);
            assert!((0.90..=0.99).contains(&by_person), "same {same}: {by_person}");
            assert!(independent < 0.8, "same {same}: pairs are not independent, {independent}");
        }
    }
}
