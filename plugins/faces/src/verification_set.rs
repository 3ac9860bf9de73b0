//! The verification sets of insightface, such as `lfw.bin` and `agedb_30.bin`: a pickle of the pictures and of which pairs
//! are of one person. Pair i is of the pictures 2i and 2i + 1.
//!
//! Pictures are byte strings of Python 2 or 3, or arrays of NumPy, as the programs that wrote such sets made them. They stay
//! in the file and are read one by one.

use mtl_component::{ErrorContext as _, Picture, Result, bail, ensure, mistake};
use mtl_pickle::{FileInput, Pickle, Value};
use mtl_standard::codec;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The largest set.
const MAX_BYTES: u64 = 4 << 30;
/// More pictures than any set has.
const MAX_PICTURES: usize = 200_000;
/// The largest picture.
const MAX_PICTURE: u64 = 4 << 20;

/// A verification set.
#[derive(Debug)]
pub struct VerificationSet {
    path: PathBuf,
    file: File,
    pictures: Vec<Encoded>,
    same: Vec<bool>,
}

/// Where the bytes of a picture are.
#[derive(Debug, Clone)]
enum Encoded {
    /// In the file.
    At { start: u64, len: u64 },
    /// In the file as a text, of which each character is a byte.
    Text { start: u64, len: u64 },
    /// Written with escapes, or short.
    Held(Vec<u8>),
}

impl VerificationSet {
    /// Opens a set; the pictures are not decoded.
    ///
    /// # Errors
    /// A mistake that names the byte, or the pair and its picture, and what is wrong there.
    pub fn open(path: &Path) -> Result<Self> {
        // Opening a pipe would wait for somebody to write into it.
        if path.exists() && !path.is_file() {
            mistake!("the verification set {} is no file", path.display());
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (kind, file) = match opened {
            Ok(opened) => opened,
            Err(e) => mistake!("cannot open the verification set {}: {e}", path.display()),
        };
        if kind.len() > MAX_BYTES {
            mistake!("the verification set {} has {} bytes, expected at most {MAX_BYTES}", path.display(), kind.len());
        }
        match Self::parse(file, path) {
            Ok(set) => Ok(set),
            Err(e) => mistake!("{} is no verification set that can be read: {e:#}", path.display()),
        }
    }

    fn parse(file: File, path: &Path) -> Result<Self> {
        let pickle = Pickle::read(&mut FileInput::new(&file)?, 0)?;
        let Some([pictures, same]) = pickle.items(pickle.root()) else {
            bail!("expected two lists, of pictures and of which pairs are of one person")
        };
        let of = Reader { pickle: &pickle, file: &file };
        let same = of.flags(*same)?;
        let pictures = pickle.items(*pictures).context("its pictures are no list")?;
        ensure!(pictures.len() <= MAX_PICTURES, "it has {} pictures, expected at most {MAX_PICTURES}", pictures.len());
        ensure!(
            pictures.len() == 2 * same.len(),
            "it has {} pictures for {} pairs, and two belong to each",
            pictures.len(),
            same.len()
        );
        ensure!(!same.is_empty(), "it holds no pair");
        let found: Vec<Encoded> = pictures
            .iter()
            .enumerate()
            .map(|(i, value)| of.bytes(*value, 4).and_then(|found| found.fits()).with_context(|| place(i)))
            .collect::<Result<_>>()?;
        let set = Self { path: path.to_owned(), file, pictures: found, same };
        for i in 0..set.pictures.len() {
            let mut start = set.start(i).with_context(|| place(i))?;
            start.truncate(8);
            let is_picture = start.starts_with(&[0xff, 0xd8]) || start.starts_with(b"\x89PNG");
            ensure!(is_picture, "{} is neither JPEG nor PNG, but begins with {start:02x?}", place(i));
        }
        Ok(set)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many pictures there are, two for each pair.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// Whether each pair is of one person.
    pub fn same(&self) -> &[bool] {
        &self.same
    }

    /// The first bytes of a picture, at least three if it has as many.
    fn start(&self, index: usize) -> Result<Vec<u8>> {
        match self.pictures[index] {
            Encoded::At { start, len } => read(&self.file, start, len.min(16)),
            Encoded::Text { start, len } => Ok(narrow(&read(&self.file, start, len.min(16))?)),
            Encoded::Held(ref bytes) => Ok(bytes.clone()),
        }
    }

    /// The bytes of a picture.
    ///
    /// # Errors
    /// If the file has become shorter.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        match &self.pictures[index] {
            Encoded::At { start, len } => read(&self.file, *start, *len),
            Encoded::Text { start, len } => Ok(narrow(&read(&self.file, *start, *len)?)),
            Encoded::Held(bytes) => Ok(bytes.clone()),
        }
    }

    /// A picture.
    ///
    /// # Errors
    /// A mistake if it cannot be decoded.
    pub fn picture(&self, index: usize) -> Result<Picture> {
        codec::decode(&self.bytes(index)?)
    }

    /// Which picture it is, for messages: the pair, from 0, and the side.
    pub fn place(&self, index: usize) -> String {
        format!("{}, {}", self.path.display(), place(index))
    }
}

fn place(index: usize) -> String {
    format!("the {} picture of pair {}", ["first", "second"][index % 2], index / 2)
}

fn read(file: &File, start: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, start).with_context(|| format!("reading {len} bytes from byte {start}"))?;
    Ok(bytes)
}

/// Characters up to 255 as bytes. What is cut within a character is left out.
fn narrow(text: &[u8]) -> Vec<u8> {
    text.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).map(|c| u32::from(c).min(255) as u8).collect()
}

impl Encoded {
    fn fits(self) -> Result<Self> {
        let len = match &self {
            Self::At { len, .. } => *len,
            Self::Text { len, .. } => len / 2,
            Self::Held(bytes) => bytes.len() as u64,
        };
        ensure!(len <= MAX_PICTURE, "it has {len} bytes, expected at most {MAX_PICTURE}");
        ensure!(len > 0, "it is empty");
        Ok(self)
    }
}

struct Reader<'p> {
    pickle: &'p Pickle,
    file: &'p File,
}

impl Reader<'_> {
    /// The bytes that a value stands for. Arrays and texts are wrapped in `depth` calls at most.
    fn bytes(&self, value: Value, depth: usize) -> Result<Encoded> {
        if let Value::Span { start, len } = value {
            return Ok(Encoded::At { start, len });
        }
        if let Some(text) = self.pickle.text(value) {
            return Ok(Encoded::Held(text.as_bytes().to_vec()));
        }
        if let Some(bytes) = self.pickle.unescaped(value) {
            return Ok(Encoded::Held(bytes.to_vec()));
        }
        let inner = |value: Option<&Value>| match value {
            Some(value) if depth > 0 => self.bytes(*value, depth - 1),
            _ => bail!("an array without data"),
        };
        let Some((module, name, arguments, call)) = self.pickle.call(value) else {
            bail!("expected bytes or an array, found {value:?}")
        };
        match (module, name) {
            // Bytes in the protocols of Python 2: a text and how it is to be encoded.
            ("_codecs", "encode") | ("builtins" | "__builtin__", "bytes" | "bytearray") => {
                Ok(match inner(arguments.first())? {
                    Encoded::At { start, len } => Encoded::Text { start, len },
                    Encoded::Held(text) => Encoded::Held(narrow(&text)),
                    text => text,
                })
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                // The state is a version, the shape, the type, the order and the data.
                match call.state.and_then(|state| self.pickle.items(state)) {
                    Some([_, shape, kind, _, data]) => {
                        self.is_bytes(*shape, *kind)?;
                        inner(Some(data))
                    }
                    _ => bail!("an array of NumPy without data"),
                }
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => match arguments {
                [data, kind, shape, ..] => {
                    self.is_bytes(*shape, *kind)?;
                    inner(Some(data))
                }
                _ => bail!("an array of NumPy without data"),
            },
            _ => bail!("expected bytes or an array, found what `{module}.{name}` would make, which is not called"),
        }
    }

    /// Checks that an array is a row or a column of bytes.
    fn is_bytes(&self, shape: Value, kind: Value) -> Result<()> {
        let kind = self.kind(kind);
        ensure!(
            matches!(kind, Some("u1" | "uint8" | "B" | "b1" | "bool" | "?" | "i8" | "<i8" | "i1")),
            "an array of {} and not of bytes",
            kind.unwrap_or("an unknown type")
        );
        let sizes = self.pickle.items(shape).unwrap_or_default();
        ensure!(
            matches!(sizes, [_] | [_, Value::Int(1)] | [Value::Int(1), _] | []),
            "an array of {} dimensions: expected the bytes of a file, and not pixels",
            sizes.len()
        );
        Ok(())
    }

    /// The name of a type of NumPy: `numpy.dtype("u1", …)`.
    fn kind(&self, value: Value) -> Option<&str> {
        let (_, "dtype", arguments, _) = self.pickle.call(value)? else { return None };
        self.pickle.text(*arguments.first()?)
    }

    /// Which pairs are of one person: flags and numbers one by one, or an array.
    fn flags(&self, value: Value) -> Result<Vec<bool>> {
        if let Some(items) = self.pickle.items(value) {
            ensure!(items.len() <= MAX_PICTURES, "{} pairs, expected at most {}", items.len(), MAX_PICTURES / 2);
            let flag = |(i, item): (usize, &Value)| self.flag(*item).with_context(|| format!("the flag of pair {i}"));
            return items.iter().enumerate().map(flag).collect();
        }
        let Some((_, name, arguments, call)) = self.pickle.call(value) else {
            bail!("its flags are neither a list nor an array")
        };
        let kind = match (name, call.state.and_then(|state| self.pickle.items(state)), arguments) {
            ("_reconstruct", Some([_, _, kind, ..]), _) | ("_frombuffer", _, [_, kind, ..]) => self.kind(*kind),
            _ => None,
        };
        // Whole numbers of NumPy have eight bytes.
        let width = if matches!(kind, Some("i8" | "<i8" | "int64")) { 8 } else { 1 };
        let Encoded::At { start, len } = self.bytes(value, 2)?.fits()? else {
            return self.held(value, width);
        };
        Ok(read(self.file, start, len)?.chunks(width).map(|flag| flag[0] != 0).collect())
    }

    fn held(&self, value: Value, width: usize) -> Result<Vec<bool>> {
        match self.bytes(value, 2)? {
            Encoded::Held(bytes) => Ok(bytes.chunks(width).map(|flag| flag[0] != 0).collect()),
            _ => bail!("its flags are neither a list nor an array"),
        }
    }

    fn flag(&self, value: Value) -> Result<bool> {
        match value {
            Value::Bool(flag) => return Ok(flag),
            Value::Int(flag @ (0 | 1)) => return Ok(flag == 1),
            Value::Int(-1) => return Ok(false),
            _ => {}
        }
        // A number of NumPy by itself: its type and its bytes.
        if let Some((_, "scalar", [_, data], _)) = self.pickle.call(value) {
            return Ok(match self.bytes(*data, 2)? {
                Encoded::At { start, len } => read(self.file, start, len.min(8))?.first().is_some_and(|b| *b != 0),
                Encoded::Text { start, len } => read(self.file, start, len.min(8))?.first().is_some_and(|b| *b != 0),
                Encoded::Held(bytes) => bytes.first().is_some_and(|b| *b != 0),
            });
        }
        bail!("expected true or false, found {value:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/bin").join(name)
    }

    #[test]
    fn every_form_gives_the_same_pictures() {
        let text = std::fs::read_to_string(fixture("truth.json")).unwrap();
        let truth: serde_json::Value = serde_json::from_str(&text).unwrap();
        let truth = &truth["truth"];
        for name in ["py3_protocol4_bytes.bin", "py3_protocol5_numpy.bin", "py3_list_not_tuple.bin"] {
            let set = VerificationSet::open(&fixture(name)).unwrap();
            assert_eq!(serde_json::json!(set.same()), truth["issame"], "{name}");
            let hashes: Vec<String> =
                (0..set.len()).map(|i| hex::encode(Sha256::digest(set.bytes(i).unwrap()))).collect();
            assert_eq!(serde_json::json!(hashes), truth["sha256"], "{name}");
            let first: Vec<[u8; 3]> = (0..set.len())
                .map(|i| {
                    let pixel = set.picture(i).unwrap().data;
                    [pixel[2], pixel[1], pixel[0]]
                })
                .collect();
            assert_eq!(serde_json::json!(first), truth["first_pixels_bgr"], "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, word) in [
            ("odd_count.bin", "7 pictures for 4 pairs"),
            ("not_an_image.bin", "the first picture of pair 0 is neither JPEG nor PNG"),
            ("calls_a_function.bin", "`builtins.print`. Nothing was run"),
            ("truncated.bin", "ends at byte 6464 within"),
        ] {
            let error = VerificationSet::open(&fixture(name)).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains(word), "{name}: {error}");
        }
    }

    /// Sets that would cost a careless reader its memory: none does.
    #[test]
    fn attacks_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let many = [&b"\x80\x02C\x03\xff\xd8\xffq\x00("[..], &b"h\x00".repeat(5000), b"l]\x86."].concat();
        for (what, bytes, word) in [
            ("claims 4 GiB", b"\x80\x03]B\xff\xff\xff\xffabc".to_vec(), "within 4294967295 bytes"),
            ("deep", b"(".repeat(5000), "open marks"),
            ("one object many times", many, "5000 pictures for 0 pairs"),
            ("nothing", b"\x80\x02N.".to_vec(), "expected two lists"),
        ] {
            let path = dir.path().join("set.bin");
            std::fs::write(&path, bytes).unwrap();
            let error = VerificationSet::open(&path).unwrap_err().to_string();
            assert!(error.contains(word), "{what}: {error}");
        }
    }
}
