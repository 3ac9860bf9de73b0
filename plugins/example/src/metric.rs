use mtl_component::{Better, Cases, ErrorContext as _, Metric, MetricConfig, Result, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// The root of the mean square of a column of the cases, such as that of errors in years.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RootMeanSquare {
    /// The name of the metric in reports.
    name: String,
    /// The column of the cases, such as `error`.
    column: String,
}

impl MetricConfig for RootMeanSquare {
    fn describe(&self) -> Result<Metric> {
        Ok(Metric::new(&self.name, Better::Smaller))
    }

    fn measure(&self, cases: &Cases) -> Result<f64> {
        let values =
            cases.column(&self.column).with_context(|| format!("the cases have no column `{}`", self.column))?;
        Ok((values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt())
    }
}

register!(Metric, "root_mean_square", RootMeanSquare);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_root_of_the_mean_square() {
        let columns = [("error".to_owned(), vec![3.0, 4.0])].into_iter().collect();
        let metric = RootMeanSquare { name: "rms".into(), column: "error".into() };
        assert_eq!(metric.measure(&Cases { of: "two".into(), columns }).unwrap(), 12.5f64.sqrt());
    }
}
