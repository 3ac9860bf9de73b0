//! Faces as data: lists of pictures with identity, age and gender, and faces of the project's own making.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod age_groups;
mod extract;
mod faces;
pub mod headings;
mod inspect;
pub mod label;
pub mod list;
pub mod made;
mod pack;
pub mod pair_forms;
pub mod pairs;
pub mod records;
mod render;
mod rules;
pub mod source;
pub mod sources;
mod synthetic_faces;
pub mod verification_set;

pub use extract::Extract;
pub use inspect::Inspect;
pub use pack::Pack;
pub use render::{Progress, Render};

/// Used by [`with_pictures!`](crate::with_pictures).
pub use mtl_component::RecipePath;
