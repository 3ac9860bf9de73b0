//! Operators that take a number.
//!
//! tch makes a `Scalar` of the number and drops it before it reads the error of the call. That drop takes the error,
//! and panics with it: every `f_…` operator of tch that takes a number panics where it should return an error, running
//! out of memory included. Those that this project needs are here, and return it.

use crate::ffi::{self, Raw, check};
use anyhow::Result;
use libc::c_char;
use tch::{Device, Kind, Tensor};
use torch_sys::c_generated as sys;
use torch_sys::{C_scalar, ats_float, ats_free, ats_int, get_and_reset_last_err};

/// A number, whose type takes part in the promotion of types: an integer keeps tensors of integers what they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(f64),
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// A number on the C++ side.
struct Scalar(*mut C_scalar);

impl Scalar {
    fn new(value: Number) -> Result<Self> {
        // SAFETY: both only allocate; a failure is in the pending error, which is taken at once.
        let raw = unsafe {
            match value {
                Number::Int(value) => ats_int(value),
                Number::Float(value) => ats_float(value),
            }
        };
        take_error()?;
        Ok(Self(raw))
    }
}

impl Drop for Scalar {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `ats_int` or `ats_float`, and nobody else frees it.
        unsafe { ats_free(self.0) }
    }
}

/// Takes the error that a call of torch-sys has left for this thread.
fn take_error() -> Result<()> {
    // SAFETY: the text is from strdup and is handed over; the shim frees it as one from malloc.
    check(unsafe { get_and_reset_last_err() }.cast::<c_char>())
}

/// Runs a call with a number that returns one owned tensor.
fn with(value: impl Into<Number>, call: impl FnOnce(*mut Raw, *mut C_scalar)) -> Result<Tensor> {
    let scalar = Scalar::new(value.into())?;
    let mut out: Raw = std::ptr::null_mut();
    call(&mut out, scalar.0);
    take_error()?;
    // SAFETY: without an error the call stored a new `at::Tensor *` that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// A tensor filled with a number: `torch.full`.
pub fn full(size: &[i64], value: impl Into<Number>, options: (Kind, Device)) -> Result<Tensor> {
    let out = Tensor::f_empty(size, options)?;
    out.try_fill_(value)?;
    Ok(out)
}

/// The numbers 0, 1, … below `end`: `torch.arange`.
pub fn arange(end: i64, options: (Kind, Device)) -> Result<Tensor> {
    let out = Tensor::f_empty([0], options)?;
    // SAFETY: the tensor is live for the call, and nobody else has it.
    check(unsafe { ffi::mtl_arange(out.as_ptr().cast_mut(), end) })?;
    Ok(out)
}

macro_rules! scalar_operators {
    ($($(#[$doc:meta])* $name:ident: $call:ident;)*) => {
        /// Operators of a tensor and a number, named as tch's with `try_` for `f_`.
        ///
        /// # Errors
        /// Each returns what libtorch reports, such as a lack of memory.
        pub trait ScalarOps {
            $(
                $(#[$doc])*
                fn $name(&self, value: impl Into<Number>) -> Result<Tensor>;
            )*

            /// The smaller of the larger of each element and `low`, and `high`: `torch.clamp`.
            fn try_clamp(&self, low: impl Into<Number>, high: impl Into<Number>) -> Result<Tensor>;

            /// Fills the tensor with a number.
            fn try_fill_(&self, value: impl Into<Number>) -> Result<()>;

            /// Adds a number to each element in place.
            fn try_add_scalar_(&self, value: impl Into<Number>) -> Result<()>;

            /// The 2-norm along one dimension, which is kept with the size 1.
            fn try_norm_along(&self, dim: i64) -> Result<Tensor>;

            /// A copy with `value` where `mask` is true: `torch.Tensor.masked_fill`.
            fn try_masked_fill(&self, mask: &Tensor, value: impl Into<Number>) -> Result<Tensor>;

            /// A copy with `value` at the places of `index` along one dimension: `torch.Tensor.scatter`. A place outside
            /// of the tensor is an error.
            fn try_scatter_value(&self, dim: i64, index: &Tensor, value: impl Into<Number>) -> Result<Tensor>;
        }

        impl ScalarOps for Tensor {
            $(
                fn $name(&self, value: impl Into<Number>) -> Result<Tensor> {
                    // SAFETY: the tensor and the number are live for the call.
                    with(value, |out, scalar| unsafe { sys::$call(out, self.as_ptr().cast_mut(), scalar) })
                }
            )*

            fn try_clamp(&self, low: impl Into<Number>, high: impl Into<Number>) -> Result<Tensor> {
                let high = Scalar::new(high.into())?;
                // SAFETY: the tensor and the numbers are live for the call.
                with(low, |out, low| unsafe { sys::atg_clamp(out, self.as_ptr().cast_mut(), low, high.0) })
            }

            fn try_fill_(&self, value: impl Into<Number>) -> Result<()> {
                // SAFETY: as above; the tensor that is returned is another handle of this one.
                with(value, |out, scalar| unsafe { sys::atg_fill_(out, self.as_ptr().cast_mut(), scalar) }).map(drop)
            }

            fn try_add_scalar_(&self, value: impl Into<Number>) -> Result<()> {
                let own = self.as_ptr().cast_mut();
                // SAFETY: as above.
                with(value, |out, scalar| unsafe { sys::atg_add_scalar_(out, own, scalar) }).map(drop)
            }

            fn try_norm_along(&self, dim: i64) -> Result<Tensor> {
                // SAFETY: as above; the list of one dimension outlives the call.
                with(2.0, |out, p| unsafe {
                    sys::atg_norm_scalaropt_dim(out, self.as_ptr().cast_mut(), p, [dim].as_ptr(), 1, 1)
                })
            }

            fn try_masked_fill(&self, mask: &Tensor, value: impl Into<Number>) -> Result<Tensor> {
                // SAFETY: both tensors and the number are live for the call.
                with(value, |out, scalar| unsafe {
                    sys::atg_masked_fill(out, self.as_ptr().cast_mut(), mask.as_ptr().cast_mut(), scalar)
                })
            }

            fn try_scatter_value(&self, dim: i64, index: &Tensor, value: impl Into<Number>) -> Result<Tensor> {
                // SAFETY: both tensors and the number are live for the call.
                with(value, |out, scalar| unsafe {
                    sys::atg_scatter_value(out, self.as_ptr().cast_mut(), dim, index.as_ptr().cast_mut(), scalar)
                })
            }
        }
    };
}

scalar_operators! {
    /// Each element times a number.
    try_mul_scalar: atg_mul_scalar;
    /// Each element plus a number.
    try_add_scalar: atg_add_scalar;
    /// Each element less a number.
    try_sub_scalar: atg_sub_scalar;
    /// Each element divided by a number.
    try_div_scalar: atg_div_scalar;
    /// The larger of each element and a number.
    try_clamp_min: atg_clamp_min;
    /// Where elements are at least a number.
    try_ge: atg_ge;
    /// Where elements are above a number.
    try_gt: atg_gt;
    /// A tensor of the same shape, type and device, filled with a number.
    try_full_like: atg_full_like;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(kind: Kind) -> (Kind, Device) {
        (kind, Device::Cpu)
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        Vec::try_from(t.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    #[test]
    fn each_operator_computes() {
        let x = Tensor::from_slice(&[-1.0, 0.5, 3.0]);
        assert_eq!(numbers(&x.try_mul_scalar(2.0).unwrap()), [-2.0, 1.0, 6.0]);
        assert_eq!(numbers(&x.try_add_scalar(1.0).unwrap()), [0.0, 1.5, 4.0]);
        assert_eq!(numbers(&x.try_sub_scalar(1.0).unwrap()), [-2.0, -0.5, 2.0]);
        assert_eq!(numbers(&x.try_div_scalar(0.5).unwrap()), [-2.0, 1.0, 6.0]);
        assert_eq!(numbers(&x.try_clamp_min(0.0).unwrap()), [0.0, 0.5, 3.0]);
        assert_eq!(numbers(&x.try_clamp(-0.5, 1.0).unwrap()), [-0.5, 0.5, 1.0]);
        assert_eq!(numbers(&x.try_ge(0.5).unwrap()), [0.0, 1.0, 1.0]);
        assert_eq!(numbers(&x.try_gt(0.5).unwrap()), [0.0, 0.0, 1.0]);
        assert_eq!(numbers(&x.try_full_like(7.0).unwrap()), [7.0; 3]);
        assert_eq!(numbers(&x.view([1, 3]).try_norm_along(1).unwrap()), [(1.0f64 + 0.25 + 9.0).sqrt()]);
        assert_eq!(numbers(&x.try_masked_fill(&x.try_gt(0.0).unwrap(), 9.0).unwrap()), [-1.0, 9.0, 9.0]);
        let y = full(&[2, 2], 1.5, cpu(Kind::Float)).unwrap();
        y.try_add_scalar_(1.0).unwrap();
        let places = Tensor::from_slice(&[0i64, 1]).view([2, 1]);
        assert_eq!(numbers(&y.try_scatter_value(1, &places, 0.0).unwrap()), [0.0, 2.5, 2.5, 0.0]);
        y.try_fill_(4.0).unwrap();
        assert_eq!(numbers(&y), [4.0; 4]);
        assert_eq!(numbers(&arange(3, cpu(Kind::Float)).unwrap()), [0.0, 1.0, 2.0]);
    }

    /// An integer leaves integers what they are, a floating-point number does not.
    #[test]
    fn numbers_keep_their_type() {
        let n = Tensor::from_slice(&[-5i64, 5]);
        assert_eq!(n.try_clamp_min(-1).unwrap().kind(), Kind::Int64);
        assert_eq!(n.try_mul_scalar(0.5).unwrap().kind(), Kind::Float);
    }

    /// Each call fails here, and says why; in tch each of them panics. The next call finds no error left over.
    #[test]
    fn each_operator_returns_its_error() {
        // A leaf that records gradients is not changed in place.
        let leaf = Tensor::from_slice(&[1.0f32, 0.0]).set_requires_grad(true);
        let mask = Tensor::from_slice(&[true, false, true]);
        let two = Tensor::from_slice(&[1.0f32, 2.0]);
        // 2^50 numbers, all of them one number in memory: whatever is computed of them does not fit.
        let huge = Tensor::from_slice(&[1.0f32]).f_expand([1i64 << 50], false).unwrap();
        let errors: Vec<(&str, String)> = vec![
            ("mul", huge.try_mul_scalar(2.0).unwrap_err().to_string()),
            ("add", huge.try_add_scalar(2.0).unwrap_err().to_string()),
            ("sub", huge.try_sub_scalar(2.0).unwrap_err().to_string()),
            ("div", huge.try_div_scalar(2.0).unwrap_err().to_string()),
            ("clamp_min", huge.try_clamp_min(2.0).unwrap_err().to_string()),
            ("clamp", huge.try_clamp(0.0, 2.0).unwrap_err().to_string()),
            ("ge", huge.try_ge(2.0).unwrap_err().to_string()),
            ("gt", huge.try_gt(2.0).unwrap_err().to_string()),
            ("full_like", huge.try_full_like(2.0).unwrap_err().to_string()),
            ("norm", huge.f_view([1i64 << 50, 1]).unwrap().try_norm_along(1).unwrap_err().to_string()),
            ("full", full(&[1 << 50], 2.0, cpu(Kind::Float)).unwrap_err().to_string()),
            ("masked_fill", two.try_masked_fill(&mask, 1.0).unwrap_err().to_string()),
            ("scatter", two.try_scatter_value(0, &Tensor::from_slice(&[5i64]), 1.0).unwrap_err().to_string()),
            ("scatter below 0", two.try_scatter_value(0, &Tensor::from_slice(&[-1i64]), 1.0).unwrap_err().to_string()),
            ("add_", leaf.try_add_scalar_(1.0).unwrap_err().to_string()),
            ("fill_", leaf.try_fill_(1.0).unwrap_err().to_string()),
        ];
        for (name, error) in &errors {
            assert!(!error.is_empty(), "{name}");
        }
        for (name, error) in &errors[..11] {
            assert!(crate::memory_asked(error).is_some(), "{name}: {error}");
        }
        assert!(errors[12].1.contains("index 5 is out of bounds"), "{}", errors[12].1);
        assert_eq!(numbers(&two.try_mul_scalar(2.0).unwrap()), [2.0, 4.0]);
    }
}
