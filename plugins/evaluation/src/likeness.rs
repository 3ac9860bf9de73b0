//! How alike two pictures are, pixel by pixel and in structure.

use mtl_component::{Picture, Result, ensure};
use mtl_standard::structure::similarity;
use tch::{Device, Kind, Tensor};

/// The ratio of pictures that are the same within rounding, in decibels.
const EQUAL: f64 = 100.0;

/// Peak signal-to-noise ratio in decibels, of the mean over all pixels and channels; at most 100, which equal pictures
/// have, so that means over many pictures stay finite.
pub fn psnr(a: &Picture, b: &Picture) -> Result<f64> {
    same_size(a, b)?;
    let squares: f64 = a.data.iter().zip(&b.data).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    Ok((10.0 * (255.0 * 255.0 * a.data.len() as f64 / squares).log10()).min(EQUAL))
}

/// Mean structural similarity (Wang et al. 2004, eq. 13): Gaussian windows of 11 pixels and deviation 1.5, K1 0.01,
/// K2 0.03, windows wholly inside the picture, mean over the three channels.
pub fn ssim(a: &Picture, b: &Picture) -> Result<f64> {
    same_size(a, b)?;
    let found = similarity(&channels(a)?, &channels(b)?, 255.0)?;
    Ok(found.f_double_value(&[0])?)
}

/// `[1, 3, height, width]` of 0 to 255.
fn channels(picture: &Picture) -> Result<Tensor> {
    let (h, w) = (picture.height as i64, picture.width as i64);
    let flat = Tensor::f_from_slice(&picture.data)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    Ok(flat.f_view([h, w, 3])?.f_permute([2, 0, 1])?.f_unsqueeze(0)?.f_contiguous()?)
}

fn same_size(a: &Picture, b: &Picture) -> Result<()> {
    ensure!(
        (a.width, a.height) == (b.width, b.height),
        "pictures of {}x{} and {}x{} pixels cannot be compared",
        a.width,
        a.height,
        b.width,
        b.height
    );
    Ok(())
}

/// The change of a picture beside the true change of it, as sums over all pixels and channels of any number of pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Change {
    /// Products of both changes.
    pub both: f64,
    /// Squares of the change.
    pub own: f64,
    /// Squares of the true change.
    pub truth: f64,
}

impl Change {
    /// That of a picture from `before` to `after`, where `truth` is the true one.
    ///
    /// # Errors
    /// If the pictures are not of one size.
    pub fn of(before: &Picture, after: &Picture, truth: &Picture) -> Result<Self> {
        same_size(before, after)?;
        same_size(before, truth)?;
        let mut sums = Self::default();
        for ((before, after), truth) in before.data.iter().zip(&after.data).zip(&truth.data) {
            let own = f64::from(*after) - f64::from(*before);
            let truth = f64::from(*truth) - f64::from(*before);
            sums.add(&Self { both: own * truth, own: own * own, truth: truth * truth });
        }
        Ok(sums)
    }

    /// Adds those of other pictures.
    pub fn add(&mut self, other: &Self) {
        self.both += other.both;
        self.own += other.own;
        self.truth += other.truth;
    }

    /// How much of the true change was made: the projection on it. 0 where nothing was to be changed.
    pub fn share(&self) -> f64 {
        ratio(self.both, self.truth)
    }

    /// The cosine of the change and the true one.
    pub fn direction(&self) -> f64 {
        ratio(self.both, (self.own * self.truth).sqrt())
    }

    /// The length of the change as a ratio to that of the true one.
    pub fn size(&self) -> f64 {
        ratio(self.own.sqrt(), self.truth.sqrt())
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// How much neighbouring pixels differ: the mean absolute value of the second differences of brightness, down and across.
pub fn sharpness(picture: &Picture) -> f64 {
    let (w, h) = (picture.width, picture.height);
    let light: Vec<f64> = picture
        .data
        .chunks_exact(3)
        .map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]))
        .collect();
    let (mut sum, mut count) = (0.0, 0.0);
    for y in 1..h.saturating_sub(1) {
        for x in 1..w.saturating_sub(1) {
            let at = y * w + x;
            sum += (light[at - 1] + light[at + 1] + light[at - w] + light[at + w] - 4.0 * light[at]).abs();
            count += 1.0;
        }
    }
    ratio(sum, count)
}

/// Spearman's rank correlation of two lists; equal values share their mean rank. 0 where one of them is constant.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    if spread > 0.0 { product(&a, &b) / spread } else { 0.0 }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    values
        .iter()
        .map(|v| {
            let below = values.iter().filter(|w| *w < v).count() as f64;
            let equal = values.iter().filter(|w| *w == v).count() as f64;
            below + (equal + 1.0) / 2.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(f: impl Fn(usize) -> u8) -> Picture {
        Picture::new(16, 16, (0..16 * 16 * 3).map(f).collect()).unwrap()
    }

    #[test]
    fn equal_pictures_are_alike_and_noise_is_not() {
        let a = picture(|i| (i * 7 % 251) as u8);
        assert_eq!(psnr(&a, &a).unwrap(), 100.0);
        assert!((ssim(&a, &a).unwrap() - 1.0).abs() < 1e-12);
        let shifted = picture(|i| (i * 7 % 251) as u8 / 2 + 10);
        let other = picture(|i| (i * i * 31 % 241) as u8);
        assert!(ssim(&a, &shifted).unwrap() > ssim(&a, &other).unwrap());
        // All pixels 5 apart: 20 log10(255 / 5).
        let (low, high) = (picture(|_| 100), picture(|_| 105));
        assert!((psnr(&low, &high).unwrap() - 20.0 * 51f64.log10()).abs() < 1e-12);
        // Constant windows: only the comparison of means is left.
        let c1 = (0.01f64 * 255.0).powi(2);
        let wanted = (2.0 * 100.0 * 105.0 + c1) / (100.0 * 100.0 + 105.0 * 105.0 + c1);
        assert!((ssim(&low, &high).unwrap() - wanted).abs() < 1e-9);
    }

    #[test]
    fn changes_are_projected_on_the_true_one() {
        let of = |data: [u8; 6]| Picture::new(2, 1, data.to_vec()).unwrap();
        let before = of([10; 6]);
        let (after, truth) = (of([12, 10, 13, 10, 10, 10]), of([14, 10, 10, 10, 10, 10]));
        let change = Change::of(&before, &after, &truth).unwrap();
        assert_eq!((change.share(), change.size()), (0.5, 13f64.sqrt() / 4.0));
        assert!((change.direction() - 2.0 / 13f64.sqrt()).abs() < 1e-12);
        let all = Change::of(&before, &truth, &truth).unwrap();
        assert_eq!((all.share(), all.direction(), all.size()), (1.0, 1.0, 1.0));
        let none = Change::of(&before, &before, &truth).unwrap();
        assert_eq!((none.share(), none.direction(), none.size()), (0.0, 0.0, 0.0));
    }

    #[test]
    fn an_edge_is_sharper_than_a_slope() {
        let of = |value: &dyn Fn(usize) -> u8| {
            Picture::new(8, 8, (0..8 * 8 * 3).map(|i| value(i / 3 % 8)).collect()).unwrap()
        };
        assert_eq!(sharpness(&of(&|x| 10 * x as u8)), 0.0);
        // Two of six columns see the edge of 60.
        assert!((sharpness(&of(&|x| if x < 4 { 0 } else { 60 })) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn ranks_not_values_count() {
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 11.0, 100.0]), 1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]), 0.0);
        // Ranks 1, 2.5, 2.5 against 1, 2, 3: 1.5 / sqrt(1.5 * 2).
        assert!((rank_correlation(&[1.0, 4.0, 4.0], &[1.0, 2.0, 3.0]) - 1.5 / 3f64.sqrt()).abs() < 1e-12);
    }
}
