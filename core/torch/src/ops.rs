//! Operations on tensors and lists of tensors.

use crate::ffi::{self, Raw, check, one, raw};
use anyhow::{Result, bail, ensure};
use tch::{Device, Kind, Tensor};

/// Autocast for one device type while it lives.
///
/// Operators of the autocast lists run in `dtype`; the others keep their inputs' type. Regions may nest;
/// the previous state returns on drop, also when unwinding.
#[must_use]
pub struct Autocast {
    device: i32,
    enabled: i32,
    dtype: i32,
}

impl Autocast {
    /// Switches autocast to `dtype` (or off, for [`Kind::Float`]) on the device's type.
    pub fn new(device: Device, dtype: Kind) -> Result<Self> {
        // The numbers of c10::ScalarType.
        let (enabled, dtype) = match dtype {
            Kind::BFloat16 => (1, 15),
            Kind::Half => (1, 5),
            Kind::Float => (0, 15),
            other => bail!("autocast knows bf16, fp16 and off, not {other:?}"),
        };
        let mut guard = Self { device: device_type(device), enabled, dtype };
        guard.exchange(1)?;
        Ok(guard)
    }

    fn exchange(&mut self, nesting: i32) -> Result<()> {
        // SAFETY: both pointers are to fields that outlive the call.
        check(unsafe { ffi::mtl_autocast_exchange(self.device, &mut self.enabled, &mut self.dtype, nesting) })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // The only failure is a device type unknown to libtorch, which `new` has already refused.
        let _ = self.exchange(-1);
    }
}

fn device_type(device: Device) -> i32 {
    match device {
        Device::Cuda(_) => 1,
        _ => 0,
    }
}

/// Sets whether gradients are recorded for the given leaves.
pub fn set_requires_grad(tensors: &[&Tensor], on: bool) -> Result<()> {
    let list = raw(tensors);
    // SAFETY: the list holds live tensors of the given count.
    check(unsafe { ffi::mtl_set_requires_grad(list.as_ptr(), list.len() as i64, on.into()) })
}

/// Adds the gradients of the scalar `loss` to the `.grad` of `leaves`, and of nothing else.
pub fn backward(loss: &Tensor, leaves: &[&Tensor], keep_graph: bool) -> Result<()> {
    let list = raw(leaves);
    // SAFETY: the list holds live tensors of the given count.
    check(unsafe { ffi::mtl_backward(loss.as_ptr().cast_mut(), list.as_ptr(), list.len() as i64, keep_graph.into()) })
}

/// The gradients of the scalar `loss`; a leaf that it does not depend on gives an undefined tensor.
pub fn gradients(loss: &Tensor, leaves: &[&Tensor], keep_graph: bool) -> Result<Vec<Tensor>> {
    let list = raw(leaves);
    let mut out: Vec<Raw> = vec![std::ptr::null_mut(); list.len()];
    // SAFETY: both lists have the given count, and the inputs are live.
    check(unsafe {
        ffi::mtl_gradients(
            loss.as_ptr().cast_mut(),
            list.as_ptr(),
            list.len() as i64,
            keep_graph.into(),
            out.as_mut_ptr(),
        )
    })?;
    // SAFETY: on success each entry is a new tensor that nobody else owns.
    Ok(out.into_iter().map(|t| unsafe { Tensor::from_ptr(t) }).collect())
}

/// Takes the `.grad` out of a tensor; undefined if it has none.
pub fn take_grad(tensor: &Tensor) -> Result<Tensor> {
    // SAFETY: the tensor is live for the call.
    one(|out| unsafe { ffi::mtl_take_grad(tensor.as_ptr().cast_mut(), out) })
}

/// Lets `grad` be the `.grad` of a tensor, as if a backward pass had left it there.
pub fn set_grad(tensor: &Tensor, grad: &Tensor) -> Result<()> {
    // SAFETY: both tensors are live for the call, and libtorch shares the ownership of the gradient.
    check(unsafe { ffi::mtl_set_grad(tensor.as_ptr().cast_mut(), grad.as_ptr().cast_mut()) })
}

/// The same values with channels innermost in memory; 4-D tensors only. No copy if they are so already.
pub fn channels_last(input: &Tensor) -> Result<Tensor> {
    // SAFETY: the tensor is live for the call.
    one(|out| unsafe { ffi::mtl_channels_last(input.as_ptr().cast_mut(), out) })
}

/// `grads[i] += decay * params[i]`, the L2 term of coupled weight decay.
pub fn add_decay(grads: &[&Tensor], params: &[&Tensor], decay: f64) -> Result<()> {
    let (g, p) = (raw(grads), raw(params));
    ensure!(g.len() == p.len(), "{} gradients of {} parameters", g.len(), p.len());
    // SAFETY: both lists hold live tensors of the given count; the shim compares shapes.
    check(unsafe { ffi::mtl_add_decay(g.as_ptr(), p.as_ptr(), g.len() as i64, decay) })
}

/// Multiplies every tensor by `factor` in place.
pub fn scale(tensors: &[&Tensor], factor: f64) -> Result<()> {
    let list = raw(tensors);
    // SAFETY: the list holds live tensors of the given count.
    check(unsafe { ffi::mtl_scale(list.as_ptr(), list.len() as i64, factor) })
}

/// Moves `averages[i]` towards `params[i]` by the share `weight`.
pub fn lerp(averages: &[&Tensor], params: &[&Tensor], weight: f64) -> Result<()> {
    let (a, p) = (raw(averages), raw(params));
    ensure!(a.len() == p.len(), "{} averages of {} parameters", a.len(), p.len());
    // SAFETY: both lists hold live tensors of the given count; the shim compares shapes.
    check(unsafe { ffi::mtl_lerp(a.as_ptr(), p.as_ptr(), a.len() as i64, weight) })
}

/// The 2-norm over all tensors together, as a scalar tensor on their device.
pub fn total_norm(tensors: &[&Tensor]) -> Result<Tensor> {
    let list = raw(tensors);
    // SAFETY: the list holds live tensors of the given count.
    one(|out| unsafe { ffi::mtl_total_norm(list.as_ptr(), list.len() as i64, out) })
}

/// Scales the gradients so that their total norm is at most `max_norm`; `norm` comes from [`total_norm`].
pub fn clip(grads: &[&Tensor], norm: &Tensor, max_norm: f64) -> Result<()> {
    let list = raw(grads);
    // SAFETY: the list holds live tensors of the given count.
    check(unsafe { ffi::mtl_clip(list.as_ptr(), list.len() as i64, norm.as_ptr().cast_mut(), max_norm) })
}

/// Multiplies every gradient by the scalar tensor `inv_scale` and writes 1 into `found_inf` if one is not finite.
pub fn unscale(grads: &[&Tensor], found_inf: &Tensor, inv_scale: &Tensor) -> Result<()> {
    let list = raw(grads);
    // SAFETY: the list holds live tensors of the given count.
    check(unsafe {
        ffi::mtl_unscale(list.as_ptr(), list.len() as i64, found_inf.as_ptr().cast_mut(), inv_scale.as_ptr().cast_mut())
    })
}

/// Settings of one fused SGD step.
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Coupled (L2) weight decay.
    pub weight_decay: f64,
    /// Momentum; with 0 no buffers are used.
    pub momentum: f64,
    /// Dampening of the momentum.
    pub dampening: f64,
    /// Nesterov's variant.
    pub nesterov: bool,
    /// Whether the momentum buffers are still empty and take the first gradient as it is.
    pub first: bool,
}

fn optional(tensor: Option<&Tensor>) -> Raw {
    tensor.map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut())
}

/// One SGD step on all parameters in one kernel; skipped on the device where `found_inf` is 1.
pub fn fused_sgd(
    params: &[&Tensor],
    grads: &[&Tensor],
    momenta: &[&Tensor],
    s: Sgd,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let (p, g, m) = (raw(params), raw(grads), raw(momenta));
    ensure!(p.len() == g.len() && (s.momentum == 0.0 || m.len() == p.len()), "lists of different lengths");
    // SAFETY: all lists hold live tensors of the given count. The kernel goes through their memory side by side: the
    // shim makes sure that shapes, kinds and layouts are the same and that nothing overlaps.
    check(unsafe {
        ffi::mtl_fused_sgd(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            p.len() as i64,
            s.lr,
            s.weight_decay,
            s.momentum,
            s.dampening,
            s.nesterov.into(),
            s.first.into(),
            optional(found_inf),
        )
    })
}

/// Settings of one fused Adam or AdamW step.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: (f64, f64),
    /// Weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// AdamW: decay applied to the weights, not to the gradients.
    pub decoupled: bool,
}

/// One Adam step on all parameters in one kernel. `steps` holds one scalar tensor a parameter, the number of
/// steps done, and is counted up here.
pub fn fused_adam(
    params: &[&Tensor],
    grads: &[&Tensor],
    first: &[&Tensor],
    second: &[&Tensor],
    steps: &[&Tensor],
    s: Adam,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let n = params.len();
    let lengths = [grads.len(), first.len(), second.len(), steps.len()];
    ensure!(lengths.iter().all(|length| *length == n), "lists of different lengths");
    let (p, g, m, v, t) = (raw(params), raw(grads), raw(first), raw(second), raw(steps));
    // SAFETY: as of `fused_sgd`; the counts of steps are compared as well.
    check(unsafe {
        ffi::mtl_fused_adam(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            t.as_ptr(),
            n as i64,
            s.lr,
            s.betas.0,
            s.betas.1,
            s.weight_decay,
            s.eps,
            s.decoupled.into(),
            optional(found_inf),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sgd() -> Sgd {
        Sgd { lr: 0.1, weight_decay: 0.0, momentum: 0.9, dampening: 0.0, nesterov: false, first: false }
    }

    fn adam() -> Adam {
        Adam { lr: 0.1, betas: (0.9, 0.999), weight_decay: 0.0, eps: 1e-8, decoupled: false }
    }

    /// Lists that do not fit each other never reach a kernel.
    #[test]
    fn what_does_not_fit_a_parameter_is_refused() {
        let zeros = |size: &[i64], kind: Kind| Tensor::zeros(size, (kind, Device::Cpu));
        let good = || zeros(&[4, 6], Kind::Float);
        let param = good();
        let wrong = [
            zeros(&[1], Kind::Float),
            zeros(&[0], Kind::Float),
            zeros(&[24], Kind::Float),
            zeros(&[6, 4], Kind::Float),
            zeros(&[4, 6], Kind::Double),
            zeros(&[6, 4], Kind::Float).transpose(0, 1),
            zeros(&[1, 6], Kind::Float).expand([4, 6], false),
            zeros(&[8, 6], Kind::Float).slice(0, None, None, 2),
        ];
        let step = zeros(&[], Kind::Float);
        for bad in &wrong {
            let (bad, param, good) = (&[bad], &[&param], &[&good()]);
            for error in [
                fused_sgd(param, bad, good, sgd(), None),
                fused_sgd(param, good, bad, sgd(), None),
                fused_adam(param, bad, good, good, &[&step], adam(), None),
                fused_adam(param, good, bad, good, &[&step], adam(), None),
                fused_adam(param, good, good, bad, &[&step], adam(), None),
                fused_sgd(param, good, good, sgd(), Some(bad[0])).and(fused_sgd(param, good, &[], sgd(), None)),
            ] {
                let error = error.unwrap_err().to_string();
                assert!(!error.contains("frame #"), "{error}");
            }
        }
        for bad in &wrong[..4] {
            assert!(lerp(&[bad], &[&param], 0.5).is_err() && add_decay(&[bad], &[&param], 0.5).is_err());
        }
        for steps in &wrong[1..] {
            assert!(fused_adam(&[&param], &[&good()], &[&good()], &[&good()], &[steps], adam(), None).is_err());
        }
        assert_eq!(param.abs().sum(Kind::Double).double_value(&[]), 0.0, "nothing was written");
        // Strides of sides of 1 say nothing, and channels may be innermost on both sides.
        let narrow = crate::channels_last(&zeros(&[5, 3, 1, 1], Kind::Float)).unwrap();
        let plain = zeros(&[5, 3, 1, 1], Kind::Float);
        fused_sgd(&[&narrow], &[&plain], &[&plain], sgd(), None).unwrap();
        let last = || crate::channels_last(&zeros(&[5, 3, 2, 2], Kind::Float)).unwrap();
        fused_adam(&[&last()], &[&last()], &[&last()], &[&last()], &[&step], adam(), None).unwrap();
    }
}
