//! Face verification on scored pairs: cross-validated accuracy, the ROC and what is read off it,
//! and the same figures by age gap.
//!
//! Published verification numbers depend on conventions that papers rarely spell out: the score
//! that is thresholded, the threshold grid, and what stands after the "±". Each convention here
//! names the public evaluation code that it reproduces. All arithmetic is in `f64`.

use std::ops::Range;

use mtl_component::{ErrorContext as _, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a score may lie outside its mathematical range: embeddings that were normalised in
/// half precision miss unit length by up to this much.
const ROUNDING: f64 = 1e-2;

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

    fn check_range(self, scores: &[f64]) -> Result<()> {
        match self {
            Self::Insightface => check_range(scores, "squared distance", 0.0, 4.0),
            Self::Facexzoo => check_range(scores, "cosine", -1.0, 1.0),
        }
    }

    fn is_right(self, score: f64, same: bool, threshold: f64) -> bool {
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

    fn deviation(self, values: &[f64], mean: f64) -> f64 {
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let n = values.len() as f64;
        match self {
            Self::Insightface => (squares / n).sqrt(),
            Self::Facexzoo => (squares / (n - 1.0)).sqrt() / n.sqrt(),
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

/// How the embeddings of an image and of its mirror image become one embedding.
///
/// The result always has unit L2 norm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlipTest {
    /// Use the plain image only.
    None,
    /// Add the two raw embeddings, then normalise the sum (insightface, MegaFace).
    #[default]
    SumRaw,
    /// Normalise each embedding, add them, then normalise the sum (the released MTLFace
    /// evaluation).
    SumNorm,
    /// Put the two raw embeddings one after the other, then normalise: twice the length.
    Concat,
}

impl FlipTest {
    /// The final embedding of one image from the network's raw output for it and, unless this is
    /// [`FlipTest::None`] (which ignores it), for its mirror image.
    ///
    /// # Errors
    /// If the mirrored embedding is missing or has another length, or if a vector to be
    /// normalised has norm 0 or a value that is not finite.
    pub fn combine(self, plain: &[f32], flipped: Option<&[f32]>) -> Result<Vec<f32>> {
        let plain_wide = || plain.iter().map(|&v| f64::from(v));
        if self == Self::None {
            return Ok(narrow(normalised(plain_wide().collect())?));
        }
        let Some(flipped) = flipped else {
            bail!("flip test {self:?} expects the embedding of the mirrored image, found none");
        };
        check_lengths("mirrored embedding", flipped.len(), plain.len())?;
        let flipped_wide = || flipped.iter().map(|&v| f64::from(v));
        let joined = match self {
            Self::None | Self::SumRaw => sum(plain_wide(), flipped_wide()),
            Self::SumNorm => {
                sum(normalised(plain_wide().collect())?.into_iter(), normalised(flipped_wide().collect())?.into_iter())
            }
            Self::Concat => plain_wide().chain(flipped_wide()).collect(),
        };
        Ok(narrow(normalised(joined)?))
    }
}

fn sum(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> Vec<f64> {
    a.zip(b).map(|(x, y)| x + y).collect()
}

fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|v| v as f32).collect()
}

fn normalised(mut values: Vec<f64>) -> Result<Vec<f64>> {
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    ensure!(
        norm.is_finite() && norm > 0.0,
        "an embedding of {} values has L2 norm {norm}: expected a positive finite norm",
        values.len()
    );
    for value in &mut values {
        *value /= norm;
    }
    Ok(values)
}

/// Squared L2 distance of two embeddings; between 0 and 4 if both have unit norm.
///
/// # Errors
/// If the lengths differ.
pub fn squared_distance(a: &[f32], b: &[f32]) -> Result<f64> {
    check_lengths("second embedding", b.len(), a.len())?;
    Ok(a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum())
}

/// Cosine of the angle between two embeddings of any norm.
///
/// # Errors
/// If the lengths differ, or if a norm is 0 or not finite.
pub fn cosine(a: &[f32], b: &[f32]) -> Result<f64> {
    check_lengths("second embedding", b.len(), a.len())?;
    let dot = |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&p, &q)| f64::from(p) * f64::from(q)).sum() };
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    ensure!(
        norms.is_finite() && norms > 0.0,
        "the L2 norms of two embeddings have the product {norms}: expected a positive finite one"
    );
    Ok(dot(a, b) / norms)
}

/// Cross-validated accuracy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accuracy {
    /// Mean of the fold accuracies, every fold with the same weight.
    pub mean: f64,
    /// What the convention reports after the "±".
    pub deviation: f64,
    /// Accuracy on each fold under the threshold fitted on the others.
    pub fold_accuracies: Vec<f64>,
    /// The threshold applied to each fold, in units of the convention's score.
    pub thresholds: Vec<f64>,
}

/// Nested k-fold accuracy: each fold is judged by a threshold fitted on all other folds.
///
/// `scores` are what the convention thresholds: squared distances or cosines. Folds are
/// contiguous runs of the list in its given order and, as in scikit-learn's `KFold` without
/// shuffling, the first `len % folds` of them hold one pair more.
///
/// # Errors
/// If the lists differ in length, a score is not a number in the convention's range, all pairs
/// are of one kind, the training pairs of some fold are, or `folds` is not between 2 and the
/// number of pairs.
pub fn k_fold(scores: &[f64], same: &[bool], folds: usize, convention: Convention) -> Result<Accuracy> {
    check_pairs(scores, same)?;
    convention.check_range(scores)?;
    ensure!(
        (2..=scores.len()).contains(&folds),
        "expected between 2 folds and one per pair ({}), found {folds}",
        scores.len()
    );
    let mut fold_accuracies = Vec::with_capacity(folds);
    let mut thresholds = Vec::with_capacity(folds);
    for (number, held_out) in fold_ranges(scores.len(), folds).enumerate() {
        let train = |kind: bool| {
            let mut picked: Vec<f64> =
                (0..scores.len()).filter(|i| same[*i] == kind && !held_out.contains(i)).map(|i| scores[i]).collect();
            picked.sort_unstable_by(f64::total_cmp);
            picked
        };
        let (train_same, train_different) = (train(true), train(false));
        ensure!(
            !train_same.is_empty() && !train_different.is_empty(),
            "outside fold {} of {folds} there are {} same and {} different pairs: expected both \
             kinds, so the list must mix them before it is cut into folds",
            number + 1,
            train_same.len(),
            train_different.len()
        );
        let threshold = convention.fit(&train_same, &train_different);
        let size = held_out.len();
        let right = held_out.filter(|&i| convention.is_right(scores[i], same[i], threshold)).count();
        fold_accuracies.push(right as f64 / size as f64);
        thresholds.push(threshold);
    }
    let mean = mean(&fold_accuracies);
    Ok(Accuracy { mean, deviation: convention.deviation(&fold_accuracies, mean), fold_accuracies, thresholds })
}

fn fold_ranges(pairs: usize, folds: usize) -> impl Iterator<Item = Range<usize>> {
    let (size, longer) = (pairs / folds, pairs % folds);
    (0..folds).map(move |fold| {
        let start = fold * size + fold.min(longer);
        start..start + size + usize::from(fold < longer)
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// One operating point of a [`Roc`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RocPoint {
    /// Pairs with at least this similarity are accepted; `None` where no pair is.
    pub threshold: Option<f64>,
    /// Share of the different pairs that are accepted (false accept rate).
    pub far: f64,
    /// Share of the same pairs that are accepted (true accept rate).
    pub tar: f64,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    threshold: f64,
    same: usize,
    different: usize,
}

/// The receiver operating characteristic of a list of pairs, kept as exact counts.
#[derive(Debug, Clone)]
pub struct Roc {
    same: usize,
    different: usize,
    /// Accepted pairs of each kind by falling threshold, from none to all.
    steps: Vec<Step>,
}

/// The ROC over every distinct similarity; higher means more alike.
///
/// Pairs of equal similarity are accepted together, as one step. The points are those of
/// scikit-learn's `roc_curve(..., drop_intermediate=False)`.
///
/// # Errors
/// If the lists differ in length, a similarity is not finite, or all pairs are of one kind.
pub fn roc(similarity: &[f64], same: &[bool]) -> Result<Roc> {
    check_pairs(similarity, same)?;
    let mut pairs: Vec<(f64, bool)> = similarity.iter().copied().zip(same.iter().copied()).collect();
    pairs.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut steps = vec![Step { threshold: f64::INFINITY, same: 0, different: 0 }];
    let (mut same, mut different) = (0, 0);
    for tied in pairs.chunk_by(|a, b| a.0 == b.0) {
        let alike = tied.iter().filter(|pair| pair.1).count();
        same += alike;
        different += tied.len() - alike;
        steps.push(Step { threshold: tied[0].0, same, different });
    }
    Ok(Roc { same, different, steps })
}

impl Roc {
    fn far(&self, step: Step) -> f64 {
        step.different as f64 / self.different as f64
    }

    fn tar(&self, step: Step) -> f64 {
        step.same as f64 / self.same as f64
    }

    /// The points by falling threshold, from (0, 0) to (1, 1).
    pub fn points(&self) -> impl Iterator<Item = RocPoint> {
        self.steps.iter().map(|&step| RocPoint {
            threshold: step.threshold.is_finite().then_some(step.threshold),
            far: self.far(step),
            tar: self.tar(step),
        })
    }

    /// Area under the curve: the probability that a random same pair is more similar than a
    /// random different pair, where equal similarities count half (the Mann-Whitney statistic).
    pub fn auc(&self) -> f64 {
        // Each different pair wins once for every same pair accepted before it and half for every
        // one accepted with it. Counting halves keeps the sum exact.
        let halves: u128 = self
            .steps
            .windows(2)
            .map(|w| (w[1].different - w[0].different) as u128 * (w[0].same + w[1].same) as u128)
            .sum();
        halves as f64 / (2.0 * self.same as f64 * self.different as f64)
    }

    /// Equal error rate: the value at which the false accept rate equals the false reject rate,
    /// 1 - TAR, on the straight line between the two neighbouring points where they cross.
    pub fn eer(&self) -> f64 {
        // FAR - FRR grows from -1 to 1 and strictly so with every step: there is one crossing.
        let excess = |step: Step| self.far(step) + self.tar(step) - 1.0;
        let end = self.steps.partition_point(|&step| excess(step) < 0.0).clamp(1, self.steps.len() - 1);
        let (before, after) = (self.steps[end - 1], self.steps[end]);
        let (low, high) = (excess(before), excess(after));
        let share = -low / (high - low);
        self.far(before) + share * (self.far(after) - self.far(before))
    }

    /// True accept rate at the point whose false accept rate is nearest to `far`; of points
    /// equally near, the one with the largest true accept rate. Nothing is interpolated.
    ///
    /// This is the reading of insightface's IJB scripts. The chosen point may lie above the
    /// target, and a target below half of one over the number of different pairs reads the TAR at
    /// no false accept. The scripts drop collinear points first (scikit-learn's default), which
    /// can move the nearest point of a short list; here every point counts.
    ///
    /// # Errors
    /// If `far` is not between 0 and 1.
    pub fn tar_at_far(&self, far: f64) -> Result<f64> {
        ensure!((0.0..=1.0).contains(&far), "expected a false accept rate between 0 and 1, found {far}");
        let mut nearest = (f64::INFINITY, 0.0);
        // TAR never falls along the list, so from its end the first of equals has the largest.
        for &step in self.steps.iter().rev() {
            let distance = (self.far(step) - far).abs();
            if distance < nearest.0 {
                nearest = (distance, self.tar(step));
            }
        }
        Ok(nearest.1)
    }
}

/// What [`report`] computes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportSettings {
    /// How accuracy is measured.
    pub convention: Convention,
    /// Number of folds, 10 by default.
    pub folds: usize,
    /// False accept rates at which to read the true accept rate; by default 0.001, 0.01 and 0.1,
    /// of which the first is about as low as the 3000 different pairs of the usual lists support.
    pub fars: Vec<f64>,
    /// Rising lower edges of the age-gap rows in years: each row ends before the next edge and
    /// the last has no end. By default 0, 5, 10, 20, 30, 40.
    pub gap_edges: Vec<u32>,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self {
            convention: Convention::default(),
            folds: 10,
            fars: vec![1e-3, 1e-2, 1e-1],
            gap_edges: vec![0, 5, 10, 20, 30, 40],
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
    /// Mean of the folds' thresholds, in units of the convention's score.
    pub threshold: f64,
    /// Area under the ROC of all pairs.
    pub auc: f64,
    /// Equal error rate of all pairs.
    pub eer: f64,
    /// (FAR, TAR) for each requested false accept rate, in the requested order.
    pub tar_at_far: Vec<(f64, f64)>,
    /// One row per age-gap range, empty ranges included; no rows if no gaps were given.
    pub by_gap: Vec<GapRow>,
    /// Whether each pair is judged right by the threshold of its own fold.
    #[serde(skip)]
    pub right: Vec<bool>,
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
/// Under [`Convention::Facexzoo`] the distance `d` becomes the cosine `1 - d / 2` before the folds
/// are judged. `gaps` holds the years between the two ages of each pair, `None` where an age is
/// unknown; such pairs, and those below the first edge, count in no row. A gap of 29.5 years falls
/// in `20-29`.
///
/// # Errors
/// As [`k_fold`]; also if a distance is not between 0 and 4 (naming its pair), `gaps` has another
/// length, a gap is negative or not finite, the gap edges do not rise, or a requested false accept
/// rate is not between 0 and 1.
pub fn report(
    distances: &[f64],
    same: &[bool],
    gaps: Option<&[Option<f64>]>,
    settings: &ReportSettings,
) -> Result<PairReport> {
    let convention = settings.convention;
    Convention::Insightface.check_range(distances)?;
    let scores: Vec<f64> = match convention {
        Convention::Insightface => distances.to_vec(),
        Convention::Facexzoo => distances.iter().map(|d| 1.0 - d / 2.0).collect(),
    };
    let accuracy = k_fold(&scores, same, settings.folds, convention)?;
    // The negated distance ranks pairs exactly; a cosine may round two distances into a tie.
    let similarity: Vec<f64> = distances.iter().map(|d| -d).collect();
    let roc = roc(&similarity, same)?;
    let tar_at_far = settings.fars.iter().map(|&far| Ok((far, roc.tar_at_far(far)?))).collect::<Result<_>>()?;
    let right: Vec<bool> = fold_ranges(scores.len(), settings.folds)
        .zip(&accuracy.thresholds)
        .flat_map(|(fold, &threshold)| fold.map(move |i| (i, threshold)))
        .map(|(i, threshold)| convention.is_right(scores[i], same[i], threshold))
        .collect();
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
        deviation: accuracy.deviation,
        threshold: mean(&accuracy.thresholds),
        auc: roc.auc(),
        eer: roc.eer(),
        tar_at_far,
        by_gap,
        right,
    })
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
        let label = match to {
            None => format!("{from}+"),
            Some(to) if to - from == 1 => from.to_string(),
            Some(to) => format!("{from}-{}", to - 1),
        };
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

/// Mean absolute error of predictions such as ages.
///
/// # Errors
/// If the lists are empty or differ in length, or a value is not finite.
pub fn mean_absolute_error(predicted: &[f64], target: &[f64]) -> Result<f64> {
    check_lengths("list of predictions", predicted.len(), target.len())?;
    ensure!(!target.is_empty(), "expected at least one prediction, found none");
    let mut errors = Vec::with_capacity(target.len());
    for (i, (p, t)) in predicted.iter().zip(target).enumerate() {
        ensure!(p.is_finite() && t.is_finite(), "prediction {i} is {p} for the target {t}: expected finite numbers");
        errors.push((p - t).abs());
    }
    Ok(mean(&errors))
}

/// Share of ordered groups, such as age groups, predicted within `tolerance` groups of the target:
/// 0 for the exact group, 1 for the "one-off" accuracy of the age-group literature.
///
/// # Errors
/// If the lists are empty or differ in length.
pub fn group_accuracy(predicted: &[usize], target: &[usize], tolerance: usize) -> Result<f64> {
    check_lengths("list of predictions", predicted.len(), target.len())?;
    ensure!(!target.is_empty(), "expected at least one prediction, found none");
    let right = predicted.iter().zip(target).filter(|(p, t)| p.abs_diff(**t) <= tolerance).count();
    Ok(right as f64 / target.len() as f64)
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
mod tests {
    use std::collections::BTreeSet;

    use schemars::schema_for;

    use super::*;

    const BOTH: [Convention; 2] = [Convention::Insightface, Convention::Facexzoo];

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "found {found}, expected {expected}");
    }

    fn all_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            close(*f, *e);
        }
    }

    fn fails<T>(result: Result<T>, parts: &[&str]) {
        let message = format!("{:#}", result.err().expect("an error"));
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % bound
        }

        /// Scores on a grid of `levels` values in `low..=high`, so that few levels give many ties;
        /// the first two pairs are of different kinds.
        fn pairs(&mut self, n: usize, levels: u64, low: f64, high: f64) -> (Vec<f64>, Vec<bool>) {
            let scores = (0..n).map(|_| low + (high - low) * self.below(levels + 1) as f64 / levels as f64).collect();
            let same = (0..n).map(|i| if i < 2 { i == 0 } else { self.below(2) == 0 }).collect();
            (scores, same)
        }
    }

    /// 3007 pairs whose figures under scikit-learn 1.9.1 and NumPy 2.4.6 the tests below quote.
    /// Distances are multiples of 0.001, so many coincide with thresholds.
    fn reference_pairs() -> (Vec<f64>, Vec<bool>) {
        let same = (0..3007u64).map(|i| i * 31 % 7 < 4);
        let distance = same.clone().zip(0..).map(|(same, i)| {
            let thousandths =
                if same { 200 + i * 7919 % 1009 + i * 6007 % 797 } else { 900 + i * 7919 % 1009 + i * 5003 % 911 };
            thousandths as f64 / 1000.0
        });
        (distance.collect(), same.collect())
    }

    fn negated(values: &[f64]) -> Vec<f64> {
        values.iter().map(|v| -v).collect()
    }

    /// Straight from the definitions: no sorting, one pass over the pairs for each threshold.
    fn naive_k_fold(scores: &[f64], same: &[bool], folds: usize, convention: Convention) -> Accuracy {
        let n = scores.len();
        let mut fold_of = Vec::new();
        for fold in 0..folds {
            let size = n / folds + if fold < n % folds { 1 } else { 0 };
            fold_of.extend(vec![fold; size]);
        }
        assert_eq!(fold_of.len(), n);
        let mut fold_accuracies = Vec::new();
        let mut thresholds = Vec::new();
        for fold in 0..folds {
            let train: Vec<usize> = (0..n).filter(|&i| fold_of[i] != fold).collect();
            let test: Vec<usize> = (0..n).filter(|&i| fold_of[i] == fold).collect();
            let rate = |kind: bool, t: f64| {
                let of_kind = train.iter().filter(|&&i| same[i] == kind);
                let accepted = of_kind.clone().filter(|&&i| scores[i] > t).count();
                accepted as f64 / of_kind.count() as f64
            };
            let (grid, merits): (Vec<f64>, Vec<f64>) = match convention {
                Convention::Insightface => (0..400)
                    .map(|i| i as f64 * 0.01)
                    .map(|t| {
                        let right = train.iter().filter(|&&i| (scores[i] < t) == same[i]);
                        (t, right.count() as f64 / train.len() as f64)
                    })
                    .unzip(),
                Convention::Facexzoo => {
                    let values = train.iter().map(|&i| scores[i]);
                    let low = values.clone().fold(f64::INFINITY, f64::min);
                    let high = values.fold(f64::NEG_INFINITY, f64::max);
                    (1..=1000)
                        .map(|i| low + (high - low) / 1000.0 * i as f64)
                        .map(|t| (t, rate(true, t) - rate(false, t)))
                        .unzip()
                }
            };
            let mut best = 0;
            for i in 1..merits.len() {
                if merits[i] > merits[best] {
                    best = i;
                }
            }
            let t = grid[best];
            let right = test.iter().filter(|&&i| match convention {
                Convention::Insightface => (scores[i] < t) == same[i],
                Convention::Facexzoo if same[i] => scores[i] > t,
                Convention::Facexzoo => scores[i] < t,
            });
            fold_accuracies.push(right.count() as f64 / test.len() as f64);
            thresholds.push(t);
        }
        let k = folds as f64;
        let mean = fold_accuracies.iter().sum::<f64>() / k;
        let squares: f64 = fold_accuracies.iter().map(|a| (a - mean) * (a - mean)).sum();
        let deviation = match convention {
            Convention::Insightface => (squares / k).sqrt(),
            Convention::Facexzoo => (squares / (k - 1.0) / k).sqrt(),
        };
        Accuracy { mean, deviation, fold_accuracies, thresholds }
    }

    fn naive_auc(similarity: &[f64], same: &[bool]) -> f64 {
        let (mut wins, mut contests) = (0.0, 0.0);
        for i in (0..same.len()).filter(|&i| same[i]) {
            for j in (0..same.len()).filter(|&j| !same[j]) {
                contests += 1.0;
                if similarity[i] > similarity[j] {
                    wins += 1.0;
                } else if similarity[i] == similarity[j] {
                    wins += 0.5;
                }
            }
        }
        wins / contests
    }

    /// (FAR, TAR) for every threshold, by counting; largest threshold first.
    fn naive_points(similarity: &[f64], same: &[bool]) -> Vec<(f64, f64)> {
        let mut thresholds = vec![f64::INFINITY];
        thresholds.extend(similarity);
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        let rate = |kind: bool, t: f64| {
            let of_kind = (0..same.len()).filter(|&i| same[i] == kind);
            let accepted = of_kind.clone().filter(|&i| similarity[i] >= t).count();
            accepted as f64 / of_kind.count() as f64
        };
        thresholds.iter().map(|&t| (rate(false, t), rate(true, t))).collect()
    }

    #[test]
    fn insightface_grid_has_400_thresholds_and_takes_the_first_best() {
        // Every threshold in (0.1, 3.5] separates these; 0.11 is the first on the grid.
        let scores = [0.1, 3.5, 0.1, 3.5];
        let same = [true, false, true, false];
        let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
        assert_eq!(found.thresholds, [11.0 * 0.01; 2]);
        assert_eq!(found.mean, 1.0);
        assert_eq!(found.deviation, 0.0);

        // 3.99 is the last threshold and accepts the first distance only.
        let scores = [3.985, 3.995, 3.985, 3.995];
        let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
        assert_eq!(found.thresholds, [399.0 * 0.01; 2]);
        assert_eq!(found.mean, 1.0);

        // Beyond the grid nothing separates: the first threshold, 0, rejects every pair.
        let scores = [3.995, 4.0, 3.995, 4.0];
        let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
        assert_eq!(found.thresholds, [0.0; 2]);
        assert_eq!(found.mean, 0.5);
    }

    #[test]
    fn insightface_accepts_strictly_below_the_threshold() {
        // The others' distances put the threshold at 0.26, the distance of both pairs of fold 2:
        // it accepts neither.
        let scores = [0.25, 1.0, 0.26, 0.26];
        let same = [true, false, true, false];
        let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
        assert_eq!(found.thresholds[1], 0.26);
        assert_eq!(found.fold_accuracies[1], 0.5);
        // A training distance equal to a threshold needs the next one.
        let scores = [0.5, 1.0, 0.5, 1.0];
        let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
        assert_eq!(found.thresholds, [0.51, 0.51]);
    }

    #[test]
    fn facexzoo_counts_a_score_on_the_threshold_as_wrong() {
        // Trained on -1 and 1 the grid is -0.998, -0.996, ..., 1 and its first value separates.
        let same = [true, false, true, false];
        let first = -1.0 + 2.0 / 1000.0;
        let scores = [1.0, -1.0, first, first];
        let found = k_fold(&scores, &same, 2, Convention::Facexzoo).unwrap();
        assert_eq!(found.thresholds[1], first);
        assert_eq!(found.fold_accuracies[1], 0.0);
        // Trained on two equal scores every threshold is that score and accepts nothing.
        assert_eq!(found.thresholds[0], first);
        assert_eq!(found.fold_accuracies[0], 1.0);
    }

    #[test]
    fn deviation_is_of_the_population_or_the_standard_error() {
        // Fold accuracies 1, 1 and 0.5 by construction.
        let distances = [0.2, 2.0, 0.2, 2.0, 3.0, 2.0];
        let same = [true, false, true, false, true, false];
        let found = k_fold(&distances, &same, 3, Convention::Insightface).unwrap();
        all_close(&found.fold_accuracies, &[1.0, 1.0, 0.5]);
        close(found.mean, 2.5 / 3.0);
        close(found.deviation, (0.5 / 9.0_f64).sqrt());
        let cosines: Vec<f64> = distances.iter().map(|d| 1.0 - d / 2.0).collect();
        let found = k_fold(&cosines, &same, 3, Convention::Facexzoo).unwrap();
        all_close(&found.fold_accuracies, &[1.0, 1.0, 0.5]);
        close(found.deviation, (0.5 / 18.0_f64).sqrt());
    }

    #[test]
    fn first_folds_take_the_remainder() {
        let ranges = |n, k| fold_ranges(n, k).collect::<Vec<_>>();
        assert_eq!(ranges(7, 3), [0..3, 3..5, 5..7]);
        assert_eq!(ranges(6, 3), [0..2, 2..4, 4..6]);
        assert_eq!(ranges(3, 3), [0..1, 1..2, 2..3]);
        for n in 2..40 {
            for k in 2..=n {
                let joined: Vec<usize> = fold_ranges(n, k).flatten().collect();
                assert!(joined.into_iter().eq(0..n));
            }
        }
    }

    #[test]
    fn k_fold_agrees_with_the_definitions() {
        let mut random = Random(1);
        let mut compared = 0;
        for round in 0..60 {
            let n = 12 + random.below(90) as usize;
            let folds = 2 + random.below(9) as usize;
            let levels = [4, 40, 400, 100_003][round % 4];
            for (convention, low, high) in [(Convention::Insightface, 0.0, 4.0), (Convention::Facexzoo, -1.0, 1.0)] {
                let (scores, same) = random.pairs(n, levels, low, high);
                let Ok(found) = k_fold(&scores, &same, folds, convention) else {
                    continue;
                };
                let expected = naive_k_fold(&scores, &same, folds, convention);
                assert_eq!(found.fold_accuracies, expected.fold_accuracies);
                assert_eq!(found.thresholds, expected.thresholds);
                close(found.mean, expected.mean);
                close(found.deviation, expected.deviation);
                compared += 1;
            }
        }
        assert!(compared > 100);
    }

    #[test]
    fn k_fold_agrees_with_scikit_learn() {
        let (distances, same) = reference_pairs();
        let found = k_fold(&distances, &same, 10, Convention::Insightface).unwrap();
        close(found.mean, 0.8257375415282391);
        close(found.deviation, 0.007_668_243_733_749_866);
        all_close(&found.thresholds, &[1.59, 1.57, 1.57, 1.58, 1.57, 1.59, 1.57, 1.57, 1.58, 1.57]);
        close(found.fold_accuracies[3], 0.8372093023255814);
        close(found.fold_accuracies[9], 0.81);

        let cosines: Vec<f64> = distances.iter().map(|d| 1.0 - d / 2.0).collect();
        let found = k_fold(&cosines, &same, 10, Convention::Facexzoo).unwrap();
        close(found.mean, 0.8217530454042082);
        close(found.deviation, 0.0018253720417203572);
        all_close(
            &found.thresholds,
            &[0.25607, 0.243899, 0.272257, 0.238743, 0.238743, 0.249055, 0.238743, 0.2390155, 0.238743, 0.238743],
        );
        close(found.fold_accuracies[0], 0.813953488372093);
        close(found.fold_accuracies[7], 0.83);
    }

    #[test]
    fn roc_takes_ties_as_one_step() {
        let similarity = [0.9, 0.5, 0.5, 0.1];
        let same = [true, true, false, false];
        let curve = roc(&similarity, &same).unwrap();
        let point = |threshold, far, tar| RocPoint { threshold, far, tar };
        let points: Vec<RocPoint> = curve.points().collect();
        assert_eq!(
            points,
            [point(None, 0.0, 0.0), point(Some(0.9), 0.0, 0.5), point(Some(0.5), 0.5, 1.0), point(Some(0.1), 1.0, 1.0),]
        );
        // Of four contests three are won and one is drawn.
        close(curve.auc(), 0.875);
        // FAR and FRR go from (0, 0.5) to (0.5, 0) and meet half-way.
        close(curve.eer(), 0.25);
        // Zeros of either sign are equal.
        let curve = roc(&[0.0, -0.0, -0.0, 0.0], &same).unwrap();
        assert_eq!(curve.points().count(), 2);
        close(curve.auc(), 0.5);
        close(curve.eer(), 0.5);
    }

    #[test]
    fn perfect_and_inverted_lists_reach_the_ends() {
        let same = [true, true, false, false, false];
        let best = roc(&[5.0, 4.0, 3.0, 2.0, 1.0], &same).unwrap();
        assert_eq!((best.auc(), best.eer()), (1.0, 0.0));
        assert_eq!(best.tar_at_far(0.0).unwrap(), 1.0);
        let worst = roc(&[1.0, 2.0, 3.0, 4.0, 5.0], &same).unwrap();
        assert_eq!((worst.auc(), worst.eer()), (0.0, 1.0));
        assert_eq!(worst.tar_at_far(0.0).unwrap(), 0.0);
    }

    #[test]
    fn tar_is_read_at_the_nearest_far_and_ties_take_the_larger() {
        // (0, 0), (0, 0.25), (0.25, 0.25), (0.25, 0.75), (0.5, 0.75), (0.5, 1), ...
        let similarity = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0];
        let same = [true, false, true, true, false, true, false, false];
        let curve = roc(&similarity, &same).unwrap();
        let tar = |far| curve.tar_at_far(far).unwrap();
        assert_eq!(tar(0.0), 0.25);
        assert_eq!(tar(0.1), 0.25);
        assert_eq!(tar(0.2), 0.75);
        assert_eq!(tar(0.25), 0.75);
        // 0.125 lies exactly between 0 and 0.25, and 0.375 between 0.25 and 0.5.
        assert_eq!(tar(0.125), 0.75);
        assert_eq!(tar(0.375), 1.0);
        assert_eq!(tar(1.0), 1.0);
        for far in [-0.1, 1.1, f64::NAN] {
            fails(curve.tar_at_far(far), &["between 0 and 1", &format!("{far}")]);
        }
    }

    #[test]
    fn roc_figures_agree_with_counting() {
        let mut random = Random(2);
        for round in 0..80 {
            let n = 2 + random.below(60) as usize;
            let levels = [1, 3, 20, 100_003][round % 4];
            let (similarity, same) = random.pairs(n, levels, -1.0, 1.0);
            let curve = roc(&similarity, &same).unwrap();
            let points = naive_points(&similarity, &same);
            let found: Vec<(f64, f64)> = curve.points().map(|p| (p.far, p.tar)).collect();
            assert_eq!(found, points);
            close(curve.auc(), naive_auc(&similarity, &same));

            // The crossing by bisection along the polyline: position s lies on segment floor(s).
            let at = |s: f64| {
                let i = (s as usize).min(points.len() - 2);
                let (a, b, t) = (points[i], points[i + 1], s - i as f64);
                (a.0 + t * (b.0 - a.0), 1.0 - a.1 - t * (b.1 - a.1))
            };
            let (mut low, mut high) = (0.0, (points.len() - 1) as f64);
            for _ in 0..100 {
                let middle = (low + high) / 2.0;
                let (far, frr) = at(middle);
                if far < frr {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            let (far, frr) = at(high);
            close(far, frr);
            close(curve.eer(), far);

            for target in [0.0, 1e-3, 0.1, 0.25, 0.5, 0.77, 1.0] {
                let distance = |p: &(f64, f64)| (p.0 - target).abs();
                let least = points.iter().map(distance).fold(f64::INFINITY, f64::min);
                let expected = points.iter().filter(|p| distance(p) == least).map(|p| p.1).fold(0.0, f64::max);
                assert_eq!(curve.tar_at_far(target).unwrap(), expected);
            }
        }
    }

    #[test]
    fn roc_agrees_with_scikit_learn() {
        let (distances, same) = reference_pairs();
        let curve = roc(&negated(&distances), &same).unwrap();
        assert_eq!(curve.points().count(), 1806);
        close(curve.auc(), 0.9162089128086168);
        close(curve.eer(), 0.17858330562021948);
        for (far, tar) in [
            (1e-4, 0.3333333333333333),
            (1e-3, 0.35136707388016286),
            (1e-2, 0.4397905759162304),
            (1e-1, 0.7161140197789413),
            (0.5, 0.9866201279813845),
        ] {
            close(curve.tar_at_far(far).unwrap(), tar);
        }
    }

    #[test]
    fn flip_tests_by_hand() {
        let (plain, flipped) = ([3.0, 4.0], [0.0, 10.0]);
        let combine = |test: FlipTest| -> Vec<f64> {
            let row = test.combine(&plain, Some(&flipped)).unwrap();
            row.into_iter().map(f64::from).collect()
        };
        let check = |test, expected: &[f64]| {
            let found = combine(test);
            assert_eq!(found.len(), expected.len());
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 1e-7, "{test:?}: {f} is not {e}");
            }
        };
        check(FlipTest::None, &[0.6, 0.8]);
        let norm = 205.0_f64.sqrt();
        check(FlipTest::SumRaw, &[3.0 / norm, 14.0 / norm]);
        let norm = (0.36_f64 + 1.8 * 1.8).sqrt();
        check(FlipTest::SumNorm, &[0.6 / norm, 1.8 / norm]);
        let norm = 125.0_f64.sqrt();
        check(FlipTest::Concat, &[3.0 / norm, 4.0 / norm, 0.0, 10.0 / norm]);
        assert_eq!(FlipTest::None.combine(&plain, None).unwrap(), [0.6_f32, 0.8]);
    }

    #[test]
    fn flip_tests_refuse_what_they_cannot_combine() {
        for test in [FlipTest::SumRaw, FlipTest::SumNorm, FlipTest::Concat] {
            fails(test.combine(&[1.0, 0.0], None), &["mirrored image", "found none"]);
            fails(test.combine(&[1.0, 0.0], Some(&[1.0])), &["expected 2", "found 1"]);
            fails(test.combine(&[f32::NAN, 0.0], Some(&[1.0, 0.0])), &["norm NaN"]);
        }
        fails(FlipTest::SumRaw.combine(&[1.0, -2.0], Some(&[-1.0, 2.0])), &["norm 0"]);
        fails(FlipTest::None.combine(&[0.0; 3], None), &["norm 0"]);
        // Squares of large f32 values overflow in f32 but not here.
        assert_eq!(FlipTest::None.combine(&[f32::MAX, 0.0], None).unwrap(), [1.0, 0.0]);
    }

    #[test]
    fn distance_and_cosine_by_hand() {
        close(squared_distance(&[1.0, 2.0], &[4.0, -2.0]).unwrap(), 25.0);
        close(cosine(&[3.0, 0.0], &[1.0, 1.0]).unwrap(), 0.5_f64.sqrt());
        close(cosine(&[2.0, 0.0], &[-7.0, 0.0]).unwrap(), -1.0);
        fails(squared_distance(&[1.0], &[1.0, 2.0]), &["expected 1", "found 2"]);
        fails(cosine(&[1.0], &[1.0, 2.0]), &["expected 1", "found 2"]);
        fails(cosine(&[0.0, 0.0], &[1.0, 2.0]), &["product 0"]);
        // On unit vectors the two measure the same thing.
        let a = FlipTest::None.combine(&[0.3, -1.2, 2.0], None).unwrap();
        let b = FlipTest::None.combine(&[1.5, 0.2, 0.7], None).unwrap();
        let gap = squared_distance(&a, &b).unwrap() - (2.0 - 2.0 * cosine(&a, &b).unwrap());
        assert!(gap.abs() < 1e-6);
    }

    #[test]
    fn report_combines_the_parts() {
        let (distances, same) = reference_pairs();
        for convention in BOTH {
            let settings = ReportSettings { convention, ..ReportSettings::default() };
            let gaps: Vec<Option<f64>> =
                (0..same.len()).map(|i| (i % 11 != 0).then_some((i * 13 % 101) as f64 / 2.0)).collect();
            let found = report(&distances, &same, Some(&gaps), &settings).unwrap();
            let scores: Vec<f64> = match convention {
                Convention::Insightface => distances.clone(),
                Convention::Facexzoo => distances.iter().map(|d| 1.0 - d / 2.0).collect(),
            };
            let expected = naive_k_fold(&scores, &same, 10, convention);
            close(found.accuracy, expected.mean);
            close(found.deviation, expected.deviation);
            close(found.threshold, expected.thresholds.iter().sum::<f64>() / 10.0);
            assert_eq!((found.pairs, found.same), (3007, 1719));
            close(found.auc, 0.9162089128086168);
            close(found.eer, 0.17858330562021948);
            assert_eq!(found.tar_at_far.len(), 3);
            assert_eq!(found.tar_at_far[1].0, 1e-2);
            close(found.tar_at_far[1].1, 0.4397905759162304);

            let labels: Vec<&str> = found.by_gap.iter().map(|r| r.label.as_str()).collect();
            assert_eq!(labels, ["0-4", "5-9", "10-19", "20-29", "30-39", "40+"]);
            for row in &found.by_gap {
                let inside: Vec<usize> = (0..same.len())
                    .filter(|&i| {
                        gaps[i].is_some_and(|gap| {
                            gap >= f64::from(row.from) && row.to.is_none_or(|to| gap < f64::from(to))
                        })
                    })
                    .collect();
                // The first 7 of the 10 folds hold 301 pairs, the others 300.
                let fold = |i: usize| {
                    if i < 2107 { i / 301 } else { 7 + (i - 2107) / 300 }
                };
                let right = inside.iter().filter(|&&i| {
                    let t = expected.thresholds[fold(i)];
                    match convention {
                        Convention::Insightface => (scores[i] < t) == same[i],
                        Convention::Facexzoo if same[i] => scores[i] > t,
                        Convention::Facexzoo => scores[i] < t,
                    }
                });
                assert_eq!(row.pairs, inside.len());
                close(row.accuracy.unwrap(), right.count() as f64 / inside.len() as f64);
                let row_same: Vec<bool> = inside.iter().map(|&i| same[i]).collect();
                assert_eq!(row.same, row_same.iter().filter(|s| **s).count());
                let row_similarity: Vec<f64> = inside.iter().map(|&i| -distances[i]).collect();
                close(row.auc.unwrap(), naive_auc(&row_similarity, &row_same));
            }
            let unknown = gaps.iter().filter(|gap| gap.is_none()).count();
            let counted: usize = found.by_gap.iter().map(|row| row.pairs).sum();
            assert_eq!(counted + unknown, 3007);
        }
    }

    #[test]
    fn gap_rows_end_before_the_next_edge() {
        let distances = [0.1, 2.0, 0.1, 2.0, 0.1, 2.0];
        let same = [true, false, true, false, true, false];
        let gaps = [0.0, 1.0, 1.999, 29.5, 30.0, 100.0].map(Some);
        let settings = ReportSettings { folds: 3, gap_edges: vec![1, 2, 20, 30, 40], ..ReportSettings::default() };
        let found = report(&distances, &same, Some(&gaps), &settings).unwrap();
        let row = |label: &str, from, to, pairs, same, accuracy, auc| GapRow {
            label: label.into(),
            from,
            to,
            pairs,
            same,
            accuracy,
            auc,
        };
        assert_eq!(
            found.by_gap,
            [
                row("1", 1, Some(2), 2, 1, Some(1.0), Some(1.0)),
                row("2-19", 2, Some(20), 0, 0, None, None),
                row("20-29", 20, Some(30), 1, 0, Some(1.0), None),
                row("30-39", 30, Some(40), 1, 1, Some(1.0), None),
                row("40+", 40, None, 1, 0, Some(1.0), None),
            ]
        );
        let found = report(&distances, &same, None, &settings).unwrap();
        assert!(found.by_gap.is_empty());
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let same = [true, false, true, false];
        let settings = ReportSettings { folds: 2, ..ReportSettings::default() };
        let good = [0.1, 2.0, 0.1, 2.0];
        let bad = [0.1, 2.0, f64::NAN, 2.0];
        fails(report(&bad, &same, None, &settings), &["pair 2", "NaN"]);
        fails(k_fold(&bad, &same, 2, Convention::Insightface), &["pair 2", "NaN"]);
        fails(roc(&bad, &same), &["pair 2", "NaN"]);
        let bad = [0.1, -0.3, 0.1, 2.0];
        fails(report(&bad, &same, None, &settings), &["squared distance of pair 1", "-0.3", "between 0 and 4"]);
        fails(k_fold(&good, &same, 2, Convention::Facexzoo), &["cosine of pair 1", "between -1 and 1"]);
        fails(report(&good, &[true; 4], None, &settings), &["found 4", "the same person"]);
        fails(report(&good, &[false; 4], None, &settings), &["found 4", "different people"]);
        fails(roc(&good, &[true; 4]), &["the same person"]);
        fails(report(&[], &[], None, &settings), &["found none"]);
        fails(report(&good, &same[..3], None, &settings), &["4 scores", "3 flags"]);
        for folds in [0, 1, 5] {
            for convention in BOTH {
                let scores = [0.1, 1.0, 0.1, 1.0];
                fails(k_fold(&scores, &same, folds, convention), &["2 folds", &format!("found {folds}")]);
            }
        }
        // An ungrouped list: all same pairs first.
        fails(
            k_fold(&good, &[true, true, false, false], 2, Convention::Insightface),
            &["fold 1 of 2", "0 same and 2 different"],
        );
        let gaps = [Some(1.0), None];
        fails(report(&good, &same, Some(&gaps), &settings), &["expected 4", "age gaps", "found 2"]);
        for gap in [-1.0, f64::NAN] {
            let gaps = [None, None, None, Some(gap)];
            fails(report(&good, &same, Some(&gaps), &settings), &["gap of pair 3", &format!("{gap}")]);
        }
        for edges in [vec![], vec![0, 5, 5], vec![5, 0]] {
            let settings = ReportSettings { gap_edges: edges, ..settings.clone() };
            fails(report(&good, &same, Some(&[None; 4]), &settings), &["strictly rising"]);
        }
        let settings = ReportSettings { fars: vec![2.0], ..settings };
        fails(report(&good, &same, None, &settings), &["between 0 and 1, found 2"]);
    }

    #[test]
    fn regression_and_group_figures_by_hand() {
        close(mean_absolute_error(&[20.0, 31.5, 60.0], &[22.0, 30.0, 60.0]).unwrap(), 3.5 / 3.0);
        fails(mean_absolute_error(&[1.0], &[1.0, 2.0]), &["expected 2", "found 1"]);
        fails(mean_absolute_error(&[], &[]), &["found none"]);
        fails(mean_absolute_error(&[1.0, f64::NAN], &[1.0, 2.0]), &["prediction 1", "NaN"]);
        let (predicted, target) = ([0, 1, 4, 6], [0, 2, 4, 3]);
        close(group_accuracy(&predicted, &target, 0).unwrap(), 0.5);
        close(group_accuracy(&predicted, &target, 1).unwrap(), 0.75);
        close(group_accuracy(&predicted, &target, 3).unwrap(), 1.0);
        fails(group_accuracy(&[1], &[], 0), &["expected 0", "found 1"]);
        fails(group_accuracy(&[], &[], 0), &["found none"]);
    }

    #[test]
    fn settings_are_written_in_snake_case_and_described() {
        let names = |values: serde_json::Value| -> BTreeSet<String> {
            let values = values.as_array().unwrap();
            values.iter().map(|v| v.as_str().unwrap().into()).collect()
        };
        let written = serde_json::json!([FlipTest::None, FlipTest::SumRaw, FlipTest::SumNorm, FlipTest::Concat]);
        let expected = ["none", "sum_raw", "sum_norm", "concat"];
        assert_eq!(names(written), expected.map(String::from).into());
        let expected = ["insightface", "facexzoo"];
        assert_eq!(names(serde_json::json!(BOTH)), expected.map(String::from).into());
        assert_eq!(Convention::default(), Convention::Insightface);
        assert_eq!(FlipTest::default(), FlipTest::SumRaw);
        for schema in [schema_for!(Convention), schema_for!(FlipTest)] {
            let variants = schema.get("oneOf").unwrap().as_array().unwrap();
            assert!(variants.iter().all(|v| v.get("description").is_some()));
        }
    }
}
