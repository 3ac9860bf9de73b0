use mtl_component::{Draw, Picture, Result, Transform, TransformDescription};
use schemars::JsonSchema;
use serde::Deserialize;

/// Resizes to a square, antialiased as PIL's bilinear filter; an image of that size stays as it is.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Resize {
    /// Width and height in pixels.
    #[schemars(range(min = 1, max = 4096))]
    size: u32,
}

impl Transform for Resize {
    fn apply(&self, picture: &mut Picture, _draw: &mut Draw) -> Result<()> {
        picture.resize(self.size as usize, self.size as usize)
    }
}

super::self_made!("resize", Resize, |own| TransformDescription {
    in_evaluation: true,
    size: Some((i64::from(own.size), i64::from(own.size))),
    ..TransformDescription::default()
});
