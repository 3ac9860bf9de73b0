//! Figures of age estimation and of ageing.

use super::{check_lengths, mean};
use mtl_component::{Result, ensure};
use serde::Serialize;

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

/// Figures of age estimation beside the mean absolute error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AgeFigures {
    /// Root of the mean squared error, in years.
    pub rmse: f64,
    /// Mean of found less true, in years.
    pub bias: f64,
    /// Share of errors of at most five years (cumulative score; Geng et al. 2007, section 5.1).
    pub cs5: f64,
    /// Share of errors of at most ten years.
    pub cs10: f64,
    /// Correlation of found and true (Pearson); null where either does not differ.
    pub pearson: Option<f64>,
    /// Share of the spread of the true ages that the found ones explain; null where they do not differ.
    pub r2: Option<f64>,
}

impl AgeFigures {
    /// Of found and true ages in years.
    ///
    /// # Errors
    /// As [`mean_absolute_error`].
    pub fn of(found: &[f64], truth: &[f64]) -> Result<Self> {
        mean_absolute_error(found, truth)?;
        let errors: Vec<f64> = found.iter().zip(truth).map(|(f, t)| f - t).collect();
        let share = |most: f64| errors.iter().filter(|e| e.abs() <= most).count() as f64 / errors.len() as f64;
        let squares: f64 = errors.iter().map(|e| e * e).sum();
        let centre = mean(truth);
        let spread: f64 = truth.iter().map(|t| (t - centre).powi(2)).sum();
        Ok(Self {
            rmse: (squares / errors.len() as f64).sqrt(),
            bias: mean(&errors),
            cs5: share(5.0),
            cs10: share(10.0),
            pearson: pearson(found, truth),
            r2: (spread > 0.0).then(|| 1.0 - squares / spread),
        })
    }
}

/// The correlation of two lists of one length (Pearson); none where either does not differ.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 { a.iter().zip(b).map(|(x, y)| of(x - mean_a, y - mean_b)).sum() };
    let spread = sum(&|x, _| x * x) * sum(&|_, y| y * y);
    (spread > 0.0).then(|| sum(&|x, y| x * y) / spread.sqrt())
}

/// How the ages that are seen in one face move through the wanted ages, which rise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Course {
    /// Years that are seen more for a year that is wanted more (least squares); 1 is right.
    pub slope: f64,
    /// Steps from one wanted age to the next at which the seen age falls.
    pub falling_steps: usize,
    /// The largest such fall, in years.
    pub largest_fall: f64,
    /// The span of the seen ages, in years.
    pub range: f64,
    /// How far the course bends, in years: the mean over the inner wanted ages of twice the distance of the seen age from the
    /// line through its neighbours, which for ages at equal distances is the mean absolute second difference. A straight
    /// course has 0, a flat one too.
    pub roughness: f64,
    /// Whether each seen age is above the one before.
    pub rising: bool,
}

impl Course {
    /// Of the ages seen at the wanted ones; both of one length, at least two.
    pub fn of(wanted: &[f64], seen: &[f64]) -> Self {
        let (mean_wanted, mean_seen) = (mean(wanted), mean(seen));
        let both: f64 = wanted.iter().zip(seen).map(|(w, s)| (w - mean_wanted) * (s - mean_seen)).sum();
        let spread: f64 = wanted.iter().map(|w| (w - mean_wanted).powi(2)).sum();
        let steps = || seen.windows(2).map(|pair| pair[1] - pair[0]);
        let bend = |(w, s): (&[f64], &[f64])| {
            let way = (w[1] - w[0]) / (w[2] - w[0]);
            2.0 * (s[1] - s[0] - way * (s[2] - s[0])).abs()
        };
        let bends: Vec<f64> = wanted.windows(3).zip(seen.windows(3)).map(bend).collect();
        let most = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = seen.iter().copied().fold(f64::INFINITY, f64::min);
        Self {
            slope: both / spread,
            falling_steps: steps().filter(|step| *step < 0.0).count(),
            largest_fall: steps().map(|step| -step).fold(0.0, f64::max),
            range: most - least,
            roughness: if bends.is_empty() { 0.0 } else { mean(&bends) },
            rising: steps().all(|step| step > 0.0),
        }
    }
}

/// How far an age lies outside the years above `low` and up to `high`.
pub fn beyond(age: f64, low: f64, high: f64) -> f64 {
    (low - age).max(age - high).max(0.0)
}
