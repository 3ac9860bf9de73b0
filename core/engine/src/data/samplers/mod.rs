//! Samplers: the order in which samples are drawn.

mod balanced;
mod published;
mod shuffle;

use crate::data::draw::Draw;
use std::sync::{Arc, Mutex};

/// Keeps the orders of the newest epochs, since making one costs more than reading it.
struct Orders {
    kept: Mutex<Vec<Order>>,
}

/// The order of one part in one epoch.
struct Order {
    part: usize,
    epoch: u64,
    order: Arc<Vec<u32>>,
}

impl Orders {
    fn new() -> Self {
        Self { kept: Mutex::new(Vec::new()) }
    }

    fn get(&self, part: usize, epoch: u64, make: impl FnOnce() -> Vec<u32>) -> Arc<Vec<u32>> {
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
fn shuffled(n: usize, seed: u64, part: usize, epoch: u64) -> Vec<u32> {
    Draw::new(&[seed, part as u64, epoch]).permutation(n)
}
