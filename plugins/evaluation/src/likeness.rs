//! How alike two pictures are, pixel by pixel and in structure.

use mtl_component::nn::conv2d;
use mtl_component::{Picture, Result, ScalarOps, ensure};
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
    ensure!(a.width >= 11 && a.height >= 11, "structural similarity needs pictures of at least 11 pixels a side");
    let weights: Vec<f64> = (-5..=5).map(|i| (-f64::from(i * i) / (2.0 * 1.5 * 1.5)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let line = Tensor::f_from_slice(&weights)?.try_div_scalar(total)?;
    let window = line.f_view([11, 1])?.f_matmul(&line.f_view([1, 11])?)?.f_view([1, 1, 11, 11])?;
    let (x, y) = (channels(a)?, channels(b)?);
    let mean = |t: &Tensor| conv2d(t, &window, None, 1, 0);
    let (mx, my) = (mean(&x)?, mean(&y)?);
    let covariance = |p: &Tensor, q: &Tensor, mp: &Tensor, mq: &Tensor| -> Result<Tensor> {
        Ok(mean(&p.f_mul(q)?)?.f_sub(&mp.f_mul(mq)?)?)
    };
    let (xx, yy) = (covariance(&x, &x, &mx, &mx)?, covariance(&y, &y, &my, &my)?);
    let xy = covariance(&x, &y, &mx, &my)?;
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let twice = |t: &Tensor, c: f64| -> Result<Tensor> { Ok(t.try_mul_scalar(2.0)?.try_add_scalar(c)?) };
    let top = twice(&mx.f_mul(&my)?, c1)?.f_mul(&twice(&xy, c2)?)?;
    let means = mx.f_square()?.f_add(&my.f_square()?)?.try_add_scalar(c1)?;
    let bottom = means.f_mul(&xx.f_add(&yy)?.try_add_scalar(c2)?)?;
    Ok(top.f_div(&bottom)?.f_mean(Kind::Double)?.f_double_value(&[])?)
}

/// `[3, 1, height, width]` of 0 to 255.
fn channels(picture: &Picture) -> Result<Tensor> {
    let (h, w) = (picture.height as i64, picture.width as i64);
    let flat = Tensor::f_from_slice(&picture.data)?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    Ok(flat.f_view([h, w, 3])?.f_permute([2, 0, 1])?.f_unsqueeze(1)?.f_contiguous()?)
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
    fn ranks_not_values_count() {
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 11.0, 100.0]), 1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]), 0.0);
        // Ranks 1, 2.5, 2.5 against 1, 2, 3: 1.5 / sqrt(1.5 * 2).
        assert!((rank_correlation(&[1.0, 4.0, 4.0], &[1.0, 2.0, 3.0]) - 1.5 / 3f64.sqrt()).abs() < 1e-12);
    }
}
