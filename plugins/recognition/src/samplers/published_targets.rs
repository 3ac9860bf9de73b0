use mtl_component::{Draw, OpenDataset, Result, Sampler, SamplerConfig, register};
use mtl_standard::order::classes;
use rand_mt::Mt as Mt19937;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::{Mutex, PoisonError};

/// Values of a label as `numpy.random.seed(s)` and `randint` draw them, which make up the targets of MTLFace's released
/// code (it goes through them in an order of its own); the sample of a value is drawn by the run's seed. `balanced`
/// gives every value its exact share instead.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PublishedTargets {
    /// The label, such as `group`.
    by: String,
    /// The seed of the values; the released code has 0, whatever the seed of the run.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295u32))]
    seed: u32,
}

impl SamplerConfig for PublishedTargets {
    fn open(&self, data: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>> {
        let parts = classes(data, &self.by, false)?;
        let values = |count: usize| Mutex::new(Values::new(self.seed, count as u32));
        let parts = parts.into_iter().map(|classes| (values(classes.len()), classes)).collect();
        Ok(Box::new(Targets { parts, seed }))
    }
}

struct Targets {
    parts: Vec<(Mutex<Values>, Vec<Vec<u32>>)>,
    seed: u64,
}

impl Sampler for Targets {
    fn index(&self, part: usize, position: u64, _batch: u64) -> Result<usize> {
        let (values, classes) = &self.parts[part];
        let value = values.lock().unwrap_or_else(PoisonError::into_inner).at(position as usize);
        let members = &classes[value as usize];
        Ok(members[Draw::new(&[self.seed, part as u64, position]).below(members.len() as u64) as usize] as usize)
    }
}

/// The values drawn so far, since later ones depend on how many words the earlier ones took.
struct Values {
    words: Mt19937,
    count: u32,
    drawn: Vec<u32>,
}

impl Values {
    fn new(seed: u32, count: u32) -> Self {
        Self { words: Mt19937::new(seed), count, drawn: Vec::new() }
    }

    /// numpy's legacy `randint(0, count)`: words masked to the bits that count needs, too large ones passed over.
    fn at(&mut self, position: usize) -> u32 {
        let mask = self.count.next_power_of_two() - 1;
        while self.drawn.len() <= position {
            let word = self.words.next_u32() & mask;
            if word < self.count {
                self.drawn.push(word);
            }
        }
        self.drawn[position]
    }
}

register!(Sampler, "published_targets", PublishedTargets);
