//! The functions that `csrc/shim.h` declares, and the conversions that their calls need.

use anyhow::{Result, anyhow};
use libc::{c_char, c_double, c_int, c_void};
use std::ffi::CStr;
use tch::Tensor;
use torch_sys::C_tensor;

/// A tensor on the C++ side.
pub(crate) type Raw = *mut C_tensor;

/// What the shim makes and frees: a store, a group, a collective under way, or buckets.
pub(crate) type Handle = *mut c_void;

/// `mtl_thread_state_t` of the shim.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RawThreadState {
    included: u64,
    excluded: u64,
    grad_mode: i32,
    forward_grad_mode: i32,
    inference_mode: i32,
    pub(crate) autocast_nesting: i32,
    autocast_dtype_cpu: i32,
    autocast_dtype_cuda: i32,
}

unsafe extern "C" {
    pub(crate) fn mtl_free(text: *mut c_char);
    pub(crate) fn mtl_version(out: *mut *mut c_char) -> *mut c_char;
    pub(crate) fn mtl_build_config(out: *mut *mut c_char) -> *mut c_char;
    pub(crate) fn mtl_cpu_capability(out: *mut *mut c_char) -> *mut c_char;
    pub(crate) fn mtl_autocast_exchange(
        device: c_int,
        enabled: *mut c_int,
        dtype: *mut c_int,
        nesting: c_int,
    ) -> *mut c_char;
    pub(crate) fn mtl_thread_state(out: *mut RawThreadState) -> *mut c_char;
    pub(crate) fn mtl_restore_thread_state(state: *const RawThreadState) -> *mut c_char;
    pub(crate) fn mtl_seed(seed: u64) -> *mut c_char;
    pub(crate) fn mtl_set_threads(intra: c_int, inter: c_int) -> *mut c_char;
    pub(crate) fn mtl_disable_intra_op_threads() -> *mut c_char;
    pub(crate) fn mtl_cuda_rules(tf32: c_int, deterministic: c_int) -> *mut c_char;
    pub(crate) fn mtl_use_cuda(index: c_int) -> *mut c_char;
    pub(crate) fn mtl_cuda_config(out: *mut *mut c_char) -> *mut c_char;
    pub(crate) fn mtl_copy_to(input: Raw, device_type: c_int, index: c_int, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_mark_now(index: c_int, out: *mut Handle) -> *mut c_char;
    pub(crate) fn mtl_mark_between(from: Handle, to: Handle, milliseconds: *mut c_double) -> *mut c_char;
    pub(crate) fn mtl_mark_free(mark: Handle);
    pub(crate) fn mtl_copy_beside(input: Raw, index: c_int, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_arange(out: Raw, end: i64) -> *mut c_char;
    pub(crate) fn mtl_pin(input: Raw, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_set_requires_grad(tensors: *const Raw, n: i64, on: c_int) -> *mut c_char;
    pub(crate) fn mtl_backward(loss: Raw, leaves: *const Raw, n: i64, keep_graph: c_int) -> *mut c_char;
    pub(crate) fn mtl_gradients(loss: Raw, leaves: *const Raw, n: i64, keep_graph: c_int, out: *mut Raw)
    -> *mut c_char;
    pub(crate) fn mtl_take_grad(tensor: Raw, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_set_grad(tensor: Raw, grad: Raw) -> *mut c_char;
    pub(crate) fn mtl_channels_last(input: Raw, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_add_decay(grads: *const Raw, params: *const Raw, n: i64, decay: c_double) -> *mut c_char;
    pub(crate) fn mtl_scale(tensors: *const Raw, n: i64, factor: c_double) -> *mut c_char;
    pub(crate) fn mtl_lerp(averages: *const Raw, params: *const Raw, n: i64, weight: c_double) -> *mut c_char;
    pub(crate) fn mtl_total_norm(tensors: *const Raw, n: i64, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_clip(grads: *const Raw, n: i64, norm: Raw, max_norm: c_double) -> *mut c_char;
    pub(crate) fn mtl_unscale(grads: *const Raw, n: i64, found_inf: Raw, inv_scale: Raw) -> *mut c_char;
    pub(crate) fn mtl_fused_sgd(
        params: *const Raw,
        grads: *const Raw,
        momenta: *const Raw,
        n: i64,
        lr: c_double,
        decay: c_double,
        momentum: c_double,
        dampening: c_double,
        nesterov: c_int,
        first: c_int,
        found_inf: Raw,
    ) -> *mut c_char;
    pub(crate) fn mtl_fused_adam(
        params: *const Raw,
        grads: *const Raw,
        first: *const Raw,
        second: *const Raw,
        steps: *const Raw,
        n: i64,
        lr: c_double,
        beta1: c_double,
        beta2: c_double,
        decay: c_double,
        eps: c_double,
        decoupled: c_int,
        found_inf: Raw,
    ) -> *mut c_char;
    pub(crate) fn mtl_prelu(input: Raw, weight: Raw, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_leaky_relu(input: Raw, slope: c_double, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_conv3x3(input: Raw, weight: Raw, bias: Raw, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_conv2d(
        input: Raw,
        weight: Raw,
        bias: Raw,
        stride: i64,
        padding: i64,
        out: *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn mtl_fixed_norm(
        input: Raw,
        weight: Raw,
        bias: Raw,
        mean: Raw,
        var: Raw,
        eps: c_double,
        out: *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn mtl_reverse_gradient(input: Raw, coefficient: c_double, out: *mut Raw) -> *mut c_char;

    pub(crate) fn mtl_store_local(out: *mut Handle) -> *mut c_char;
    pub(crate) fn mtl_store_tcp(
        host: *const c_char,
        port: *mut c_int,
        serves: c_int,
        timeout: i64,
        out: *mut Handle,
    ) -> *mut c_char;
    pub(crate) fn mtl_store_under(store: Handle, prefix: *const c_char, out: *mut Handle) -> *mut c_char;
    pub(crate) fn mtl_store_free(store: Handle);
    pub(crate) fn mtl_store_set(store: Handle, key: *const c_char, value: *const c_char, n: i64) -> *mut c_char;
    pub(crate) fn mtl_store_get(store: Handle, key: *const c_char, out: *mut *mut c_char, n: *mut i64) -> *mut c_char;
    pub(crate) fn mtl_store_add(store: Handle, key: *const c_char, n: i64, out: *mut i64) -> *mut c_char;
    pub(crate) fn mtl_group_gloo(
        store: Handle,
        rank: c_int,
        size: c_int,
        interface: *const c_char,
        host: *const c_char,
        timeout: i64,
        out: *mut Handle,
    ) -> *mut c_char;
    pub(crate) fn mtl_group_fake(rank: c_int, size: c_int, out: *mut Handle) -> *mut c_char;
    pub(crate) fn mtl_group_free(group: Handle);
    pub(crate) fn mtl_all_reduce(group: Handle, tensor: Raw, op: c_int) -> *mut c_char;
    pub(crate) fn mtl_all_reduce_start(group: Handle, tensor: Raw, op: c_int, out: *mut Handle) -> *mut c_char;
    pub(crate) fn mtl_work_wait(work: Handle) -> *mut c_char;
    pub(crate) fn mtl_work_free(work: Handle);
    pub(crate) fn mtl_all_gather(group: Handle, tensor: Raw, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_broadcast(group: Handle, tensors: *const Raw, n: i64, root: c_int) -> *mut c_char;
    pub(crate) fn mtl_gather_rows(group: Handle, tensor: Raw, out: *mut Raw) -> *mut c_char;
    pub(crate) fn mtl_class_cross_entropy(
        group: Handle,
        logits: Raw,
        column: Raw,
        known: Raw,
        divisor: Raw,
        out: *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn mtl_sync_batch_norm(
        group: Handle,
        x: Raw,
        weight: Raw,
        bias: Raw,
        running_mean: Raw,
        running_var: Raw,
        momentum: c_double,
        eps: c_double,
        out: *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn mtl_buckets_new(group: Handle, params: *const Raw, n: i64, out: *mut Handle) -> *mut c_char;
    pub(crate) fn mtl_buckets_free(buckets: Handle);
    pub(crate) fn mtl_buckets_arm(buckets: Handle) -> *mut c_char;
    pub(crate) fn mtl_buckets_finish(buckets: Handle, unexpected: *mut i64) -> *mut c_char;
    pub(crate) fn mtl_buckets_disarm(buckets: Handle);
    pub(crate) fn mtl_buckets_times(buckets: Handle, out: *mut c_double, n: i64) -> i64;
    pub(crate) fn mtl_buckets_bytes(buckets: Handle, out: *mut i64, n: i64) -> i64;
}

/// Takes over the message of a failed call.
pub(crate) fn check(message: *mut c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    Err(anyhow!("{}", take_text(message)))
}

/// Copies and frees a text of the C++ side.
pub(crate) fn take_text(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the shim returns NUL-terminated text from malloc and keeps no reference to it.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        mtl_free(text);
        owned
    }
}

/// The raw pointers of a list; valid while the tensors live.
pub(crate) fn raw(tensors: &[&Tensor]) -> Vec<Raw> {
    tensors.iter().map(|t| t.as_ptr().cast_mut()).collect()
}

/// Runs a call that returns one owned tensor.
pub(crate) fn one(call: impl FnOnce(*mut Raw) -> *mut c_char) -> Result<Tensor> {
    let mut out: Raw = std::ptr::null_mut();
    check(call(&mut out))?;
    // SAFETY: on success the shim stored a new `at::Tensor *` that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}
