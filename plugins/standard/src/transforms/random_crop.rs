use mtl_component::{Draw, Picture, Result, Transform};
use schemars::JsonSchema;
use serde::Deserialize;

/// Cuts out a square of random size and place; a later `resize` brings it back to the network's size.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RandomCrop {
    /// Smallest side of the crop, as a share of the image's shorter side.
    #[serde(default = "most")]
    #[schemars(range(min = 0.05, max = 1.0))]
    min_scale: f64,
    /// Probability.
    #[serde(default = "super::half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    probability: f64,
}

fn most() -> f64 {
    0.8
}

impl Transform for RandomCrop {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        if !draw.chance(self.probability) {
            return Ok(());
        }
        let short = picture.width.min(picture.height);
        let side = ((short as f64 * draw.range(self.min_scale, 1.0)).round() as usize).clamp(1, short);
        let x = draw.below((picture.width - side + 1) as u64) as usize;
        let y = draw.below((picture.height - side + 1) as u64) as usize;
        picture.crop(x, y, side, side)
    }
}

super::self_made!("random_crop", RandomCrop);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_stay_inside_also_of_one_pixel() {
        let crop = RandomCrop { min_scale: 0.5, probability: 1.0 };
        for (width, height) in [(1, 1), (7, 3), (20, 20)] {
            for seed in 0..50 {
                let mut p = Picture::new(width, height, vec![0; width * height * 3]).unwrap();
                crop.apply(&mut p, &mut Draw::new(&[seed])).unwrap();
                assert_eq!(p.width, p.height);
                assert!(p.width >= 1 && p.width <= width.min(height));
            }
        }
    }
}
