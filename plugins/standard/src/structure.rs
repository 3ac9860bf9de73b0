//! Structural similarity of pictures.

use mtl_component::nn::conv2d;
use mtl_component::{Result, ScalarOps, ensure};
use tch::{Kind, Tensor};

/// Width and height of the Gaussian window in pixels, and its standard deviation.
pub const WINDOW: i64 = 11;
const DEVIATION: f64 = 1.5;

/// Mean structural similarity (Wang et al. 2004, eq. 13) of each pair of pictures `[batch, channels, height, width]`, as
/// `[batch]`: Gaussian windows wholly inside the picture, K1 0.01, K2 0.03, mean over the channels. `range` is how far the
/// largest and the least value of a pixel can be apart: 255 for bytes, 2 for numbers from -1 to 1.
///
/// # Errors
/// If the shapes differ, or a picture is smaller than the window.
pub fn similarity(a: &Tensor, b: &Tensor, range: f64) -> Result<Tensor> {
    let size = a.size();
    ensure!(size == b.size(), "pictures of the shapes {size:?} and {:?} cannot be compared", b.size());
    let [batch, channels, height, width] = size[..] else {
        mtl_component::bail!("pictures have 4 sizes, found {size:?}")
    };
    ensure!(
        height >= WINDOW && width >= WINDOW,
        "structural similarity needs pictures of at least {WINDOW} pixels a side, found {height}x{width}"
    );
    let half = WINDOW / 2;
    let weights: Vec<f64> = (-half..=half).map(|i| (-((i * i) as f64) / (2.0 * DEVIATION * DEVIATION)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let line = Tensor::f_from_slice(&weights)?.try_div_scalar(total)?.f_to_kind(a.kind())?.f_to_device(a.device())?;
    let (down, across) = (line.f_view([1, 1, WINDOW, 1])?, line.f_view([1, 1, 1, WINDOW])?);
    let apart = |t: &Tensor| t.f_reshape([batch * channels, 1, height, width]);
    let (x, y) = (apart(a)?, apart(b)?);
    let mean = |t: &Tensor| conv2d(&conv2d(t, &down, None, 1, 0)?, &across, None, 1, 0);
    let (mx, my) = (mean(&x)?, mean(&y)?);
    let covariance = |p: &Tensor, q: &Tensor, mp: &Tensor, mq: &Tensor| -> Result<Tensor> {
        Ok(mean(&p.f_mul(q)?)?.f_sub(&mp.f_mul(mq)?)?)
    };
    let (xx, yy) = (covariance(&x, &x, &mx, &mx)?, covariance(&y, &y, &my, &my)?);
    let xy = covariance(&x, &y, &mx, &my)?;
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let twice = |t: &Tensor, c: f64| -> Result<Tensor> { Ok(t.try_mul_scalar(2.0)?.try_add_scalar(c)?) };
    let top = twice(&mx.f_mul(&my)?, c1)?.f_mul(&twice(&xy, c2)?)?;
    let means = mx.f_square()?.f_add(&my.f_square()?)?.try_add_scalar(c1)?;
    let bottom = means.f_mul(&xx.f_add(&yy)?.try_add_scalar(c2)?)?;
    let map = top.f_div(&bottom)?.f_reshape([batch, -1])?;
    Ok(map.f_mean_dim([1i64].as_slice(), false, None::<Kind>)?)
}
