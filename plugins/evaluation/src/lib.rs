//! Measuring recognition and age estimation: evaluators, protocols, and embeddings of pictures.

mod age;
mod embed;
mod leakage;
pub mod protocol;
mod verification;
