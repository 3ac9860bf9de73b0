//! The order of samples: what samplers share.

use mtl_component::{Column, Draw, OpenDataset, Result, mistake};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Keeps the orders of the newest epochs, since making one costs more than reading it.
#[derive(Default)]
pub struct Orders {
    kept: Mutex<Vec<Order>>,
}

/// The order of one part in one epoch.
struct Order {
    part: usize,
    epoch: u64,
    order: Arc<Vec<u32>>,
}

impl Orders {
    /// The order of one part in one epoch, which `make` makes if it is not kept.
    pub fn get(&self, part: usize, epoch: u64, make: impl FnOnce() -> Vec<u32>) -> Arc<Vec<u32>> {
        let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = kept.iter().find(|o| (o.part, o.epoch) == (part, epoch)) {
            return known.order.clone();
        }
        let order = Arc::new(make());
        // Two epochs a part are in use when a batch crosses from one to the next.
        kept.retain(|o| o.part != part || o.epoch + 1 >= epoch);
        kept.push(Order { part, epoch, order: order.clone() });
        order
    }
}

/// A random order of `n` for one epoch of one part.
pub fn shuffled(n: usize, seed: u64, part: usize, epoch: u64) -> Vec<u32> {
    Draw::new(&[seed, part as u64, epoch]).permutation(n)
}

/// For each part of the data, the samples of each value of a label that is known (not negative), by value.
///
/// # Errors
/// A mistake if the data has no such label, or, unless `allow_empty`, a value of a closed list has no sample.
pub fn classes(data: &OpenDataset, by: &str, allow_empty: bool) -> Result<Vec<Vec<Vec<u32>>>> {
    let Some(Column { labels, names }) = data.samples.column(by)? else {
        mistake!("the dataset has no label `{by}` to balance by");
    };
    let names = names.unwrap_or_default();
    let mut parts = Vec::new();
    for (range, _) in data.parts.clone() {
        let mut classes: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for index in range.filter(|i| labels[*i] >= 0) {
            classes.entry(labels[index]).or_default().push(index as u32);
        }
        if classes.is_empty() {
            mistake!("no sample has the label `{by}` to balance by");
        }
        let absent = |value: &usize| !classes.contains_key(&(*value as i64));
        let empty: Vec<&str> = (0..names.len()).filter(absent).map(|v| names[v].as_str()).collect();
        if !empty.is_empty() && !allow_empty {
            mistake!(
                "every `{by}` is to be drawn equally often, but no sample has the {by} {}: add some, or say \
                 allow_empty = true in the sampler",
                empty.join(", ")
            );
        }
        parts.push(classes.into_values().collect());
    }
    Ok(parts)
}
