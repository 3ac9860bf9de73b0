//! The course of the learning rate.

mod cosine;
mod polynomial;
mod warmup_multistep;

/// A learning rate as a function of the step.
pub trait Scheduler: Send {
    /// The learning rate of a step (from 1) of `total`, for the optimizer's own rate `base`.
    fn lr(&self, base: f64, step: u64, total: u64) -> f64;

    /// Whether the rate depends on how long the run is.
    fn depends_on_length(&self) -> bool {
        false
    }

    /// Things that are legal but probably not meant, for a run of `total` steps.
    fn warnings(&self, total: u64) -> Vec<String> {
        let _ = total;
        Vec::new()
    }
}

/// Linear rise from 0 over the warm-up steps; 1 afterwards.
fn warm(step: u64, warmup: u64) -> f64 {
    if step < warmup { step as f64 / warmup as f64 } else { 1.0 }
}

/// The share of the steps after the warm-up that is over before this step.
fn progress(step: u64, warmup: u64, total: u64) -> f64 {
    let span = total.saturating_sub(warmup).max(1);
    (step.saturating_sub(warmup + 1) as f64 / span as f64).min(1.0)
}
