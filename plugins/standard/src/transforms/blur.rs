use mtl_component::{Draw, Picture, Result, Transform};
use schemars::JsonSchema;
use serde::Deserialize;

/// Blurs with a Gaussian of random width.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Blur {
    /// Largest standard deviation in pixels.
    #[serde(default = "two")]
    #[schemars(range(min = 0.1, max = 32.0))]
    max_sigma: f64,
    /// Probability.
    #[serde(default = "super::half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    probability: f64,
}

fn two() -> f64 {
    2.0
}

impl Transform for Blur {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        if !draw.chance(self.probability) {
            return Ok(());
        }
        let sigma = draw.range(0.1, self.max_sigma) as f32;
        let radius = (3.0 * sigma).ceil() as isize;
        let mut kernel: Vec<f32> =
            (-radius..=radius).map(|i| (-((i * i) as f32) / (2.0 * sigma * sigma)).exp()).collect();
        let sum: f32 = kernel.iter().sum();
        kernel.iter_mut().for_each(|k| *k /= sum);
        let (w, h) = (picture.width as isize, picture.height as isize);
        let mut rows = vec![0f32; picture.data.len()];
        for y in 0..h {
            for x in 0..w {
                for c in 0..3 {
                    rows[((y * w + x) * 3 + c) as usize] = kernel
                        .iter()
                        .zip(-radius..)
                        .map(|(k, d)| {
                            let at = (x + d).clamp(0, w - 1);
                            k * f32::from(picture.data[((y * w + at) * 3 + c) as usize])
                        })
                        .sum();
                }
            }
        }
        for y in 0..h {
            for x in 0..w {
                for c in 0..3 {
                    let v: f32 = kernel
                        .iter()
                        .zip(-radius..)
                        .map(|(k, d)| k * rows[(((y + d).clamp(0, h - 1) * w + x) * 3 + c) as usize])
                        .sum();
                    picture.data[((y * w + x) * 3 + c) as usize] = v.round().clamp(0.0, 255.0) as u8;
                }
            }
        }
        Ok(())
    }
}

super::self_made!("blur", Blur);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_keeps_a_flat_image_and_spreads_a_point() {
        let blur = Blur { max_sigma: 1.5, probability: 1.0 };
        let mut flat = Picture::new(5, 4, vec![77; 60]).unwrap();
        blur.apply(&mut flat, &mut Draw::new(&[1])).unwrap();
        assert!(flat.data.iter().all(|v| *v == 77));
        let mut point = Picture::new(9, 9, vec![0; 243]).unwrap();
        point.data[(4 * 9 + 4) * 3] = 255;
        blur.apply(&mut point, &mut Draw::new(&[1])).unwrap();
        assert!(point.data[(4 * 9 + 4) * 3] < 255 && point.data[(4 * 9 + 5) * 3] > 0);
    }
}
