use mtl_component::{Draw, Picture, Result, Transform, TransformConfig, register};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Replaces a rectangle by noise (random erasing, Zhong et al. 2020, algorithm 1).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RandomErasing {
    /// Probability.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    probability: f64,
    /// The largest share of the picture that is replaced.
    #[serde(default = "share")]
    #[schemars(range(min = 0.02, max = 1.0))]
    max_share: f64,
}

fn half() -> f64 {
    0.5
}
fn share() -> f64 {
    0.4
}

impl TransformConfig for RandomErasing {
    fn open(&self) -> Result<Arc<dyn Transform>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Transform for RandomErasing {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        if !draw.chance(self.probability) {
            return Ok(());
        }
        let area = draw.range(0.02, self.max_share) * (picture.width * picture.height) as f64;
        // The ratio of the sides, 0.3 to 1 / 0.3, evenly in its logarithm.
        let ratio = draw.range(0.3f64.ln(), -(0.3f64.ln())).exp();
        let side = |wanted: f64, most: usize| (wanted.round() as usize).clamp(1, most);
        let (width, height) = (side((area / ratio).sqrt(), picture.width), side((area * ratio).sqrt(), picture.height));
        let x = draw.below((picture.width - width + 1) as u64) as usize;
        let y = draw.below((picture.height - height + 1) as u64) as usize;
        for row in y..y + height {
            let at = (row * picture.width + x) * 3;
            picture.data[at..at + width * 3].fill_with(|| draw.below(256) as u8);
        }
        Ok(())
    }
}

register!(Transform, "random_erasing", RandomErasing);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_changes() {
        let config = RandomErasing { probability: 1.0, max_share: 0.25 };
        for seed in 0..50 {
            let mut picture = Picture::new(16, 12, vec![7; 16 * 12 * 3]).unwrap();
            config.apply(&mut picture, &mut Draw::new(&[seed])).unwrap();
            let changed = picture.data.chunks_exact(3).filter(|pixel| **pixel != [7, 7, 7]).count();
            // Sides are whole pixels: each may be rounded up by a half.
            assert!(changed > 0 && changed <= 16 * 12 / 4 + 16, "{changed}");
        }
    }
}
