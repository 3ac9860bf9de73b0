//! Pictures as PNG files.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use mtl_component::{Picture, Result};

/// The bytes of a PNG file, without loss.
///
/// # Errors
/// If the picture cannot be encoded.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let (width, height) = (u32::try_from(picture.width)?, u32::try_from(picture.height)?);
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&picture.data, width, height, ExtendedColorType::Rgb8)?;
    Ok(png)
}
