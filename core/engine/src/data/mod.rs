//! Data streams at work: opening them, the order of their batches, and the loader that feeds training.

mod batch;
mod loader;
pub(crate) mod open;
mod order;

pub use batch::{Batch, load_samples};
pub use loader::Loader;
pub use open::{OpenedData, open, orders};
pub use order::{BatchOrder, stream_seed};
