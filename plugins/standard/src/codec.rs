//! Picture files: JPEG, PNG, BMP and WebP.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageReader, Limits};
use mozjpeg::{ColorSpace, Decompress};
use mtl_component::files::read_bounded;
use mtl_component::{ErrorContext as _, Picture, Result, bail, panic_text};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Most pixels of a picture that is read: a square of 8192 a side.
const MAX_PIXELS: u64 = 1 << 26;
/// Most scans of a progressive JPEG; cameras and encoders write ten. Each scan costs a pass over all pixels.
const MAX_SCANS: usize = 100;
/// The largest file of a picture that is read.
const MAX_BYTES: u64 = 512 << 20;

/// Reads a file: JPEG, PNG, BMP or WebP; grey, RGBA and CMYK become RGB.
pub fn read(path: &Path) -> Result<Picture> {
    let bytes = read_bounded(path, MAX_BYTES).with_context(|| format!("reading {}", path.display()))?;
    decode(&bytes).with_context(|| format!("{} is not a readable image", path.display()))
}

/// Decodes the bytes of an image file.
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    if bytes.starts_with(&[0xff, 0xd8]) {
        return decode_jpeg(bytes);
    }
    decode_other(bytes)
}

fn decode_other(bytes: &[u8]) -> Result<Picture> {
    // The size stands at the beginning: what would be too large is not decoded.
    let reader = || ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let (width, height) = reader()?.into_dimensions()?;
    check_size(width as usize, height as usize)?;
    let mut reader = reader()?;
    let mut limits = Limits::default();
    // Four channels of 16 bits, and as much again for what a file carries beside its pixels.
    limits.max_alloc = Some(16 * u64::from(width) * u64::from(height) + (64 << 20));
    reader.limits(limits);
    let image = reader.decode()?;
    Picture::new(width as usize, height as usize, image.into_rgb8().into_raw())
}

fn decode_jpeg(bytes: &[u8]) -> Result<Picture> {
    // A whole file ends with the end-of-image marker; decoders fill up what is missing with grey.
    if !bytes.windows(2).rev().any(|w| w == [0xff, 0xd9]) {
        bail!("the JPEG is truncated: no end-of-image marker");
    }
    let scans = bytes.windows(2).filter(|w| *w == [0xff, 0xda]).count();
    if scans > MAX_SCANS {
        bail!("the JPEG has {scans} scans, and more than {MAX_SCANS} are not read");
    }
    // libjpeg, since published numbers are made with it; its wrapper reports damage by unwinding.
    let decoded = catch_unwind(AssertUnwindSafe(|| -> Result<Option<Picture>> {
        let decoder = Decompress::new_mem(bytes)?;
        if matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK) {
            return Ok(None);
        }
        check_size(decoder.width(), decoder.height())?;
        let mut decoder = decoder.rgb()?;
        let (width, height) = (decoder.width(), decoder.height());
        let data = decoder.read_scanlines::<[u8; 3]>()?.into_flattened();
        decoder.finish()?;
        Ok(Some(Picture::new(width, height, data)?))
    }));
    match decoded {
        Ok(Ok(Some(picture))) => Ok(picture),
        // libjpeg has no way from CMYK to RGB.
        Ok(Ok(None)) => decode_other(bytes),
        Ok(Err(e)) => Err(e),
        Err(panic) => bail!("the JPEG is damaged: {}", panic_text(&*panic)),
    }
}

fn check_size(width: usize, height: usize) -> Result<()> {
    if (width as u64).saturating_mul(height as u64) > MAX_PIXELS {
        bail!("{width}x{height} pixels are more than the {MAX_PIXELS} of a picture that is read");
    }
    Ok(())
}

/// The bytes of a PNG file.
///
/// # Errors
/// If the picture cannot be encoded.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let (width, height) = (u32::try_from(picture.width)?, u32::try_from(picture.height)?);
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&picture.data, width, height, ExtendedColorType::Rgb8)?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Picture {
        Picture::new(width, height, (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn png_keeps_every_pixel() {
        let before = picture(5, 3);
        assert_eq!(decode(&png(&before).unwrap()).unwrap(), before);
    }

    #[test]
    fn a_truncated_jpeg_is_refused() {
        let mut file = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 90);
        image::RgbImage::from_raw(16, 8, picture(16, 8).data).unwrap().write_with_encoder(encoder).unwrap();
        assert_eq!(decode(&file).unwrap().width, 16);
        let error = decode(&file[..file.len() / 2]).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn pictures_that_would_cost_too_much_are_refused() {
        // Heads of files: sizes that no face has, and scans without end.
        let mut bmp = b"BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00".to_vec();
        bmp.extend(11_000u32.to_le_bytes());
        bmp.extend(11_000u32.to_le_bytes());
        bmp.extend([1, 0, 24, 0]);
        bmp.extend([0; 24]);
        let error = decode(&bmp).unwrap_err().to_string();
        assert!(error.contains("11000x11000 pixels are more than"), "{error}");
        let mut file = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 90);
        image::RgbImage::from_raw(16, 8, picture(16, 8).data).unwrap().write_with_encoder(encoder).unwrap();
        file.splice(2..2, [0xff, 0xda].repeat(101));
        let error = decode(&file).unwrap_err().to_string();
        assert!(error.contains("scans"), "{error}");
    }

    #[test]
    fn grey_and_transparent_files_become_rgb() {
        let mut png = std::io::Cursor::new(Vec::new());
        image::DynamicImage::ImageLumaA8(image::GrayAlphaImage::from_raw(1, 1, vec![9, 0]).unwrap())
            .write_to(&mut png, image::ImageFormat::Png)
            .unwrap();
        assert_eq!(decode(png.get_ref()).unwrap().data, [9, 9, 9]);
    }
}
