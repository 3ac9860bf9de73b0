//! Autograd functions that libtorch has no operator for.

use crate::ffi::{self, one};
use anyhow::Result;
use tch::Tensor;

/// The input unchanged; its gradient is multiplied by `-coefficient`
/// (Ganin and Lempitsky 2015, section 3).
pub fn reverse_gradient(input: &Tensor, coefficient: f64) -> Result<Tensor> {
    // SAFETY: the tensor is live for the call.
    one(|out| unsafe { ffi::mtl_reverse_gradient(input.as_ptr().cast_mut(), coefficient, out) })
}
