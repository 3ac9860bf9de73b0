//! What was measured at each case of an evaluation, kept so that runs can be compared case by case.

use indexmap::IndexMap;

/// Numbers of each case (a pair, a picture) of an evaluation, in an order that is the same for every run.
///
/// Cases that share a person are not independent. Where people are known, the column `person` holds the number of that of
/// a picture, and `a` and `b` those of a pair: runs are then compared on drawn people and not on drawn cases.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cases {
    /// Which cases they are: a text that changes when they do.
    pub of: String,
    /// The numbers by name, one for each case.
    pub columns: IndexMap<String, Vec<f64>>,
}

impl Cases {
    /// The number of cases.
    pub fn len(&self) -> usize {
        self.columns.values().next().map_or(0, Vec::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of that name.
    pub fn column(&self, name: &str) -> Option<&[f64]> {
        self.columns.get(name).map(Vec::as_slice)
    }
}
