//! Metrics: numbers that an evaluation gives, and which way they are better.

use crate::cases::Cases;
use mtl_recipe::Result;

/// Which way a number is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The larger the better.
    Larger,
    /// The smaller the better.
    Smaller,
    /// Neither: it depends on what an experiment is about.
    Neither,
}

/// What is known of a number that an evaluation gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Its name in reports.
    pub name: String,
    /// Its unit, such as `years`; empty for a plain number.
    pub unit: &'static str,
    /// Which way it is better.
    pub better: Better,
    /// The metric whose complement to one it is, if it is an older name that reports do not show beside it.
    pub complement_of: Option<String>,
}

impl Metric {
    /// A number without a unit.
    pub fn new(name: impl Into<String>, better: Better) -> Self {
        Self { name: name.into(), unit: "", better, complement_of: None }
    }

    /// The same as an older name for one less another metric. Recipes may watch it; reports show the other.
    pub fn complement_of(self, name: String) -> Self {
        Self { complement_of: Some(name), ..self }
    }

    /// The same in a unit.
    pub fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
}

/// The configuration of a metric that is computed from what an evaluator measured case by case.
///
/// A recipe adds one to an evaluator: `metrics = [{ component = "share_below", … }]`.
///
/// ```
/// use mtl_component::{Better, Cases, ErrorContext, Metric, MetricConfig, Result, register};
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
///
/// /// The largest number of a column.
/// #[derive(Debug, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Largest {
///     /// The column.
///     column: String,
/// }
///
/// impl MetricConfig for Largest {
///     fn describe(&self) -> Result<Metric> {
///         Ok(Metric::new(format!("largest_{}", self.column), Better::Smaller))
///     }
///     fn measure(&self, cases: &Cases) -> Result<f64> {
///         let values = cases.column(&self.column).context("there is no such column")?;
///         Ok(values.iter().copied().fold(f64::MIN, f64::max))
///     }
/// }
///
/// register!(Metric, "largest", Largest);
/// let cases = Cases { of: "two".into(), columns: [("error".to_owned(), vec![1.0, 4.0])].into_iter().collect() };
/// assert_eq!(Largest { column: "error".into() }.measure(&cases)?, 4.0);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait MetricConfig: Send + Sync {
    /// Its name, unit and direction.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self) -> Result<Metric>;

    /// Its value on the given cases.
    ///
    /// # Errors
    /// If the cases lack a column that it needs.
    fn measure(&self, cases: &Cases) -> Result<f64>;
}
