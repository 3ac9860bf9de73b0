//! `mtl-engine`: a recipe as a checked multi-task graph, its training, and its runs.
//!
//! A [`recipe::Recipe`] names components and wires them into a [`graph::Graph`]; [`train::train`] runs it in a
//! [`runs::RunFolder`]; [`inference`] opens what has been trained. The engine registers no component and knows no face,
//! age or task: those are known by the plugins.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod checkpoint;
mod class_rows;
pub mod data;
pub mod device;
pub mod drawing;
pub mod graph;
pub mod ids;
pub mod inference;
mod initial_weights;
pub mod log;
pub mod machine;
pub mod memory;
pub mod model;
pub mod plugin;
pub mod png;
pub mod ranks;
pub mod recipe;
mod rules;
pub mod runs;
pub mod trace;
pub mod train;
pub mod weights;
