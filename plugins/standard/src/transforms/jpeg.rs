use crate::codec;
use mtl_component::{Draw, ErrorContext as _, Picture, Result, Transform};
use image::{RgbImage, codecs::jpeg::JpegEncoder};
use schemars::JsonSchema;
use serde::Deserialize;

/// Compresses as JPEG at a random quality and decodes again, for pictures that were sent around.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Jpeg {
    /// Lowest quality.
    #[serde(default = "low")]
    #[schemars(range(min = 1, max = 100))]
    min_quality: u8,
    /// Highest quality.
    #[serde(default = "high")]
    #[schemars(range(min = 1, max = 100))]
    max_quality: u8,
    /// Probability.
    #[serde(default = "super::half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    probability: f64,
}

fn low() -> u8 {
    30
}
fn high() -> u8 {
    95
}

impl Transform for Jpeg {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        if !draw.chance(self.probability) {
            return Ok(());
        }
        let (low, high) = (self.min_quality.min(self.max_quality), self.min_quality.max(self.max_quality));
        let quality = low + draw.below(u64::from(high - low) + 1) as u8;
        let pixels = std::mem::take(&mut picture.data);
        let image = RgbImage::from_raw(picture.width as u32, picture.height as u32, pixels)
            .context("the image's size does not fit its pixels")?;
        let mut file = Vec::new();
        image.write_with_encoder(JpegEncoder::new_with_quality(&mut file, quality))?;
        picture.data = codec::decode(&file)?.data;
        Ok(())
    }
}

super::self_made!("jpeg", Jpeg);
