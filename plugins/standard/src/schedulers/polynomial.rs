use super::{progress, warm};
use mtl_component::{Result, Scheduler, SchedulerDescription, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Linear warm-up, then `lr * (1 - share)^power`, with the share of the steps that is over, and never below the floor; insightface trains with
/// power 1.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Polynomial {
    /// Steps of warm-up.
    #[serde(default)]
    warmup: u64,
    /// The power.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0))]
    power: f64,
    /// Lowest rate.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    floor: f64,
}

fn one() -> f64 {
    1.0
}

impl Scheduler for Polynomial {
    fn lr(&self, base: f64, step: u64, total: u64) -> Result<f64> {
        if step < self.warmup {
            return Ok(base * warm(step, self.warmup));
        }
        Ok((base * (1.0 - progress(step, self.warmup, total)).powf(self.power)).max(self.floor))
    }

    fn describe(&self, _: u64) -> Result<SchedulerDescription> {
        Ok(SchedulerDescription { depends_on_length: true, ..SchedulerDescription::default() })
    }
}

register!(Scheduler, "polynomial", Polynomial);
