//! Samplers: the order in which samples are drawn.

mod balanced;
mod published;
mod shuffle;

use crate::data::draw::Draw;
use std::sync::{Arc, Mutex};

/// Keeps the orders of the newest epochs, since making one costs more than reading it.
struct Orders {
    kept: Mutex<Vec<((usize, u64), Arc<Vec<u32>>)>>,
}

impl Orders {
    fn new() -> Self {
        Self { kept: Mutex::new(Vec::new()) }
    }

    fn get(&self, part: usize, epoch: u64, make: impl FnOnce() -> Vec<u32>) -> Arc<Vec<u32>> {
        let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, order)) = kept.iter().find(|(key, _)| *key == (part, epoch)) {
            return order.clone();
        }
        let order = Arc::new(make());
        // Two epochs a part are in use when a batch crosses from one to the next.
        kept.retain(|((p, e), _)| *p != part || *e + 1 >= epoch);
        kept.push(((part, epoch), order.clone()));
        order
    }
}

/// A random order of `n` for one epoch of one part.
fn shuffled(n: usize, seed: u64, part: usize, epoch: u64) -> Vec<u32> {
    Draw::new(&[seed, part as u64, epoch]).permutation(n)
}
