//! `mtl-core`: the engine of `mtlrun`.
//!
//! A [`recipe::Recipe`] names [`component`]s and wires them into a [`graph::Graph`]; [`train`] runs it. The engine
//! knows no face, no age and no task: those are components that plugins register.

pub mod checkpoint;
pub mod command;
pub mod component;
pub mod data;
pub mod diagnostic;
pub mod evaluate;
pub mod files;
mod functions;
pub mod graph;
pub mod log;
pub mod losses;
pub mod nn;
pub mod recipe;
pub mod runs;
pub mod session;
pub mod trace;
pub mod train;
pub mod weights;

/// Re-exported for the registration macro.
pub use inventory;
