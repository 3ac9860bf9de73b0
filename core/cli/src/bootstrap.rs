//! Whether two variants differ: the paired bootstrap over the cases of an evaluation and over seeds.
//!
//! In every draw the same cases (pairs, pictures) are picked with repetition for all runs, and seeds with repetition
//! for each variant; the interval holds the middle 95 % of the differences so found (Efron and Tibshirani, An
//! Introduction to the Bootstrap, 1993, chapters 8 and 13). Pairs that share a person are not independent, so that
//! the interval is rather too narrow than too wide.

use crate::records::Record;
use anyhow::Result;
use mtl_core::data::draw::Draw;
use mtl_core::evaluate::{Cases, Evaluator};
use mtl_core::recipe::Recipe;
use rayon::prelude::*;

/// Draws of an interval.
pub const DRAWS: usize = 2000;

/// A difference of means with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// A metric of a run on drawn cases.
pub struct Drawn {
    seed: i64,
    /// Which cases.
    of: String,
    /// The metric on the picked cases of each draw.
    draws: Vec<f64>,
}

/// The evaluators of a run, to measure again on some of their cases.
pub struct Judge<'r> {
    run: &'r Record,
    recipe: Recipe,
}

impl<'r> Judge<'r> {
    /// Reads the recipe of a run.
    pub fn new(run: &'r Record) -> Result<Self> {
        Ok(Self { run, recipe: Recipe::read(&run.folder.join("recipe.resolved.toml"), &[])? })
    }

    /// Draws a metric; none if the run has kept no cases, or they do not tell the metric.
    pub fn draw(&self, metric: &str) -> Option<Drawn> {
        let (evaluator, name) = metric.split_once('.')?;
        let (step, _) = self.run.curves.get(metric)?.last()?;
        let cases = Cases::read(&Cases::path(&self.run.folder, evaluator, *step)).ok()?;
        let evaluator: &dyn Evaluator = &*self.recipe.evaluate.get(evaluator)?.config;
        let all: Vec<usize> = (0..cases.len()).collect();
        if all.is_empty() {
            return None;
        }
        evaluator.on_cases(name, &cases, &all)?;
        let on = |draw: usize| {
            // The same cases in every run: only the number of the draw and of the cases decide.
            let mut source = Draw::new(&[draw as u64, cases.len() as u64]);
            let picked: Vec<usize> = all.iter().map(|_| source.below(all.len() as u64) as usize).collect();
            evaluator.on_cases(name, &cases, &picked).unwrap_or(f64::NAN)
        };
        Some(Drawn {
            seed: self.recipe.run.seed,
            draws: (0..DRAWS).into_par_iter().map(on).collect(),
            of: format!("{} of {}", cases.len(), cases.of),
        })
    }
}

/// The interval of the difference between two groups of runs; `mean` is what was measured. None where too few draws tell
/// something.
///
/// # Errors
/// If the runs were not measured on the same cases, in words.
pub fn difference(from: &[&Drawn], to: &[&Drawn], mean: f64) -> Result<Option<Difference>, String> {
    let mut all = from.iter().chain(to);
    if let Some(first) = all.next()
        && let Some(other) = all.find(|run| run.of != first.of)
    {
        return Err(format!("measured on other cases: {} and {}", first.of, other.of));
    }
    let seeds = |group: &[&Drawn]| group.iter().map(|run| run.seed).collect::<Vec<i64>>();
    // Runs of the same seeds are drawn together: they start from the same weights and see the same order.
    let together = seeds(from) == seeds(to);
    let mut found: Vec<f64> = (0..DRAWS)
        .map(|draw| {
            let mut source = Draw::new(&[draw as u64, 0x5eed]);
            let mut pick = |n: usize| -> Vec<usize> { (0..n).map(|_| source.below(n as u64) as usize).collect() };
            let first = pick(from.len());
            let second = if together { first.clone() } else { pick(to.len()) };
            let mean = |group: &[&Drawn], picked: &[usize]| {
                picked.iter().map(|i| group[*i].draws[draw]).sum::<f64>() / picked.len() as f64
            };
            mean(to, &second) - mean(from, &first)
        })
        .filter(|difference| difference.is_finite())
        .collect();
    // A draw without a pair of different people, say, tells nothing.
    if found.len() < DRAWS * 9 / 10 {
        return Ok(None);
    }
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[((found.len() - 1) as f64 * share).round() as usize];
    Ok(Some(Difference { mean, low: at(0.025), high: at(0.975) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: i64, of: impl Fn(&mut Draw) -> f64) -> Drawn {
        let draws = (0..DRAWS).map(|draw| of(&mut Draw::new(&[draw as u64, 9]))).collect();
        Drawn { seed, of: "pairs".into(), draws }
    }

    #[test]
    fn what_moves_together_has_no_interval_of_its_own() {
        // Both runs swing with the drawn cases by 1, and one is better by 0.1 in every draw.
        let (a, b) = (drawn(1, Draw::uniform), drawn(1, |d| d.uniform() + 0.1));
        let found = difference(&[&a], &[&b], 0.1).unwrap().unwrap();
        assert!((found.low - 0.1).abs() < 1e-12 && (found.high - 0.1).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn the_interval_holds_the_middle_of_the_draws() {
        let (a, b) = (drawn(1, |_| 0.0), drawn(2, Draw::uniform));
        let found = difference(&[&a], &[&b], 0.5).unwrap().unwrap();
        assert!((found.low - 0.025).abs() < 0.02 && (found.high - 0.975).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn seeds_widen_the_interval_unless_they_are_shared() {
        let run = |seed, value: f64| drawn(seed, move |_| value);
        // Seeds matter as much as 1.0; the second variant is better by 0.1 with every seed.
        let first = [run(1, 0.0), run(2, 1.0)];
        let (same, others) = ([run(1, 0.1), run(2, 1.1)], [run(3, 0.1), run(4, 1.1)]);
        let refs = |runs: &'_ [Drawn; 2]| -> Difference {
            difference(&first.each_ref(), &runs.each_ref(), 0.1).unwrap().unwrap()
        };
        let (shared, apart) = (refs(&same), refs(&others));
        assert!((shared.high - shared.low).abs() < 1e-12, "{shared:?}");
        assert!(apart.low < -0.4 && apart.high > 0.6, "{apart:?}");
    }

    #[test]
    fn what_cannot_be_compared_is_not() {
        let (a, half) = (drawn(1, |_| 0.0), drawn(1, |d| if d.chance(0.5) { f64::NAN } else { 0.0 }));
        assert_eq!(difference(&[&a], &[&half], 0.0), Ok(None));
        let other = Drawn { of: "others".into(), ..drawn(1, |_| 0.0) };
        assert!(difference(&[&a], &[&other], 0.0).unwrap_err().contains("pairs and others"));
    }
}
