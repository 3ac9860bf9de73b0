//! What tch lacks of libtorch: autocast per device and dtype, fused optimizer steps on lists of tensors,
//! memory formats, gradients into chosen leaves, seeds, threads and a few autograd functions.
//!
//! All unsafe code of the engine lives here. The C++ side catches every exception and returns it as text;
//! the Rust side turns that into [`anyhow::Error`].

mod ffi;
mod kernels;
mod ops;
mod system;

pub use kernels::{conv3x3, prelu, reverse_gradient};
pub use ops::{
    Adam, Autocast, Sgd, add_decay, backward, channels_last, clip, fused_adam, fused_sgd, gradients, lerp, scale,
    set_requires_grad, take_grad, total_norm, unscale,
};
pub use system::{
    build_config, cpu_capability, deterministic, end_with_the_pipe, keep_large_buffers, libtorch_folder, load_cuda,
    seed, set_threads, stay_serial, version,
};
