//! The course of the learning rate.

use mtl_recipe::Result;

/// A learning rate as a function of the step.
pub trait Scheduler: Send + Sync {
    /// What the engine has to know of it, for a run of `total` steps.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn describe(&self, total: u64) -> Result<SchedulerDescription> {
        let _ = total;
        Ok(SchedulerDescription::default())
    }

    /// The learning rate of a step (from 1) of `total`, for the optimizer's own rate `base`.
    ///
    /// # Errors
    /// If there is none.
    fn lr(&self, base: f64, step: u64, total: u64) -> Result<f64>;
}

/// What the engine has to know of a scheduler.
#[derive(Debug, Clone, Default)]
pub struct SchedulerDescription {
    /// The rate depends on how long the run is.
    pub depends_on_length: bool,
    /// What is valid but probably not meant; one sentence each.
    pub warnings: Vec<String>,
}
