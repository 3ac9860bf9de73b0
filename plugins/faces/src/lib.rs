//! Faces as data: lists of pictures with identity, age and gender.

pub mod age_groups;
mod annotated_faces;
pub mod list;
