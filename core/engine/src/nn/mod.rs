//! Layers with the names, shapes and starting values of PyTorch's.

use crate::component::{Init, Params, Role};
use anyhow::{Result, bail};
use tch::Tensor;

/// `torch.nn.Conv2d`, square kernel and no dilation.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    winograd: bool,
}

/// Settings of a [`Conv2d`].
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    /// Side of the kernel.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// Zero padding on every side.
    pub padding: i64,
    /// Whether a bias is added.
    pub bias: bool,
    /// Starting weights.
    pub init: Init,
}

impl Conv {
    /// Kernel, stride and padding; no bias, Xavier-uniform weights.
    pub fn new(kernel: i64, stride: i64, padding: i64) -> Self {
        Self { kernel, stride, padding, bias: false, init: Init::XavierUniform }
    }
}

impl Conv2d {
    /// Weights `[output, input, kernel, kernel]`.
    pub fn new(p: &Params, input: i64, output: i64, conv: Conv) -> Result<Self> {
        let weight = p.param("weight", &[output, input, conv.kernel, conv.kernel], conv.init, Role::Weight)?;
        let bias = conv.bias.then(|| p.param("bias", &[output], Init::Const(0.0), Role::Bias)).transpose()?;
        let winograd = p.placement().winograd && (conv.kernel, conv.stride, conv.padding) == (3, 1, 1);
        Ok(Self { weight, bias, stride: conv.stride, padding: conv.padding, winograd })
    }

    /// `[batch, input, h, w]` to `[batch, output, …]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.winograd && self.bias.is_none() {
            return mtl_torch::conv3x3(x, &self.weight);
        }
        let (s, p) = (self.stride, self.padding);
        Ok(x.f_conv2d(&self.weight, self.bias.as_ref(), [s, s], [p, p], [1, 1], 1)?)
    }
}

/// `torch.nn.Linear`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Weights `[output, input]` with PyTorch's default start, uniform in ±1/sqrt(input).
    pub fn new(p: &Params, input: i64, output: i64) -> Result<Self> {
        let bound = 1.0 / (input as f64).sqrt();
        Self::with(p, input, output, Init::Uniform(bound), Init::Uniform(bound))
    }

    /// Weights `[output, input]` with the given starts of weight and bias.
    pub fn with(p: &Params, input: i64, output: i64, weight: Init, bias: Init) -> Result<Self> {
        let weight = p.param("weight", &[output, input], weight, Role::Weight)?;
        Ok(Self { weight, bias: p.param("bias", &[output], bias, Role::Bias)? })
    }

    /// `[…, input]` to `[…, output]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}

/// `torch.nn.BatchNorm1d` and `BatchNorm2d`.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor,
    momentum: f64,
}

impl BatchNorm {
    /// Over `channels`, momentum 0.1.
    pub fn new(p: &Params, channels: i64) -> Result<Self> {
        Self::with_momentum(p, channels, 0.1)
    }

    /// Over `channels`; `momentum` is the share of the newest batch in the running statistics.
    pub fn with_momentum(p: &Params, channels: i64, momentum: f64) -> Result<Self> {
        Ok(Self {
            weight: p.param("weight", &[channels], Init::Const(1.0), Role::Norm)?,
            bias: p.param("bias", &[channels], Init::Const(0.0), Role::Norm)?,
            running_mean: p.buffer("running_mean", &[channels], Init::Const(0.0))?,
            running_var: p.buffer("running_var", &[channels], Init::Const(1.0))?,
            batches: p.counter("num_batches_tracked")?,
            momentum,
        })
    }

    /// Normalises over all dimensions but the second.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train {
            let size = x.size();
            if size.iter().product::<i64>() == *size.get(1).unwrap_or(&1) {
                bail!("batch statistics need more than one value a channel, found {size:?}: raise batch_size");
            }
            let _ = tch::no_grad(|| self.batches.shallow_clone().f_add_scalar_(1))?;
        }
        Ok(x.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train,
            self.momentum,
            1e-5,
            true,
        )?)
    }
}

/// `torch.nn.PReLU` with one slope a channel, all 0.25 at the start.
#[derive(Debug)]
pub struct PRelu {
    weight: Tensor,
}

impl PRelu {
    /// Over `channels`.
    pub fn new(p: &Params, channels: i64) -> Result<Self> {
        Ok(Self { weight: p.param("weight", &[channels], Init::Const(0.25), Role::Weight)? })
    }

    /// `max(x, 0) + slope * min(x, 0)`, a slope a channel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        mtl_torch::prelu(x, &self.weight)
    }
}

/// Rows divided by their 2-norm, of at least 1e-12, as `torch.nn.functional.normalize`.
pub fn normalize_rows(x: &Tensor) -> Result<Tensor> {
    let norm = x.f_norm_scalaropt_dim(2.0, [1], true)?.f_clamp_min(1e-12)?;
    Ok(x.f_div(&norm)?)
}
