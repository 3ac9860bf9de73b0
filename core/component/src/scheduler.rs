//! The course of the learning rate.

use mtl_recipe::Result;

/// A learning rate as a function of the step.
///
/// ```
/// use mtl_component::{Result, Scheduler, register};
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
///
/// /// The rate is halved every so many steps.
/// #[derive(Debug, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Halving {
///     /// Steps between two halvings.
///     #[schemars(range(min = 1))]
///     every: u64,
/// }
///
/// impl Scheduler for Halving {
///     fn lr(&self, base: f64, step: u64, _: u64) -> Result<f64> {
///         Ok(base * 0.5f64.powi(((step - 1) / self.every) as i32))
///     }
/// }
///
/// register!(Scheduler, "halving", Halving);
/// assert_eq!(Halving { every: 10 }.lr(0.8, 11, 100)?, 0.4);
/// # Ok::<(), mtl_component::Error>(())
/// ```
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
