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

/// `max(x, 0) + weight * min(x, 0)`, one slope per channel: `torch.nn.functional.prelu`, with a faster backward pass
/// for `[batch, channels, height, width]` in channels-last memory on the CPU.
pub fn prelu(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    // SAFETY: both tensors are live for the call.
    one(|out| unsafe { ffi::mtl_prelu(input.as_ptr().cast_mut(), weight.as_ptr().cast_mut(), out) })
}

/// `max(x, slope x)`.
pub fn leaky_relu(input: &Tensor, slope: f64) -> Result<Tensor> {
    // SAFETY: the tensor is live for the call.
    one(|out| unsafe { ffi::mtl_leaky_relu(input.as_ptr().cast_mut(), slope, out) })
}

/// A convolution of `[batch, in, h, w]` with `[out, in, 3, 3]`, stride 1 and padding 1; `bias` is `[out]`. In float32, in
/// channels-last memory on the CPU, it takes Winograd's algorithm F(4x4, 3x3) (Lavin and Gray 2016), about three times
/// faster and with rounding errors some ten times those of the direct sum; elsewhere it is `torch.conv2d`.
pub fn conv3x3(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let [x, w] = [input, weight].map(|t| t.as_ptr().cast_mut());
    // SAFETY: the tensors are live for the call, and the shim takes a null pointer for no bias.
    one(|out| unsafe { ffi::mtl_conv3x3(x, w, or_null(bias), out) })
}

/// `torch.nn.functional.conv2d` of `[batch, in, h, w]` with `[out, in, kernel, kernel]`, without dilation; `bias` is
/// `[out]`. Where the kernel is not trained and the input is, the input is not kept for the gradient.
pub fn conv2d(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: i64, padding: i64) -> Result<Tensor> {
    let [x, w] = [input, weight].map(|t| t.as_ptr().cast_mut());
    // SAFETY: the tensors are live for the call, and the shim takes a null pointer for no bias.
    one(|out| unsafe { ffi::mtl_conv2d(x, w, or_null(bias), stride, padding, out) })
}

fn or_null(tensor: Option<&Tensor>) -> ffi::Raw {
    tensor.map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut())
}

/// `torch.nn.functional.batch_norm` of `[batch, channels, …]` by running statistics; all four are `[channels]`. Where weights are not trained and the input is, nothing of the
/// size of the input is kept for the gradient.
pub fn fixed_norm(input: &Tensor, [weight, bias, mean, var]: [&Tensor; 4], eps: f64) -> Result<Tensor> {
    let [x, w, b, m, v] = [input, weight, bias, mean, var].map(|t| t.as_ptr().cast_mut());
    // SAFETY: the tensors are live for the call.
    one(|out| unsafe { ffi::mtl_fixed_norm(x, w, b, m, v, eps, out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Against the double-precision convolution: outputs and both gradients stay within a few float32 roundings of
    /// their root mean square, at sizes that are and are not multiples of the tile.
    #[test]
    fn winograd_has_the_values_and_gradients_of_the_convolution() {
        for (batch, input, output, h, w) in
            [(4, 32, 64, 12, 16), (12, 64, 64, 7, 7), (9, 96, 40, 9, 14), (32, 256, 64, 3, 5)]
        {
            crate::seed(5).unwrap();
            let x = Tensor::randn([batch, input, h, w], (Kind::Double, Device::Cpu));
            let k = Tensor::randn([output, input, 3, 3], (Kind::Double, Device::Cpu)) * 0.1;
            let bias = Tensor::randn([output], (Kind::Double, Device::Cpu));
            let scale = Tensor::randn([batch, output, h, w], (Kind::Double, Device::Cpu));
            let run = |kind: Kind| {
                let x = crate::channels_last(&x.to_kind(kind)).unwrap().set_requires_grad(true);
                let k = k.to_kind(kind).set_requires_grad(true);
                let b = bias.to_kind(kind).set_requires_grad(true);
                let y = conv3x3(&x, &k, Some(&b)).unwrap();
                (&y * scale.to_kind(kind)).sum(kind).backward();
                [y.detach(), x.grad(), k.grad(), b.grad()].map(|t| t.to_kind(Kind::Double))
            };
            for ((what, own), exact) in
                ["output", "input", "kernel", "bias"].iter().zip(run(Kind::Float)).zip(run(Kind::Double))
            {
                let rms = exact.square().mean(Kind::Double).sqrt().double_value(&[]);
                let apart = (&own - &exact).abs().max().double_value(&[]) / rms;
                assert!(apart < 1e-4, "{what} of {batch}x{input}x{h}x{w}: {apart:e}");
                assert!(apart > 0.0, "{what}: the same bits as in double precision");
            }
        }
    }

    /// Where the kernel is not trained, with and without a bias, also in sizes that Winograd's algorithm does not take: the
    /// gradient is that of libtorch, and the input may change between the passes because it is not kept.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "it is tested here")]
    fn winograd_by_a_fixed_kernel_keeps_no_input() {
        crate::seed(5).unwrap();
        for (batch, output, bias) in [(12, 64, true), (12, 64, false), (1, 20, true)] {
            let x = Tensor::randn([batch, 64, 7, 7], (Kind::Float, Device::Cpu));
            let k = Tensor::randn([output, 64, 3, 3], (Kind::Float, Device::Cpu)) * 0.1;
            let b = Tensor::randn([output], (Kind::Float, Device::Cpu));
            let run = |own: bool| {
                let x = crate::channels_last(&x.copy()).unwrap().set_requires_grad(true);
                let b = bias.then_some(&b);
                let y = match own {
                    true => conv3x3(&x, &k, b).unwrap(),
                    false => x.f_conv2d(&k, b, [1, 1], [1, 1], [1, 1], 1).unwrap(),
                };
                if own {
                    let _ = tch::no_grad(|| x.shallow_clone().zero_());
                }
                (&y * &y.detach()).sum(Kind::Float).backward();
                [y.detach(), x.grad()]
            };
            for (own, theirs) in run(true).iter().zip(run(false)) {
                let apart = (own - &theirs).abs().max() / theirs.abs().max();
                assert!(apart.double_value(&[]) < 1e-4, "{batch} pictures, {output} outputs, bias {bias}: {apart}");
            }
        }
    }

    /// A bias that is not a number for each output is read by no kernel of this library.
    #[test]
    fn a_bias_of_another_size_is_refused() {
        let x = crate::channels_last(&Tensor::ones([12, 64, 7, 7], (Kind::Float, Device::Cpu))).unwrap();
        let k = Tensor::ones([64, 64, 3, 3], (Kind::Float, Device::Cpu));
        let error = conv3x3(&x, &k, Some(&Tensor::zeros([1], (Kind::Float, Device::Cpu)))).unwrap_err();
        assert!(error.to_string().contains("bias"), "{error}");
    }

    /// Values and gradients by a kernel that is not trained, in both memory formats; under autocast too. The input may change
    /// between the passes because it is not kept.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "it is tested here")]
    fn a_convolution_by_a_fixed_kernel_has_the_gradient_of_libtorch() {
        crate::seed(3).unwrap();
        let x = Tensor::randn([2, 16, 9, 7], (Kind::Float, Device::Cpu));
        let w = Tensor::randn([24, 16, 3, 3], (Kind::Float, Device::Cpu)) * 0.1;
        let b = Tensor::randn([24], (Kind::Float, Device::Cpu));
        for (channels_last, cast, bound) in
            [(false, None, 1e-5), (true, None, 1e-5), (true, Some(Kind::BFloat16), 0.02)]
        {
            for (side, stride, padding) in [(3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 2, 0)] {
                let w = w.narrow(2, 0, side).narrow(3, 0, side);
                let run = |own: bool| {
                    let laid = |t: &Tensor| if channels_last { crate::channels_last(t).unwrap() } else { t.copy() };
                    let (x, w) = (laid(&x).set_requires_grad(true), laid(&w));
                    let y = {
                        let _cast = cast.map(|kind| crate::Autocast::new(Device::Cpu, kind).unwrap());
                        match own {
                            true => conv2d(&x, &w, Some(&b), stride, padding).unwrap(),
                            false => x.conv2d(&w, Some(&b), [stride; 2], [padding; 2], [1, 1], 1),
                        }
                    };
                    assert_eq!(y.kind(), cast.unwrap_or(Kind::Float));
                    if own {
                        let _ = tch::no_grad(|| x.shallow_clone().zero_());
                    }
                    y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
                    [y.detach(), x.grad()].map(|t| t.to_kind(Kind::Double))
                };
                for (own, theirs) in run(true).iter().zip(run(false)) {
                    let apart = (own - &theirs).abs().max() / theirs.abs().max();
                    assert!(
                        apart.double_value(&[]) < bound,
                        "{channels_last} {cast:?} {side} {stride} {padding}: {apart}"
                    );
                }
            }
        }
    }

    /// Values and gradients where only the input is trained, and where the weights are too, in maps and in rows; in bfloat16
    /// with weights in single precision, as under autocast, within its roundings.
    #[test]
    fn fixed_norm_is_the_normalisation_of_libtorch() {
        let map = &[3, 5, 7, 6][..];
        let (full, half) = ((Kind::Double, Kind::Double, 1e-12), (Kind::BFloat16, Kind::Float, 0.02));
        for (size, trained, (kind, of_weights, bound)) in
            [(map, false, full), (&[4, 5], false, full), (map, true, full), (map, false, half)]
        {
            crate::seed(3).unwrap();
            let [w, b, mean] = [1, 2, 3].map(|_| Tensor::randn([5], (of_weights, Device::Cpu)));
            let var = Tensor::rand([5], (of_weights, Device::Cpu)) + 0.1;
            let [x, scale] = [1, 2].map(|_| Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind));
            let run = |own: bool| {
                let x = x.copy().set_requires_grad(true);
                let [w, b] = [&w, &b].map(|t| t.copy().set_requires_grad(trained));
                let y = match own {
                    true => fixed_norm(&x, [&w, &b, &mean, &var], 1e-5).unwrap(),
                    false => x.batch_norm(Some(&w), Some(&b), Some(&mean), Some(&var), false, 0.1, 1e-5, true),
                };
                (&y * &scale).sum(Kind::Double).backward();
                assert_eq!((y.kind(), x.grad().kind()), (kind, kind));
                let of_weights = trained.then(|| [w.grad(), b.grad()]);
                [y.detach(), x.grad()].into_iter().chain(of_weights.into_iter().flatten()).collect::<Vec<_>>()
            };
            for (own, theirs) in run(true).iter().zip(run(false)) {
                assert_eq!(own.size(), theirs.size());
                let apart = (own - theirs).abs().max().double_value(&[]);
                assert!(apart < bound, "{kind:?} {size:?}, weights trained: {trained}: {apart}");
            }
        }
    }

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

    /// Under autocast to bfloat16, whatever the type of the input: values and gradients stay within roundings of
    /// 1/256 of those in single precision, and the gradients have the types of what they belong to.
    #[test]
    fn prelu_in_bfloat16_is_that_of_single_precision_rounded() {
        crate::seed(3).unwrap();
        let input = crate::channels_last(&Tensor::randn([3, 5, 7, 6], (Kind::Float, Device::Cpu))).unwrap();
        let slopes = Tensor::randn([5], (Kind::Float, Device::Cpu));
        let run = |kind: Kind, cast: Kind| {
            let x = input.to_kind(Kind::BFloat16).to_kind(kind).set_requires_grad(true);
            let w = slopes.copy().set_requires_grad(true);
            let y = {
                let _cast = crate::Autocast::new(Device::Cpu, cast).unwrap();
                prelu(&x, &w).unwrap()
            };
            y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
            assert_eq!((x.grad().kind(), w.grad().kind()), (kind, Kind::Float));
            (y.kind(), [y.detach(), x.grad(), w.grad()].map(|t| t.to_kind(Kind::Double)))
        };
        let (_, exact) = run(Kind::Float, Kind::Float);
        for kind in [Kind::Float, Kind::BFloat16] {
            let (made, rounded) = run(kind, Kind::BFloat16);
            assert_eq!(made, Kind::BFloat16);
            for (a, b) in rounded.iter().zip(&exact) {
                let apart = (a - b).norm().double_value(&[]) / b.norm().double_value(&[]);
                assert!(apart > 0.0 && apart < 1.0 / 128.0, "{kind:?}: {apart}");
            }
        }
    }
}
