//! No record file and no index may make their readers panic, hang or take memory beyond the files' own size.
#![no_main]

use mtl_faces::records::FaceRecords;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

// The first byte is how long the index is; without one the file is walked through.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (index, records) = rest.split_at(rest.len().min((*length).into()));
    let path = FOLDER.path().join("train.rec");
    let _ = std::fs::remove_file(path.with_extension("idx"));
    if !index.is_empty() {
        std::fs::write(path.with_extension("idx"), index).expect("a file");
    }
    std::fs::write(&path, records).expect("a file");
    let Ok(faces) = FaceRecords::open(&path) else { return };
    for image in faces.images().unwrap_or_default() {
        let _ = faces.picture(image.key);
    }
});
