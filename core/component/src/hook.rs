//! Hooks: observers of a training run that a recipe names.

use crate::context::World;
use crate::evaluator::Report;
use mtl_recipe::Result;
use std::path::Path;

/// The configuration of a hook.
///
/// ```
/// use mtl_component::{Hook, HookConfig, HookEvent, Result, RunInfo, register};
/// # use schemars::JsonSchema;
/// # use serde::Deserialize;
/// use std::path::PathBuf;
///
/// /// Writes a file when the run is over, for whoever waits for it.
/// #[derive(Debug, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Flag {
///     /// Its name in the run folder.
///     file: String,
/// }
///
/// impl HookConfig for Flag {
///     fn files(&self) -> Result<Vec<String>> {
///         Ok(vec![self.file.clone()])
///     }
///     fn open(&self, run: &RunInfo<'_>) -> Result<Box<dyn Hook>> {
///         Ok(Box::new(Waiting(run.folder.join(&self.file))))
///     }
/// }
///
/// struct Waiting(PathBuf);
///
/// impl Hook for Waiting {
///     fn on(&mut self, event: &HookEvent<'_>) -> Result<()> {
///         if let HookEvent::Ended { step, .. } = event {
///             std::fs::write(&self.0, step.to_string())?;
///         }
///         Ok(())
///     }
/// }
///
/// register!(Hook, "flag", Flag);
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait HookConfig: Send + Sync {
    /// What is wrong between keys of the configuration; one sentence each.
    ///
    /// # Errors
    /// If the configuration cannot be described at all.
    fn problems(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The files that it writes into the run folder: with others in it, a run is not replaced.
    ///
    /// # Errors
    /// If the configuration cannot say it.
    fn files(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Makes the hook of a run that starts or is resumed.
    ///
    /// # Errors
    /// If it cannot observe, such as for a file that cannot be written.
    fn open(&self, run: &RunInfo<'_>) -> Result<Box<dyn Hook>>;
}

/// The run that a hook observes.
#[derive(Debug, Clone, Copy)]
pub struct RunInfo<'a> {
    /// The run folder.
    pub folder: &'a Path,
    /// The step that the run goes on from; 0 for a new one.
    pub step: u64,
    /// The steps of the whole run.
    pub total: u64,
    /// The processes of the run.
    pub world: World,
}

/// An observer of a training run.
///
/// ```
/// use mtl_component::{Hook, HookEvent, Result, tell};
///
/// /// Warns of a loss that is nearly nothing.
/// struct Suspicious;
///
/// impl Hook for Suspicious {
///     fn on(&mut self, event: &HookEvent<'_>) -> Result<()> {
///         let HookEvent::Logged { step, numbers } = event else { return Ok(()) };
///         for (name, value) in numbers.iter().filter(|(name, v)| name.starts_with("loss/") && *v < 1e-6) {
///             tell(&format!("{name} is {value} at step {step}"));
///         }
///         Ok(())
///     }
/// }
///
/// Suspicious.on(&HookEvent::Logged { step: 1, numbers: &[("loss/identity".into(), 0.0)] })?;
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait Hook {
    /// Takes note of what happened.
    ///
    /// # Errors
    /// An error is shown as a warning and ends the hook, not the run.
    fn on(&mut self, event: &HookEvent<'_>) -> Result<()>;
}

/// What happens in a training run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum HookEvent<'a> {
    /// A step is done.
    Stepped {
        /// The step, from 1.
        step: u64,
    },
    /// Numbers of training were read: losses, learning rates, gradient norms.
    Logged {
        /// The step.
        step: u64,
        /// The numbers by name, such as `loss/identity`.
        numbers: &'a [(String, f64)],
    },
    /// An evaluator has measured the model.
    Evaluated {
        /// The step.
        step: u64,
        /// The evaluator, by its name in the recipe.
        evaluator: &'a str,
        /// What it found.
        report: &'a Report,
    },
    /// The state of a step is being saved.
    Saved {
        /// The step.
        step: u64,
    },
    /// The run ends.
    Ended {
        /// The last step.
        step: u64,
        /// All steps are done.
        finished: bool,
    },
}
