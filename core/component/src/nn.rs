//! Layers with the names, shapes and starting values of PyTorch's.

use crate::context::{Context, World};
use crate::module::Call;
use crate::params::{Init, Params, Role, Rows};
use mtl_recipe::{Result, bail};
use mtl_torch::{ScalarOps, arange};
use tch::{Kind, Reduction, Tensor};

/// The channels that oneDNN's kernels take at once with AVX-512.
const VECTOR: i64 = 16;

/// `torch.nn.functional.conv2d` of `[batch, input, h, w]` with `[output, input, kernel, kernel]`, without dilation.
///
/// # Errors
/// If shapes or types do not fit, or memory runs out.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: i64, padding: i64) -> Result<Tensor> {
    let (pixels, stride, padding) = safe_form(x, weight, stride, padding)?;
    #[allow(clippy::disallowed_methods, reason = "the one place that has made sure of the form")]
    Ok(mtl_torch::conv2d(&pixels, weight, bias, stride, padding)?)
}

/// A convolution in a form that oneDNN computes within its memory: input, stride and padding.
///
/// The weights' gradient of a 1x1 convolution with stride, of fewer input channels than a vector holds, writes past
/// oneDNN's work space with AVX-512 (uxlfoundation/oneDNN, issue 6035). The pixels that it reads are taken first, so
/// that its stride is 1. With more channels the same values come from oneDNN, which then does so itself.
fn safe_form(x: &Tensor, weight: &Tensor, stride: i64, padding: i64) -> Result<(Tensor, i64, i64)> {
    let [_, input, 1, 1] = weight.size()[..] else { return Ok((x.shallow_clone(), stride, padding)) };
    if stride == 1 || input >= VECTOR || x.dim() != 4 {
        return Ok((x.shallow_clone(), stride, padding));
    }
    let padded = if padding > 0 { x.f_zero_pad2d(padding, padding, padding, padding)? } else { x.shallow_clone() };
    let (height, width) = (padded.size()[2], padded.size()[3]);
    let taken = padded.f_slice(2, 0, height, stride)?.f_slice(3, 0, width, stride)?;
    // The memory of the input, so that what follows stays in it.
    let channels_last = x.stride()[1] == 1;
    Ok((if channels_last { mtl_torch::channels_last(&taken)? } else { taken.f_contiguous()? }, 1, 0))
}

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
    /// Starting weights.
    pub init: Init,
    /// Starting bias; without it none is added.
    pub bias: Option<Init>,
}

impl Conv {
    /// Kernel, stride and padding; no bias, Xavier-uniform weights.
    pub fn new(kernel: i64, stride: i64, padding: i64) -> Self {
        Self { kernel, stride, padding, init: Init::XavierUniform, bias: None }
    }

    /// With a bias, and the default start of PyTorch's layer: weights and bias uniform in ±1/sqrt(fan in).
    pub fn plain(input: i64, kernel: i64, stride: i64, padding: i64) -> Self {
        let bound = 1.0 / ((input * kernel * kernel) as f64).sqrt();
        let init = Init::Uniform(bound);
        Self { init, bias: Some(init), ..Self::new(kernel, stride, padding) }
    }

    /// With a bias of 0 and weights drawn from a normal distribution.
    pub fn normal(deviation: f64, kernel: i64, padding: i64) -> Self {
        Self { init: Init::Normal(deviation), bias: Some(Init::Const(0.0)), ..Self::new(kernel, 1, padding) }
    }
}

impl Conv2d {
    /// Weights `[output, input, kernel, kernel]`.
    pub fn new(p: &Params, input: i64, output: i64, conv: Conv) -> Result<Self> {
        let weight = p.param("weight", &[output, input, conv.kernel, conv.kernel], conv.init, Role::Weight)?;
        let bias = conv.bias.map(|init| p.param("bias", &[output], init, Role::Bias)).transpose()?;
        let winograd = p.context().winograd && (conv.kernel, conv.stride, conv.padding) == (3, 1, 1);
        Ok(Self { weight, bias, stride: conv.stride, padding: conv.padding, winograd })
    }

    /// `[batch, input, h, w]` to `[batch, output, …]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, &self.weight, self.bias.as_ref())
    }

    /// `norm` of the convolution, `[batch, input, h, w]` to `[batch, output, …]`. By running statistics the two are one
    /// convolution, with the weights of each output multiplied by what the normalisation multiplies that output by (Jacob et
    /// al. 2018, section 3.2).
    ///
    /// # Errors
    /// If shapes or types do not fit, or memory runs out.
    pub fn normalized(&self, x: &Tensor, norm: &BatchNorm, train: bool) -> Result<Tensor> {
        if train {
            return norm.forward(&self.forward(x)?, train);
        }
        // In double precision, so that factors and biases are rounded once.
        let wide = |t: &Tensor| t.f_to_kind(Kind::Double);
        let factor = wide(&norm.weight)?.f_div(&wide(&norm.running_var)?.try_add_scalar(EPS)?.f_sqrt()?)?;
        let mean = match &self.bias {
            Some(bias) => wide(&norm.running_mean)?.f_sub(&wide(bias)?)?,
            None => wide(&norm.running_mean)?,
        };
        let kind = self.weight.kind();
        let bias = wide(&norm.bias)?.f_sub(&mean.f_mul(&factor)?)?.f_to_kind(kind)?;
        let weight = self.weight.f_mul(&factor.f_to_kind(kind)?.f_view([-1, 1, 1, 1])?)?;
        self.apply(x, &weight, Some(&bias))
    }

    fn apply(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self.winograd {
            true => Ok(mtl_torch::conv3x3(x, weight, bias)?),
            false => conv2d(x, weight, bias, self.stride, self.padding),
        }
    }
}

/// `torch.nn.utils.spectral_norm` of a `Conv2d` with bias: the weight divided by an estimate of its largest singular
/// value (Miyato et al. 2018, section 2.1 and algorithm 1). Each pass in training improves the estimate by one power
/// iteration; gradients flow through the division, with the singular vectors held constant.
#[derive(Debug)]
pub struct SpectralConv2d {
    weight: Tensor,
    bias: Tensor,
    u: Tensor,
    v: Tensor,
    stride: i64,
    padding: i64,
}

impl SpectralConv2d {
    /// Weights `[output, input, kernel, kernel]`; without a bias in the settings it starts at 0.
    pub fn new(p: &Params, input: i64, output: i64, conv: Conv) -> Result<Self> {
        let shape = [output, input, conv.kernel, conv.kernel];
        let bias = p.param("bias", &[output], conv.bias.unwrap_or(Init::Const(0.0)), Role::Bias)?;
        let weight = p.param("weight_orig", &shape, conv.init, Role::Weight)?;
        let u = p.buffer("weight_u", &[output], Init::Normal(1.0))?;
        let v = p.buffer("weight_v", &[input * conv.kernel * conv.kernel], Init::Normal(1.0))?;
        if !p.context().shapes_only {
            let _guard = tch::no_grad_guard();
            for vector in [&u, &v] {
                vector.shallow_clone().f_copy_(&unit(vector)?)?;
            }
        }
        Ok(Self { weight, bias, u, v, stride: conv.stride, padding: conv.padding })
    }

    /// `[batch, input, h, w]` to `[batch, output, …]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let matrix = self.weight.f_reshape([self.weight.size()[0], -1])?;
        if train {
            let _guard = tch::no_grad_guard();
            self.v.shallow_clone().f_copy_(&unit(&matrix.f_tr()?.f_mv(&self.u)?)?)?;
            self.u.shallow_clone().f_copy_(&unit(&matrix.f_mv(&self.v)?)?)?;
        }
        // Copies, since the next pass changes the vectors while this one's gradient still needs them.
        let copy = |t: &Tensor| tch::no_grad(|| t.f_detach_copy());
        let (u, v) = (copy(&self.u)?, copy(&self.v)?);
        let sigma = u.f_dot(&matrix.f_mv(&v)?)?;
        let weight = self.weight.f_div(&sigma)?;
        conv2d(x, &weight, Some(&self.bias), self.stride, self.padding)
    }
}

/// A vector divided by its 2-norm, of at least 1e-12.
fn unit(v: &Tensor) -> Result<Tensor> {
    Ok(v.f_div(&v.f_norm()?.try_clamp_min(1e-12)?)?)
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

    /// With an output a class: `[classes, input]` with PyTorch's default start, drawn by blocks of rows. Where classes are
    /// cut over processes, it has outputs of those of this process only.
    pub fn classes(p: &Params, input: i64, classes: i64) -> Result<ClassLinear> {
        let init = Init::Uniform(1.0 / (input as f64).sqrt());
        let weight = p.class_rows("weight", &[classes, input], init, Role::Weight)?;
        Ok(ClassLinear { weight, bias: p.class_rows("bias", &[classes], init, Role::Bias)? })
    }

    /// `[…, input]` to `[…, output]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}

/// A linear layer with an output for each class.
#[derive(Debug)]
pub struct ClassLinear {
    weight: Rows,
    bias: Rows,
}

impl ClassLinear {
    /// `[…, input]` to the outputs of some rows, or of all.
    ///
    /// # Errors
    /// If an operation fails.
    pub fn forward(&self, x: &Tensor, rows: Option<&Tensor>) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight.of(rows)?, Some(&self.bias.of(rows)?))?)
    }
}

/// What is added to the variance under the root.
const EPS: f64 = 1e-5;

/// `torch.nn.BatchNorm1d` and `BatchNorm2d`; `torch.nn.SyncBatchNorm` where the run has several processes and wants it.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor,
    momentum: f64,
    /// The processes whose batches give the statistics.
    world: World,
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
            world: if p.context().sync_batch_norm { p.context().world } else { World::alone() },
        })
    }

    /// Normalises over all dimensions but the second.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let own = [&self.weight, &self.bias, &self.running_mean, &self.running_var];
        if !train {
            return Ok(mtl_torch::fixed_norm(x, own, EPS)?);
        }
        let size = x.size();
        if size.iter().product::<i64>() * self.world.size() as i64 == *size.get(1).unwrap_or(&1) {
            bail!("batch statistics need more than one value per channel, found {size:?}: raise batch_size");
        }
        tch::no_grad(|| self.batches.shallow_clone().try_add_scalar_(1))?;
        if let Some(group) = self.world.group()? {
            return Ok(group.batch_norm(x, own, self.momentum, EPS)?);
        }
        let [weight, bias, mean, var] = own;
        Ok(x.f_batch_norm(Some(weight), Some(bias), Some(mean), Some(var), true, self.momentum, EPS, true)?)
    }
}

/// Over the places of each channel and sample, without weights: `torch.nn.InstanceNorm2d`
/// (Ulyanov et al. 2016, eq. 1).
pub fn instance_norm(x: &Tensor) -> Result<Tensor> {
    let none = None::<&Tensor>;
    Ok(x.f_instance_norm(none, none, none, none, true, 0.0, 1e-5, false)?)
}

/// `torch.nn.PReLU` with one slope per channel, all 0.25 at the start.
#[derive(Debug)]
pub struct PRelu {
    weight: Tensor,
}

impl PRelu {
    /// Over `channels`.
    pub fn new(p: &Params, channels: i64) -> Result<Self> {
        Ok(Self { weight: p.param("weight", &[channels], Init::Const(0.25), Role::Weight)? })
    }

    /// `max(x, 0) + slope * min(x, 0)`, with one slope for each channel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(mtl_torch::prelu(x, &self.weight)?)
    }
}

/// The largest value of each of `side` x `side` regions of `[batch, channels, height, width]`:
/// `torch.nn.functional.adaptive_max_pool2d`, also where kernels have to give the same bits each time, for which CUDA has
/// no gradient of it.
///
/// # Errors
/// If an operation fails.
pub fn adaptive_max_pool2d(x: &Tensor, side: i64, context: &Context) -> Result<Tensor> {
    if !context.deterministic || context.device == tch::Device::Cpu {
        return Ok(x.f_adaptive_max_pool2d([side, side])?.0);
    }
    // Equal maxima of a region share its gradient.
    of_regions(x, side, |region| Ok(region.f_amax([2], false)?))
}

/// The mean of each of `side` x `side` regions: `torch.nn.functional.adaptive_avg_pool2d`; otherwise as
/// [`adaptive_max_pool2d`].
///
/// # Errors
/// If an operation fails.
pub fn adaptive_avg_pool2d(x: &Tensor, side: i64, context: &Context) -> Result<Tensor> {
    if !context.deterministic || context.device == tch::Device::Cpu {
        return Ok(x.f_adaptive_avg_pool2d([side, side])?);
    }
    of_regions(x, side, |region| Ok(region.f_mean_dim(&[2i64][..], false, None::<Kind>)?))
}

/// Pooling by operators whose gradients are added in one order. `pool` takes `[batch, channels, places]`.
fn of_regions(x: &Tensor, side: i64, pool: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let size = x.size();
    let region = |i: i64, whole: i64| (i * whole / side, ((i + 1) * whole + side - 1) / side);
    let mut found = Vec::new();
    for row in 0..side {
        for column in 0..side {
            let ((top, bottom), (left, right)) = (region(row, size[2]), region(column, size[3]));
            let part = x.f_narrow(2, top, bottom - top)?.f_narrow(3, left, right - left)?;
            found.push(pool(&part.f_flatten(2, 3)?)?);
        }
    }
    Ok(Tensor::f_stack(&found, 2)?.f_view([size[0], size[1], side, side])?)
}

/// `[batch, channels, height, width]` enlarged to another height and width by linear interpolation between the centres of
/// pixels: `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`; otherwise as [`adaptive_max_pool2d`].
///
/// # Errors
/// If an operation fails.
pub fn upsample_bilinear2d(x: &Tensor, [height, width]: [i64; 2], context: &Context) -> Result<Tensor> {
    if !context.deterministic || context.device == tch::Device::Cpu {
        return Ok(x.f_upsample_bilinear2d([height, width], false, None, None)?);
    }
    by_matrices(x, [height, width])
}

/// Enlarging as a product with the weights of all rows and of all columns, whose gradient is another product.
fn by_matrices(x: &Tensor, [height, width]: [i64; 2]) -> Result<Tensor> {
    let size = x.size();
    let weights = |to: i64, from: i64| -> Result<Tensor> {
        let centres =
            arange(to, (x.kind(), x.device()))?.try_add_scalar(0.5)?.try_mul_scalar(from as f64 / to as f64)?;
        let centres = centres.try_sub_scalar(0.5)?.try_clamp(0.0, (from - 1) as f64)?.f_unsqueeze(1)?;
        let apart = centres.f_sub(&arange(from, (x.kind(), x.device()))?)?.f_abs()?;
        Ok(apart.f_neg()?.try_add_scalar(1.0)?.try_clamp_min(0.0)?)
    };
    let rows = weights(height, size[2])?;
    Ok(rows.f_matmul(&x.f_matmul(&weights(width, size[3])?.f_transpose(0, 1)?)?)?)
}

/// `max(x, slope x)`: `torch.nn.functional.leaky_relu`.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    Ok(mtl_torch::leaky_relu(x, slope)?)
}

/// Rows divided by their 2-norm, of at least 1e-12, as `torch.nn.functional.normalize`.
pub fn normalize_rows(x: &Tensor) -> Result<Tensor> {
    let norm = x.try_norm_along(1)?.try_clamp_min(1e-12)?;
    Ok(x.f_div(&norm)?)
}

/// Mean cross-entropy over the samples whose label is known; 0 if none is.
///
/// `logits` is `[batch, classes]`, `target` `[batch]` of 64-bit integers, negative where the label is not known.
/// `label_smoothing` is the share of the target that is spread over all classes (Szegedy et al. 2016, section 7). The
/// mean is that over all processes of `world`.
pub fn cross_entropy(logits: &Tensor, target: &Tensor, label_smoothing: f64, world: World) -> Result<Tensor> {
    let target = target.try_clamp_min(-1)?;
    let sum = logits.f_cross_entropy_loss::<&Tensor>(&target, None, Reduction::Sum, -1, label_smoothing)?;
    let known = target.try_ge(0)?.f_sum(logits.kind())?;
    Ok(sum.f_div(&world.divisor(&known)?)?)
}

/// The classes whose logits a process computes: all of them, or its part where they are cut over processes; and, in
/// training, those of the batch and a draw of the others where only a share takes part (Partial FC, An et al. 2021,
/// section 3.2).
#[derive(Debug, Clone)]
pub struct Classes {
    first: i64,
    count: i64,
    cut: bool,
    sample_rate: f64,
}

/// Embeddings `[n, size]` and labels `[n]` for which a process computes logits: those of its own batch, or of all
/// processes where classes are cut.
pub struct Labelled {
    /// The embeddings.
    pub embedding: Tensor,
    /// The rows of the classes that take part, in order; none if all do.
    pub rows: Option<Tensor>,
    known: Tensor,
    /// The column of the true class, negative where it is not here.
    column: Tensor,
    cut: bool,
}

impl Classes {
    /// Those of a module that is being built, of so many.
    pub fn new(p: &Params, classes: i64) -> Self {
        let own = p.own_classes(classes);
        let cut = own.is_some();
        let own = own.unwrap_or(0..classes);
        Self { first: own.start, count: own.end - own.start, cut, sample_rate: p.sample_rate() }
    }

    /// What logits are computed for.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn of(&self, embedding: &Tensor, label: &Tensor, call: &Call<'_>) -> Result<Labelled> {
        let world = call.context.world;
        let (embedding, label) = match self.cut {
            true => (world.gather_rows(embedding)?, world.gather_rows(label)?),
            false => (embedding.shallow_clone(), label.shallow_clone()),
        };
        let known = label.try_ge(0)?;
        let local = label.try_sub_scalar(self.first)?;
        let nowhere = local.try_full_like(-1)?;
        // Labels beyond the own classes are those of other processes; where nothing is cut they are mistakes, which the
        // operators tell.
        let here = match self.cut {
            true => local.try_ge(0)?.f_logical_and(&local.try_ge(self.count)?.f_logical_not()?)?,
            false => known.shallow_clone(),
        };
        let column = local.f_where_self(&here, &nowhere)?;
        if !call.train || self.sample_rate >= 1.0 || self.count == 0 {
            return Ok(Labelled { embedding, rows: None, known, column, cut: self.cut });
        }
        let rows = self.drawn(&column, &here)?;
        let place = column.f_searchsorted(&rows, false, false, "left", None::<&Tensor>)?;
        let column = place.f_where_self(&here, &nowhere)?;
        Ok(Labelled { embedding, rows: Some(rows), known, column, cut: self.cut })
    }

    /// The classes of the batch, and others by lot, in order. How many there are does not depend on the labels.
    fn drawn(&self, column: &Tensor, here: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let share = (self.count as f64 * self.sample_rate).ceil() as i64;
        let wanted = share.max(self.count.min(column.size()[0]));
        let lots = Tensor::f_rand([self.count], (Kind::Float, column.device()))?;
        // A class of the batch comes before all others.
        let lots =
            lots.f_index_add(0, &column.try_clamp_min(0)?, &here.f_to_kind(Kind::Float)?.try_mul_scalar(2.0)?)?;
        let (_, rows) = lots.f_topk(wanted, 0, true, false)?;
        Ok(rows.f_sort(0, false)?.0)
    }
}

impl Labelled {
    /// Logits with another number in the place of each true class: `change` gets those numbers, `[n, 1]`. Only they are
    /// touched, and not the whole matrix. Samples whose label is not known stay as they are.
    ///
    /// # Errors
    /// If a label is beyond all classes, or an operation fails.
    pub fn at_truth(&self, logits: &Tensor, change: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        if logits.size().get(1) == Some(&0) {
            return Ok(logits.shallow_clone());
        }
        let column = self.column.f_unsqueeze(1)?;
        let index = column.try_clamp_min(0)?;
        // Not by `gather`, whose gradient CUDA adds in any order.
        let rows = arange(index.size()[0], (Kind::Int64, index.device()))?;
        let truth = logits.f_index(&[Some(rows), Some(index.f_squeeze_dim(1)?)])?.f_unsqueeze(1)?;
        let changed = change(&truth)?.f_where_self(&column.try_ge(0)?, &truth)?;
        Ok(logits.f_scatter(1, &index, &changed)?)
    }

    /// The mean cross-entropy over samples whose label is known, of all processes; 0 if none is.
    ///
    /// # Errors
    /// If a process is gone, or an operation fails.
    pub fn cross_entropy(&self, logits: &Tensor, world: World) -> Result<Tensor> {
        let count = self.known.f_sum(logits.kind())?;
        let (divisor, group) = match self.cut {
            // Every process has the samples of all.
            true => (count.try_clamp_min(1.0)?, world.group()?),
            false => (world.divisor(&count)?, None),
        };
        Ok(mtl_torch::class_cross_entropy(logits, &self.column, &self.known, &divisor, group)?)
    }

    /// The outputs `logits` and `loss` of a head, as far as they are wanted and whole.
    ///
    /// # Errors
    /// If a process is gone, or an operation fails.
    pub fn outputs(&self, logits: Tensor, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let loss = call.wants("loss").then(|| self.cross_entropy(&logits, call.context.world)).transpose()?;
        let whole = !self.cut && self.rows.is_none();
        Ok(vec![whole.then_some(logits), loss])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tch::{Device, Kind};

    /// Numbers between -1 and 1. Nothing is drawn: other tests draw from libtorch's generator at the same time.
    fn wave(size: &[i64], kind: Kind) -> Tensor {
        Tensor::arange(size.iter().product::<i64>(), (Kind::Double, Device::Cpu))
            .square()
            .sin()
            .view(size)
            .to_kind(kind)
    }

    /// What is handed to the library has no stride where the kernel is 1x1 and the channels do not fill vectors. The
    /// crash shows with AVX-512 only, this everywhere.
    #[test]
    fn a_strided_1x1_convolution_of_few_channels_takes_its_pixels_first() {
        let x = |channels: i64| wave(&[2, channels, 9, 7], Kind::Float);
        let weight = |channels: i64, side: i64| wave(&[4, channels, side, side], Kind::Float);
        for channels in [3, 4, 8, 10, 12, 15] {
            for stride in [2, 3] {
                let x = mtl_torch::channels_last(&x(channels)).unwrap();
                let (taken, s, p) = safe_form(&x, &weight(channels, 1), stride, 0).unwrap();
                assert_eq!((s, p), (1, 0), "{channels} channels, stride {stride}");
                assert_eq!(taken.size(), [2, channels, (9 - 1) / stride + 1, (7 - 1) / stride + 1]);
                assert_eq!(taken.stride()[1], 1, "channels stay innermost");
            }
        }
        for (channels, side, stride) in [(16, 1, 2), (24, 1, 2), (8, 3, 2), (8, 1, 1)] {
            let (same, s, p) = safe_form(&x(channels), &weight(channels, side), stride, side / 2).unwrap();
            assert_eq!((same.size(), s, p), (x(channels).size(), stride, side / 2));
        }
    }

    /// One convolution in the place of two operations: values, and gradients of what is trained, with and without a bias.
    #[test]
    fn a_convolution_takes_up_the_normalisation_by_running_statistics() {
        for (kind, bound) in [(Kind::Double, 1e-12), (Kind::Float, 1e-4)] {
            for (bias, winograd) in [(None, false), (Some(Init::Normal(1.0)), false), (Some(Init::Normal(1.0)), true)] {
                let p = Params::new("m", Arc::new(Context { winograd, ..Context::cpu(kind) }));
                let conv = Conv { bias, ..Conv::new(3, 1, 1) };
                let conv = Conv2d::new(&p.pp("conv"), 48, 64, conv).unwrap();
                let norm = BatchNorm::new(&p.pp("norm"), 64).unwrap();
                for (tensor, from) in [(&norm.weight, 1), (&norm.bias, 2), (&norm.running_mean, 3)] {
                    tensor.shallow_clone().copy_(&(wave(&[64], kind) * f64::from(from)));
                }
                norm.running_var.shallow_clone().copy_(&(wave(&[64], kind) + 1.5));
                let run = |folded: bool| {
                    let x = mtl_torch::channels_last(&wave(&[4, 48, 16, 16], kind)).unwrap().set_requires_grad(true);
                    let trained = [&conv.weight, &norm.weight, &norm.bias].map(|t| t.set_requires_grad(true));
                    let y = match folded {
                        true => conv.normalized(&x, &norm, false).unwrap(),
                        false => norm.forward(&conv.forward(&x).unwrap(), false).unwrap(),
                    };
                    let loss = (&y * wave(&y.size(), kind)).sum(kind);
                    let mut found =
                        Tensor::run_backward(&[loss], &[&x, &trained[0], &trained[1], &trained[2]], false, false);
                    found.push(y.detach());
                    found
                };
                for (place, (one, two)) in run(true).iter().zip(run(false)).enumerate() {
                    let apart = (one - &two).abs().max().double_value(&[]) / two.abs().max().double_value(&[]);
                    assert!(apart < bound, "{kind:?}, bias {}, {place}: {apart:e}", bias.is_some());
                }
            }
        }
    }

    #[test]
    fn products_enlarge_as_bilinear_interpolation_does() {
        let context = Context::cpu(Kind::Double);
        for (size, to) in [([2, 3], [4, 6]), ([5, 4], [7, 4]), ([1, 3], [3, 8])] {
            let run = |enlarge: &dyn Fn(&Tensor) -> Result<Tensor>| {
                let x = Tensor::arange(2 * 3 * size[0] * size[1], (Kind::Double, tch::Device::Cpu)).sin();
                let x = x.view([2, 3, size[0], size[1]]).set_requires_grad(true);
                let y = enlarge(&x).unwrap();
                (&y * &y).sum(Kind::Double).backward();
                (y.detach(), x.grad())
            };
            let wanted = run(&|x| upsample_bilinear2d(x, to, &context));
            let found = run(&|x| by_matrices(x, to));
            for (a, b) in [(wanted.0, found.0), (wanted.1, found.1)] {
                assert_eq!(a.size(), b.size());
                assert!((a - b).abs().max().double_value(&[]) < 1e-12, "{size:?} to {to:?}");
            }
        }
    }

    #[test]
    fn regions_are_those_of_adaptive_pooling() {
        for (side, size) in [(1, [2, 3, 7, 7]), (2, [2, 3, 7, 5]), (3, [1, 2, 7, 8]), (3, [1, 2, 2, 2])] {
            let weights = wave(&[size[0], size[1], side, side], Kind::Double) + 2.0;
            let run = |pool: &dyn Fn(&Tensor) -> Tensor| {
                let x = wave(&size, Kind::Double).set_requires_grad(true);
                let y = pool(&x);
                (&y * &weights).sum(Kind::Double).backward();
                [y.detach(), x.grad()]
            };
            let max = run(&|x| x.adaptive_max_pool2d([side, side]).0);
            let mean = run(&|x| x.adaptive_avg_pool2d([side, side]));
            let largest = |region: &Tensor| Ok(region.f_amax([2], false)?);
            let average = |region: &Tensor| Ok(region.f_mean_dim(&[2i64][..], false, None::<Kind>)?);
            for (wanted, found) in [
                (max, run(&|x| of_regions(x, side, largest).unwrap())),
                (mean, run(&|x| of_regions(x, side, average).unwrap())),
            ] {
                for (wanted, found) in wanted.iter().zip(&found) {
                    assert!((wanted - found).abs().max().double_value(&[]) < 1e-12);
                }
            }
        }
    }

    /// Values and gradients against those of double precision, with padding too.
    #[test]
    fn its_values_and_gradients_are_those_of_the_convolution() {
        for (channels, stride, padding) in [(8, 2, 0), (5, 3, 1), (24, 2, 0)] {
            let x = wave(&[3, channels, 9, 11], Kind::Double);
            let weight = wave(&[6, channels, 1, 1], Kind::Double);
            let bias = wave(&[6], Kind::Double);
            let run = |kind: Kind, own: bool| {
                let [x, weight] = [&x, &weight].map(|t| t.to_kind(kind).set_requires_grad(true));
                let bias = bias.to_kind(kind);
                let input = mtl_torch::channels_last(&x).unwrap();
                let y = if own {
                    conv2d(&input, &weight, Some(&bias), stride, padding).unwrap()
                } else {
                    input.conv2d(&weight, Some(&bias), [stride; 2], [padding; 2], [1, 1], 1)
                };
                y.square().sum(kind).backward();
                [y.detach(), x.grad(), weight.grad()].map(|t| t.to_kind(Kind::Double))
            };
            for (own, exact) in run(Kind::Float, true).iter().zip(run(Kind::Double, false)) {
                assert_eq!(own.size(), exact.size());
                let apart = (own - &exact).abs().max().double_value(&[]) / exact.abs().max().double_value(&[]);
                assert!(apart < 1e-5, "{channels} channels, stride {stride}: {apart:e}");
            }
        }
    }
}
