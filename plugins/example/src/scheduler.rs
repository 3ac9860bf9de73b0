use mtl_component::{Result, Scheduler, SchedulerDescription, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Cyclical learning rates: the rate goes up and down in straight lines between the optimizer's own and a larger one
/// (Smith 2017, "triangular").
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Triangular {
    /// The largest rate, as a multiple of the optimizer's.
    #[serde(default = "four")]
    #[schemars(range(min = 1.0))]
    peak: f64,
    /// Steps up, and as many down.
    #[schemars(range(min = 1))]
    half: u64,
}

fn four() -> f64 {
    4.0
}

impl Scheduler for Triangular {
    fn describe(&self, total: u64) -> Result<SchedulerDescription> {
        let warnings = if self.half > total {
            vec![format!("the first rise takes {} steps, and the run has {total}", self.half)]
        } else {
            Vec::new()
        };
        Ok(SchedulerDescription { depends_on_length: false, warnings })
    }

    fn lr(&self, base: f64, step: u64, _: u64) -> Result<f64> {
        let within = (step - 1) % (2 * self.half);
        let height = 1.0 - (within as f64 / self.half as f64 - 1.0).abs();
        Ok(base * (1.0 + (self.peak - 1.0) * height))
    }
}

register!(Scheduler, "triangular", Triangular);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls() {
        let course = Triangular { peak: 3.0, half: 2 };
        let rates = [1, 2, 3, 4, 5].map(|step| course.lr(0.5, step, 100).unwrap());
        assert_eq!(rates, [0.5, 1.0, 1.5, 1.0, 0.5]);
    }
}
