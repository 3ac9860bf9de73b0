//! Pictures: their pixels, resizing, and the way into tensors and back.

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image as FirImage};
use mtl_recipe::{Result, bail};
use mtl_torch::ScalarOps;
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// Which number of a tensor stands for which colour: `(value / 255 - mean) / deviation`, channel by channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Subtracted from `value / 255`: of red, green and blue.
    pub mean: [f32; 3],
    /// Divides the difference: of red, green and blue.
    pub deviation: [f32; 3],
}

impl Default for Normalization {
    /// Pictures of -1 to 1.
    fn default() -> Self {
        Self { mean: [0.5; 3], deviation: [0.5; 3] }
    }
}

impl Normalization {
    /// What each byte becomes, of red, green and blue.
    pub fn tables(&self) -> [[f32; 256]; 3] {
        let mut tables = [[0f32; 256]; 3];
        for (c, table) in tables.iter_mut().enumerate() {
            for (v, entry) in table.iter_mut().enumerate() {
                *entry = (v as f32 / 255.0 - self.mean[c]) / self.deviation[c];
            }
        }
        tables
    }
}

/// An 8-bit RGB picture on its way into a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` bytes, row by row, RGB.
    pub data: Vec<u8>,
    /// What becomes of the pixels in a tensor.
    pub normalization: Normalization,
}

impl Picture {
    /// A picture of these pixels, which becomes a tensor of -1 to 1.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        if width == 0 || height == 0 || data.len() != width * height * 3 {
            bail!("an RGB image of {width}x{height} needs {} bytes, found {}", width * height * 3, data.len());
        }
        Ok(Self { width, height, data, normalization: Normalization::default() })
    }

    /// Mirrors left and right.
    pub fn flip(&mut self) {
        for row in self.data.chunks_exact_mut(self.width * 3) {
            let (mut left, mut right) = (0, self.width - 1);
            while left < right {
                for c in 0..3 {
                    row.swap(left * 3 + c, right * 3 + c);
                }
                left += 1;
                right -= 1;
            }
        }
    }

    /// Resizes with a triangle filter as wide as the reduction, as PIL's antialiased BILINEAR does.
    pub fn resize(&mut self, width: usize, height: usize) -> Result<()> {
        if (width, height) == (self.width, self.height) {
            return Ok(());
        }
        thread_local!(static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new()));
        let source = FirImage::from_slice_u8(self.width as u32, self.height as u32, &mut self.data, PixelType::U8x3)?;
        let mut target = FirImage::new(width as u32, height as u32, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        RESIZER.with_borrow_mut(|r| r.resize(&source, &mut target, &options))?;
        drop(source);
        self.data = target.into_vec();
        (self.width, self.height) = (width, height);
        Ok(())
    }

    /// Cuts out a rectangle that lies inside.
    pub fn crop(&mut self, x: usize, y: usize, width: usize, height: usize) -> Result<()> {
        if x + width > self.width || y + height > self.height {
            bail!("a crop of {width}x{height} at ({x}, {y}) leaves the {}x{} image", self.width, self.height);
        }
        let mut out = Vec::with_capacity(width * height * 3);
        for row in y..y + height {
            let start = (row * self.width + x) * 3;
            out.extend_from_slice(&self.data[start..start + width * 3]);
        }
        self.data = out;
        (self.width, self.height) = (width, height);
        Ok(())
    }

    /// Checks that it has as many numbers as are wanted of it.
    pub(crate) fn fits(&self, numbers: usize) -> Result<()> {
        if numbers != self.data.len() {
            bail!(
                "the image is {}x{}, but {numbers} numbers are wanted: add a `resize` transform",
                self.width,
                self.height
            );
        }
        Ok(())
    }

    /// Writes the normalised pixels, channels innermost.
    pub fn write(&self, out: &mut [f32]) -> Result<()> {
        self.fits(out.len())?;
        let tables = self.normalization.tables();
        for (out, pixel) in out.chunks_exact_mut(3).zip(self.data.chunks_exact(3)) {
            out[0] = tables[0][pixel[0] as usize];
            out[1] = tables[1][pixel[1] as usize];
            out[2] = tables[2][pixel[2] as usize];
        }
        Ok(())
    }
}

/// The bytes of pictures `[n, 3, height, width]`, picture by picture, row by row, red, green and blue.
///
/// # Errors
/// If the tensor has another shape.
pub fn pixels(batch: &Tensor, normalization: &Normalization) -> Result<Vec<u8>> {
    let size = batch.size();
    let [_, 3, _, _] = size[..] else { bail!("expected pictures [n, 3, height, width], found {size:?}") };
    let per_channel = |values: [f32; 3]| Tensor::f_from_slice(&values.map(|v| v * 255.0));
    let bytes = batch
        .f_to_device(Device::Cpu)?
        .f_permute([0, 2, 3, 1])?
        .f_to_kind(Kind::Float)?
        .f_mul(&per_channel(normalization.deviation)?)?
        .f_add(&per_channel(normalization.mean)?)?
        .try_clamp(0.0, 255.0)?
        .f_round()?
        .f_to_kind(Kind::Uint8)?
        .f_reshape([-1])?;
    Ok(Vec::<u8>::try_from(&bytes)?)
}

/// The pictures of a batch `[n, 3, height, width]` in rows of `columns`.
///
/// # Errors
/// As [`pixels`].
pub fn sheet(batch: &Tensor, normalization: &Normalization, columns: usize) -> Result<Picture> {
    let all = pixels(batch, normalization)?;
    let size = batch.size();
    let (n, h, w) = (size[0] as usize, size[2] as usize, size[3] as usize);
    let columns = n.min(columns).max(1);
    let rows = n.div_ceil(columns);
    let mut data = vec![0u8; rows * h * columns * w * 3];
    for (i, picture) in all.chunks_exact(h * w * 3).enumerate() {
        let (row, column) = (i / columns, i % columns);
        for (y, line) in picture.chunks_exact(w * 3).enumerate() {
            let at = ((row * h + y) * columns + column) * w * 3;
            data[at..at + line.len()].copy_from_slice(line);
        }
    }
    Picture::new(columns * w, rows * h, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Picture {
        Picture::new(width, height, (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn flipping_twice_gives_the_same_image() {
        for width in [1, 4, 5] {
            let before = picture(width, 3);
            let mut after = before.clone();
            after.flip();
            assert_eq!(after.data[..3], before.data[(width - 1) * 3..width * 3]);
            after.flip();
            assert_eq!(after, before);
        }
    }

    #[test]
    fn normalised_pixels_lie_in_minus_one_to_one() {
        let mut p = picture(1, 1);
        p.data = vec![0, 255, 51];
        let mut out = [0f32; 3];
        p.write(&mut out).unwrap();
        assert_eq!(out, [-1.0, 1.0, (51f32 / 255.0 - 0.5) / 0.5]);
    }

    #[test]
    fn pixels_come_back_from_a_tensor_of_any_normalisation() {
        for normalization in
            [Normalization::default(), Normalization { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] }]
        {
            let before = Picture { normalization, ..picture(4, 2) };
            let mut values = vec![0f32; before.data.len()];
            before.write(&mut values).unwrap();
            let tensor = Tensor::from_slice(&values).view([1, 2, 4, 3]).permute([0, 3, 1, 2]);
            assert_eq!(pixels(&tensor, &normalization).unwrap(), before.data);
        }
    }

    #[test]
    fn a_sheet_has_rows_of_pictures() {
        let tensor = Tensor::from_slice(&[-1.0f32, 0.0, 1.0]).view([3, 1, 1, 1]).repeat([1, 3, 2, 2]);
        let sheet = sheet(&tensor, &Normalization::default(), 2).unwrap();
        assert_eq!((sheet.width, sheet.height), (4, 4));
        let at = |x: usize, y: usize| sheet.data[(y * 4 + x) * 3];
        assert_eq!((at(0, 0), at(2, 0), at(0, 2), at(2, 2)), (0, 128, 255, 0));
    }
}
