//! Data streams at work: opening them, the order of their batches, and the loader that feeds training.

mod batch;
pub(crate) mod files;
mod labels;
mod loader;
pub(crate) mod open;
mod order;

pub use batch::{Batch, Tables, load_samples};
pub use files::Files;
pub use labels::{labels_are_known, labels_fit};
pub use loader::Loader;
pub use open::{OpenedData, first_samples, open, orders};
pub use order::{BatchOrder, stream_seed};
