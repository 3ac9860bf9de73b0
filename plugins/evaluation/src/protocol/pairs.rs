//! Everything that is measured on one list of pairs.

use super::interval::{self, BY_PERSON, INDEPENDENT, Rate};
use super::{
    Convention, FoldChoice, Folds, Operating, Reading, Roc, check_lengths, check_range, count, k_fold, mean, roc,
};
use mtl_component::{ErrorContext as _, Result, ensure};
use serde::Serialize;

/// Lower edges of the usual gaps between ages, in years; the last gap is open.
pub const GAP_EDGES: [u32; 6] = [0, 5, 10, 20, 30, 40];

/// The whole years of a gap, such as `20-29` or `40+`.
pub fn gap_label(from: u32, to: Option<u32>) -> String {
    match to {
        None => format!("{from}+"),
        Some(to) if to - from == 1 => from.to_string(),
        Some(to) => format!("{from}-{}", to - 1),
    }
}

/// What [`report`] computes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportSettings {
    /// How accuracy is measured.
    pub convention: Convention,
    /// How the list is cut into folds.
    pub folds: FoldChoice,
    /// The number of folds of a named order, 10 by default.
    pub fold_count: usize,
    /// What is read off the ROC; by default the false non-match rates at false match rates of at most 0.001, 0.01 and 0.1.
    pub readings: Vec<Reading>,
    /// Rising lower edges of the age-gap rows in years: each row ends before the next edge and the last has no end. By
    /// default 0, 5, 10, 20, 30, 40.
    pub gap_edges: Vec<u32>,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            convention: Convention::default(),
            folds: FoldChoice::default(),
            fold_count: 10,
            readings: [1e-3, 1e-2, 1e-1].map(Reading::at_most).to_vec(),
            gap_edges: GAP_EDGES.to_vec(),
        }
    }
}

/// Everything measured on one list of pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairReport {
    /// Number of pairs.
    pub pairs: usize,
    /// How many of them show the same person.
    pub same: usize,
    /// Mean accuracy over the folds.
    pub accuracy: f64,
    /// What the convention reports after the "±": see [`Convention`].
    pub deviation: f64,
    /// Which of the following two that is.
    pub deviation_is: &'static str,
    /// The population deviation of the folds.
    pub population_deviation: f64,
    /// The standard error of the mean over the folds.
    pub standard_error: f64,
    /// Mean of the folds' thresholds, in units of the convention's score.
    pub threshold: f64,
    /// Area under the ROC of all pairs.
    pub auc: f64,
    /// Equal error rate of all pairs, on the straight line between the points where the rates cross.
    pub eer: f64,
    /// Whether intervals are by person, or treat pairs as independent.
    pub intervals: &'static str,
    /// What was asked to be read off the ROC, in the requested order.
    pub readings: Vec<ReadingRow>,
    /// One row per age-gap range, empty ranges included; no rows if no gaps were given.
    #[serde(skip)]
    pub by_gap: Vec<GapRow>,
    /// The ROC of all pairs.
    #[serde(skip)]
    pub roc: Roc,
    /// Whether each pair is judged right by the threshold of its own fold.
    #[serde(skip)]
    pub right: Vec<bool>,
    /// The fold of each pair.
    #[serde(skip)]
    pub folds: Folds,
}

/// A reading of the ROC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReadingRow {
    /// The rule and its target.
    pub reading: Reading,
    /// The false non-match rate; null where the list has too few different pairs for the target.
    pub fnmr: Option<f64>,
    /// The false match rate that is reached.
    pub reached: f64,
    /// One over the number of different pairs: the smallest rate but 0 that the list can tell.
    pub resolution: f64,
    /// Pairs of at least this similarity, the negative squared distance, are accepted; null where all are, or none.
    pub threshold: Option<f64>,
    /// The false non-match rate with its interval.
    pub non_matches: Option<Rate>,
    /// The false match rate with its interval.
    pub matches: Option<Rate>,
    /// The same with thresholds from the other folds.
    pub nested: Option<Nested>,
}

/// A reading whose threshold is taken from the other folds and applied to each. This stands in place of insightface's
/// `val`, which interpolates thresholds and cannot be computed where rates repeat.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Nested {
    /// The mean over the folds of the false non-match rate.
    pub fnmr: f64,
    /// The population deviation of the folds.
    pub population_deviation: f64,
    /// The mean over the folds of the false match rate.
    pub fmr: f64,
}

/// The pairs whose ages lie a certain range of years apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GapRow {
    /// The range in whole years, such as `20-29` or `40+`.
    pub label: String,
    /// Smallest gap of the row.
    pub from: u32,
    /// The gap before which the row ends; `None` in the last row.
    pub to: Option<u32>,
    /// Number of pairs.
    pub pairs: usize,
    /// How many of them show the same person.
    pub same: usize,
    /// Share of the row's pairs judged right, each by the threshold of its own fold of the whole
    /// list; `None` without pairs.
    pub accuracy: Option<f64>,
    /// Area under the ROC of the row's pairs; `None` unless it has pairs of both kinds.
    pub auc: Option<f64>,
}

/// Evaluates a list of pairs, given the squared L2 distances of their unit-norm embeddings.
///
/// Under [`Convention::Facexzoo`] the distance `d` becomes the cosine `1 - d / 2` before the folds are judged. `gaps` holds
/// the years between the two ages of each pair, `None` where an age is unknown; such pairs, and those below the first
/// edge, count in no row. A gap of 29.5 years falls in `20-29`. `people` holds the two people of each pair, where all are
/// known: intervals are then by person.
///
/// # Errors
/// As [`k_fold`]; also if a distance is not between 0 and 4 (naming its pair), a list has another length, the pairs are
/// not mixed, a gap is negative or not finite, or the gap edges do not rise.
pub fn report(
    distances: &[f64],
    same: &[bool],
    gaps: Option<&[Option<f64>]>,
    people: Option<&[(i64, i64)]>,
    settings: &ReportSettings,
) -> Result<PairReport> {
    let convention = settings.convention;
    check_range(distances, "squared distance", 0.0, 4.0)?;
    if let Some(people) = people {
        check_lengths("list of people", people.len(), same.len())?;
    }
    let scores: Vec<f64> = match convention {
        Convention::Insightface => distances.to_vec(),
        Convention::Facexzoo => distances.iter().map(|d| 1.0 - d / 2.0).collect(),
    };
    super::check_pairs(&scores, same)?;
    let folds = settings.folds.folds(same, settings.fold_count)?;
    let accuracy = k_fold(&scores, same, &folds, convention)?;
    // The negated distance ranks pairs exactly; a cosine may round two distances into a tie.
    let similarity: Vec<f64> = distances.iter().map(|d| -d).collect();
    let curve = roc(&similarity, same)?;
    let readings = settings.readings.iter().map(|reading| {
        let nested = nested(&similarity, same, &folds, *reading);
        reading_row(*reading, curve.read(*reading), &similarity, same, people, nested)
    });
    let readings: Vec<ReadingRow> = readings.collect();
    let right: Vec<bool> =
        (0..same.len()).map(|i| convention.is_right(scores[i], same[i], accuracy.thresholds[folds.of(i)])).collect();
    let by_gap = match gaps {
        None => Vec::new(),
        Some(gaps) => {
            check_lengths("list of age gaps", gaps.len(), same.len())?;
            gap_rows(gaps, &settings.gap_edges, &similarity, same, &right)?
        }
    };
    Ok(PairReport {
        pairs: same.len(),
        same: count(same),
        accuracy: accuracy.mean,
        deviation: convention.deviation(accuracy.spread),
        deviation_is: convention.deviation_is(),
        population_deviation: accuracy.spread.population_deviation,
        standard_error: accuracy.spread.standard_error,
        threshold: mean(&accuracy.thresholds),
        auc: curve.auc(),
        eer: curve.eer(),
        intervals: if people.is_some() { BY_PERSON } else { INDEPENDENT },
        readings,
        by_gap,
        roc: curve,
        right,
        folds,
    })
}

fn reading_row(
    reading: Reading,
    found: Operating,
    similarity: &[f64],
    same: &[bool],
    people: Option<&[(i64, i64)]>,
    nested: Option<Nested>,
) -> ReadingRow {
    let rate = |kind: bool| {
        let members: Vec<usize> = (0..same.len()).filter(|i| same[*i] == kind).collect();
        let errors: Vec<bool> = members.iter().map(|i| (similarity[*i] >= found.threshold) != kind).collect();
        let people = people.map(|people| members.iter().map(|i| people[*i]).collect::<Vec<_>>());
        interval::rate(&errors, people.as_deref())
    };
    // The rules of papers give a number all the same, so that it can be compared with theirs.
    let resolved = found.resolved || reading.rule != super::Rule::AtMost;
    ReadingRow {
        reading,
        fnmr: resolved.then_some(found.fnmr),
        reached: found.fmr,
        resolution: 1.0 / (same.len() - count(same)) as f64,
        threshold: found.threshold.is_finite().then_some(found.threshold),
        non_matches: rate(true).filter(|_| resolved),
        matches: rate(false),
        nested: nested.filter(|_| resolved),
    }
}

/// The reading on each fold with the threshold of the others; none where a fold lacks a kind, or the others do not resolve
/// the target.
fn nested(similarity: &[f64], same: &[bool], folds: &Folds, reading: Reading) -> Option<Nested> {
    let (mut non_matches, mut matches) = (Vec::new(), Vec::new());
    for fold in 0..folds.count() {
        let (test, train): (Vec<usize>, Vec<usize>) = (0..same.len()).partition(|i| folds.of(*i) == fold);
        let pick = |of: &[usize]| -> (Vec<f64>, Vec<bool>) { of.iter().map(|i| (similarity[*i], same[*i])).unzip() };
        let (train_similarity, train_same) = pick(&train);
        let found = roc(&train_similarity, &train_same).ok()?.read(reading);
        let share = |kind: bool| {
            let members = test.iter().filter(|i| same[**i] == kind);
            let (wrong, all) = members.fold((0usize, 0usize), |(wrong, all), i| {
                (wrong + usize::from((similarity[*i] >= found.threshold) != kind), all + 1)
            });
            (all > 0).then(|| wrong as f64 / all as f64)
        };
        if !found.resolved {
            return None;
        }
        non_matches.push(share(true)?);
        matches.push(share(false)?);
    }
    let spread = super::convention::Spread::of(&non_matches);
    Some(Nested { fnmr: mean(&non_matches), population_deviation: spread.population_deviation, fmr: mean(&matches) })
}

fn gap_rows(
    gaps: &[Option<f64>],
    edges: &[u32],
    similarity: &[f64],
    same: &[bool],
    right: &[bool],
) -> Result<Vec<GapRow>> {
    ensure!(
        !edges.is_empty() && edges.is_sorted_by(|a, b| a < b),
        "expected at least one age-gap edge, in strictly rising order, found {edges:?}"
    );
    let mut members = vec![Vec::new(); edges.len()];
    for (pair, gap) in gaps.iter().enumerate() {
        let Some(gap) = *gap else { continue };
        ensure!(
            gap.is_finite() && gap >= 0.0,
            "the age gap of pair {pair} (counting from 0) is {gap}: expected a finite number of \
             years, at least 0"
        );
        let reached = edges.partition_point(|&edge| f64::from(edge) <= gap);
        if let Some(row) = reached.checked_sub(1) {
            members[row].push(pair);
        }
    }
    let mut rows = Vec::with_capacity(edges.len());
    for (row, pairs) in members.iter().enumerate() {
        let (from, to) = (edges[row], edges.get(row + 1).copied());
        let label = gap_label(from, to);
        let row_same: Vec<bool> = pairs.iter().map(|&i| same[i]).collect();
        let row_right: Vec<bool> = pairs.iter().map(|&i| right[i]).collect();
        let same_pairs = count(&row_same);
        let auc = if same_pairs > 0 && same_pairs < pairs.len() {
            let row_similarity: Vec<f64> = pairs.iter().map(|&i| similarity[i]).collect();
            let curve = roc(&row_similarity, &row_same).with_context(|| format!("in the age-gap row {label}"))?;
            Some(curve.auc())
        } else {
            None
        };
        rows.push(GapRow {
            label,
            from,
            to,
            pairs: pairs.len(),
            same: same_pairs,
            accuracy: (!pairs.is_empty()).then(|| count(&row_right) as f64 / pairs.len() as f64),
            auc,
        });
    }
    Ok(rows)
}
