//! Random draws that are pure functions of what they are for.

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::SplitMix64;

/// What a stream of draws is for; streams of different purposes are independent.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// What makes a person.
    Identity = 1,
    /// Pose, light, expression, background, camera.
    Capture = 2,
    /// The places of a person's wrinkles.
    Wrinkles = 3,
    /// Sensor noise.
    Sensor = 4,
}

/// A generator for one purpose.
#[derive(Debug, Clone)]
pub struct Draw(SplitMix64);

impl Draw {
    /// The generator for these words.
    pub fn new(purpose: Purpose, words: &[u64]) -> Self {
        let mix = |state: u64, word: u64| SplitMix64::seed_from_u64(state ^ word.rotate_left(32)).next_u64();
        Self(SplitMix64::seed_from_u64(words.iter().fold(mix(0, purpose as u64), |state, word| mix(state, *word))))
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// Nearly normal: the sum of four 16-bit uniforms, scaled (Irwin and Hall); never beyond 3.5 deviations.
    pub fn normal(&mut self, mean: f32, deviation: f32) -> f32 {
        let bits = self.0.next_u64();
        let sum = (0..4).map(|k| ((bits >> (16 * k)) & 0xffff) as f32).sum::<f32>() / 65_536.0;
        // Four uniforms have a mean of 2 and a variance of 1/3.
        mean + deviation * (sum - 2.0) * 1.732_050_8
    }

    /// An index by weight.
    pub fn choice(&mut self, weights: &[f32]) -> usize {
        let mut at = self.uniform() * weights.iter().sum::<f32>();
        for (i, weight) in weights.iter().enumerate() {
            at -= weight;
            if at < 0.0 {
                return i;
            }
        }
        weights.len() - 1
    }
}
