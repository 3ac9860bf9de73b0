//! Figures over several runs, and differences between two variants.

/// Mean, deviation (of the sample) and number of values.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// The mean.
    pub mean: f64,
    /// The deviation of the sample; of one value 0.
    pub deviation: f64,
    /// How many values.
    pub count: usize,
}

impl Figure {
    /// Of some values; none of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        (n > 0).then_some(Self { mean, deviation, count: n })
    }

    /// As a table shows it.
    pub fn text(self) -> String {
        if self.count > 1 { format!("{:.4} ± {:.4}", self.mean, self.deviation) } else { format!("{:.4}", self.mean) }
    }
}

/// A difference between two variants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Of the means over the runs.
    pub mean: f64,
    /// Deviation (of the sample) of the differences of the seeds that both have, if they are several.
    pub deviation: Option<f64>,
    /// The least of the middle 95 % of the draws.
    pub low: f64,
    /// The largest of the middle 95 % of the draws.
    pub high: f64,
    /// Whether people were drawn, and not cases.
    pub by_person: bool,
}

impl Difference {
    /// As a table shows it.
    pub fn text(self) -> String {
        let deviation = self.deviation.map(|d| format!(" ± {d:.4}")).unwrap_or_default();
        format!("{:+.4}{deviation} [{:+.4}, {:+.4}]", self.mean, self.low, self.high)
    }
}

/// How sure a mean over runs is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The least of the middle 95 % of the draws.
    pub low: f64,
    /// The largest of them.
    pub high: f64,
    /// Whether people were drawn, and not cases.
    pub by_person: bool,
}

impl Interval {
    /// As a table shows it.
    pub fn text(self) -> String {
        format!("[{:.4}, {:.4}]", self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_the_sample() {
        let figure = Figure::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((figure.mean, figure.deviation, figure.count), (2.0, 1.0, 3));
        assert_eq!(Figure::of(&[0.5]).unwrap().text(), "0.5000");
        assert!(Figure::of(&[]).is_none());
    }
}
