//! Faces as data: lists of pictures with identity, age and gender, and faces of the project's own making.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod age_groups;
mod annotated_faces;
mod extract;
pub mod headings;
mod inspect;
pub mod label;
pub mod list;
pub mod made;
mod pack;
pub mod records;
mod render;
mod rules;
pub mod source;
mod synthetic_faces;

pub use extract::Extract;
pub use inspect::Inspect;
pub use pack::Pack;
pub use render::{Progress, Render};
