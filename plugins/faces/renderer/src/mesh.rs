//! What meshes are made of.

/// What a triangle is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Skin, with the hair that is painted on it.
    Skin,
    /// The eyeballs.
    Eye,
    /// The mesh of long hair.
    Hair,
    /// The teeth.
    Teeth,
}

/// Three vertices of one part.
#[derive(Debug, Clone, Copy)]
pub struct Triangle {
    /// The vertices, counter-clockwise from outside.
    pub vertices: [usize; 3],
    /// What it is of.
    pub part: Part,
}
