//! Face age synthesis: identity conditional modules, decoders, discriminators, their losses, and `mtlrun age`.
//!
//! The method is MTLFace: Huang, Zhang, Shan, "When Age-Invariant Face Recognition Meets Face Age Synthesis: A
//! Multi-Task Learning Framework", CVPR 2021 (arXiv 2103.01520), section 3.2.

mod age;
pub mod ageing;
mod condition;
mod decoders;
mod discriminators;
mod icm;
mod layers;
mod losses;
