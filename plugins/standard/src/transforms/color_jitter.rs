use mtl_component::{Draw, Picture, Result, Transform};
use schemars::JsonSchema;
use serde::Deserialize;

/// Changes brightness, contrast and saturation, in this order, each by a factor uniform in 1 ± strength.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ColorJitter {
    /// Strength of the change of brightness.
    #[serde(default = "fifth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    brightness: f64,
    /// Strength of the change of contrast, about the mean grey of the image.
    #[serde(default = "fifth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    contrast: f64,
    /// Strength of the change of saturation, about the grey of each pixel.
    #[serde(default = "fifth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    saturation: f64,
    /// Probability.
    #[serde(default = "super::half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    probability: f64,
}

fn fifth() -> f64 {
    0.2
}

/// Luma of ITU-R BT.601.
pub(super) fn grey(pixel: &[u8]) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

impl Transform for ColorJitter {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        if !draw.chance(self.probability) {
            return Ok(());
        }
        let mut factor = |strength: f64| draw.range(1.0 - strength, 1.0 + strength) as f32;
        let (b, c, s) = (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let pixels = picture.data.len() / 3;
        let mean = b * picture.data.chunks_exact(3).map(grey).sum::<f32>() / pixels as f32;
        for pixel in picture.data.chunks_exact_mut(3) {
            let own = (b * grey(pixel) - mean) * c + mean;
            for v in pixel {
                let contrasted = (b * f32::from(*v) - mean) * c + mean;
                *v = ((contrasted - own) * s + own).round().clamp(0.0, 255.0) as u8;
            }
        }
        Ok(())
    }
}

super::self_made!("color_jitter", ColorJitter);
