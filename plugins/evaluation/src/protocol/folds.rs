//! Which fold each pair of a list belongs to.

use mtl_component::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How a list of pairs is cut into folds: a number of contiguous ones, which must mix both kinds of pairs, or a named
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FoldChoice {
    /// So many contiguous folds.
    Count(#[schemars(range(min = 2, max = 1000))] usize),
    /// Folds of that order.
    Named(FoldOrder),
}

impl Default for FoldChoice {
    fn default() -> Self {
        Self::Count(10)
    }
}

/// The order of folds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoldOrder {
    /// A fold is a part of the same pairs and the like part of the different ones: for lists that hold one kind after the
    /// other, as CALFW and CPLFW are published.
    Interleaved,
    /// A fold is a part of the list as it stands, whatever it holds.
    List,
}

impl FoldChoice {
    /// The folds of a list; `count` is the number of those of a named order.
    ///
    /// # Errors
    /// A mistake if contiguous folds do not mix both kinds, and nobody has asked for them by `"list"`.
    pub fn folds(self, same: &[bool], count: usize) -> Result<Folds> {
        let (count, order) = match self {
            Self::Count(count) => (count, None),
            Self::Named(order) => (count, Some(order)),
        };
        if order == Some(FoldOrder::Interleaved) {
            return Ok(Folds::interleaved(same, count));
        }
        let folds = Folds::contiguous(same.len(), count);
        if order.is_none() {
            folds.are_mixed(same)?;
        }
        Ok(folds)
    }
}

/// The fold of each pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folds {
    of: Vec<usize>,
    count: usize,
}

impl Folds {
    /// Contiguous runs of a list of that length. As in scikit-learn's `KFold` without shuffling, the first
    /// `pairs % folds` of them hold one pair more.
    pub fn contiguous(pairs: usize, count: usize) -> Self {
        Self { of: contiguous(pairs, count), count }
    }

    /// The n-th part of the same pairs with the n-th part of the different ones.
    pub fn interleaved(same: &[bool], count: usize) -> Self {
        let mut of = vec![0; same.len()];
        for kind in [true, false] {
            let places = (0..same.len()).filter(|i| same[*i] == kind);
            let all = same.iter().filter(|s| **s == kind).count();
            places.zip(contiguous(all, count)).for_each(|(place, fold)| of[place] = fold);
        }
        Self { of, count }
    }

    /// The fold of a pair, from 0.
    pub fn of(&self, pair: usize) -> usize {
        self.of[pair]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Finds lists that hold one kind after the other, or mostly so. Thresholds would be fitted on other shares of both
    /// kinds than those of the fold that they judge.
    fn are_mixed(&self, same: &[bool]) -> Result<()> {
        let share = same.iter().filter(|s| **s).count() as f64 / same.len().max(1) as f64;
        for fold in 0..self.count {
            let kinds: Vec<bool> = (0..same.len()).filter(|i| self.of[*i] == fold).map(|i| same[i]).collect();
            let (size, alike) = (kinds.len() as f64, kinds.iter().filter(|s| **s).count() as f64);
            // By chance, as in a list in random order, it does not come to this.
            let expected = size * share;
            let deviation = (expected * (1.0 - share)).sqrt();
            let unlike = (alike - expected).abs() > 4.0 * deviation;
            let (odds, usual) = (alike / (size - alike), share / (1.0 - share));
            if unlike && !(usual / 2.0..=usual * 2.0).contains(&odds) {
                return Err(unmixed(&format!(
                    "fold {} of {} holds {alike} same and {} different pairs, and the whole list {} and {}",
                    fold + 1,
                    self.count,
                    size - alike,
                    same.iter().filter(|s| **s).count(),
                    same.iter().filter(|s| !**s).count()
                )));
            }
        }
        // Small folds: as many without one of both kinds as chance does not give.
        let sizes = |fold: usize| self.of.iter().filter(|own| **own == fold).count() as f64;
        let lacking = |fold: usize| {
            let mut kinds = (0..same.len()).filter(|i| self.of[*i] == fold).map(|i| same[i]);
            let first = kinds.next();
            kinds.all(|kind| Some(kind) == first)
        };
        let found = (0..self.count).filter(|fold| lacking(*fold)).count() as f64;
        let chances: Vec<f64> =
            (0..self.count).map(|fold| share.powf(sizes(fold)) + (1.0 - share).powf(sizes(fold))).collect();
        let expected: f64 = chances.iter().sum();
        let deviation = chances.iter().map(|chance| chance * (1.0 - chance)).sum::<f64>().max(0.0).sqrt();
        if found > expected + 4.0 * deviation + 0.5 {
            return Err(unmixed(&format!("{found} of {} folds hold one kind alone", self.count)));
        }
        let changes = same.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let fewest = same.iter().filter(|s| **s).count().min(same.iter().filter(|s| !**s).count());
        if changes == 1 && fewest >= 4 {
            return Err(unmixed("all pairs of one kind stand before those of the other"));
        }
        Ok(())
    }
}

fn unmixed(what: &str) -> Error {
    Error::mistake(format!(
        "the list does not mix same and different pairs: {what}. Say folds = \"interleaved\", which takes a part of each \
         kind into every fold, as is usual for such lists, or folds = \"list\" to take them as they stand"
    ))
}

fn contiguous(pairs: usize, folds: usize) -> Vec<usize> {
    let mut of = vec![0; pairs];
    ranges(pairs, folds).enumerate().for_each(|(fold, range)| of[range].fill(fold));
    of
}

pub(super) fn ranges(pairs: usize, folds: usize) -> impl Iterator<Item = Range<usize>> {
    let (size, longer) = (pairs / folds.max(1), pairs % folds.max(1));
    (0..folds).map(move |fold| {
        let start = fold * size + fold.min(longer);
        start..start + size + usize::from(fold < longer)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::Draw;

    fn blocks(each: usize) -> Vec<bool> {
        (0..2 * each).map(|i| i < each).collect()
    }

    #[test]
    fn a_list_of_one_kind_after_the_other_is_refused_with_the_way_out() {
        for each in [4, 12, 3000] {
            let text = FoldChoice::default().folds(&blocks(each), 10).unwrap_err().to_string();
            assert!(text.contains("folds = \"interleaved\"") && text.contains("\"list\""), "{text}");
            assert!(FoldChoice::Named(FoldOrder::List).folds(&blocks(each), 10).is_ok());
        }
        // LFW: in every tenth 300 of one kind, then 300 of the other.
        let lfw: Vec<bool> = (0..6000).map(|i| i % 600 < 300).collect();
        assert!(FoldChoice::default().folds(&lfw, 10).is_ok());
        assert!(FoldChoice::Count(20).folds(&lfw, 10).is_err());
        let waves: Vec<bool> = (0..40).map(|i| !(10..30).contains(&i)).collect();
        assert!(FoldChoice::default().folds(&waves, 10).is_err());
        // Half of the list in order, the rest mixed.
        let half: Vec<bool> = (0..6000).map(|i| if i < 3000 { i < 1500 } else { i % 2 == 0 }).collect();
        assert!(FoldChoice::default().folds(&half, 10).is_err());
    }

    #[test]
    fn lists_in_random_order_pass() {
        for (round, pairs) in [20, 30, 60, 100, 407, 6000].into_iter().cycle().take(600).enumerate() {
            let mut draw = Draw::new(&[round as u64, pairs]);
            let share = [0.5, 0.2, 0.9][round % 3];
            let same: Vec<bool> = (0..pairs).map(|_| draw.chance(share)).collect();
            assert!(FoldChoice::default().folds(&same, 10).is_ok(), "round {round}");
        }
    }

    #[test]
    fn interleaved_folds_hold_a_part_of_each_kind() {
        let folds = FoldChoice::Named(FoldOrder::Interleaved).folds(&blocks(4), 3).unwrap();
        assert_eq!((0..8).map(|i| folds.of(i)).collect::<Vec<_>>(), [0, 0, 1, 2, 0, 0, 1, 2]);
    }
}
