//! Training: the step, loss scaling, moving averages, and the run around the steps with its observers.

mod capture;
mod ema;
mod graphs;
mod observers;
mod phase;
mod profile;
mod run;
mod scaler;
mod signals;
mod step;

pub use capture::Captured;
pub use ema::Averages;
pub use observers::{Ending, Event, Observer};
pub use run::{Compared, TrainOptions, compared, train};
pub use scaler::Scaler;
pub use signals::{LEFT, Signals};
pub use step::{LossValue, Trainer};
