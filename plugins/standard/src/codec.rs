//! Picture files: JPEG, PNG, BMP and WebP.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use mozjpeg::{ColorSpace, Decompress};
use mtl_component::{ErrorContext as _, Picture, Result, bail, panic_text};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Largest side of a picture that is read.
const MAX_SIDE: usize = 1 << 14;

/// Reads a file: JPEG, PNG, BMP or WebP; grey, RGBA and CMYK become RGB.
pub fn read(path: &Path) -> Result<Picture> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
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
    let image = image::load_from_memory(bytes)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    check_size(width, height)?;
    Picture::new(width, height, image.into_rgb8().into_raw())
}

fn decode_jpeg(bytes: &[u8]) -> Result<Picture> {
    // A whole file ends with the end-of-image marker; decoders fill up what is missing with grey.
    if !bytes.windows(2).rev().any(|w| w == [0xff, 0xd9]) {
        bail!("the JPEG is truncated: no end-of-image marker");
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
    if width > MAX_SIDE || height > MAX_SIDE {
        bail!("{width}x{height} pixels are more than {MAX_SIDE} a side");
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
    fn grey_and_transparent_files_become_rgb() {
        let mut png = std::io::Cursor::new(Vec::new());
        image::DynamicImage::ImageLumaA8(image::GrayAlphaImage::from_raw(1, 1, vec![9, 0]).unwrap())
            .write_to(&mut png, image::ImageFormat::Png)
            .unwrap();
        assert_eq!(decode(png.get_ref()).unwrap().data, [9, 9, 9]);
    }
}
