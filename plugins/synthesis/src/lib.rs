//! Face age synthesis: identity conditional modules, decoders, discriminators and their losses.
//!
//! The method is MTLFace: Huang, Zhang, Shan, "When Age-Invariant Face Recognition Meets Face Age Synthesis: A
//! Multi-Task Learning Framework", CVPR 2021 (arXiv 2103.01520), section 3.2.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod condition;
mod layers;
mod network;

mod decoders {
    //! Decoders: features in, a picture out.
    automod::dir!("src/decoders");
}

mod discriminators {
    //! Discriminators: a picture and the age that it should show in, judgements out.
    automod::dir!("src/discriminators");
}

mod icm {
    //! Identity conditional modules: identity features in, features for the decoder out, given the wanted age.
    automod::dir!("src/icm");
}

mod losses {
    //! Losses of synthesis.
    automod::dir!("src/losses");

    use mtl_component::{DType, Ports};

    /// The ports of a loss that compares two tensors of one shape, the second of which is held constant.
    fn against_reference(input: &str, pattern: &str) -> Ports {
        let ports = Ports::new().input(input, DType::Float, pattern).input("reference", DType::Float, pattern);
        ports.output("loss", DType::Float, "")
    }
}
