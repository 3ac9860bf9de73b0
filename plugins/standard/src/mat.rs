//! MATLAB's files of version 5, as `save` writes them by default: variables by name.
//!
//! Layout as in MathWorks, MAT-File Format (R2019b), chapter 1. Numbers of every width become `f64`, texts of every
//! encoding become UTF-8. Objects, functions and sparse matrices are passed over. Files of version 7.3 are HDF5, which is
//! not read: the error says how to convert one.

use flate2::read::ZlibDecoder;
use indexmap::IndexMap;
use mtl_component::files::read_bounded;
use mtl_component::{ErrorContext as _, Result, bail, ensure, mistake};
use std::io::Read;
use std::path::Path;

/// The largest file that is read, and the most that its compressed parts may become together.
const MAX_BYTES: u64 = 512 << 20;
/// Nesting of cells and structures.
const MAX_DEPTH: usize = 16;
/// Longest name of a field, by the format's own word on it.
const MAX_FIELD: usize = 64;

/// A value of MATLAB.
#[derive(Debug, Clone, PartialEq)]
pub enum Mat {
    /// Numbers and flags, column by column.
    Numbers(Vec<f64>),
    /// A text; of several rows, column by column.
    Text(String),
    /// Cells, column by column.
    Cells(Vec<Mat>),
    /// Structures: of each field the values of all of them.
    Structures(IndexMap<String, Vec<Mat>>),
    /// What is not read.
    Other,
}

impl Mat {
    /// The numbers, if it holds numbers.
    pub fn numbers(&self) -> Option<&[f64]> {
        if let Self::Numbers(numbers) = self { Some(numbers) } else { None }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The cells, if it has some.
    pub fn cells(&self) -> Option<&[Mat]> {
        if let Self::Cells(cells) = self { Some(cells) } else { None }
    }

    /// A field of the first structure.
    pub fn field(&self, name: &str) -> Option<&Mat> {
        if let Self::Structures(fields) = self { fields.get(name)?.first() } else { None }
    }
}

/// Whether these are the first bytes of such a file, of version 5 or 7.3.
pub fn is_mat(start: &[u8]) -> bool {
    start.starts_with(b"MATLAB ")
}

/// Reads the variables of a file.
///
/// # Errors
/// A mistake that names the file, the byte and what is wrong there.
pub fn read(path: &Path) -> Result<IndexMap<String, Mat>> {
    let bytes = match read_bounded(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(e) => mistake!("cannot read {}: {e}", path.display()),
    };
    match parse(&bytes) {
        Ok(found) => Ok(found),
        Err(e) => mistake!("{} is no file of MATLAB that can be read here: {e:#}", path.display()),
    }
}

/// Reads the variables in the bytes of a file.
///
/// # Errors
/// The byte and what is wrong there.
pub fn parse(bytes: &[u8]) -> Result<IndexMap<String, Mat>> {
    ensure!(is_mat(bytes), "it does not begin with `MATLAB`");
    if bytes.starts_with(b"MATLAB 7.3") {
        bail!(
            "it is of version 7.3, which is HDF5. Convert it: python3 -c \"import mat73, scipy.io; \
             scipy.io.savemat('v5.mat', mat73.loadmat('IN.mat'))\", or save(…, '-v7') in MATLAB"
        );
    }
    let big = match bytes.get(124..128) {
        Some([_, _, b'I', b'M']) => false,
        Some([_, _, b'M', b'I']) => true,
        _ => bail!("byte 124: its header of 128 bytes has no mark of the order of bytes"),
    };
    let mut left = MAX_BYTES;
    let mut out = IndexMap::new();
    let mut reader = Reader { bytes, at: 128, base: 0, big };
    while let Some(element) = reader.element()? {
        let found = match element.kind {
            COMPRESSED => {
                let mut data = Vec::new();
                let limit = left;
                ZlibDecoder::new(element.data)
                    .take(limit + 1)
                    .read_to_end(&mut data)
                    .with_context(|| format!("byte {}: a compressed variable", element.place))?;
                ensure!(data.len() as u64 <= limit, "its variables are of more than {MAX_BYTES} bytes");
                left -= data.len() as u64;
                let mut inner = Reader { bytes: &data, at: 0, base: element.place, big };
                match inner.element()? {
                    Some(element) if element.kind == MATRIX => Some(matrix(&element, big, MAX_DEPTH)?),
                    _ => None,
                }
            }
            MATRIX => Some(matrix(&element, big, MAX_DEPTH)?),
            _ => None,
        };
        // Variables without a name are MATLAB's own.
        if let Some((name, value)) = found.filter(|(name, _)| !name.is_empty()) {
            out.insert(name, value);
        }
    }
    Ok(out)
}

const INT8: u32 = 1;
const UINT8: u32 = 2;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;

/// Elements that follow each other.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    /// Where these bytes begin in the file; of what was compressed the place of the whole.
    base: usize,
    big: bool,
}

/// A tagged element.
struct Element<'b> {
    kind: u32,
    data: &'b [u8],
    /// The byte where it stands.
    place: usize,
}

fn word(bytes: &[u8], big: bool) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[..4]);
    if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
}

impl<'b> Reader<'b> {
    /// The next element; none at the end.
    fn element(&mut self) -> Result<Option<Element<'b>>> {
        let rest = &self.bytes[self.at..];
        let place = self.base + self.at;
        if rest.is_empty() {
            return Ok(None);
        }
        ensure!(rest.len() >= 8, "byte {place}: it ends within the tag of an element");
        let first = word(rest, self.big);
        // A small element has its size in the upper half of the word, and its data in the place of the size.
        let (kind, data, step) = if first >> 16 != 0 {
            let size = (first >> 16) as usize;
            ensure!(size <= 4, "byte {place}: a small element of {size} bytes");
            (first & 0xffff, &rest[4..4 + size], 8)
        } else {
            let size = word(&rest[4..], self.big) as usize;
            let Some(data) = rest.get(8..8 + size) else {
                bail!("byte {place}: an element of {size} bytes, and {} are left", rest.len() - 8)
            };
            let padded = if first == COMPRESSED { 8 + size } else { 8 + size.next_multiple_of(8) };
            (first, data, padded.min(rest.len()))
        };
        self.at += step;
        Ok(Some(Element { kind, data, place }))
    }

    fn next(&mut self, what: &str) -> Result<Element<'b>> {
        let place = self.base + self.at;
        self.element()?.with_context(|| format!("byte {place}: a matrix ends before its {what}"))
    }
}

impl Element<'_> {
    /// Its numbers, of whatever width.
    fn numbers(&self, big: bool) -> Result<Vec<f64>> {
        macro_rules! of {
            ($type:ty) => {
                self.data
                    .chunks_exact(size_of::<$type>())
                    .map(|bytes| {
                        let mut own = [0; size_of::<$type>()];
                        own.copy_from_slice(bytes);
                        (if big { <$type>::from_be_bytes(own) } else { <$type>::from_le_bytes(own) }) as f64
                    })
                    .collect()
            };
        }
        Ok(match self.kind {
            INT8 => of!(i8),
            UINT8 | UTF8 => of!(u8),
            3 => of!(i16),
            4 | 17 => of!(u16),
            5 => of!(i32),
            6 | 18 => of!(u32),
            7 => of!(f32),
            9 => of!(f64),
            12 => of!(i64),
            13 => of!(u64),
            other => bail!("byte {}: expected numbers, found an element of type {other}", self.place),
        })
    }

    fn text(&self, big: bool) -> Result<String> {
        Ok(match self.kind {
            UTF8 | INT8 => String::from_utf8_lossy(self.data).into_owned(),
            // Characters of one byte are those of ISO 8859-1, of two UTF-16.
            _ => {
                let units: Vec<u16> = self.numbers(big)?.into_iter().map(|unit| unit as u16).collect();
                String::from_utf16_lossy(&units)
            }
        })
    }
}

/// A matrix: its name and what it holds.
fn matrix(element: &Element<'_>, big: bool, depth: usize) -> Result<(String, Mat)> {
    let place = element.place;
    ensure!(depth > 0, "byte {place}: cells and structures are nested more than {MAX_DEPTH} deep");
    if element.data.is_empty() {
        return Ok((String::new(), Mat::Numbers(Vec::new())));
    }
    let mut reader = Reader { bytes: element.data, at: 0, base: place + 8, big };
    let flags = reader.next("flags")?.numbers(big)?;
    let class = flags.first().map_or(0, |flags| *flags as u32 & 0xff);
    // A cell within cells of an odd kind has no sizes: it is passed over.
    if !(1..=15).contains(&class) || matches!(class, 3 | 5) {
        return Ok((String::new(), Mat::Other));
    }
    let sizes = reader.next("sizes")?.numbers(big)?;
    let count =
        sizes.iter().try_fold(1usize, |all, size| (*size >= 0.0).then(|| all.checked_mul(*size as usize)).flatten());
    let Some(count) = count else { bail!("byte {place}: a matrix of sizes {sizes:?}") };
    let name = reader.next("name")?.text(big)?;
    // Every cell has eight bytes at least: no size can ask for more memory than the file is large.
    let fits = |per: usize| -> Result<()> {
        let most = element.data.len() / 8;
        ensure!(
            count.checked_mul(per).is_some_and(|all| all <= most),
            "byte {place}: {count} cells in {} bytes",
            element.data.len()
        );
        Ok(())
    };
    let value = match class {
        1 => {
            fits(1)?;
            let mut cells = Vec::with_capacity(count);
            for _ in 0..count {
                cells.push(matrix(&reader.next("cells")?, big, depth - 1)?.1);
            }
            Mat::Cells(cells)
        }
        2 => {
            let width = reader.next("length of field names")?.numbers(big)?.first().map_or(0, |n| *n as usize);
            ensure!((1..=MAX_FIELD).contains(&width), "byte {place}: field names of {width} bytes");
            let names = reader.next("field names")?;
            let names: Vec<String> = names
                .data
                .chunks(width)
                .map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
                .collect();
            fits(names.len())?;
            let mut fields: IndexMap<String, Vec<Mat>> = names.iter().map(|name| (name.clone(), Vec::new())).collect();
            for _ in 0..count {
                for name in &names {
                    let (_, value) = matrix(&reader.next("fields")?, big, depth - 1)?;
                    if let Some(values) = fields.get_mut(name) {
                        values.push(value);
                    }
                }
            }
            Mat::Structures(fields)
        }
        4 => Mat::Text(reader.next("characters")?.text(big)?),
        _ => Mat::Numbers(reader.next("numbers")?.numbers(big)?),
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/mat");
        std::fs::read(Path::new(folder).join(name)).unwrap()
    }

    #[test]
    fn structures_cells_and_texts_are_read() {
        let found = parse(&fixture("cacd_v5.mat")).unwrap();
        let data = &found["celebrityImageData"];
        assert_eq!(data.field("age").unwrap().numbers().unwrap(), [53.0, 14.0, 37.0]);
        let names: Vec<&str> = data.field("name").unwrap().cells().unwrap().iter().filter_map(Mat::text).collect();
        assert_eq!(names, ["53_Ada_Marlow_0001.jpg", "14_Ben_Corvin_0001.jpg", "37_Chloë_Dunmore_0003.jpg"]);
    }

    #[test]
    fn other_files_are_named() {
        let error = |bytes: &[u8]| format!("{:#}", parse(bytes).unwrap_err());
        assert!(error(b"MATLAB 7.3 MAT-file").contains("HDF5. Convert it: python3"));
        assert!(error(b"PK").contains("does not begin"));
        let bytes = fixture("agedb_protocol.mat");
        for end in 0..bytes.len() {
            // A variable that was written whole is read, and what follows may be missing.
            let _ = parse(&bytes[..end]);
        }
        assert!(error(&bytes[..bytes.len() - 9]).contains("byte "));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_change_of_a_good_file_makes_the_reader_panic(
            which in 0usize..2,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = fixture(["cacd_v5.mat", "agedb_protocol.mat"][which]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = parse(&bytes);
        }
    }
}
