use mtl_component::{Result, Scheduler, SchedulerDescription, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Linear warm-up, then the rate falls by `gamma` after each milestone, and never below the floor
/// (MTLFace, section 4.1).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WarmupMultistep {
    /// Steps of warm-up: the rate is `lr * step / warmup`.
    #[serde(default)]
    warmup: u64,
    /// Steps after which the rate falls.
    #[serde(default)]
    milestones: Vec<u64>,
    /// Factor at each milestone.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    gamma: f64,
    /// Lowest rate, also during the warm-up.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    floor: f64,
}

fn tenth() -> f64 {
    0.1
}

impl Scheduler for WarmupMultistep {
    fn lr(&self, base: f64, step: u64, _total: u64) -> Result<f64> {
        let lr = if step > self.warmup {
            let passed = self.milestones.iter().filter(|m| **m < step).count() as i32;
            base * self.gamma.powi(passed)
        } else {
            step as f64 * base / self.warmup as f64
        };
        Ok(lr.max(self.floor))
    }

    fn describe(&self, total: u64) -> Result<SchedulerDescription> {
        let late = self.milestones.iter().filter(|m| **m >= total);
        let warnings = late.map(|m| format!("the milestone {m} is not before the last step {total}")).collect();
        Ok(SchedulerDescription { warnings, ..SchedulerDescription::default() })
    }
}

/// The same rate at every step.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Constant {}

impl Scheduler for Constant {
    fn lr(&self, base: f64, _step: u64, _total: u64) -> Result<f64> {
        Ok(base)
    }
}

register!(Scheduler, "warmup_multistep", WarmupMultistep);
register!(Scheduler, "constant", Constant);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_course() {
        let s = WarmupMultistep { warmup: 1000, milestones: vec![20_000, 23_000], gamma: 0.1, floor: 1e-4 };
        for (step, lr) in [
            (1, 1e-4),
            (500, 0.05),
            (999, 0.0999),
            (1000, 0.1),
            (20_000, 0.1),
            (20_001, 0.01),
            (23_000, 0.01),
            (23_001, 0.001),
        ] {
            assert!((s.lr(0.1, step, 36_000).unwrap() - lr).abs() < 1e-15, "step {step}: {}", s.lr(0.1, step, 36_000).unwrap());
        }
    }

    #[test]
    fn no_warm_up_starts_at_the_full_rate() {
        let s = WarmupMultistep { warmup: 0, milestones: vec![], gamma: 0.1, floor: 0.0 };
        assert_eq!(s.lr(0.1, 1, 10).unwrap(), 0.1);
    }
}
