//! Batches: samples written side by side and made into tensors.

use crate::machine::bytes_text;
use mtl_component::{Draw, Field, Layout, OpenDataset, Result, SampleOut, bail};
use tch::{Device, Kind, Tensor};

/// Loads the given samples, each an index and a position, into one batch.
pub fn load_samples(data: &OpenDataset, samples: &[(usize, u64)], seed: u64) -> Result<Batch> {
    let fields = &data.fields;
    let n = samples.len();
    let size = |f: &Field| f.shape.iter().product::<i64>() as usize;
    let mut floats: Vec<Vec<f32>> = Vec::new();
    let mut ints: Vec<Vec<i64>> = Vec::new();
    let mut at = Vec::new();
    for field in fields {
        if field.layout == Layout::Int {
            at.push(ints.len());
            ints.push(room(n, size(field))?);
        } else {
            at.push(floats.len());
            floats.push(room(n, size(field))?);
        }
    }
    let (mut skipped, mut replaced) = (Vec::new(), 0);
    {
        let mut float_parts: Vec<_> = floats.iter_mut().map(|v| chunks(v, n)).collect();
        let mut int_parts: Vec<_> = ints.iter_mut().map(|v| chunks(v, n)).collect();
        for (index, position) in samples {
            let floats = float_parts.iter_mut().map(|p| p.next().unwrap_or_default()).collect();
            let ints = int_parts.iter_mut().map(|p| p.next().unwrap_or_default()).collect();
            let mut out = SampleOut::new(floats, ints, at.clone());
            let mut draw = Draw::new(&[seed, *position]);
            data.samples.sample(*index, &mut draw, &mut out)?;
            replaced += u64::from(!out.skipped.is_empty());
            skipped.append(&mut out.skipped);
        }
    }
    let mut tensors = Vec::with_capacity(fields.len());
    for (field, at) in fields.iter().zip(&at) {
        let mut shape = vec![n as i64];
        shape.extend(&field.shape);
        tensors.push(match field.layout {
            Layout::Int => Tensor::f_from_slice(&ints[*at])?.f_view(shape.as_slice())?,
            Layout::Float => Tensor::f_from_slice(&floats[*at])?.f_view(shape.as_slice())?,
            Layout::Image => {
                let [c, h, w] = field.shape[..] else { bail!("a picture field has 3 sizes, found {:?}", field.shape) };
                Tensor::f_from_slice(&floats[*at])?.f_view([n as i64, h, w, c])?.f_permute([0, 3, 1, 2])?
            }
        });
    }
    Ok(Batch { tensors, skipped, replaced })
}

/// Room for `n` samples of that many numbers, which a batch that is too large does not find.
fn room<T: Default + Clone>(n: usize, size: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    let numbers = n.checked_mul(size).filter(|numbers| out.try_reserve_exact(*numbers).is_ok());
    let Some(numbers) = numbers else {
        bail!(
            "not enough memory for a batch of {n} samples of {} each: lower batch_size or the size of pictures",
            bytes_text(size as u64 * size_of::<T>() as u64)
        );
    };
    out.resize(numbers, T::default());
    Ok(out)
}

fn chunks<T>(v: &mut [T], n: usize) -> std::slice::ChunksExactMut<'_, T> {
    let size = (v.len() / n.max(1)).max(1);
    v.chunks_exact_mut(size)
}

/// The tensors of one batch in the order of the dataset's ports, on the CPU.
#[derive(Debug)]
pub struct Batch {
    /// One tensor a field.
    pub tensors: Vec<Tensor>,
    /// The samples that were skipped because they could not be read: where each is from, and why.
    pub skipped: Vec<String>,
    /// How many samples of the batch stand in the place of one that could not be read.
    pub replaced: u64,
}

impl Batch {
    /// The batch in memory that a GPU reads by itself; unchanged for the CPU.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn pinned(self, device: Device) -> Result<Self> {
        if device == Device::Cpu {
            return Ok(self);
        }
        Ok(Self { tensors: self.tensors.iter().map(mtl_torch::pin).collect::<Result<_, _>>()?, ..self })
    }

    /// The batch in other precision and on another device. Nothing waits for a device that pinned memory is copied to.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn to(self, kind: Kind, device: Device) -> Result<Self> {
        let moved = |t: &Tensor| -> Result<Tensor> {
            let kind = if t.kind() == Kind::Float { kind } else { t.kind() };
            match device {
                Device::Cpu => Ok(t.f_to_kind(kind)?),
                // The other precision is made there, of the bytes that were copied.
                device => Ok(mtl_torch::copy_to(t, device)?.f_to_kind(kind)?),
            }
        };
        Ok(Self { tensors: self.tensors.iter().map(moved).collect::<Result<_>>()?, ..self })
    }
}
