//! Measuring recognition, age estimation and ageing: evaluators, protocols, and embeddings of pictures.

mod age;
mod ageing;
mod ageing_grid;
mod defaults;
mod embed;
mod leakage;
mod likeness;
pub mod protocol;
mod verification;
