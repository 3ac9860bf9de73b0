//! Observers of a training run: what it writes and shows besides checkpoints.

mod best;
mod board;
mod hooks;
mod metrics;
mod reports;

pub(super) use best::BestTracker;
pub(super) use hooks::open_hooks;

use crate::data::Batch;
use crate::graph::Graph;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::runs::RunFolder;
use mtl_component::Report;
use mtl_recipe::Result;

/// Sees what happens in a training run and cannot change it.
pub trait Observer {
    /// What it is, for the warning when it fails.
    fn name(&self) -> String;

    /// Takes note of what happened.
    ///
    /// # Errors
    /// An error is shown as a warning and ends the observer, not the run.
    fn on(&mut self, event: &Event<'_>) -> Result<()>;
}

/// What happens in a training run.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Event<'e> {
    /// The run begins, or goes on from a step above 0.
    Started {
        /// The recipe.
        recipe: &'e Recipe,
        /// The run folder.
        folder: &'e RunFolder,
        /// The steps that are done.
        step: u64,
        /// The step after which it stops.
        until: u64,
    },
    /// A step is done.
    Stepped {
        /// The step, from 1.
        step: u64,
        /// The model after the step.
        model: &'e Model,
        /// The batches of each data stream.
        feed: &'e [Vec<Batch>],
    },
    /// Numbers of training were read.
    Logged {
        /// The step.
        step: u64,
        /// Losses, learning rates, gradient norms and scales by name, such as `loss/identity`.
        numbers: &'e [(String, f64)],
        /// The mean duration of the steps since the last time.
        seconds_per_step: f64,
    },
    /// An evaluator has measured the model.
    Evaluated {
        /// The step.
        step: u64,
        /// The evaluator's name in the recipe.
        evaluator: &'e str,
        /// What it found.
        report: &'e Report,
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
        /// How.
        ending: Ending,
    },
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// A signal asked it to stop.
    Stopped,
    /// The step is reached after which it was asked to stop, and others follow in the recipe.
    Reached,
    /// An error ended it.
    Failed,
}

/// Whether something is due that happens every so many steps, or never for 0.
pub(super) fn is_due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The observers of a run that still work.
#[derive(Default)]
pub(super) struct Observers {
    list: Vec<Box<dyn Observer>>,
}

impl Observers {
    /// Those that every run has: metrics file, TensorBoard, reports.
    pub fn of_run(recipe: &Recipe, graph: &Graph, folder: &RunFolder, step: u64) -> Self {
        let mut out = Self::default();
        out.add("the metrics file", metrics::Metrics::open(folder, step));
        out.add("TensorBoard", board::Board::open(recipe, graph, folder, step));
        out.add("the reports of evaluators", Ok(reports::Reports::new(folder)));
        out
    }

    fn add(&mut self, name: &str, observer: Result<impl Observer + 'static>) {
        match observer {
            Ok(observer) => self.list.push(Box::new(observer)),
            Err(e) => tracing::warn!("the run goes on without {name}: {e:#}"),
        }
    }

    /// Adds further observers.
    pub fn extend(&mut self, others: Vec<Box<dyn Observer>>) {
        self.list.extend(others);
    }

    /// Hands an event to all of them; one that fails is reported and dropped.
    pub fn notify(&mut self, event: &Event<'_>) {
        self.list.retain_mut(|observer| match observer.on(event) {
            Ok(()) => true,
            Err(e) => {
                tracing::warn!("the run goes on without {}: {e:#}", observer.name());
                false
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    struct Failing(Rc<Cell<u32>>);

    impl Observer for Failing {
        fn name(&self) -> String {
            "a log".into()
        }

        fn on(&mut self, _: &Event<'_>) -> Result<()> {
            self.0.set(self.0.get() + 1);
            mtl_recipe::bail!("the disk is full")
        }
    }

    #[test]
    fn an_observer_that_fails_is_not_asked_again() {
        let asked = Rc::new(Cell::new(0));
        let mut observers = Observers::default();
        observers.extend(vec![Box::new(Failing(asked.clone()))]);
        observers.notify(&Event::Saved { step: 1 });
        observers.notify(&Event::Saved { step: 2 });
        assert_eq!(asked.get(), 1);
    }
}
