//! The order of samples: which of them make up which batch.

use super::batch::{Batch, load_samples};
use mtl_component::draw::hash_words;
use mtl_component::{OpenDataset, Partner, Result, Sampler, World};
use std::sync::Arc;
use tch::{Device, Tensor};

/// Which samples make up which batch: a pure function of the batch's number.
pub struct BatchOrder {
    /// The data.
    pub data: OpenDataset,
    sampler: Box<dyn Sampler>,
    shares: Vec<f64>,
    batch_size: usize,
    seed: u64,
    world: World,
    /// The stream that this one follows.
    leader: Option<Arc<BatchOrder>>,
}

impl BatchOrder {
    /// The order of batches of this process; `batch_size` samples each are drawn by every process.
    pub fn new(data: OpenDataset, sampler: Box<dyn Sampler>, batch_size: usize, seed: u64, world: World) -> Self {
        let total: f64 = data.parts.iter().map(|(_, share)| share).sum();
        let shares = data.parts.iter().map(|(_, share)| share / total).collect();
        Self { data, sampler, shares, batch_size, seed, world, leader: None }
    }

    /// The same, following another stream: a sample is the partner of the one that has its place there, and its random
    /// transforms draw the same numbers.
    pub fn following(self, leader: Option<Arc<BatchOrder>>) -> Self {
        let seed = leader.as_ref().map_or(self.seed, |leader| leader.seed);
        Self { leader, seed, ..self }
    }

    /// The samples that all processes together draw for a batch.
    pub fn global_batch(&self) -> u64 {
        self.batch_size as u64 * self.world.size()
    }

    /// The samples of a batch: indices, and the position in the stream that seeds their draws.
    ///
    /// # Errors
    /// If the sampler fails.
    pub fn batch(&self, number: u64) -> Result<Vec<(usize, u64)>> {
        Ok(self.drawn(number)?.into_iter().map(|(sample, position)| (sample.index, position)).collect())
    }

    /// The samples of a batch with their positions: partners of those of the leading stream, or its own, which need none.
    fn drawn(&self, number: u64) -> Result<Vec<(Partner, u64)>> {
        if let Some(leader) = &self.leader {
            let found = leader.batch(number)?.into_iter();
            return found.map(|(index, position)| Ok((self.sampler.partner(index, position)?, position))).collect();
        }
        let global = self.global_batch();
        (0..self.batch_size as u64)
            .map(|slot| {
                let slot = slot * self.world.size() + self.world.rank();
                let position = number * global + slot;
                let (part, within) = self.part(position);
                let index = self.sampler.index(part, within, global)?;
                Ok((Partner { index, is_paired: true }, position))
            })
            .collect()
    }

    /// The part that a position of the whole stream belongs to, and the position in that part's own stream.
    ///
    /// A part of share s has had floor(x s) of the first x positions; the others are shared out among the remaining
    /// parts in the same way. So the shares hold over all batches together, and every part is used without gaps.
    fn part(&self, position: u64) -> (usize, u64) {
        let (mut position, mut left) = (position, 1.0);
        for (i, share) in self.shares.iter().enumerate() {
            if i + 1 == self.shares.len() {
                return (i, position);
            }
            let share = (share / left).min(1.0);
            let before = |x: u64| (x as f64 * share).floor() as u64;
            if before(position + 1) > before(position) {
                return (i, before(position));
            }
            position -= before(position);
            left -= self.shares[i];
        }
        (0, position)
    }

    /// Loads a batch, for a device.
    ///
    /// # Errors
    /// If a sample cannot be read.
    pub fn load(&self, number: u64, device: Device) -> Result<Batch> {
        let drawn = self.drawn(number)?;
        let samples: Vec<(usize, u64)> = drawn.iter().map(|(sample, position)| (sample.index, *position)).collect();
        let mut batch = load_samples(&self.data, &samples, self.seed, device != Device::Cpu)?;
        if self.leader.is_some() {
            let paired: Vec<f32> = drawn.iter().map(|(sample, _)| f32::from(u8::from(sample.is_paired))).collect();
            batch.tensors.push(Tensor::f_from_slice(&paired)?);
            batch.pixels.push(None);
        }
        Ok(batch)
    }
}

/// The seed of a data stream.
pub fn stream_seed(seed: u64, name: &str) -> u64 {
    let words: Vec<u64> = std::iter::once(seed).chain(name.bytes().map(u64::from)).collect();
    hash_words(&words)
}
