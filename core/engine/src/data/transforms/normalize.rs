use crate::data::{Transform, draw::Draw, image::Picture};
use anyhow::Result;
use schemars::JsonSchema;
use serde::Deserialize;

/// Maps pixels to `(x / 255 - mean) / deviation` on their way into the network.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Normalize {
    /// Mean of red, green and blue.
    #[serde(default = "half")]
    mean: [f32; 3],
    /// Deviation of red, green and blue.
    #[serde(default = "half")]
    deviation: [f32; 3],
}

fn half() -> [f32; 3] {
    [0.5; 3]
}

impl Transform for Normalize {
    fn apply(&self, picture: &mut Picture, _draw: &mut Draw) -> Result<()> {
        (picture.mean, picture.deviation) = (self.mean, self.deviation);
        Ok(())
    }
    fn in_evaluation(&self) -> bool {
        true
    }
}

super::self_made!("normalize", Normalize);
