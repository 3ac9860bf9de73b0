//! Random draws that are pure functions of what they are for.

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::SplitMix64;

/// A generator for one sample or one step: SplitMix64 (Steele, Lea, Flood 2014), which any seed starts well.
///
/// Its stream is part of the meaning of a recipe: it must never change.
#[derive(Debug, Clone)]
pub struct Draw(SplitMix64);

impl Draw {
    /// The generator for these words, such as seed, stream and position.
    pub fn new(words: &[u64]) -> Self {
        Self(SplitMix64::seed_from_u64(hash_words(words)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform among 0..n (Lemire 2019, without the rejection step: the bias is below n / 2^64).
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A random order of 0..n (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in 0..n.saturating_sub(1) {
            let j = i + self.below((n - i) as u64) as usize;
            order.swap(i, j);
        }
        order
    }
}

/// One number out of several; every word and their order matter.
pub fn hash_words(words: &[u64]) -> u64 {
    let first = |seed: u64| SplitMix64::seed_from_u64(seed).next_u64();
    // What the generator adds to its state before it mixes it.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    words.iter().fold(0x6a09_e667_f3bc_c908, |h, word| first((h ^ first(*word)).wrapping_sub(STEP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_never_changes() {
        let mut draw = Draw::new(&[1, 2, 3]);
        let found: [u64; 10] = std::array::from_fn(|_| draw.bits());
        assert_eq!(found, PINNED);
        assert_ne!(hash_words(&[1, 2]), hash_words(&[2, 1]));
    }

    /// The first values of the stream. Every run's data order, augmentation and starting weights follow from it.
    const PINNED: [u64; 10] = [
        16_503_788_564_727_858_183,
        8_384_181_579_185_207_790,
        12_221_509_310_661_359_042,
        10_222_708_928_854_688_645,
        14_779_828_732_300_020_253,
        17_072_080_795_692_403_293,
        5_259_418_253_656_946_113,
        7_581_363_216_997_034_220,
        16_195_065_941_826_993_861,
        15_257_964_480_445_972_828,
    ];

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = Draw::new(&[7]).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<u32>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<u32>>());
    }

    #[test]
    fn uniform_stays_in_its_range_and_has_its_mean() {
        let mut draw = Draw::new(&[5]);
        let n = 20_000;
        let mean = (0..n).map(|_| draw.uniform()).inspect(|v| assert!((0.0..1.0).contains(v))).sum::<f64>() / n as f64;
        // Six standard deviations of the mean of n uniform numbers.
        assert!((mean - 0.5).abs() < 6.0 * (1.0f64 / 12.0 / n as f64).sqrt(), "{mean}");
    }
}
