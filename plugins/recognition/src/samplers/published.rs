use mtl_component::{OpenDataset, Result, Sampler, SamplerConfig, mistake, register};
use mtl_standard::order::Orders;
use rand_mt::Mt as Mt19937;
use schemars::JsonSchema;
use serde::Deserialize;

/// The order of MTLFace's released code: epoch e is PyTorch's `randperm(n, seed e)` of the first images, as many
/// as fill whole batches; the rest of the list is never drawn.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Published {
    /// Added to the epoch's number to seed its order; the released code has 0.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295u32))]
    seed: u32,
}

impl SamplerConfig for Published {
    fn open(&self, data: &OpenDataset, _seed: u64) -> Result<Box<dyn Sampler>> {
        if data.parts.len() > 1 {
            mistake!("the sampler `published` draws from one list; use `shuffle` to mix several");
        }
        Ok(Box::new(Epochs { n: data.len, seed: self.seed, orders: Orders::default() }))
    }
}

struct Epochs {
    n: usize,
    seed: u32,
    orders: Orders,
}

impl Sampler for Epochs {
    fn index(&self, _part: usize, position: u64, batch: u64) -> Result<usize> {
        // With fewer images than a batch the original divides by zero; here the whole list is used.
        let n = if self.n as u64 >= batch { self.n as u64 / batch * batch } else { self.n as u64 };
        let (epoch, within) = (position / n, (position % n) as usize);
        let seed = self.seed.wrapping_add(epoch as u32);
        Ok(self.orders.get(0, epoch, || torch_randperm(n as usize, seed))[within] as usize)
    }
}

/// `torch.randperm` with a generator seeded by `seed`: Fisher-Yates from the front on MT19937 words.
fn torch_randperm(n: usize, seed: u32) -> Vec<u32> {
    let mut words = Mt19937::new(seed);
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in 0..n.saturating_sub(1) {
        let z = words.next_u32() as usize % (n - i);
        order.swap(i, i + z);
    }
    order
}

register!(Sampler, "published", Published);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randperm_is_that_of_pytorch() {
        assert_eq!(torch_randperm(10, 0), [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]);
        assert_eq!(torch_randperm(10, 1), [5, 6, 1, 2, 0, 8, 9, 3, 7, 4]);
    }
}
