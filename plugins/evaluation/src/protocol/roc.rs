//! The receiver operating characteristic, and what is read off it.

use super::check_pairs;
use mtl_component::{Result, bail, ensure};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Shares of pairs are compared with targets up to this, since `0.29 * 100` is a little less than 29.
const ROUNDING: f64 = 1e-9;

/// One operating point of a [`Roc`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RocPoint {
    /// Pairs with at least this similarity are accepted; `None` where no pair is.
    pub threshold: Option<f64>,
    /// Share of the different pairs that are accepted: the false match rate (ISO/IEC 19795-1), in papers also FAR.
    pub fmr: f64,
    /// Share of the same pairs that are accepted: 1 - FNMR, in papers also TAR.
    pub tmr: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    threshold: f64,
    same: f64,
    different: f64,
}

/// The receiver operating characteristic of a list of pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Roc {
    same: f64,
    different: f64,
    /// Accepted pairs of each kind by falling threshold, from none to all. Of unit weights they are exact counts.
    steps: Vec<Step>,
}

/// The ROC over every distinct similarity; higher means more alike.
///
/// Pairs of equal similarity are accepted together, as one step. The points are those of scikit-learn's
/// `roc_curve(..., drop_intermediate=False)`.
///
/// # Errors
/// If the lists differ in length, a similarity is not finite, or all pairs are of one kind.
pub fn roc(similarity: &[f64], same: &[bool]) -> Result<Roc> {
    weighted_roc(similarity, same, &vec![1.0; same.len()])
}

/// [`roc`], where each pair counts as often as its weight says; pairs of weight 0 are not there.
///
/// # Errors
/// As [`roc`].
pub fn weighted_roc(similarity: &[f64], same: &[bool], weights: &[f64]) -> Result<Roc> {
    check_pairs(similarity, same)?;
    ensure!(weights.len() == same.len(), "expected a weight for each of {} pairs, found {}", same.len(), weights.len());
    let all = similarity.iter().zip(same).zip(weights).filter(|(_, weight)| **weight > 0.0);
    let mut pairs: Vec<(f64, bool, f64)> = all.map(|((score, same), weight)| (*score, *same, *weight)).collect();
    pairs.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut steps = vec![Step { threshold: f64::INFINITY, same: 0.0, different: 0.0 }];
    let (mut same, mut different) = (0.0, 0.0);
    for tied in pairs.chunk_by(|a, b| a.0 == b.0) {
        for (_, alike, weight) in tied {
            *(if *alike { &mut same } else { &mut different }) += weight;
        }
        steps.push(Step { threshold: tied[0].0, same, different });
    }
    ensure!(same > 0.0 && different > 0.0, "expected pairs of both kinds");
    Ok(Roc { same, different, steps })
}

impl Roc {
    fn fmr(&self, step: Step) -> f64 {
        step.different / self.different
    }

    fn tmr(&self, step: Step) -> f64 {
        step.same / self.same
    }

    /// The points by falling threshold, from (0, 0) to (1, 1).
    pub fn points(&self) -> impl Iterator<Item = RocPoint> {
        self.steps.iter().map(|step| self.point(*step))
    }

    fn point(&self, step: Step) -> RocPoint {
        RocPoint {
            threshold: step.threshold.is_finite().then_some(step.threshold),
            fmr: self.fmr(step),
            tmr: self.tmr(step),
        }
    }

    /// So many of its points at most, for a drawing: evenly by powers of ten of the false match rate, since low rates
    /// matter most, with the ends and without what lies on a straight line between others.
    pub fn thinned(&self, most: usize) -> Vec<RocPoint> {
        let corners = self.corners();
        let mut kept: Vec<usize> = if corners.len() <= most {
            (0..corners.len()).collect()
        } else {
            let parts = most.saturating_sub(3).max(1);
            let lowest = (1.0 / self.different).log10();
            let rate = |part: usize| 10f64.powf(lowest * (1.0 - part as f64 / parts as f64)) * (1.0 + ROUNDING);
            let at = |rate: f64| corners.partition_point(|step| self.fmr(*step) <= rate).saturating_sub(1);
            // Before the first false match, the point that accepts most.
            [0, at(0.0), corners.len() - 1].into_iter().chain((0..=parts).map(|part| at(rate(part)))).collect()
        };
        kept.sort_unstable();
        kept.dedup();
        kept.into_iter().map(|i| self.point(corners[i])).collect()
    }

    /// Area under the curve: the probability that a random same pair is more similar than a random different pair, where
    /// equal similarities count half (the Mann-Whitney statistic).
    pub fn auc(&self) -> f64 {
        // Each different pair wins once for every same pair accepted before it and half for every one accepted with it.
        // Halves of counts are summed exactly, as long as their sum is below 2^53.
        let halves: f64 =
            self.steps.windows(2).map(|w| (w[1].different - w[0].different) * (w[0].same + w[1].same)).sum();
        halves / (2.0 * self.same * self.different)
    }

    /// Equal error rate: the value at which the false match rate equals the false non-match rate, on the straight line
    /// between the two neighbouring points where they cross.
    pub fn eer(&self) -> f64 {
        // FMR - FNMR grows from -1 to 1 and strictly so with every step: there is one crossing.
        let excess = |step: Step| self.fmr(step) + self.tmr(step) - 1.0;
        let end = self.steps.partition_point(|&step| excess(step) < 0.0).clamp(1, self.steps.len() - 1);
        let (before, after) = (self.steps[end - 1], self.steps[end]);
        let (low, high) = (excess(before), excess(after));
        let share = -low / (high - low);
        self.fmr(before) + share * (self.fmr(after) - self.fmr(before))
    }

    /// The operating point of a reading.
    pub fn read(&self, reading: Reading) -> Operating {
        let target = reading.target;
        let nearest = |steps: &mut dyn Iterator<Item = Step>| {
            let mut nearest = (f64::INFINITY, self.steps[0]);
            for step in steps {
                let distance = (self.fmr(step) - target).abs();
                if distance < nearest.0 {
                    nearest = (distance, step);
                }
            }
            nearest.1
        };
        let step = match reading.rule {
            Rule::AtMost => {
                let most = target * self.different * (1.0 + ROUNDING);
                self.steps[self.steps.partition_point(|step| step.different <= most).max(1) - 1]
            }
            // TMR never falls along the list, so from its end the first of equals has the largest.
            Rule::Nearest => nearest(&mut self.steps.iter().rev().copied()),
            Rule::NearestSklearn => nearest(&mut self.corners().into_iter().rev()),
        };
        let next = self.steps.iter().find(|other| other.different > step.different);
        Operating {
            fmr: self.fmr(step),
            fnmr: (self.same - step.same) / self.same,
            // Between the least that is accepted and the highest of those that are not.
            threshold: match reading.rule {
                Rule::AtMost => next.map_or(f64::NEG_INFINITY, |next| next.threshold.next_up()),
                _ => step.threshold,
            },
            resolved: target * self.different * (1.0 + ROUNDING) >= 1.0,
        }
    }

    /// The points that scikit-learn keeps by default: those between two others on a straight line are dropped.
    fn corners(&self) -> Vec<Step> {
        let scored = &self.steps[1..];
        let corner = |i: usize| {
            if i == 0 || i + 1 == scored.len() {
                return true;
            }
            let bend = |of: fn(&Step) -> f64| of(&scored[i + 1]) - 2.0 * of(&scored[i]) + of(&scored[i - 1]) != 0.0;
            bend(|step| step.different) || bend(|step| step.same)
        };
        let kept = (0..scored.len()).filter(|i| corner(*i)).map(|i| scored[i]);
        std::iter::once(self.steps[0]).chain(kept).collect()
    }
}

/// What is read off a ROC at a target of the false match rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operating {
    /// The false match rate that is reached.
    pub fmr: f64,
    /// The false non-match rate there.
    pub fnmr: f64,
    /// Pairs of at least this similarity are accepted.
    pub threshold: f64,
    /// Whether the list has enough different pairs for the target to be more than none of them.
    pub resolved: bool,
}

/// A threshold rule and its target, written `at_most:0.001`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Which operating point is taken.
    pub rule: Rule,
    /// The false match rate that is asked for.
    pub target: f64,
}

/// Which operating point is taken for a target of the false match rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Of the points whose false match rate is at most the target, the one that accepts most.
    AtMost,
    /// The point whose false match rate is nearest to the target, of equally near ones the one that accepts most same
    /// pairs: the reading of the IJB scripts of insightface and CVLface on all points. It may lie above the target, and
    /// below half of one over the number of different pairs it is that of no false match.
    Nearest,
    /// The same on the points that scikit-learn 1.9 keeps by default, as those scripts see them.
    NearestSklearn,
}

impl Rule {
    const ALL: [(Self, &'static str); 3] =
        [(Self::AtMost, "at_most"), (Self::Nearest, "nearest"), (Self::NearestSklearn, "nearest_sklearn")];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(rule, _)| *rule == self).map_or("", |(_, name)| name)
    }
}

impl Reading {
    /// The default rule at a target.
    pub fn at_most(target: f64) -> Self {
        Self { rule: Rule::AtMost, target }
    }

    /// The name of its false non-match rate among the metrics: `fnmr_at_fmr_0.001`, by other rules than `at_most` with
    /// the rule behind it.
    pub fn metric(self) -> String {
        let name = format!("fnmr_at_fmr_{}", self.target);
        if self.rule == Rule::AtMost { name } else { format!("{name}_{}", self.rule.name()) }
    }

    /// The reading that a metric is of.
    pub fn of_metric(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("fnmr_at_fmr_")?;
        let (target, rule) = rest.split_once('_').unwrap_or((rest, "at_most"));
        format!("{rule}:{target}").parse().ok()
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.rule.name(), self.target)
    }
}

impl FromStr for Reading {
    type Err = mtl_component::Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = || Rule::ALL.map(|(_, name)| format!("`{name}:0.001`")).join(", ");
        let Some((rule, target)) = text.split_once(':') else {
            bail!("a reading must be a rule and a false match rate, such as {}, found {text:?}", known());
        };
        let Some((rule, _)) = Rule::ALL.into_iter().find(|(_, name)| *name == rule) else {
            bail!("there is no rule {rule:?} to read a threshold by: it must be one of {}", known());
        };
        match target.parse::<f64>() {
            Ok(target) if target > 0.0 && target <= 1.0 => Ok(Self { rule, target }),
            _ => bail!("the false match rate of a reading must be above 0 and up to 1, found {target:?}"),
        }
    }
}

impl Serialize for Reading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reading {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Reading {
    fn schema_name() -> Cow<'static, str> {
        "Reading".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A rule for the threshold, and the false match rate that it aims at.",
            "pattern": "^(at_most|nearest|nearest_sklearn):[0-9.eE+-]+$",
            "examples": ["at_most:0.001"],
        })
    }
}
