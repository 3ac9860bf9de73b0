//! Weights in the files of `torch.save` and of TorchScript: a zip archive of a pickle and one entry for each storage.

use super::Tensors;
use super::pickle::{self, Layout, Storage};
use mtl_pickle::Pickle;
use mtl_recipe::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::io::{Cursor, Read};
use tch::Tensor;
use zip::ZipArchive;
use zip::result::ZipError;

/// The first bytes of a zip archive.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// Reads all tensors; nothing of the file is run.
///
/// # Errors
/// What is wrong with the archive, the pickle or a storage, and where.
pub(super) fn parse(bytes: &[u8]) -> Result<Tensors> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).context("it is not a complete zip archive")?;
    let found = archive.file_names().filter(|n| *n == "data.pkl" || n.ends_with("/data.pkl")).min_by_key(|n| n.len());
    let Some(pickled) = found.map(str::to_owned) else {
        bail!("the archive has no data.pkl: it is not a file of torch.save")
    };
    let root = pickled.trim_end_matches("data.pkl").to_owned();
    // Entries may claim the same bytes: together they may not be larger than the file.
    let mut left = bytes.len();
    let order = entry(&mut archive, &format!("{root}byteorder"), &mut left)?;
    if order.is_some_and(|o| o != b"little") {
        bail!("its numbers are big-endian, which is not read here: save it on another machine");
    }
    let text = entry(&mut archive, &pickled, &mut left)?.context("the pickle is missing")?;
    let layouts = pickle::tensors(&text).with_context(|| pickled.clone())?;
    ensure!(!layouts.is_empty(), "it holds no tensors under names{}", instead(&text));
    let mut storages: HashMap<String, (Storage, Tensor)> = HashMap::new();
    let mut out = Tensors::new();
    for (name, layout) in layouts {
        let key = &layout.storage.key;
        if !storages.contains_key(key) {
            let data = entry(&mut archive, &format!("{root}data/{key}"), &mut left)?;
            let data = data.with_context(|| format!("the archive lacks data/{key}, which holds `{name}`"))?;
            let flat = numbers(&layout.storage, &data).with_context(|| format!("`{name}`"))?;
            storages.insert(key.clone(), (layout.storage.clone(), flat));
        }
        let (storage, flat) = &storages[key];
        ensure!(*storage == layout.storage, "`{name}`: its storage is said to be of two kinds or lengths");
        out.insert(name.clone(), view(&layout, flat).with_context(|| format!("`{name}`"))?);
    }
    out.sort_keys();
    Ok(out)
}

/// What a file without tensors that can be named holds, as far as it is known.
pub(super) fn instead(mut pickle: &[u8]) -> String {
    let Ok(pickle) = Pickle::read(&mut pickle, 0) else { return String::new() };
    let others: Vec<String> = pickle.all_named().map(|(module, name)| format!("`{module}.{name}`")).take(5).collect();
    match others[..] {
        [] => String::new(),
        _ => format!(
            ", and objects of {}. Load it where it was made and save its weights alone: \
             torch.save(model.state_dict(), \"weights.pth\")",
            others.join(", ")
        ),
    }
}

/// The bytes of an entry; none if it is not there. Their checksum is compared.
fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, left: &mut usize) -> Result<Option<Vec<u8>>> {
    let file = match archive.by_name(name) {
        Ok(file) => file,
        Err(ZipError::FileNotFound) => return Ok(None),
        Err(e) => bail!("the entry {name} cannot be read: {e}"),
    };
    ensure!(
        file.compression() == zip::CompressionMethod::Stored,
        "the entry {name} is compressed, which torch.save never does"
    );
    ensure!(file.size() <= *left as u64, "the entry {name} has {} bytes, more than the file holds", file.size());
    let mut data = Vec::with_capacity(file.size() as usize);
    file.take(*left as u64).read_to_end(&mut data).with_context(|| format!("the entry {name}"))?;
    *left -= data.len();
    Ok(Some(data))
}

/// All numbers of a storage.
pub(super) fn numbers(storage: &Storage, data: &[u8]) -> Result<Tensor> {
    let width = storage.kind.elt_size_in_bytes();
    ensure!(
        Some(data.len()) == storage.count.checked_mul(width),
        "its storage has {} bytes, expected {} numbers of {width}",
        data.len(),
        storage.count
    );
    Ok(Tensor::f_from_data_size(data, &[storage.count as i64], storage.kind)?)
}

/// The tensor of that layout. It shares the numbers with all others of its storage.
pub(super) fn view(layout: &Layout, flat: &Tensor) -> Result<Tensor> {
    let Layout { storage, offset, size, stride } = layout;
    ensure!(size.len() == stride.len(), "{} sizes and {} strides", size.len(), stride.len());
    ensure!(*offset >= 0 && size.iter().chain(stride).all(|n| *n >= 0), "a negative size, stride or offset");
    // The last element that is touched, and the number of elements: repeated ones may not blow up the file.
    let (mut last, mut count) = (Some(*offset), Some(1i64));
    for (n, step) in size.iter().zip(stride) {
        last = last.and_then(|l| l.checked_add((n - 1).max(0).checked_mul(*step)?));
        count = count.and_then(|c| c.checked_mul(*n));
    }
    let (Some(last), Some(count)) = (last, count) else { bail!("sizes {size:?} are beyond any memory") };
    ensure!(
        count == 0 || (last as u64) < storage.count as u64,
        "sizes {size:?} with strides {stride:?} from {offset} go beyond its {} numbers",
        storage.count
    );
    ensure!(count as u64 <= storage.count as u64, "sizes {size:?} repeat numbers, which no weights do");
    Ok(flat.f_as_strided(size, stride, *offset)?)
}

#[cfg(test)]
mod tests {
    use crate::weights::{parse_pytorch, pickle, read};
    use proptest::prelude::*;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};
    use tch::{Kind, Tensor};

    /// A file that real PyTorch wrote.
    fn file(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/pytorch").join(name)
    }

    fn values(t: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(&t.to_kind(Kind::Double).contiguous().view([-1])).unwrap()
    }

    #[test]
    fn every_kind_and_layout_is_read() {
        let found = read(&file("kinds.pth")).unwrap();
        let expect = |name: &str, kind: Kind, size: &[i64], wanted: &[f64]| {
            let t = &found[name];
            assert_eq!((t.kind(), t.size().as_slice(), values(t).as_slice()), (kind, size, wanted), "{name}");
        };
        expect("float", Kind::Float, &[2, 3], &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25]);
        expect("double", Kind::Double, &[2], &[1.0, 2.5]);
        expect("half", Kind::Half, &[2], &[1.0, -0.5]);
        expect("bfloat", Kind::BFloat16, &[2], &[1.0, -3.0]);
        expect("long", Kind::Int64, &[2], &[-1.0, 2f64.powi(40)]);
        expect("int", Kind::Int, &[1], &[7.0]);
        expect("byte", Kind::Uint8, &[2], &[1.0, 255.0]);
        expect("bool", Kind::Bool, &[2], &[1.0, 0.0]);
        expect("scalar", Kind::Int64, &[], &[7.0]);
        expect("transposed", Kind::Float, &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        expect("middle", Kind::Float, &[3], &[3.0, 4.0, 5.0]);
        expect("every_other", Kind::Float, &[5], &[0.0, 2.0, 4.0, 6.0, 8.0]);
        expect("parameter", Kind::Float, &[2], &[1.0, 1.0]);
        expect("empty", Kind::Float, &[0, 3], &[]);
        assert_eq!(found.len(), 14);
    }

    #[test]
    fn a_state_dict_within_a_checkpoint_is_that_of_the_module() {
        let module = read(&file("module.pt")).unwrap();
        let checkpoint = read(&file("checkpoint.pth")).unwrap();
        let names: Vec<&String> = module.keys().collect();
        assert_eq!(names, checkpoint.keys().collect::<Vec<_>>());
        assert!(names.contains(&&"1.num_batches_tracked".to_owned()));
        for name in ["0.weight", "0.bias", "1.weight", "1.bias"] {
            assert_eq!(values(&module[name]), values(&checkpoint[name]), "{name}");
        }
    }

    /// A command line, numbers of NumPy, dates and objects of a script's own beside the weights; a whole model; TorchScript.
    #[test]
    fn weights_are_found_beside_and_within_other_objects() {
        let module = read(&file("module.pt")).unwrap();
        for name in ["beside.ckpt", "whole.pt", "script.pt"] {
            let found = read(&file(name)).unwrap();
            assert_eq!(found.keys().collect::<Vec<_>>(), module.keys().collect::<Vec<_>>(), "{name}");
            // They were written after a step, which the running means and the count of batches have seen.
            for key in ["0.weight", "0.bias", "1.weight", "1.bias"] {
                assert_eq!(values(&found[key]), values(&module[key]), "{name}: {key}");
            }
        }
    }

    #[test]
    fn a_pickle_that_calls_a_program_is_refused_and_named() {
        let error = read(&file("evil.pth")).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        let text = format!("{error:#}");
        assert!(text.contains("posix.system") && text.contains("Nothing was run"), "{text}");
        assert!(!std::path::Path::new("was-run").exists(), "the program that it asks for leaves a file here");
    }

    #[test]
    fn the_format_before_1_6_is_read() {
        let (old, new) = (read(&file("old.pth")).unwrap(), read(&file("kinds.pth")).unwrap());
        assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
        for (name, tensor) in &new {
            assert_eq!((old[name].kind(), old[name].size()), (tensor.kind(), tensor.size()), "{name}");
            assert_eq!(values(&old[name]), values(tensor), "{name}");
        }
        let bytes = std::fs::read(file("old.pth")).unwrap();
        for end in 0..bytes.len() {
            assert!(crate::weights::parse(&bytes[..end], &file("old.pth")).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let bytes = std::fs::read(file("kinds.pth")).unwrap();
        for end in 0..bytes.len() {
            assert!(parse_pytorch(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    /// Pickles that would cost a careless reader its memory, its stack or its time.
    #[test]
    fn attacks_end_soon_and_in_order() {
        let n = 200_000;
        let nested = [&b")"[..], &b"\x85".repeat(n), b"."].concat();
        // A dictionary that holds itself, and one that holds another many times over, eight deep.
        let cycle = b"}q\x00X\x01\x00\x00\x00ah\x00s.".to_vec();
        let mut wide = b"}q\x00".to_vec();
        for level in 1..=8u8 {
            wide.extend([b'}', b'q', level, b'(']);
            for k in 0..2000u32 {
                wide.extend(b"X\x04\x00\x00\x00");
                wide.extend(k.to_le_bytes().map(|b| b & 0x7f));
                wide.extend([b'h', level - 1]);
            }
            wide.extend([b'u']);
        }
        wide.extend([b'.']);
        let shapes =
            [&b"ctorch\nSize\nq\x00]q\x01("[..], &b"K\x01".repeat(100_000), b"e\x85q\x02", &b"h\x00h\x02R".repeat(n)]
                .concat();
        // One long text as the key of very many entries.
        let mut keys =
            [&b"}X"[..], &1_000_000u32.to_le_bytes(), &b"a".repeat(1_000_000), b"q\x00r\x01\x00\x00\x000("].concat();
        keys.extend(b"h\x00h\x00".repeat(n));
        keys.extend(b"u.");
        let claims_much = b"X\xff\xff\xff\xff".to_vec();
        // Modules within modules in a dictionary, deeper than any that is looked into.
        let module = &b"c__torch__\nM\n)\x81}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00a"[..];
        let modules = [b"}X\x01\x00\x00\x00a", &*module.repeat(40), b"N", &b"ssb".repeat(40), b"s."].concat();
        for (what, bytes) in [
            ("nested", nested),
            ("cycle", cycle),
            ("wide", wide),
            ("shapes", shapes),
            ("keys", keys),
            ("claims much", claims_much),
            ("modules", modules),
        ] {
            let start = Instant::now();
            let found = pickle::tensors(&bytes);
            assert!(found.map_or(0, |f| f.len()) == 0, "{what}");
            assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_machine_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = pickle::tensors(&bytes);
        }

        #[test]
        fn no_change_of_a_good_file_makes_the_reader_panic(
            which in 0usize..3,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = std::fs::read(file(["kinds.pth", "checkpoint.pth", "evil.pth"][which])).unwrap();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = parse_pytorch(&bytes);
        }

        /// The pickle itself has no checksum when it is read alone, so more of the changes get through.
        #[test]
        fn no_change_of_a_good_pickle_makes_the_machine_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let bytes = std::fs::read(file("kinds.pth")).unwrap();
            let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes.as_slice())).unwrap();
            let mut bytes = super::entry(&mut archive, "kinds/data.pkl", &mut bytes.len()).unwrap().unwrap();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = pickle::tensors(&bytes);
        }
    }
}
