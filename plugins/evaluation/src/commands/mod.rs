//! What a trained run makes of pictures: the commands `age` and `embed`.
//!
//! Each is a set of arguments with a `run` that returns what is to be shown.

mod age;
mod embed;

pub use age::Age;
pub use embed::Embed;
