//! Losses of any field.

mod cross_entropy;
mod regression;

pub use cross_entropy::cross_entropy;
