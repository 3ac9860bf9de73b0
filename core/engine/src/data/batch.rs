//! Batches: samples written side by side and made into tensors.

use crate::machine::bytes_text;
use mtl_component::{Draw, Field, Layout, Normalization, OpenDataset, Place, Result, SampleOut, bail};
use mtl_torch::ScalarOps;
use tch::{Device, Kind, Tensor};

/// The numbers of one field of all samples.
enum Numbers {
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Bytes(Vec<u8>),
}

impl Numbers {
    /// Room for a field of `n` samples; pictures may be bytes.
    fn of(field: &Field, n: usize, bytes: bool) -> Result<Self> {
        let size = field.shape.iter().product::<i64>() as usize;
        Ok(match field.layout {
            Layout::Int => Self::Ints(room(n, size)?),
            Layout::Picture if bytes => Self::Bytes(room(n, size)?),
            Layout::Float | Layout::Image | Layout::Picture => Self::Floats(room(n, size)?),
        })
    }

    /// The places of the samples.
    fn places(&mut self, n: usize) -> Vec<Place<'_>> {
        match self {
            Self::Floats(all) => chunks(all, n).map(Place::Floats).collect(),
            Self::Ints(all) => chunks(all, n).map(Place::Ints).collect(),
            Self::Bytes(all) => chunks(all, n).map(|bytes| Place::Pixels(bytes, None)).collect(),
        }
    }

    fn tensor(&self, field: &Field, n: usize) -> Result<Tensor> {
        let flat = match self {
            Self::Floats(all) => Tensor::f_from_slice(all),
            Self::Ints(all) => Tensor::f_from_slice(all),
            Self::Bytes(all) => Tensor::f_from_slice(all),
        }?;
        Ok(match (field.layout, &field.shape[..]) {
            (Layout::Image | Layout::Picture, [c, h, w]) => {
                flat.f_view([n as i64, *h, *w, *c])?.f_permute([0, 3, 1, 2])?
            }
            (Layout::Image | Layout::Picture, other) => bail!("a picture field has 3 sizes, found {other:?}"),
            (Layout::Float | Layout::Int, shape) => flat.f_view([&[n as i64], shape].concat().as_slice())?,
        })
    }
}

/// Loads the given samples, each an index and a position, into one batch, in which pictures may be left as bytes.
pub fn load_samples(data: &OpenDataset, samples: &[(usize, u64)], seed: u64, bytes: bool) -> Result<Batch> {
    let n = samples.len();
    let mut numbers: Vec<Numbers> =
        data.fields.iter().map(|field| Numbers::of(field, n, bytes)).collect::<Result<_>>()?;
    let (mut skipped, mut replaced) = (Vec::new(), 0);
    let mut pixels: Vec<Option<Normalization>> = vec![None; data.fields.len()];
    {
        let mut fields: Vec<_> = numbers.iter_mut().map(|of| of.places(n).into_iter()).collect();
        for (index, position) in samples {
            let mut out = SampleOut::new(fields.iter_mut().filter_map(Iterator::next).collect());
            let mut draw = Draw::new(&[seed, *position]);
            data.samples.sample(*index, &mut draw, &mut out)?;
            for (place, known) in out.places.iter().zip(&mut pixels) {
                let Place::Pixels(_, normalization) = place else { continue };
                if known.is_some() && known != normalization {
                    bail!("the pictures of a batch are normalised in different ways: use one `normalize` for all");
                }
                *known = *normalization;
            }
            replaced += u64::from(!out.skipped.is_empty());
            skipped.append(&mut out.skipped);
        }
    }
    let tensors = data.fields.iter().zip(&numbers).map(|(field, numbers)| numbers.tensor(field, n));
    Ok(Batch { tensors: tensors.collect::<Result<_>>()?, pixels, skipped, replaced })
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
    /// For those that are bytes of pictures still, how they become floats.
    pub pixels: Vec<Option<Normalization>>,
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
    pub fn to(self, kind: Kind, device: Device, tables: &mut Tables) -> Result<Self> {
        let mut moved = |(t, pixels): (&Tensor, &Option<Normalization>)| -> Result<Tensor> {
            let there = match device {
                Device::Cuda(index) => mtl_torch::copy_beside(t, index)?,
                _ => t.shallow_clone(),
            };
            // Floats and the other precision are made there, of what was copied.
            match pixels {
                Some(normalization) => tables.floats(&there, normalization, kind),
                None if t.kind() == Kind::Float => Ok(there.f_to_kind(kind)?),
                None => Ok(there),
            }
        };
        let tensors = self.tensors.iter().zip(&self.pixels).map(&mut moved).collect::<Result<_>>()?;
        Ok(Self { tensors, pixels: vec![None; self.pixels.len()], ..self })
    }
}

/// What the bytes of pictures become, on a device.
#[derive(Debug, Default)]
pub struct Tables(Vec<Table>);

/// The floats of all bytes of one normalisation, in one kind of numbers, on one device.
#[derive(Debug)]
struct Table {
    normalization: Normalization,
    kind: Kind,
    /// 256 of red, then of green, then of blue.
    floats: Tensor,
    /// Where those of each colour begin.
    colours: Tensor,
}

impl Tables {
    fn table(&mut self, normalization: &Normalization, kind: Kind, device: Device) -> Result<&Table> {
        let fits = |t: &Table| t.normalization == *normalization && t.kind == kind && t.floats.device() == device;
        let at = match self.0.iter().position(fits) {
            Some(at) => at,
            None => {
                let floats = Tensor::f_from_slice(&normalization.tables().concat())?.f_to_device(device)?;
                let colours = mtl_torch::arange(3, (Kind::Int, device))?.try_mul_scalar(256)?;
                let floats = floats.f_to_kind(kind)?;
                self.0.push(Table { normalization: *normalization, kind, floats, colours });
                self.0.len() - 1
            }
        };
        Ok(&self.0[at])
    }

    /// The floats of pictures `[n, 3, height, width]` of bytes, channels innermost in memory: bit for bit those of
    /// [`Picture::write`](mtl_component::Picture::write).
    fn floats(&mut self, bytes: &Tensor, normalization: &Normalization, kind: Kind) -> Result<Tensor> {
        let table = self.table(normalization, kind, bytes.device())?;
        let size = bytes.size();
        let places = bytes.f_permute([0, 2, 3, 1])?.f_to_kind(Kind::Int)?.f_add(&table.colours)?.f_reshape([-1])?;
        let floats = table.floats.f_index_select(0, &places)?;
        Ok(floats.f_view([size[0], size[2], size[3], 3])?.f_permute([0, 3, 1, 2])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::Picture;

    #[test]
    fn bytes_become_the_floats_of_pictures() {
        let normalization = Normalization { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };
        let data: Vec<u8> = (0..4 * 70 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let picture = Picture { normalization, ..Picture::new(70, 4, data.clone()).unwrap() };
        let mut wanted = vec![0f32; data.len()];
        picture.write(&mut wanted).unwrap();
        let bytes = Tensor::from_slice(&data).view([1, 4, 70, 3]).permute([0, 3, 1, 2]);
        let batch = Batch { tensors: vec![bytes], pixels: vec![Some(normalization)], skipped: Vec::new(), replaced: 0 };
        let found = batch.to(Kind::Float, Device::Cpu, &mut Tables::default()).unwrap();
        assert_eq!(found.tensors[0].size(), [1, 3, 4, 70]);
        let found = Vec::<f32>::try_from(&found.tensors[0].permute([0, 2, 3, 1]).reshape([-1])).unwrap();
        assert_eq!(found, wanted);
    }
}
