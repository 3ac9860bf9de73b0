//! A search for shapes that the library under us computes wrongly, or outside of its memory.
//!
//! oneDNN has kernels of its own for small shapes, and some have been wrong. Every small convolution that components
//! use is compared with double precision here, in child processes, so that a crash names its shape.

use mtl_component::nn::conv2d;
use mtl_torch::{Autocast, channels_last, seed};
use std::process::{Command, Stdio};
use tch::{Device, Kind, Tensor};

/// Kernel, stride and padding of the components' convolutions.
const FORMS: [(i64, i64, i64); 8] =
    [(1, 1, 0), (1, 2, 0), (1, 3, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1), (4, 1, 1), (7, 2, 3)];
const OUTPUTS: [i64; 5] = [1, 5, 8, 16, 24];
const SIZES: [(i64, i64); 6] = [(4, 4), (5, 7), (13, 9), (12, 12), (24, 24), (48, 48)];
/// The variable that tells a child process which part it does.
const PART: &str = "MTL_CONVOLUTIONS";

/// Output and both gradients of the sum of squares.
fn computed(x: &Tensor, weight: &Tensor, form: (i64, i64, i64), kind: Kind, innermost: bool) -> [Tensor; 3] {
    let full = if kind == Kind::BFloat16 { Kind::Float } else { kind };
    let [x, weight] = [x, weight].map(|t| t.to_kind(full).detach().copy().set_requires_grad(true));
    let input = if innermost { channels_last(&x).unwrap() } else { x.shallow_clone() };
    let y = {
        let _cast = (kind == Kind::BFloat16).then(|| Autocast::new(Device::Cpu, kind).unwrap());
        conv2d(&input, &weight, None, form.1, form.2).unwrap()
    };
    y.to_kind(full).square().sum(full).backward();
    [y.detach(), x.grad(), weight.grad()].map(|t| t.to_kind(Kind::Double))
}

/// Compares the convolutions of one form and number of input channels.
fn compare(form: (i64, i64, i64), channels: i64) {
    for output in OUTPUTS {
        for (n, (height, width)) in SIZES.into_iter().enumerate() {
            // Every size with a batch of one and another from 2 to 9; all of these come about in each form.
            for batch in [1, 2 + (channels + 3 * output + 5 * n as i64) % 8] {
                seed((channels * 31 + output) as u64).unwrap();
                let x = Tensor::randn([batch, channels, height, width], (Kind::Double, Device::Cpu));
                let weight = Tensor::randn([output, channels, form.0, form.0], (Kind::Double, Device::Cpu)) * 0.2;
                let exact = computed(&x, &weight, form, Kind::Double, false);
                for (kind, bound) in [(Kind::Float, 1e-4), (Kind::BFloat16, 0.05)] {
                    for innermost in [false, true] {
                        let case = format!(
                            "kernel {} stride {} padding {}, {batch}x{channels}x{height}x{width} to {output} channels, \
                             {kind:?}, channels last {innermost}",
                            form.0, form.1, form.2
                        );
                        println!("{case}");
                        let found = computed(&x, &weight, form, kind, innermost);
                        for ((what, own), exact) in ["output", "input", "kernel"].iter().zip(&found).zip(&exact) {
                            let scale = exact.abs().max().double_value(&[]).max(1e-3);
                            let apart = (own - exact).abs().max().double_value(&[]) / scale;
                            assert!(apart < bound, "{what} of {case}: {apart:e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[ignore = "minutes: cargo xtask test --long"]
fn small_convolutions_are_those_of_double_precision() {
    if let Ok(part) = std::env::var(PART) {
        let numbers: Vec<i64> = part.split(',').map(|n| n.parse().unwrap()).collect();
        return compare((numbers[0], numbers[1], numbers[2]), numbers[3]);
    }
    let mut failed = Vec::new();
    for (kernel, stride, padding) in FORMS {
        for channels in 1..=24 {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--ignored", "--exact", "--nocapture", "small_convolutions_are_those_of_double_precision"]);
            child.env(PART, format!("{kernel},{stride},{padding},{channels}"));
            // glibc's own checks find what was written just outside of a block; freed memory is filled.
            child.env("LD_PRELOAD", "libc_malloc_debug.so.0").env("MALLOC_CHECK_", "3").env("MALLOC_PERTURB_", "165");
            let out = child.env("OMP_NUM_THREADS", "2").stderr(Stdio::piped()).output().unwrap();
            if !out.status.success() {
                let said = String::from_utf8_lossy(&out.stdout);
                let last = said.lines().rfind(|line| line.starts_with("kernel")).unwrap_or("before the first");
                let error = String::from_utf8_lossy(&out.stderr);
                failed.push(format!(
                    "{}: {last}\n{}",
                    out.status,
                    error.lines().take(3).collect::<Vec<_>>().join("\n")
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{} parts failed:\n{}", failed.len(), failed.join("\n"));
}
