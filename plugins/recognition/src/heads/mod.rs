mod age_estimator;
mod classifiers;
mod embedding;

pub(crate) use age_estimator::{BINS, expected_age};
