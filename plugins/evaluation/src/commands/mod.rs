//! What a trained run makes of pictures: the commands `age`, `embed` and `data audit`.
//!
//! Each is a set of arguments with a `run` that returns what is to be shown.

mod age;
mod audit;
mod embed;

pub use age::Age;
pub use audit::Audit;
pub use embed::Embed;
