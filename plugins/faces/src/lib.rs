//! Faces as data: lists of pictures with identity, age and gender, and faces of the project's own making.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod age_groups;
pub mod alignment;
pub mod card;
mod commands;
mod faces;
pub mod facts;
pub mod file_names;
pub mod headings;
pub mod label;
mod label_cache;
pub mod landmarks;
pub mod list;
pub mod lst;
pub mod made;
pub mod pair_forms;
pub mod pairs;
mod partner;
pub mod perceptual_hash;
pub mod picture_files;
pub mod records;
mod rules;
pub mod source;
pub mod sources;
mod synthetic_faces;
mod table;
pub mod tiles;
pub mod verification_set;

pub use commands::{
    Convert, DescribeCard, DrawPairs, Extract, Inspect, Pack, Progress, Render, Split, is_free, text_of,
};

/// Used by [`with_pictures!`](crate::with_pictures).
pub use mtl_component::RecipePath;
