//! Alignment of faces by five points: the similarity that brings them to a template, and the picture that it makes.

use mtl_component::{Picture, Result, mistake};

/// Left eye, right eye, nose, left and right corner of the mouth as seen in the picture: x and y in pixels.
pub type Points = [[f64; 2]; 5];

/// Where ArcFace's aligned pictures of 112 pixels have the five points (Deng et al. 2019, as in insightface).
pub const TEMPLATE: Points =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];

/// Points whose similarity leaves more than this, in pixels of the template, are taken for wrong ones: a profile leaves 9,
/// exchanged eyes 23.
pub const MOST_RESIDUAL: f64 = 12.0;

/// The size of aligned pictures in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlignedSize {
    /// The width.
    pub width: usize,
    /// The height.
    pub height: usize,
}

impl AlignedSize {
    /// The template for pictures of that size: of a multiple of 112, of 128, where 8 in 128 are added at the sides, or of 96
    /// by 112, where 8 at each side are left out.
    ///
    /// # Errors
    /// A mistake for another size.
    pub fn template(self) -> Result<Points> {
        let (scale, beside) = match (self.width, self.height) {
            (96, 112) => (1.0, -8.0),
            (side, height) if side == height && side > 0 && side % 112 == 0 => (side as f64 / 112.0, 0.0),
            (side, height) if side == height && side > 0 && side % 128 == 0 => {
                (side as f64 / 128.0, 8.0 * side as f64 / 128.0)
            }
            (width, height) => mistake!(
                "there is no template for {width}x{height}: expected a multiple of 112 or of 128 a side, or 96x112"
            ),
        };
        Ok(TEMPLATE.map(|[x, y]| [x * scale + beside, y * scale]))
    }

    /// Pixels of this size for one of the template of 112.
    pub fn scale(self) -> f64 {
        if self.height.is_multiple_of(112) { self.height as f64 / 112.0 } else { self.height as f64 / 128.0 }
    }
}

/// A rotation, a scale and a shift of the plane: `w = a z + b` in complex numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    a: [f64; 2],
    b: [f64; 2],
}

impl Similarity {
    /// The similarity that brings points nearest to others, by least squares. In the plane it is a line of complex numbers,
    /// so that it needs no singular values and is never a reflection; it is that of Umeyama (1991). None if all points are
    /// one.
    pub fn between(from: &Points, to: &Points) -> Option<Self> {
        let mean = |points: &Points| {
            let sum = points.iter().fold([0.0, 0.0], |sum, p| [sum[0] + p[0], sum[1] + p[1]]);
            [sum[0] / 5.0, sum[1] / 5.0]
        };
        let (z0, w0) = (mean(from), mean(to));
        let (mut real, mut imaginary, mut square) = (0.0, 0.0, 0.0);
        for (z, w) in from.iter().zip(to) {
            let (z, w) = ([z[0] - z0[0], z[1] - z0[1]], [w[0] - w0[0], w[1] - w0[1]]);
            real += z[0] * w[0] + z[1] * w[1];
            imaginary += z[0] * w[1] - z[1] * w[0];
            square += z[0] * z[0] + z[1] * z[1];
        }
        let a = [real / square, imaginary / square];
        let fits = square > 0.0 && (a[0] != 0.0 || a[1] != 0.0) && a.iter().all(|v| v.is_finite());
        let turned = [a[0] * z0[0] - a[1] * z0[1], a[1] * z0[0] + a[0] * z0[1]];
        fits.then_some(Self { a, b: [w0[0] - turned[0], w0[1] - turned[1]] })
    }

    /// Where a point comes to lie.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let Self { a, b } = self;
        [a[0] * x - a[1] * y + b[0], a[1] * x + a[0] * y + b[1]]
    }

    /// The similarity back.
    pub fn inverse(&self) -> Self {
        let Self { a, b } = self;
        let square = a[0] * a[0] + a[1] * a[1];
        let a = [a[0] / square, -a[1] / square];
        Self { a, b: [-(a[0] * b[0] - a[1] * b[1]), -(a[1] * b[0] + a[0] * b[1])] }
    }

    /// How many pixels one becomes.
    pub fn scale(&self) -> f64 {
        self.a[0].hypot(self.a[1])
    }

    /// The root mean square of the distances that are left between the points and those to which they should come.
    pub fn residual(&self, from: &Points, to: &Points) -> f64 {
        let squares = from.iter().zip(to).map(|(z, w)| {
            let at = self.apply(*z);
            (at[0] - w[0]).powi(2) + (at[1] - w[1]).powi(2)
        });
        (squares.sum::<f64>() / 5.0).sqrt()
    }
}

/// A picture of which this similarity brought each pixel to its place: bilinear between the four nearest, black outside of
/// the source. With `grid` places are rounded to 1/32 of a pixel, as OpenCV 4 does.
///
/// # Errors
/// If the size is none.
pub fn warp(source: &Picture, similarity: &Similarity, size: AlignedSize, grid: bool) -> Result<Picture> {
    let back = similarity.inverse();
    let (width, height) = (source.width as isize, source.height as isize);
    let pixel = |x: isize, y: isize, channel: usize| -> f64 {
        let inside = (0..width).contains(&x) && (0..height).contains(&y);
        if inside { f64::from(source.data[(y * width + x) as usize * 3 + channel]) } else { 0.0 }
    };
    let mut data = Vec::with_capacity(size.width * size.height * 3);
    for y in 0..size.height {
        for x in 0..size.width {
            let [mut u, mut v] = back.apply([x as f64, y as f64]);
            if grid {
                (u, v) = ((u * 32.0).round() / 32.0, (v * 32.0).round() / 32.0);
            }
            let (left, top) = (u.floor(), v.floor());
            let (right_part, low_part) = (u - left, v - top);
            let (left, top) = (left as isize, top as isize);
            for channel in 0..3 {
                let row = |y: isize| {
                    pixel(left, y, channel) * (1.0 - right_part)
                        + pixel(left.saturating_add(1), y, channel) * right_part
                };
                let value = row(top) * (1.0 - low_part) + row(top.saturating_add(1)) * low_part;
                data.push((value + 0.5).floor().clamp(0.0, 255.0) as u8);
            }
        }
    }
    Picture::new(size.width, size.height, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_those_of_skimage() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/align.json"));
        let cases: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        for (name, case) in cases.as_object().unwrap() {
            let Ok(points) = serde_json::from_value::<Points>(case["points"].clone()) else { continue };
            let matrix: [[f64; 3]; 2] = serde_json::from_value(case["matrix"].clone()).unwrap();
            let found = Similarity::between(&points, &TEMPLATE).unwrap();
            let own = [[found.a[0], -found.a[1], found.b[0]], [found.a[1], found.a[0], found.b[1]]];
            for (a, b) in own.iter().flatten().zip(matrix.iter().flatten()) {
                // Sums in another order, of coordinates up to 400.
                assert!((a - b).abs() < 1e-10, "{name}: {own:?} {matrix:?}");
            }
            let residual = found.residual(&points, &TEMPLATE);
            assert!((residual - case["rms_residual"].as_f64().unwrap()).abs() < 1e-10, "{name}");
            let there = found.inverse().apply(found.apply([7.0, -3.0]));
            assert!((there[0] - 7.0).abs() < 1e-9 && (there[1] + 3.0).abs() < 1e-9);
        }
        assert_eq!(Similarity::between(&[[1.0, 1.0]; 5], &TEMPLATE), None);
    }

    #[test]
    fn templates_grow_with_the_size() {
        let of = |width, height| AlignedSize { width, height }.template();
        assert_eq!(of(224, 224).unwrap()[0], [38.2946 * 2.0, 51.6963 * 2.0]);
        assert_eq!(of(256, 256).unwrap()[0], [38.2946 * 2.0 + 16.0, 51.6963 * 2.0]);
        assert_eq!(of(96, 112).unwrap()[0], [38.2946 - 8.0, 51.6963]);
        assert!(of(100, 100).unwrap_err().to_string().contains("multiple of 112"));
    }

    #[test]
    fn what_is_aligned_already_stays() {
        let data: Vec<u8> = (0..112 * 112 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let picture = Picture::new(112, 112, data).unwrap();
        let same = Similarity::between(&TEMPLATE, &TEMPLATE).unwrap();
        let size = AlignedSize { width: 112, height: 112 };
        let warped = warp(&picture, &same, size, true).unwrap();
        assert_eq!(warped, picture);
        // A shift by three pixels leaves black behind.
        let moved = TEMPLATE.map(|[x, y]| [x + 3.0, y]);
        let shift = Similarity::between(&TEMPLATE, &moved).unwrap();
        let shifted = warp(&picture, &shift, size, true).unwrap();
        assert_eq!(shifted.data[..9], [0; 9]);
        assert_eq!(shifted.data[9..12], picture.data[..3]);
    }
}
