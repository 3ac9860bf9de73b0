//! Training: optimizers, schedulers, loss scaling, the step and the run.

mod ema;
mod optimizers;
mod rules;
mod run;
mod scaler;
mod schedulers;
mod signals;
mod step;

pub use ema::Averages;
pub use optimizers::{Optimizer, OptimizerConfig, Update};
pub use run::{TrainOptions, train};
pub use scaler::Scaler;
pub use schedulers::Scheduler;
pub use signals::Signals;
pub use step::{Captured, LossValue, Trainer, weight_kind};
