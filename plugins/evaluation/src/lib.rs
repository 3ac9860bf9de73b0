//! Measuring recognition, age estimation and ageing: evaluators, protocols, and what a trained run makes of pictures.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod ageing_wires;
pub mod commands;
mod defaults;
mod likeness;
pub mod protocol;

mod evaluators {
    //! Evaluators: measuring a model on lists of faces or on made faces.
    automod::dir!("src/evaluators");

    use mtl_component::Result;
    use tch::Tensor;

    /// The rows of a `[batch, size]` tensor.
    fn rows(tensor: &Tensor) -> Result<Vec<Vec<f32>>> {
        let size = tensor.size().get(1).copied().unwrap_or(1) as usize;
        let flat = Vec::<f32>::try_from(&tensor.f_contiguous()?.f_reshape([-1])?)?;
        Ok(flat.chunks_exact(size).map(<[f32]>::to_vec).collect())
    }
}
