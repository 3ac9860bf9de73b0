//! Age-invariant face recognition: backbones, feature decompositions, heads, age estimators and their losses.
//!
//! The method is MTLFace: Huang, Zhang, Shan, "When Age-Invariant Face Recognition Meets Face Age Synthesis: A
//! Multi-Task Learning Framework", CVPR 2021 (arXiv 2103.01520) and TPAMI 2022 (arXiv 2210.09835).

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod ages;
mod cosines;

mod backbones {
    //! Networks that turn pictures into features.
    automod::dir!("src/backbones");
}

mod decompositions {
    //! Splits of features into an identity and an age part.
    automod::dir!("src/decompositions");
}

mod heads {
    //! Classifiers, embeddings and estimators on top of features.
    automod::dir!("src/heads");
}

mod losses {
    //! Losses of recognition and age estimation.
    automod::dir!("src/losses");
}

mod renames {
    //! Parameter names of other programs.
    automod::dir!("src/renames");
}

mod samplers {
    //! The order of samples of the released code.
    automod::dir!("src/samplers");
}
