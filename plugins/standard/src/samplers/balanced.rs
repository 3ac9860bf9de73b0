use crate::order::{Orders, classes, shuffled};
use mtl_component::{Draw, OpenDataset, Result, Sampler, SamplerConfig, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Every value of a label equally often, such as every identity or every age group: the values take turns in an
/// order drawn anew each round, and each goes through its samples in an order of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Balanced {
    /// The label, such as `identity` or `group`. Samples where it is negative (not known) are not drawn.
    by: String,
    /// A value that no sample has is left out, where the label's values are a closed list; else it is an error.
    #[serde(default)]
    allow_empty: bool,
}

impl SamplerConfig for Balanced {
    fn open(&self, data: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>> {
        let parts = classes(data, &self.by, self.allow_empty)?;
        Ok(Box::new(Turns { parts, seed, orders: Orders::default() }))
    }
}

struct Turns {
    parts: Vec<Vec<Vec<u32>>>,
    seed: u64,
    orders: Orders,
}

impl Sampler for Turns {
    fn index(&self, part: usize, position: u64, _batch: u64) -> Result<usize> {
        let classes = &self.parts[part];
        let (round, within) = (position / classes.len() as u64, (position % classes.len() as u64) as usize);
        let class = self.orders.get(part, round, || shuffled(classes.len(), self.seed, part, round))[within] as usize;
        let members = &classes[class];
        // The class has been drawn once a round: its round number is the position in its own stream.
        let (epoch, at) = (round / members.len() as u64, (round % members.len() as u64) as usize);
        let order = Draw::new(&[self.seed, part as u64, class as u64 + 1, epoch]).permutation(members.len());
        Ok(members[order[at] as usize] as usize)
    }
}

register!(Sampler, "balanced", Balanced);
