//! Defaults of keys that several evaluators have.

/// The data port that pictures are fed to.
pub fn image() -> String {
    "faces.image".into()
}

/// The node that gives the embedding.
pub fn embedding() -> String {
    "embedding".into()
}

/// Pictures in one pass.
pub fn batch() -> usize {
    64
}

/// The output that is the age in years.
pub fn age() -> String {
    "years.age".into()
}

/// The output with the logits of the age groups.
pub fn groups() -> String {
    "years.groups".into()
}
