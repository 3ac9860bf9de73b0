//! Accuracy over folds, by the conventions of published evaluation code.

use super::{Folds, check_pairs, check_range, mean};
use mtl_component::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How verification accuracy is measured over folds.
///
/// Both conventions cut the pair list into contiguous folds, choose a threshold on all folds but
/// one and apply it to the one left out. They differ in the score, in the choice of threshold and
/// in what is reported after the "±", so their numbers are not interchangeable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// As insightface's verification.py: squared L2 distance of L2-normalised embeddings; of the
    /// 400 thresholds 0.00, 0.01, ..., 3.99 the first with the highest training accuracy; a pair
    /// is accepted if its distance is strictly below it. Reports the population standard
    /// deviation of the fold accuracies.
    #[default]
    Insightface,
    /// As FaceX-Zoo's lfw_evaluator.py: cosine similarity; 1000 thresholds evenly spaced from the
    /// lowest (left out) to the highest training score (included), of which the first with the
    /// highest TPR - FPR; a same pair counts as right strictly above it and a different pair
    /// strictly below it. Reports the standard error of the mean fold accuracy: the sample
    /// standard deviation (ddof 1) over the square root of the number of folds.
    Facexzoo,
}

impl Convention {
    /// Number of steps in insightface's grid, `numpy.arange(0, 4, 0.01)`.
    const DISTANCE_STEPS: u32 = 400;
    /// Number of steps in FaceX-Zoo's grid.
    const COSINE_STEPS: u32 = 1000;

    pub(super) fn check_range(self, scores: &[f64]) -> Result<()> {
        match self {
            Self::Insightface => check_range(scores, "squared distance", 0.0, 4.0),
            Self::Facexzoo => check_range(scores, "cosine", -1.0, 1.0),
        }
    }

    pub(super) fn is_right(self, score: f64, same: bool, threshold: f64) -> bool {
        match (self, same) {
            (Self::Insightface, true) => score < threshold,
            (Self::Insightface, false) => score >= threshold,
            (Self::Facexzoo, true) => score > threshold,
            (Self::Facexzoo, false) => score < threshold,
        }
    }

    /// The threshold fitted on training scores; both slices sorted ascending and not empty.
    fn fit(self, same: &[f64], different: &[f64]) -> f64 {
        let below = |sorted: &[f64], t: f64| sorted.partition_point(|&s| s < t);
        let above = |sorted: &[f64], t: f64| sorted.len() - sorted.partition_point(|&s| s <= t);
        match self {
            Self::Insightface => {
                // `numpy.arange` multiplies the step, which differs from `i / 100` in the last bit
                // of 51 thresholds and so can flip a pair whose distance is a round number.
                let grid = (0..Self::DISTANCE_STEPS).map(|i| f64::from(i) * 0.01);
                first_best(grid, |t| (below(same, t) + different.len() - below(different, t)) as f64)
            }
            Self::Facexzoo => {
                let low = f64::min(same[0], different[0]);
                let high = f64::max(same[same.len() - 1], different[different.len() - 1]);
                let step = (high - low) / f64::from(Self::COSINE_STEPS);
                let grid = (1..=Self::COSINE_STEPS).map(|i| low + step * f64::from(i));
                first_best(grid, |t| {
                    above(same, t) as f64 / same.len() as f64 - above(different, t) as f64 / different.len() as f64
                })
            }
        }
    }

    /// What it reports after the "±".
    pub fn deviation(self, spread: Spread) -> f64 {
        match self {
            Self::Insightface => spread.population_deviation,
            Self::Facexzoo => spread.standard_error,
        }
    }

    /// The name of what it reports after the "±".
    pub fn deviation_is(self) -> &'static str {
        match self {
            Self::Insightface => "population",
            Self::Facexzoo => "standard_error",
        }
    }
}

/// The first candidate with the highest merit, like `numpy.argmax`.
fn first_best(candidates: impl Iterator<Item = f64>, merit: impl Fn(f64) -> f64) -> f64 {
    let start = (f64::NAN, f64::NEG_INFINITY);
    let (best, _) = candidates.fold(start, |best, candidate| {
        let value = merit(candidate);
        if value > best.1 { (candidate, value) } else { best }
    });
    best
}
/// How much the folds differ, by both definitions that stand after a "±" in papers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Their population deviation.
    pub population_deviation: f64,
    /// The standard error of their mean: the sample deviation (ddof 1) over the square root of their number.
    pub standard_error: f64,
}

impl Spread {
    pub(super) fn of(values: &[f64]) -> Self {
        let mean = mean(values);
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let n = values.len() as f64;
        Self { population_deviation: (squares / n).sqrt(), standard_error: (squares / (n - 1.0)).sqrt() / n.sqrt() }
    }
}

/// Cross-validated accuracy.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Mean of the fold accuracies, every fold with the same weight.
    pub mean: f64,
    /// How much they differ.
    pub spread: Spread,
    /// Accuracy on each fold under the threshold fitted on the others.
    pub fold_accuracies: Vec<f64>,
    /// The threshold applied to each fold, in units of the convention's score.
    pub thresholds: Vec<f64>,
}

/// Nested k-fold accuracy: each fold is judged by a threshold fitted on all other folds.
///
/// `scores` are what the convention thresholds: squared distances or cosines.
///
/// # Errors
/// If the lists differ in length, a score is not a number in the convention's range, all pairs are of one kind, the
/// training pairs of some fold are, or there are not between 2 folds and one per pair.
pub fn k_fold(scores: &[f64], same: &[bool], folds: &Folds, convention: Convention) -> Result<Accuracy> {
    check_pairs(scores, same)?;
    convention.check_range(scores)?;
    let count = folds.count();
    ensure!(
        (2..=scores.len()).contains(&count),
        "expected between 2 folds and one per pair ({}), found {count}",
        scores.len()
    );
    let mut fold_accuracies = Vec::with_capacity(count);
    let mut thresholds = Vec::with_capacity(count);
    for fold in 0..count {
        let train = |kind: bool| {
            let mut picked: Vec<f64> =
                (0..scores.len()).filter(|i| same[*i] == kind && folds.of(*i) != fold).map(|i| scores[i]).collect();
            picked.sort_unstable_by(f64::total_cmp);
            picked
        };
        let (train_same, train_different) = (train(true), train(false));
        ensure!(
            !train_same.is_empty() && !train_different.is_empty(),
            "outside fold {} of {count} there are {} same and {} different pairs: expected both \
             kinds, so the list must mix them before it is cut into folds",
            fold + 1,
            train_same.len(),
            train_different.len()
        );
        let threshold = convention.fit(&train_same, &train_different);
        let held_out: Vec<usize> = (0..scores.len()).filter(|i| folds.of(*i) == fold).collect();
        ensure!(!held_out.is_empty(), "fold {} of {count} holds no pair: take fewer folds", fold + 1);
        let right = held_out.iter().filter(|i| convention.is_right(scores[**i], same[**i], threshold)).count();
        fold_accuracies.push(right as f64 / held_out.len() as f64);
        thresholds.push(threshold);
    }
    Ok(Accuracy { mean: mean(&fold_accuracies), spread: Spread::of(&fold_accuracies), fold_accuracies, thresholds })
}
