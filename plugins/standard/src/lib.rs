//! Components of any field: optimizers, schedulers, transforms, samplers, functions, losses, metrics and hooks.
//!
//! They are written against the public interface of components, as those of any other crate. Each is a file below one of
//! the folders, which no list names.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod codec;
pub mod mat;
pub mod npy;
pub mod order;
pub mod picture_header;
pub mod records;
pub mod structure;

mod functions {
    //! Functions: components without parameters that nodes apply.
    automod::dir!("src/functions");
}

mod hooks {
    //! Observers of training runs.
    automod::dir!("src/hooks");
}

mod losses {
    //! Losses of any field.
    automod::dir!("src/losses");
}

mod metrics {
    //! Numbers computed from the cases of an evaluation.
    automod::dir!("src/metrics");
}

mod optimizers {
    //! Optimizers on libtorch's fused kernels, with state that is saved by parameter name.
    automod::dir!("src/optimizers");

    use mtl_component::Result;
    use tch::Tensor;

    /// Zeros of the same layout in memory, as the fused kernels need.
    fn zeros(param: &Tensor) -> Result<Tensor> {
        Ok(tch::no_grad(|| param.f_zeros_like())?)
    }

    /// Steps some rows of tensors: copies of the rows are given to `step` and put back afterwards.
    fn step_rows(rows: &Tensor, tensors: &[&Tensor], step: impl FnOnce(&[Tensor]) -> Result<()>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let parts = tensors.iter().map(|t| Ok(t.f_index_select(0, rows)?)).collect::<Result<Vec<_>>>()?;
        step(&parts)?;
        for (tensor, part) in tensors.iter().zip(&parts) {
            let _ = tensor.shallow_clone().f_index_copy_(0, rows, part)?;
        }
        Ok(())
    }
}

mod samplers {
    //! Samplers: the order in which samples are drawn.
    automod::dir!("src/samplers");
}

mod schedulers {
    //! The course of the learning rate.
    automod::dir!("src/schedulers");

    /// Linear rise from 0 over the warm-up steps; 1 afterwards.
    fn warm(step: u64, warmup: u64) -> f64 {
        if step < warmup { step as f64 / warmup as f64 } else { 1.0 }
    }

    /// The share of the steps after the warm-up that is over before this step.
    fn progress(step: u64, warmup: u64, total: u64) -> f64 {
        let span = total.saturating_sub(warmup).max(1);
        (step.saturating_sub(warmup + 1) as f64 / span as f64).min(1.0)
    }
}

mod transforms {
    //! Changes of pictures on their way into a batch.
    automod::dir!("src/transforms");

    /// The transform is its own configuration; the closure gives its description, by default the plain one.
    macro_rules! self_made {
        ($name:literal, $type:ty) => {
            $crate::transforms::self_made!($name, $type, |_| Default::default());
        };
        ($name:literal, $type:ty, $describe:expr) => {
            impl mtl_component::TransformConfig for $type {
                fn describe(&self) -> mtl_component::Result<mtl_component::TransformDescription> {
                    let describe: fn(&Self) -> mtl_component::TransformDescription = $describe;
                    Ok(describe(self))
                }
                fn open(&self) -> mtl_component::Result<std::sync::Arc<dyn mtl_component::Transform>> {
                    Ok(std::sync::Arc::new(self.clone()))
                }
            }
            mtl_component::register!(Transform, $name, $type);
        };
    }
    use self_made;

    fn half() -> f64 {
        0.5
    }
}
