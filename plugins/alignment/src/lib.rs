//! Aligned pictures of faces: detectors that find eyes, nose and mouth, and the command `data align`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod align;
mod detector;
mod mtcnn;
mod named;

pub use align::Align;
pub use detector::{Detector, Face};
pub use mtcnn::Mtcnn;
pub use named::detector;
