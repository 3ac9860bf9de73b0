use mtl_component::{OpenDataset, Result, Sampler, SamplerConfig, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Every sample in the order of the data, again and again: for data whose order has a meaning.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InOrder {}

impl SamplerConfig for InOrder {
    fn open(&self, data: &OpenDataset, _: u64) -> Result<Box<dyn Sampler>> {
        let parts = data.parts.iter().map(|(range, _)| (range.start, range.len())).collect();
        Ok(Box::new(Ordered { parts }))
    }
}

struct Ordered {
    parts: Vec<(usize, usize)>,
}

impl Sampler for Ordered {
    fn index(&self, part: usize, position: u64, _: u64) -> Result<usize> {
        let (start, len) = self.parts[part];
        Ok(start + (position % len as u64) as usize)
    }
}

register!(Sampler, "in_order", InOrder);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_gone_through_from_its_start() {
        let sampler = Ordered { parts: vec![(0, 10), (10, 3)] };
        let found: Vec<usize> = (0..5).map(|position| sampler.index(1, position, 4).unwrap()).collect();
        assert_eq!(found, [10, 11, 12, 10, 11]);
    }
}
