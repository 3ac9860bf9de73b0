//! Data streams at work: opening them, the order of their batches, and the loader that feeds training.

mod batch;
mod labels;
mod loader;
pub(crate) mod open;
mod order;

pub use batch::{Batch, load_samples};
pub use labels::labels_fit;
pub use loader::Loader;
pub use open::{OpenedData, open, orders};
pub use order::{BatchOrder, stream_seed};
