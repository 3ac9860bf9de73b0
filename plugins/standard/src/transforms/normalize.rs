use mtl_component::{Draw, Normalization, Picture, Result, Transform, TransformDescription};
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
        picture.normalization = self.normalization();
        Ok(())
    }
}

impl Normalize {
    fn normalization(&self) -> Normalization {
        Normalization { mean: self.mean, deviation: self.deviation }
    }
}

super::self_made!("normalize", Normalize, |own| TransformDescription {
    in_evaluation: true,
    normalization: Some(own.normalization()),
});
