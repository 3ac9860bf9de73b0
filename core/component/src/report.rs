//! What an evaluator reports beside its metrics: curves and tables, which charts and pages show without knowing what they
//! are about.

use serde::{Deserialize, Serialize};

/// An axis of a curve, or a column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// What its numbers are.
    pub label: String,
    /// Their unit, such as `years`; empty for plain numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Whether it is shown by powers of ten.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logarithmic: bool,
}

impl Axis {
    /// Plain numbers.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), unit: String::new(), logarithmic: false }
    }

    /// The same in a unit.
    #[must_use]
    pub fn unit(self, unit: impl Into<String>) -> Self {
        Self { unit: unit.into(), ..self }
    }

    /// The same by powers of ten.
    #[must_use]
    pub fn logarithmic(self) -> Self {
        Self { logarithmic: true, ..self }
    }

    /// Label and unit.
    pub fn text(&self) -> String {
        if self.unit.is_empty() { self.label.clone() } else { format!("{}, {}", self.label, self.unit) }
    }
}

/// A curve, such as an ROC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportCurve {
    /// Its name in the report.
    pub name: String,
    /// From left to right.
    pub x: Axis,
    /// From below.
    pub y: Axis,
    /// Its points in order.
    pub points: Vec<(f64, f64)>,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// What is not known, which files hold as null.
    Missing,
}

impl From<Option<f64>> for Cell {
    fn from(value: Option<f64>) -> Self {
        value.filter(|value| value.is_finite()).map_or(Self::Missing, Self::Number)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Some(value).into()
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::Number(value as f64)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// A table, such as results by age group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportTable {
    /// Its name in the report.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Axis>,
    /// Its rows, of a cell for each column.
    pub rows: Vec<Vec<Cell>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_curves_are_read_again() {
        let table = ReportTable {
            name: "by_group".into(),
            columns: vec![Axis::new("group"), Axis::new("error").unit("years"), Axis::new("pictures")],
            rows: vec![
                vec!["11-20".into(), 4.5.into(), 7usize.into()],
                vec!["61+".into(), f64::NAN.into(), 0usize.into()],
            ],
        };
        assert_eq!(table.rows[1][1], Cell::Missing);
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<ReportTable>(&text).unwrap(), table);
        let x = Axis::new("FMR").logarithmic();
        let curve = ReportCurve { name: "det".into(), x, y: Axis::new("FNMR"), points: vec![(0.0, 1.0), (1.0, 0.0)] };
        let text = serde_json::to_string(&curve).unwrap();
        assert_eq!(serde_json::from_str::<ReportCurve>(&text).unwrap(), curve);
        assert_eq!(table.columns[1].text(), "error, years");
    }
}
