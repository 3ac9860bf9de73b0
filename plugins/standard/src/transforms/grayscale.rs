use super::color_jitter::grey;
use mtl_component::{Draw, Picture, Result, Transform};
use schemars::JsonSchema;
use serde::Deserialize;

/// Removes the colour; three equal channels remain.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Grayscale {
    /// Probability.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    probability: f64,
}

fn tenth() -> f64 {
    0.1
}

impl Transform for Grayscale {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        if draw.chance(self.probability) {
            for pixel in picture.data.chunks_exact_mut(3) {
                pixel.fill(grey(pixel).round() as u8);
            }
        }
        Ok(())
    }
}

super::self_made!("grayscale", Grayscale);
