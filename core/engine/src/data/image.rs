//! Images: decoding, resizing and the way into a tensor.

use super::panic_text;
use anyhow::{Context, Result, bail};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image as FirImage};
use mozjpeg::{ColorSpace, Decompress};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Largest side of an image that is read.
const MAX_SIDE: usize = 1 << 14;

/// An 8-bit RGB image on its way into a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` bytes, row by row, RGB.
    pub data: Vec<u8>,
    /// Subtracted from `value / 255`, a channel.
    pub mean: [f32; 3],
    /// Divides the difference, a channel.
    pub deviation: [f32; 3],
}

impl Picture {
    /// An image of these pixels, with the normalisation of face recognition: `(x / 255 - 0.5) / 0.5`.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        if width == 0 || height == 0 || data.len() != width * height * 3 {
            bail!("an RGB image of {width}x{height} needs {} bytes, found {}", width * height * 3, data.len());
        }
        Ok(Self { width, height, data, mean: [0.5; 3], deviation: [0.5; 3] })
    }

    /// Reads a file: JPEG, PNG, BMP or WebP; grey, RGBA and CMYK become RGB.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::decode(&bytes).with_context(|| format!("{} is no readable image", path.display()))
    }

    /// Decodes the bytes of an image file.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(&[0xff, 0xd8]) {
            return Self::decode_jpeg(bytes);
        }
        Self::decode_other(bytes)
    }

    fn decode_other(bytes: &[u8]) -> Result<Self> {
        let image = image::load_from_memory(bytes)?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        check_size(width, height)?;
        Self::new(width, height, image.into_rgb8().into_raw())
    }

    fn decode_jpeg(bytes: &[u8]) -> Result<Self> {
        // A whole file ends with the end-of-image marker; decoders fill up what is missing with grey.
        if !bytes.windows(2).rev().any(|w| w == [0xff, 0xd9]) {
            bail!("the JPEG is truncated: no end-of-image marker");
        }
        // libjpeg, since published numbers are made with it; its wrapper reports damage by unwinding.
        let decoded = catch_unwind(AssertUnwindSafe(|| -> Result<Option<Self>> {
            let decoder = Decompress::new_mem(bytes)?;
            if matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK) {
                return Ok(None);
            }
            check_size(decoder.width(), decoder.height())?;
            let mut decoder = decoder.rgb()?;
            let (width, height) = (decoder.width(), decoder.height());
            let data = decoder.read_scanlines::<[u8; 3]>()?.into_flattened();
            decoder.finish()?;
            Ok(Some(Self::new(width, height, data)?))
        }));
        match decoded {
            Ok(Ok(Some(picture))) => Ok(picture),
            // libjpeg has no way from CMYK to RGB.
            Ok(Ok(None)) => Self::decode_other(bytes),
            Ok(Err(e)) => Err(e),
            Err(panic) => bail!("the JPEG is damaged: {}", panic_text(&*panic)),
        }
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

    /// Writes the normalised pixels, channels innermost.
    pub fn write(&self, out: &mut [f32]) -> Result<()> {
        if out.len() != self.data.len() {
            bail!(
                "the image is {}x{}, but {} numbers are wanted: add a `resize` transform",
                self.width,
                self.height,
                out.len()
            );
        }
        let mut tables = [[0f32; 256]; 3];
        for (c, table) in tables.iter_mut().enumerate() {
            for (v, entry) in table.iter_mut().enumerate() {
                *entry = (v as f32 / 255.0 - self.mean[c]) / self.deviation[c];
            }
        }
        for (out, pixel) in out.chunks_exact_mut(3).zip(self.data.chunks_exact(3)) {
            out[0] = tables[0][pixel[0] as usize];
            out[1] = tables[1][pixel[1] as usize];
            out[2] = tables[2][pixel[2] as usize];
        }
        Ok(())
    }
}

fn check_size(width: usize, height: usize) -> Result<()> {
    if width > MAX_SIDE || height > MAX_SIDE {
        bail!("{width}x{height} pixels are more than {MAX_SIDE} a side");
    }
    Ok(())
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
    fn a_truncated_jpeg_is_refused() {
        let mut file = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 90);
        image::RgbImage::from_raw(16, 8, picture(16, 8).data).unwrap().write_with_encoder(encoder).unwrap();
        assert_eq!(Picture::decode(&file).unwrap().width, 16);
        let error = Picture::decode(&file[..file.len() / 2]).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn grey_and_transparent_files_become_rgb() {
        let mut png = std::io::Cursor::new(Vec::new());
        image::DynamicImage::ImageLumaA8(image::GrayAlphaImage::from_raw(1, 1, vec![9, 0]).unwrap())
            .write_to(&mut png, image::ImageFormat::Png)
            .unwrap();
        assert_eq!(Picture::decode(png.get_ref()).unwrap().data, [9, 9, 9]);
    }
}
