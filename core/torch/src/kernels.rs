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

/// `max(x, 0) + weight * min(x, 0)`, one slope a channel: `torch.nn.functional.prelu`, with a faster backward pass
/// for `[batch, channels, height, width]` in channels-last memory on the CPU.
pub fn prelu(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    // SAFETY: both tensors are live for the call.
    one(|out| unsafe { ffi::mtl_prelu(input.as_ptr().cast_mut(), weight.as_ptr().cast_mut(), out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn prelu_has_the_gradients_of_libtorch() {
        for (kind, bound) in [(Kind::Double, 1e-12), (Kind::Float, 1e-4)] {
            crate::seed(3).unwrap();
            let x = crate::channels_last(&Tensor::randn([3, 5, 7, 6], (kind, Device::Cpu))).unwrap();
            let w = Tensor::randn([5], (kind, Device::Cpu));
            let scale = Tensor::randn([3, 5, 7, 6], (kind, Device::Cpu));
            let grads = |own: bool| {
                let (x, w) = (x.copy().set_requires_grad(true), w.copy().set_requires_grad(true));
                let input = crate::channels_last(&x).unwrap();
                let y = if own { prelu(&input, &w).unwrap() } else { input.prelu(&w) };
                (&y * &scale).sum(kind).backward();
                (y.detach(), x.grad(), w.grad())
            };
            let (own, theirs) = (grads(true), grads(false));
            for (a, b) in [(own.0, theirs.0), (own.1, theirs.1), (own.2, theirs.2)] {
                let apart = (a - b).abs().max().double_value(&[]);
                assert!(apart < bound, "{kind:?}: {apart}");
            }
        }
    }
}
