//! Measuring recognition, age estimation and ageing: evaluators, protocols, and what a trained run makes of pictures.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod ageing_wires;
pub mod commands;
mod defaults;
mod embedding;
mod likeness;
mod pairs;
pub mod protocol;
mod reading;
mod rules;

mod evaluators {
    //! Evaluators: measuring a model on lists of faces or on made faces.
    automod::dir!("src/evaluators");
}
