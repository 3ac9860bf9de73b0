//! Embeddings of pictures with their mirror images.

use crate::protocol::FlipTest;
use mtl_component::{Inference, ReadPicture, Result, mistake};
use tch::Tensor;

/// The rows of a `[batch, size]` tensor.
///
/// # Errors
/// A mistake if it has another shape, such as that of feature maps.
pub(crate) fn rows(tensor: &Tensor) -> Result<Vec<Vec<f32>>> {
    let shape = tensor.size();
    let [_, size] = shape[..] else {
        mistake!(
            "a row of numbers for each picture is wanted, `[batch, size]`, and the output has the shape {shape:?}"
        );
    };
    let flat = Vec::<f32>::try_from(&tensor.f_contiguous()?.f_reshape([-1])?)?;
    Ok(flat.chunks_exact((size as usize).max(1)).map(<[f32]>::to_vec).collect())
}

/// Where a model takes pictures and gives embeddings, and how those of a picture and its mirror image are joined.
pub(crate) struct Embedding<'e> {
    /// The data port that pictures are fed to.
    pub image: &'e str,
    /// The node that gives the embedding.
    pub node: &'e str,
    pub flip: FlipTest,
    /// Pictures in one pass.
    pub batch: usize,
}

impl Embedding<'_> {
    /// Hands on the embedding of each picture of `0..count` in order, of unit length, or why it has none.
    ///
    /// # Errors
    /// If a picture cannot be read, the model fails, or `each` does.
    pub(crate) fn each(
        &self,
        model: &dyn Inference,
        count: usize,
        read: ReadPicture<'_>,
        each: &mut dyn FnMut(usize, Result<Vec<f32>>) -> Result<()>,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let found = model.map_pictures(self.image, count, read, self.batch, &mut |batch| {
            let mut found = model.run(&[(self.image, batch)], &[self.node])?;
            if !matches!(self.flip, FlipTest::None) {
                found.extend(model.run(&[(self.image, &batch.f_flip([3])?)], &[self.node])?);
            }
            Ok(found)
        })?;
        let found: Vec<Vec<Vec<f32>>> = found.iter().map(rows).collect::<Result<_>>()?;
        for (i, row) in found[0].iter().enumerate() {
            each(i, self.flip.combine(row, found.get(1).map(|rows| rows[i].as_slice())))?;
        }
        Ok(())
    }
}
