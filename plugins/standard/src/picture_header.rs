//! What the header of a picture file says: its format, its size, its colours, and how strongly it was compressed.

/// The format of a picture file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// Windows bitmap.
    Bmp,
    /// WebP.
    WebP,
}

impl Format {
    /// The format that the first bytes are of.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [b'B', b'M', ..] => Some(Self::Bmp),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Bmp => "BMP",
            Self::WebP => "WebP",
        }
    }

    /// The ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Bmp => "bmp",
            Self::WebP => "webp",
        }
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureHeader {
    /// The format.
    pub format: Format,
    /// Width and height in pixels, where the header was found.
    pub size: Option<(u32, u32)>,
    /// Whether it has one channel of brightness.
    pub is_grey: bool,
    /// The quality of a JPEG by the scale of libjpeg, 1 to 100: that whose table of brightness is nearest.
    pub quality: Option<u8>,
}

/// Reads a header; none if the bytes are of no known format.
pub fn read(bytes: &[u8]) -> Option<PictureHeader> {
    let format = Format::of(bytes)?;
    let mut found = PictureHeader { format, size: None, is_grey: false, quality: None };
    match format {
        Format::Jpeg => jpeg(bytes, &mut found),
        Format::Png => {
            if let Some(header) = bytes.get(16..26) {
                let number =
                    |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
                found.size = Some((number(0), number(4)));
                // Colour types 0 and 4 are grey, without and with transparency.
                found.is_grey = matches!(header[9], 0 | 4);
            }
        }
        Format::Bmp => {
            if let Some(header) = bytes.get(18..26) {
                let number =
                    |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
                found.size = Some((number(0).unsigned_abs(), number(4).unsigned_abs()));
            }
        }
        Format::WebP => {}
    }
    Some(found)
}

/// The segments of a JPEG up to its picture.
fn jpeg(bytes: &[u8], found: &mut PictureHeader) {
    let mut at = 2;
    while let Some([0xff, marker, rest @ ..]) = bytes.get(at..) {
        // Fill bytes, and markers without a segment.
        if matches!(marker, 0xff | 0x01 | 0xd0..=0xd8) {
            at += if *marker == 0xff { 1 } else { 2 };
            continue;
        }
        let [high, low, ..] = rest else { return };
        let len = usize::from(*high) << 8 | usize::from(*low);
        let Some(segment) = bytes.get(at + 4..at + 2 + len.max(2)) else { return };
        match marker {
            0xdb => tables(segment, found),
            // Frames of every kind but tables of codes (C4), extensions (C8) and conditions (CC).
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(marker) => {
                if let [_, h1, h0, w1, w0, components, ..] = segment {
                    let number = |high: &u8, low: &u8| u32::from(*high) << 8 | u32::from(*low);
                    found.size = Some((number(w1, w0), number(h1, h0)));
                    found.is_grey = *components == 1;
                }
            }
            0xda | 0xd9 => return,
            _ => {}
        }
        at += 2 + len.max(2);
    }
}

/// The table of brightness that libjpeg scales, in the order in which files hold it (ITU-T T.81, table K.1, zigzag).
const BRIGHTNESS: [u16; 64] = [
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61,
    60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113,
    121, 112, 100, 120, 92, 101, 103, 99,
];

/// The first table of eight bits in a segment gives the quality.
fn tables(mut segment: &[u8], found: &mut PictureHeader) {
    while let [kind, rest @ ..] = segment {
        let width = if kind >> 4 == 0 { 64 } else { 128 };
        let Some(table) = rest.get(..width) else { return };
        if *kind == 0 && found.quality.is_none() {
            let distance = |quality: u8| -> u32 {
                let scale = if quality < 50 { 5000 / u32::from(quality) } else { 200 - 2 * u32::from(quality) };
                let scaled = |base: &u16| ((u32::from(*base) * scale + 50) / 100).clamp(1, 255);
                BRIGHTNESS.iter().zip(table).map(|(base, value)| scaled(base).abs_diff(u32::from(*value))).sum()
            };
            found.quality = (1..=100).rev().min_by_key(|quality| distance(*quality));
        }
        segment = &rest[width..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, ImageEncoder};
    use proptest::prelude::*;

    fn encoded(quality: u8, colour: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        let data = vec![100; 24 * 16 * if colour == ExtendedColorType::L8 { 1 } else { 3 }];
        JpegEncoder::new_with_quality(&mut bytes, quality).write_image(&data, 24, 16, colour).unwrap();
        bytes
    }

    #[test]
    fn size_colours_and_quality_of_a_jpeg_are_found() {
        for quality in [30, 75, 95, 100] {
            let found = read(&encoded(quality, ExtendedColorType::Rgb8)).unwrap();
            assert_eq!((found.size, found.is_grey, found.quality), (Some((24, 16)), false, Some(quality)));
        }
        assert!(read(&encoded(90, ExtendedColorType::L8)).unwrap().is_grey);
        assert_eq!(read(b"neither"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
            let _ = read(&[&[0xff, 0xd8][..], &bytes].concat());
            let whole = encoded(80, ExtendedColorType::Rgb8);
            let _ = read(&whole[..cut.min(whole.len())]);
        }
    }
}
