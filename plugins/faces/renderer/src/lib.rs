//! Made faces: a software renderer of heads whose identity, age, gender and capture are factors that one sets.
//!
//! Every picture is a pure function of (seed, identity, age, capture). Pose, light, expression, background, camera
//! and noise come from (seed, identity, capture) alone, so that two pictures of one capture at two ages differ by
//! age alone; what makes a person (shape, skin, eyes, hair, moles, how one ages) never changes but by ageing. The
//! pictures are aligned to the five points that face recognition uses.
//!
//! All arithmetic is IEEE single precision with the functions of `libm`, so that a picture has the same bytes on
//! every machine and in every thread.

/// Changes whenever the same arguments give other pictures.
pub const VERSION: u32 = 1;

mod capture;
mod draw;
mod head;
mod identity;
mod light;
mod material;
mod maths;
mod mesh;
mod raster;
mod render;
mod shape;
mod wrinkles;

pub use capture::Capture;
pub use identity::{Identity, Sex};
pub use render::{Picture, TEMPLATE, render, render_neutral};
