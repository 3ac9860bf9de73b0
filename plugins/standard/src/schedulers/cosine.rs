use super::{progress, warm};
use mtl_component::{Result, Scheduler, SchedulerDescription, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Linear warm-up, then half a cosine from the full rate down to the floor (Loshchilov and Hutter 2017, eq. 5,
/// without restarts).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cosine {
    /// Steps of warm-up.
    #[serde(default)]
    warmup: u64,
    /// Rate at the end.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    floor: f64,
}

impl Scheduler for Cosine {
    fn lr(&self, base: f64, step: u64, total: u64) -> Result<f64> {
        if step < self.warmup {
            return Ok(base * warm(step, self.warmup));
        }
        let p = progress(step, self.warmup, total);
        Ok(self.floor + (base - self.floor) * 0.5 * (1.0 + (std::f64::consts::PI * p).cos()))
    }

    fn describe(&self, _: u64) -> Result<SchedulerDescription> {
        Ok(SchedulerDescription { depends_on_length: true, ..SchedulerDescription::default() })
    }
}

register!(Scheduler, "cosine", Cosine);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_then_falls_to_the_floor() {
        let s = Cosine { warmup: 10, floor: 0.01 };
        assert!((s.lr(1.0, 5, 110).unwrap() - 0.5).abs() < 1e-12);
        assert!((s.lr(1.0, 11, 110).unwrap() - 1.0).abs() < 1e-12);
        assert!((s.lr(1.0, 61, 110).unwrap() - 0.505).abs() < 1e-12);
        assert!(s.lr(1.0, 110, 110).unwrap() < 0.011);
    }
}
