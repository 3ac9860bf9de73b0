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

    use mtl_component::{Call, DType, Ports, Result};
    use tch::{Kind, Tensor};

    /// The ports of a loss that compares two tensors of one shape, the second of which is held constant.
    fn against_reference(input: &str, pattern: &str) -> Ports {
        let ports = Ports::new().input(input, DType::Float, pattern).input("reference", DType::Float, pattern);
        ports.output("loss", DType::Float, "")
    }

    /// The ports of a loss that compares pictures with true ones, as far as there are such: `weight`, such as the output
    /// `paired` of a stream, says how much each sample counts.
    fn against_truth(input: &str) -> Ports {
        let pattern = "batch channels height width";
        let ports = Ports::new().input(input, DType::Float, pattern).input("reference", DType::Float, pattern);
        ports.optional("weight", DType::Float, "batch").output("loss", DType::Float, "")
    }

    /// How far the largest and the least value of a pixel are apart in pictures from -1 to 1.
    fn range() -> f64 {
        2.0
    }

    /// The mean of a loss `[batch]` over all samples of the batch, each multiplied by its weight. It is not divided by the
    /// sum of the weights: batches that several processes share have the same mean as one.
    fn over_samples(loss: &Tensor, call: &Call<'_>) -> Result<Tensor> {
        let weighted = match call.optional("weight") {
            Some(weight) => loss.f_mul(weight)?,
            None => loss.shallow_clone(),
        };
        Ok(weighted.f_mean(None::<Kind>)?)
    }

    /// Two pairs of pictures `[2, 3, 16, 20]` that anyone can make again: with i counting all numbers, sin(0.37 i), and
    /// 0.8 sin(0.37 i + 0.2) + 0.1 cos(1.3 i).
    #[cfg(test)]
    fn made_pictures() -> (Tensor, Tensor) {
        let count = 2 * 3 * 16 * 20;
        let made = |of: &dyn Fn(f64) -> f64| {
            let all: Vec<f64> = (0..count).map(|i| of(f64::from(i))).collect();
            Tensor::from_slice(&all).view([2, 3, 16, 20])
        };
        (made(&|i| (i * 0.37).sin()), made(&|i| 0.8 * (i * 0.37 + 0.2).sin() + 0.1 * (i * 1.3).cos()))
    }
}
