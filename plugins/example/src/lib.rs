//! A component of each common kind, each in one file. `mtlrun plugin new NAME --kind KIND` begins with one of them.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod dataset;
mod decomposition;
mod evaluator;
mod function;
mod head;
mod hook;
mod loss;
mod metric;
mod optimizer;
mod sampler;
mod scheduler;
mod source;
mod transform;

mtl_component::export_plugin!();
