//! Distributions of numbers in bins whose edges grow by a tenth from 1e-12 to 1e20 on both sides of zero.

use mtl_recipe::{Context, Result};
use mtl_torch::{ScalarOps, full};
use std::sync::LazyLock;
use tch::{Kind, Tensor};
use tensorboard_proto::summary::HistogramProto;

/// Ascending, symmetric, with zero in the middle.
pub(super) static EDGES: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let positive: Vec<f64> =
        std::iter::successors(Some(1e-12), |edge| Some(edge * 1.1)).take_while(|edge| *edge < 1e20).collect();
    positive.iter().rev().map(|edge| -edge).chain([0.0]).chain(positive.iter().copied()).collect()
});

/// How many finite numbers lie between two edges, and figures of all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    counts: Vec<f64>,
    min: f64,
    max: f64,
    sum: f64,
    sum_squares: f64,
}

impl Histogram {
    /// That of finite values.
    pub fn of(values: &[f32]) -> Self {
        let edges = &*EDGES;
        let last_bin = edges.len() - 2;
        let mut counts = vec![0u64; edges.len() - 1];
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut sum, mut sum_squares) = (0.0, 0.0);
        for value in values {
            let value = f64::from(*value);
            let edges_below = edges.partition_point(|edge| *edge <= value);
            counts[edges_below.saturating_sub(1).min(last_bin)] += 1;
            min = min.min(value);
            max = max.max(value);
            sum += value;
            sum_squares += value * value;
        }
        Self { counts: counts.into_iter().map(|count| count as f64).collect(), min, max, sum, sum_squares }
    }

    /// Those of the finite values of tensors, counted on their device and read in one copy.
    ///
    /// # Errors
    /// If an operation fails.
    pub fn on_device(tensors: &[Tensor]) -> Result<Vec<Self>> {
        let _guard = tch::no_grad_guard();
        let Some(device) = tensors.first().map(Tensor::device) else { return Ok(Vec::new()) };
        let edges = Tensor::f_from_slice(&EDGES)?.f_to_device(device)?;
        let rows = tensors.iter().map(|tensor| counted(tensor, &edges)).collect::<Result<Vec<_>>>()?;
        let all = Tensor::f_stack(&rows, 0)?;
        let width = all.size()[1] as usize;
        let numbers = Vec::<f64>::try_from(&all.f_view([-1])?).context("reading histograms of the device")?;
        Ok(numbers
            .chunks(width)
            .map(|row| {
                let (counts, figures) = row.split_at(width - 4);
                Self {
                    counts: counts.to_vec(),
                    min: figures[0],
                    max: figures[1],
                    sum: figures[2],
                    sum_squares: figures[3],
                }
            })
            .collect())
    }

    /// How many numbers it holds.
    pub fn number(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// TensorBoard's form, without the empty bins at both ends.
    pub(super) fn proto(&self) -> HistogramProto {
        let first = self.counts.iter().position(|count| *count > 0.0).unwrap_or(0);
        let last = self.counts.iter().rposition(|count| *count > 0.0).unwrap_or(0);
        let mut histogram = HistogramProto::new();
        histogram.set_min(self.min);
        histogram.set_max(self.max);
        histogram.set_num(self.number());
        histogram.set_sum(self.sum);
        histogram.set_sum_squares(self.sum_squares);
        // The format has only the right edge of each bin: an empty bin in front gives the left edge of the first.
        histogram.set_bucket_limit(EDGES[first..=last + 1].to_vec());
        histogram.set_bucket([0.0].iter().chain(&self.counts[first..=last]).copied().collect());
        histogram
    }
}

/// The counts of a tensor, then its smallest and largest value, its sum and its sum of squares: `[bins + 4]`.
fn counted(tensor: &Tensor, edges: &Tensor) -> Result<Tensor> {
    let values = tensor.f_detach()?.f_to_kind(Kind::Float)?.f_reshape([-1])?.f_to_kind(Kind::Double)?;
    let (finite, bins) = (values.f_isfinite()?, edges.size()[0] - 1);
    let zero = values.f_zeros_like()?;
    let known = values.f_where_self(&finite, &zero)?;
    let below = known.f_bucketize(edges, false, true)?;
    // What is not finite falls into a bin of its own.
    let bin = below.try_sub_scalar(1)?.try_clamp(0, bins - 1)?.try_masked_fill(&finite.f_logical_not()?, bins)?;
    let options = (Kind::Int64, tensor.device());
    let ones = full(&bin.size(), 1, options)?;
    let counts = Tensor::f_zeros([bins + 1], options)?.f_scatter_add(0, &bin, &ones)?.f_narrow(0, 0, bins)?;
    let limit = |bound: f64| {
        Ok::<_, mtl_recipe::Error>(values.f_where_self(&finite, &full(&[], bound, (Kind::Double, tensor.device()))?)?)
    };
    let figures = [
        limit(f64::INFINITY)?.f_amin([0i64].as_slice(), false)?,
        limit(f64::NEG_INFINITY)?.f_amax([0i64].as_slice(), false)?,
        known.f_sum(Kind::Double)?,
        known.f_square()?.f_sum(Kind::Double)?,
    ];
    Ok(Tensor::f_cat(&[counts.f_to_kind(Kind::Double)?, Tensor::f_stack(&figures, 0)?], 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_counted_as_numbers_are() {
        let finite: Vec<f32> = (0..400).map(|i| ((i * i) as f32 * 0.37).sin() * 10f32.powi(i % 45 - 22)).collect();
        let mut values = finite.clone();
        values.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let constant = Tensor::full([3], 0.25, (Kind::Half, tch::Device::Cpu));
        let found = Histogram::on_device(&[Tensor::from_slice(&values), constant]).unwrap();
        let wanted = Histogram::of(&finite);
        assert_eq!(found[0].counts, wanted.counts);
        assert_eq!((found[0].min, found[0].max), (wanted.min, wanted.max));
        assert!((found[0].sum - wanted.sum).abs() <= 1e-12 * wanted.sum.abs());
        assert!((found[0].sum_squares - wanted.sum_squares).abs() <= 1e-12 * wanted.sum_squares);
        assert_eq!(found[1], Histogram::of(&[0.25; 3]));
    }
}
