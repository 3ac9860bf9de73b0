//! What was measured at each case of an evaluation, kept so that runs can be compared case by case.

use indexmap::IndexMap;

/// Numbers of each case (a pair, a picture) of an evaluation, in an order that is the same for every run.
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

    /// The numbers of that name of the picked cases, each as often as it is picked.
    pub fn picked(&self, name: &str, picked: &[usize]) -> Option<Vec<f64>> {
        let column = self.column(name)?;
        picked.iter().map(|case| column.get(*case).copied()).collect()
    }
}
