use mtl_component::{Better, Cases, ErrorContext as _, Metric, MetricConfig, Result, ensure, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which way a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Direction {
    /// The larger the better.
    Larger,
    /// The smaller the better.
    Smaller,
    /// Neither.
    #[default]
    Neither,
}

impl Direction {
    fn better(self) -> Better {
        match self {
            Self::Larger => Better::Larger,
            Self::Smaller => Better::Smaller,
            Self::Neither => Better::Neither,
        }
    }
}

/// The numbers of a column of the cases that an evaluator measured.
fn column<'c>(cases: &'c Cases, name: &str) -> Result<&'c [f64]> {
    let known: Vec<&str> = cases.columns.keys().map(String::as_str).collect();
    let found = cases.column(name);
    let found = found.with_context(|| format!("the cases have no column `{name}`, only {}", known.join(", ")))?;
    ensure!(!found.is_empty(), "there are no cases");
    Ok(found)
}

/// The share of cases whose number is at most a bound, such as the cumulative score of age estimation: the share of
/// pictures whose error is at most five years (Geng et al. 2007, section 5.1).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShareBelow {
    /// The name of the metric in reports.
    name: String,
    /// The column of the cases, such as `error`.
    column: String,
    /// The bound, which counts as below.
    bound: f64,
    /// Which way the metric is better.
    #[serde(default)]
    better: Direction,
}

impl MetricConfig for ShareBelow {
    fn describe(&self) -> Result<Metric> {
        Ok(Metric::new(&self.name, self.better.better()))
    }

    fn measure(&self, cases: &Cases) -> Result<f64> {
        let values = column(cases, &self.column)?;
        Ok(values.iter().filter(|v| **v <= self.bound).count() as f64 / values.len() as f64)
    }
}

/// A quantile of the numbers of the cases, such as their median; between two cases it is interpolated linearly.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Quantile {
    /// The name of the metric in reports.
    name: String,
    /// The column of the cases, such as `error`.
    column: String,
    /// The share of cases below it: 0.5 is the median.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    share: f64,
    /// Which way the metric is better.
    #[serde(default)]
    better: Direction,
}

fn half() -> f64 {
    0.5
}

impl MetricConfig for Quantile {
    fn describe(&self) -> Result<Metric> {
        Ok(Metric::new(&self.name, self.better.better()))
    }

    fn measure(&self, cases: &Cases) -> Result<f64> {
        let mut values = column(cases, &self.column)?.to_vec();
        values.sort_by(f64::total_cmp);
        let at = self.share * (values.len() - 1) as f64;
        let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
        Ok(low + (high - low) * at.fract())
    }
}

register!(Metric, "share_below", ShareBelow);
register!(Metric, "quantile", Quantile);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_quantiles_are_those_of_the_column() {
        let columns = [("error".to_owned(), vec![1.0, 5.0, 7.0, 3.0])].into_iter().collect();
        let cases = Cases { of: "four".into(), columns };
        let (name, column) = ("m".to_owned(), "error".to_owned());
        let better = Direction::Larger;
        let share = ShareBelow { name: name.clone(), column: column.clone(), bound: 5.0, better };
        assert_eq!(share.measure(&cases).unwrap(), 0.75);
        assert_eq!(share.describe().unwrap(), Metric::new("m", Better::Larger));
        let median = |share| Quantile { name: name.clone(), column: column.clone(), share, better }.measure(&cases);
        assert_eq!((median(0.5).unwrap(), median(0.0).unwrap(), median(1.0).unwrap()), (4.0, 1.0, 7.0));
        let other = ShareBelow { column: "age".into(), ..share };
        assert!(other.measure(&cases).unwrap_err().to_string().contains("no column `age`, only error"));
    }
}
