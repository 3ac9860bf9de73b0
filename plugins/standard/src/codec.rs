//! Picture files: JPEG, PNG, BMP and WebP.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder as _, ImageEncoder, ImageReader, Limits, RgbImage};
use mozjpeg::{ColorSpace, Decompress, Marker};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, msg_parm_union};
use mtl_component::files::{left_instead, read_bounded};
use mtl_component::{ErrorContext as _, Picture, Result, bail, panic_text};
use std::cell::Cell;
use std::ffi::c_int;
use std::io::{self, BufRead, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Once;

/// Most pixels of a picture that is read: a square of 8192 a side.
const MAX_PIXELS: u64 = 1 << 26;
/// Most scans of a progressive JPEG; cameras and encoders write ten. Each scan costs a pass over all pixels.
const MAX_SCANS: usize = 100;
/// The largest file of a picture that is read.
const MAX_BYTES: u64 = 512 << 20;

/// Reads a file: JPEG, PNG, BMP or WebP; grey, RGBA and CMYK become RGB, and a rotation that the camera noted is done.
pub fn read(path: &Path) -> Result<Picture> {
    static TOLD: Once = Once::new();
    static NOT_SQUARE: Once = Once::new();
    let bytes = read_bytes(path)?;
    let (picture, turned) = decoded(&bytes).with_context(|| format!("{} is not a readable image", path.display()))?;
    if picture.width != picture.height {
        NOT_SQUARE.call_once(|| {
            tracing::info!(
                "{} has {}x{} pixels: what is not a square is stretched or cut to one, here and in every such picture. Aligned \
                 crops of faces are square",
                path.display(),
                picture.width,
                picture.height
            );
        });
    }
    if turned {
        TOLD.call_once(|| {
            tracing::info!(
                "{} says by EXIF how it is to be turned: that is done, here and in every such picture",
                path.display()
            );
        });
    }
    Ok(picture)
}

/// The bytes of a JPEG file of that quality, 1 to 100.
///
/// # Errors
/// If the picture is too large for the format.
pub fn jpeg(picture: &Picture, quality: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = (picture.width as u32, picture.height as u32);
    JpegEncoder::new_with_quality(&mut bytes, quality).write_image(
        &picture.data,
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

/// The bytes of an image file, as they are.
///
/// # Errors
/// If it cannot be read, or is larger than any picture.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    read_bounded(path, MAX_BYTES).with_context(|| format!("reading {}", path.display()))
}

/// Decodes the bytes of an image file.
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    Ok(decoded(bytes)?.0)
}

/// The picture upright, and whether it had to be turned.
fn decoded(bytes: &[u8]) -> Result<(Picture, bool)> {
    let (image, orientation) = match bytes {
        [0xff, 0xd8, ..] => decode_jpeg(bytes)?,
        _ => decode_other(bytes)?,
    };
    let turned = orientation != Orientation::NoTransforms;
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    Ok((Picture::new(image.width() as usize, image.height() as usize, image.into_raw())?, turned))
}

fn decode_other(bytes: &[u8]) -> Result<(RgbImage, Orientation)> {
    if let Some(other) = not_a_picture(bytes) {
        bail!("{other}");
    }
    // The size stands at the beginning: what would be too large is not decoded.
    let reader = || ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let (width, height) = reader()?.into_dimensions()?;
    check_size(width as usize, height as usize)?;
    let mut reader = reader()?;
    let mut limits = Limits::default();
    // Four channels of 16 bits, and as much again for what a file carries beside its pixels.
    limits.max_alloc = Some(16 * u64::from(width) * u64::from(height) + (64 << 20));
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    // Notes that cannot be read turn nothing.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder)?.into_rgb8(), orientation))
}

/// What a file is that is often found under the name of a picture.
fn not_a_picture(bytes: &[u8]) -> Option<&'static str> {
    left_instead(bytes).or(match bytes {
        [0x00, 0x05, 0x16, 0x07, ..] => Some("it holds notes of macOS beside a picture (AppleDouble), not a picture"),
        [b'P', b'1'..=b'6', b' ' | b'\n' | b'\r' | b'\t', ..] => {
            Some("it is a PGM or PPM picture, which is not read: convert it to PNG")
        }
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => {
            Some("it is a TIFF picture, which is not read: convert it to PNG")
        }
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
            Some("it is a HEIC or AVIF picture, which is not read: convert it to PNG or JPEG")
        }
        _ => None,
    })
}

/// The bytes of a picture, beyond which there is nothing to read: decoders fill up what is missing with grey.
struct Whole<'b>(&'b [u8]);

impl Read for Whole<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.0.is_empty() { Err(io::Error::other(TRUNCATED)) } else { Ok(self.0) }
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

const TRUNCATED: &str = "the file ends before the picture does: it is truncated";

fn decode_jpeg(bytes: &[u8]) -> Result<(RgbImage, Orientation)> {
    let scans = bytes.windows(2).filter(|w| *w == [0xff, 0xda]).count();
    if scans > MAX_SCANS {
        bail!("the JPEG has {scans} scans, and more than {MAX_SCANS} are not read");
    }
    // libjpeg, since published numbers are made with it; its wrapper reports damage by unwinding.
    let decoded = |watching: Option<jpeg_error_mgr>| {
        catch_unwind(AssertUnwindSafe(|| -> Result<Option<(RgbImage, Orientation)>> {
            let builder = watching.map_or_else(Decompress::builder, Decompress::with_err);
            let decoder = builder.with_markers(&[Marker::APP(1)]).from_reader(Whole(bytes))?;
            check_size(decoder.width(), decoder.height())?;
            let exif = decoder.markers().find_map(|marker| marker.data.strip_prefix(b"Exif\0\0"));
            let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
            // What it warns of while it decodes pixels it has made up; bytes too many between markers change nothing.
            WARNED.set(false);
            if matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK) {
                let mut decoder = decoder.to_colorspace(ColorSpace::JCS_CMYK)?;
                decoder.read_scanlines::<[u8; 4]>()?;
                if WARNED.get() {
                    bail!("{DAMAGED}");
                }
                decoder.finish()?;
                return Ok(None);
            }
            let mut decoder = decoder.rgb()?;
            let (width, height) = (decoder.width() as u32, decoder.height() as u32);
            let data = decoder.read_scanlines::<[u8; 3]>()?.into_flattened();
            if WARNED.get() {
                bail!("{DAMAGED}");
            }
            decoder.finish()?;
            Ok(RgbImage::from_raw(width, height, data).map(|image| (image, orientation)))
        }))
    };
    match decoded(Some(watching())) {
        Ok(Ok(Some(picture))) => return Ok(picture),
        // libjpeg has no way from CMYK to RGB: it has said that the file is whole.
        Ok(Ok(None)) => return decode_other(bytes),
        Ok(Err(e)) => return Err(e),
        // Once more for its words.
        Err(_) => {}
    }
    match decoded(None) {
        Ok(Err(e)) => Err(e),
        Ok(Ok(_)) => bail!("{DAMAGED}"),
        Err(panic) => match panic_text(&*panic) {
            // The words of libjpeg for a source that gives no more.
            text if text.contains("Input file read error") => bail!("{TRUNCATED}"),
            text => bail!("the JPEG is damaged: {text}"),
        },
    }
}

const DAMAGED: &str = "the JPEG is damaged: its data ends early or is not that of a picture";

thread_local! {
    /// Whether libjpeg has warned of a picture that this thread decodes.
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

/// What libjpeg does with what it finds: an error unwinds, a warning is noted, and all else is quiet.
fn watching() -> jpeg_error_mgr {
    extern "C-unwind" fn error(_: &mut jpeg_common_struct) {
        resume_unwind(Box::new(DAMAGED));
    }
    extern "C-unwind" fn note(_: &mut jpeg_common_struct, level: c_int) {
        if level < 0 {
            WARNED.set(true);
        }
    }
    extern "C-unwind" fn quiet(_: &mut jpeg_common_struct) {}
    jpeg_error_mgr {
        error_exit: Some(error),
        emit_message: Some(note),
        output_message: Some(quiet),
        format_message: None,
        reset_error_mgr: Some(quiet),
        msg_code: 0,
        msg_parm: msg_parm_union { _bindgen_data_: [0; 20] },
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: std::ptr::null(),
        last_jpeg_message: 0,
        addon_message_table: std::ptr::null(),
        first_addon_message: 0,
        last_addon_message: 0,
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

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let mut file = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 90);
        let picture = picture(width as usize, height as usize);
        RgbImage::from_raw(width, height, picture.data).unwrap().write_with_encoder(encoder).unwrap();
        file
    }

    /// The file with a block of EXIF after its start: an orientation, and something behind it.
    fn with_exif(file: &[u8], orientation: u8, behind: &[u8]) -> Vec<u8> {
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        exif.extend(behind);
        let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
        [&file[..2], &[0xff, 0xe1], &length, &exif, &file[2..]].concat()
    }

    #[test]
    fn a_truncated_jpeg_is_refused() {
        let file = jpeg(64, 64);
        assert_eq!(decode(&file).unwrap().width, 64);
        // A thumbnail has an end of its own, which is not that of the picture.
        let with_thumbnail = with_exif(&file, 1, &jpeg(8, 8));
        assert_eq!(decode(&with_thumbnail).unwrap(), decode(&file).unwrap());
        for whole in [&file, &with_thumbnail] {
            for cut in [whole.len() * 9 / 10, whole.len() - 2, whole.len() - 1] {
                let error = format!("{:#}", decode(&whole[..cut]).unwrap_err());
                assert!(error.contains("truncated"), "{error}");
            }
        }
        assert!(decode(&file[..20]).is_err());
        // An end that was put behind half of the data.
        let ended = [&file[..file.len() * 6 / 10], &[0xff, 0xd9]].concat();
        let error = format!("{:#}", decode(&ended).unwrap_err());
        assert!(error.contains("ends early"), "{error}");
        // The same of four colours, which libjpeg only looks at.
        let file = include_bytes!("../../../tests/reference/cmyk.jpg");
        assert!(decode(file).is_ok());
        for cut in [file.len() * 97 / 100, file.len() - 2] {
            assert!(format!("{:#}", decode(&file[..cut]).unwrap_err()).contains("truncated"));
        }
        let file = jpeg(64, 64);
        // Bytes too many before the end, and behind it, change no pixel.
        let (most, end) = file.split_at(file.len() - 2);
        for whole in [[most, &[0, 0, 0], end].concat(), [&file[..], b"behind"].concat()] {
            assert_eq!(decode(&whole).unwrap(), decode(&file).unwrap());
        }
    }

    #[test]
    fn pictures_are_turned_as_the_camera_noted() {
        let plain = decode(&jpeg(16, 8)).unwrap();
        let turned = decode(&with_exif(&jpeg(16, 8), 6, &[])).unwrap();
        assert_eq!((turned.width, turned.height), (8, 16));
        // A quarter to the right: the first row becomes the last column.
        assert_eq!(turned.data[7 * 3..8 * 3], plain.data[..3]);
        let mirrored = decode(&with_exif(&jpeg(16, 8), 2, &[])).unwrap();
        assert_eq!(mirrored.data[..3], plain.data[15 * 3..16 * 3]);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        for (bytes, word) in [
            (&b"<!DOCTYPE html><html>"[..], "web page"),
            (b"\n <HTML>", "web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git LFS"),
            (b"P5\n92 112\n255\n", "PGM"),
            (b"II\x2a\0\x08\0", "TIFF"),
            (b"\0\0\0\x18ftypheic", "HEIC"),
            (b"\0\x05\x16\x07\0\x02\0\0", "macOS"),
            (b"", "empty"),
        ] {
            let error = decode(bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
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
        let mut file = jpeg(16, 8);
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
