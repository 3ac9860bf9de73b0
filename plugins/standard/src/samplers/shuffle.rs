use crate::order::{Orders, shuffled};
use mtl_component::{OpenDataset, Result, Sampler, SamplerConfig, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Every sample once per epoch, in an order that the seed and the epoch decide. Batches cross from one epoch to
/// the next, so that no sample is left out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Shuffle {}

impl SamplerConfig for Shuffle {
    fn open(&self, data: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>> {
        let parts = data.parts.iter().map(|(range, _)| (range.start, range.len())).collect();
        Ok(Box::new(Shuffled { parts, seed, orders: Orders::default() }))
    }
}

struct Shuffled {
    parts: Vec<(usize, usize)>,
    seed: u64,
    orders: Orders,
}

impl Sampler for Shuffled {
    fn index(&self, part: usize, position: u64, _batch: u64) -> Result<usize> {
        let (start, n) = self.parts[part];
        let (epoch, within) = (position / n as u64, (position % n as u64) as usize);
        Ok(start + self.orders.get(part, epoch, || shuffled(n, self.seed, part, epoch))[within] as usize)
    }
}

register!(Sampler, "shuffle", Shuffle);
