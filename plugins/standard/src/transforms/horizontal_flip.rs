use mtl_component::{Draw, Picture, Result, Transform};
use schemars::JsonSchema;
use serde::Deserialize;

/// Mirrors left and right.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HorizontalFlip {
    /// Probability.
    #[serde(default = "super::half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    probability: f64,
}

impl Transform for HorizontalFlip {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        if draw.chance(self.probability) {
            picture.flip();
        }
        Ok(())
    }
}

super::self_made!("horizontal_flip", HorizontalFlip);
