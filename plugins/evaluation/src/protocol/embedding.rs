//! Embeddings: joining those of a picture and its mirror image, and comparing two.

use super::check_lengths;
use mtl_component::{Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the embeddings of an image and of its mirror image become one embedding.
///
/// The result always has unit L2 norm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlipTest {
    /// Use the plain image only.
    None,
    /// Add the two raw embeddings, then normalise the sum (insightface, MegaFace).
    #[default]
    SumRaw,
    /// Normalise each embedding, add them, then normalise the sum (the released MTLFace
    /// evaluation).
    SumNorm,
    /// Put the two raw embeddings one after the other, then normalise: twice the length.
    Concat,
}

impl FlipTest {
    /// The final embedding of one image from the network's raw output for it and, unless this is
    /// [`FlipTest::None`] (which ignores it), for its mirror image.
    ///
    /// # Errors
    /// If the mirrored embedding is missing or has another length, or if a vector to be
    /// normalised has norm 0 or a value that is not finite.
    pub fn combine(self, plain: &[f32], flipped: Option<&[f32]>) -> Result<Vec<f32>> {
        let plain_wide = || plain.iter().map(|&v| f64::from(v));
        if self == Self::None {
            return Ok(narrow(normalised(plain_wide().collect())?));
        }
        let Some(flipped) = flipped else {
            bail!("flip test {self:?} expects the embedding of the mirrored image, found none");
        };
        check_lengths("mirrored embedding", flipped.len(), plain.len())?;
        let flipped_wide = || flipped.iter().map(|&v| f64::from(v));
        let joined = match self {
            Self::None | Self::SumRaw => sum(plain_wide(), flipped_wide()),
            Self::SumNorm => {
                sum(normalised(plain_wide().collect())?.into_iter(), normalised(flipped_wide().collect())?.into_iter())
            }
            Self::Concat => plain_wide().chain(flipped_wide()).collect(),
        };
        Ok(narrow(normalised(joined)?))
    }
}

fn sum(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> Vec<f64> {
    a.zip(b).map(|(x, y)| x + y).collect()
}

fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|v| v as f32).collect()
}

fn normalised(mut values: Vec<f64>) -> Result<Vec<f64>> {
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    ensure!(
        norm.is_finite() && norm > 0.0,
        "an embedding of {} values has L2 norm {norm}: expected a positive finite norm",
        values.len()
    );
    for value in &mut values {
        *value /= norm;
    }
    Ok(values)
}

/// Squared L2 distance of two embeddings; between 0 and 4 if both have unit norm.
///
/// # Errors
/// If the lengths differ.
pub fn squared_distance(a: &[f32], b: &[f32]) -> Result<f64> {
    check_lengths("second embedding", b.len(), a.len())?;
    Ok(a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum())
}

/// Cosine of the angle between two embeddings of any norm.
///
/// # Errors
/// If the lengths differ, or if a norm is 0 or not finite.
pub fn cosine(a: &[f32], b: &[f32]) -> Result<f64> {
    check_lengths("second embedding", b.len(), a.len())?;
    let dot = |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&p, &q)| f64::from(p) * f64::from(q)).sum() };
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    ensure!(
        norms.is_finite() && norms > 0.0,
        "the L2 norms of two embeddings have the product {norms}: expected a positive finite one"
    );
    Ok(dot(a, b) / norms)
}

/// The place of the largest of some logits, and the first of equals, as `argmax` of NumPy and PyTorch.
///
/// # Errors
/// If there are none, or one is not a number.
pub fn largest(logits: &[f32]) -> Result<usize> {
    if let Some(at) = logits.iter().position(|logit| logit.is_nan()) {
        bail!("the logit {at} is not a number");
    }
    let first = |best: Option<usize>, (at, logit): (usize, &f32)| match best {
        Some(best) if *logit <= logits[best] => Some(best),
        _ => Some(at),
    };
    match logits.iter().enumerate().fold(None, first) {
        Some(at) => Ok(at),
        None => bail!("there are no logits"),
    }
}
