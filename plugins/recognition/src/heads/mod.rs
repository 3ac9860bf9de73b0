mod age_estimator;
mod classifiers;
mod embedding;

pub(crate) use age_estimator::expected_age;
