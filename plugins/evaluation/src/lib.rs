//! Measuring recognition and age estimation: evaluators, protocols, and embeddings of pictures.

mod age;
mod defaults;
mod embed;
mod leakage;
pub mod protocol;
mod verification;
