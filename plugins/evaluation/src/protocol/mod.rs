//! Face verification on scored pairs: cross-validated accuracy, the ROC and what is read off it,
//! and the same figures by age gap.
//!
//! Published verification numbers depend on conventions that papers rarely spell out: the score
//! that is thresholded, the threshold grid, and what stands after the "±". Each convention here
//! names the public evaluation code that it reproduces. All arithmetic is in `f64`.

mod convention;
mod embedding;
mod figures;
mod folds;
mod interval;
mod pairs;
mod roc;

pub use convention::{Accuracy, Convention, Spread, k_fold};
pub use embedding::{FlipTest, cosine, largest, squared_distance};
pub use figures::{AgeFigures, Course, beyond, group_accuracy, mean_absolute_error, pearson};
pub use folds::{FoldChoice, FoldOrder, Folds};
pub use interval::{BY_PERSON, INDEPENDENT, Rate, rate, wilson};
pub use pairs::{GAP_EDGES, GapRow, Nested, PairReport, ReadingRow, ReportSettings, gap_label, report};
pub use roc::{Operating, Reading, Roc, RocPoint, Rule, roc, weighted_roc};

use mtl_component::{Result, bail, ensure};

/// How far a score may lie outside its mathematical range: embeddings that were normalised in
/// half precision miss unit length by up to this much.
const ROUNDING: f64 = 1e-2;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

fn check_lengths(what: &str, found: usize, expected: usize) -> Result<()> {
    ensure!(found == expected, "expected {expected} values in the {what}, found {found}");
    Ok(())
}

fn check_range(scores: &[f64], what: &str, low: f64, high: f64) -> Result<()> {
    let allowed = low - ROUNDING..=high + ROUNDING;
    if let Some(pair) = scores.iter().position(|score| !allowed.contains(score)) {
        bail!(
            "the {what} of pair {pair} (counting from 0) is {}: expected a number between {low} \
             and {high}",
            scores[pair]
        );
    }
    Ok(())
}

fn check_pairs(scores: &[f64], same: &[bool]) -> Result<()> {
    ensure!(
        scores.len() == same.len(),
        "expected one same/different flag per score, found {} scores and {} flags",
        scores.len(),
        same.len()
    );
    ensure!(!scores.is_empty(), "expected at least two pairs, found none");
    if let Some(pair) = scores.iter().position(|score| !score.is_finite()) {
        bail!("the score of pair {pair} (counting from 0) is {}: expected a finite number", scores[pair]);
    }
    let alike = count(same);
    let only = match (alike, same.len() - alike) {
        (0, _) => "different people",
        (_, 0) => "the same person",
        _ => return Ok(()),
    };
    bail!("expected pairs of both kinds, found {} that all show {only}", same.len());
}

#[cfg(test)]
mod tests;
