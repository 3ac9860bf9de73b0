//! Age-invariant face recognition: backbones, feature decompositions, heads, age estimators and their losses.
//!
//! The method is MTLFace: Huang, Zhang, Shan, "When Age-Invariant Face Recognition Meets Face Age Synthesis: A
//! Multi-Task Learning Framework", CVPR 2021 (arXiv 2103.01520) and TPAMI 2022 (arXiv 2210.09835).

mod backbones;
mod decompositions;
mod heads;
mod losses;
