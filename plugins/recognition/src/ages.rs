//! Ages as classes, and their expectation (DEX, Rothe et al. 2018).

use mtl_component::{Result, arange};
use tch::{Kind, Tensor};

/// Ages 0 to 100.
pub(crate) const BINS: i64 = 101;

/// The expectation of the age over the softmax of `[batch, ages]` logits, in years: `[batch]`
/// (Rothe et al. 2018, eq. 1).
pub(crate) fn expected_age(logits: &Tensor) -> Result<Tensor> {
    let ages = arange(logits.size()[1], (logits.kind(), logits.device()))?;
    Ok(logits.f_softmax(1, None::<Kind>)?.f_mul(&ages)?.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expectation_lies_between_equally_likely_ages() {
        let logits = Tensor::full([1, BINS], -1e9, (Kind::Double, tch::Device::Cpu));
        let _ = logits.get(0).index_fill_(0, &Tensor::from_slice(&[20i64, 30]), 0.0);
        assert!((expected_age(&logits).unwrap().double_value(&[0]) - 25.0).abs() < 1e-12);
    }
}
