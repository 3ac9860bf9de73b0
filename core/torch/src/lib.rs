//! What tch lacks of libtorch: autocast per device and dtype, fused optimizer steps on lists of tensors,
//! memory formats, gradients into chosen leaves, seeds, threads and a few autograd functions.
//!
//! The C++ side catches every exception and returns it as text; the Rust side turns that into [`anyhow::Error`].

mod cuda;
pub mod fatal;
mod ffi;
mod groups;
mod kernels;
mod memory;
mod ops;
mod scalars;
mod system;

pub use cuda::{Graph, begin_graphs};
pub use groups::{Buckets, Group, LOST, Reduction, Store, Work, class_cross_entropy};
pub use kernels::{conv2d, conv3x3, fixed_norm, leaky_relu, prelu, reverse_gradient};
pub use memory::{card_allocated, card_memory, memory_asked};
pub use ops::{
    Adam, Autocast, Sgd, add_decay, backward, channels_last, clip, fused_adam, fused_sgd, gradients, lerp, scale,
    set_grad, set_requires_grad, take_grad, total_norm, unscale,
};
pub use scalars::{Number, ScalarOps, arange, full};
pub use system::{
    Mark, ThreadState, build_config, copy_beside, copy_to, cpu_capability, cuda_config, cuda_rules,
    disable_intra_op_threads, end_with_parent, libtorch_files, libtorch_folder, load_cuda, pin, restore_sigpipe, seed,
    set_threads, tune_malloc, use_cuda, version,
};
