use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/records").join(name)
}

fn written(payloads: &[(i64, Vec<u8>)]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("some.rec");
    let mut writer = RecordWriter::create(&path).unwrap();
    payloads.iter().for_each(|(key, payload)| writer.write(*key, payload).unwrap());
    writer.finish().unwrap();
    assert_eq!(dir.path().read_dir().unwrap().count(), 2);
    (dir, path)
}

fn payload(records: &Records, key: i64) -> Result<Vec<u8>> {
    let mut out = vec![1, 2, 3];
    records.read(key, &mut out)?;
    Ok(out)
}

/// Payloads that hold the magic number at multiples of 4 and elsewhere, in a file that mxnet has written.
#[test]
fn payloads_are_split_and_joined_as_mxnet_does() {
    let text = std::fs::read_to_string(reference("split.json")).unwrap();
    let hex: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    let byte = |hex: &str, at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes = |hex: &String| (0..hex.len()).step_by(2).map(|at| byte(hex, at)).collect::<Vec<u8>>();
    let mut truth: Vec<(i64, Vec<u8>)> = hex.iter().map(|(key, hex)| (key.parse().unwrap(), bytes(hex))).collect();
    truth.sort();
    let records = Records::open(&reference("split.rec")).unwrap();
    assert_eq!(records.keys().collect::<Vec<_>>(), truth.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    for (key, wanted) in &truth {
        assert_eq!(payload(&records, *key).unwrap(), *wanted, "{key}");
    }
    let (_dir, path) = written(&truth);
    for ending in ["rec", "idx"] {
        let [found, wanted] =
            [&path, &reference("split.rec")].map(|p| std::fs::read(p.with_extension(ending)).unwrap());
        assert_eq!(found, wanted, "{ending}");
    }
    // Without an index the records have the same order.
    std::fs::remove_file(path.with_extension("idx")).unwrap();
    let walked = Records::open(&path).unwrap();
    for (n, (_, wanted)) in truth.iter().enumerate() {
        assert_eq!(payload(&walked, n as i64).unwrap(), *wanted);
    }
}

#[test]
fn headers_of_one_label_and_of_lists_are_told_apart() {
    let records = Records::open(&reference("builder.rec")).unwrap();
    let header = |key: i64| {
        let bytes = payload(&records, key).unwrap();
        let (header, picture) = Header::split(&bytes).unwrap();
        assert_eq!(header.joined(picture), bytes);
        (header, picture.len())
    };
    // Key 0 tells where the identities stand, and holds no picture; key 4 is a picture of identity 1.
    assert_eq!((header(0).0.labels, header(0).1), (vec![6.0, 8.0], 0));
    assert!(header(4).0.labels[0] == 1.0 && header(4).1 > 0);
    assert_eq!(header(6).0.labels, [1.0, 4.0]);
    for (bytes, words) in [
        (vec![0; 23], "too short for the header"),
        ([&3u32.to_le_bytes()[..], &[0; 28]].concat(), "3 labels need 12 bytes"),
        ([&5000u32.to_le_bytes()[..], &[0; 28]].concat(), "expected at most 1024"),
    ] {
        let error = Header::split(&bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn what_is_damaged_is_told_with_its_place() {
    let many: Vec<(i64, Vec<u8>)> = (1..=4).map(|key| (key, vec![key as u8; 20_000])).collect();
    let damaged = |change: &dyn Fn(&Path, &Path), key: i64| {
        let (dir, path) = written(&many);
        change(&path, &path.with_extension("idx"));
        let found = Records::open(&path).and_then(|records| payload(&records, key));
        drop(dir);
        format!("{:#}", found.unwrap_err())
    };
    let cut =
        |to: u64| move |path: &Path, _: &Path| File::options().write(true).open(path).unwrap().set_len(to).unwrap();
    let text = |line: &'static str| move |_: &Path, index: &Path| std::fs::write(index, line).unwrap();
    for (found, words) in [
        (damaged(&cut(79_000), 4), "the record 4 of "),
        (damaged(&cut(79_000), 4), "the file was cut"),
        (damaged(&cut(30_000), 1), "2 of 4 offsets lie behind the end"),
        (damaged(&|_, _| {}, 0), "its keys start at 1"),
        (damaged(&text("1\t4\n"), 1), "at byte 4: expected a record (the bytes 0a 23 d7 ce)"),
        (damaged(&text("1\t0\n2 x\n"), 1), "some.idx:2: expected a key, a tab and an offset"),
        (damaged(&text("1\t0\n1\t20008\n"), 1), "the key 1 stands there twice"),
        (damaged(&text("99999999999999999999\t0\n"), 1), "some.idx:1: expected a key"),
    ] {
        assert!(found.contains(words), "{words}: {found}");
    }
    // A part in the middle of a record is no record.
    let magic = MAGIC.to_le_bytes().to_vec();
    let (_dir, path) = written(&[(1, [&[7; 4][..], &magic, &[8; 4]].concat())]);
    std::fs::write(path.with_extension("idx"), "1\t12\n").unwrap();
    let error = format!("{:#}", payload(&Records::open(&path).unwrap(), 1).unwrap_err());
    assert!(error.contains("a part of kind 3, expected one of [0, 1]"), "{error}");
    // A file that becomes shorter while it is open.
    let (_dir, path) = written(&many);
    let records = Records::open(&path).unwrap();
    cut(100)(&path, &path);
    let error = format!("{:#}", payload(&records, 3).unwrap_err());
    assert!(error.contains("the file had 80032 bytes when it was opened"), "{error}");
}

proptest! {
    #[test]
    fn payloads_come_back(parts in prop::collection::vec(prop::collection::vec(0usize..3, 0..40), 0..6)) {
        let piece = |kind: &usize| [&[0x0a][..], &MAGIC.to_le_bytes(), &[0; 4]][*kind].to_vec();
        let payloads: Vec<(i64, Vec<u8>)> =
            parts.iter().enumerate().map(|(n, kinds)| (3 - n as i64, kinds.iter().flat_map(piece).collect())).collect();
        let (_dir, path) = written(&payloads);
        let records = Records::open(&path).unwrap();
        for (key, wanted) in &payloads {
            prop_assert_eq!(&payload(&records, *key).unwrap(), wanted);
        }
    }

    #[test]
    fn no_bytes_are_more_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), index in "[0-9\t\n -]{0,40}") {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("some.rec");
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(path.with_extension("idx"), index).unwrap();
        for _ in 0..2 {
            if let Ok(records) = Records::open(&path) {
                let mut out = Vec::new();
                for key in records.keys() {
                    if records.read(key, &mut out).is_ok() {
                        let _ = Header::split(&out);
                    }
                }
            }
            let _ = std::fs::remove_file(path.with_extension("idx"));
        }
    }
}
