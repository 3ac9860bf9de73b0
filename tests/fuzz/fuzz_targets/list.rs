//! No text may make the reader of lists panic or hang.
#![no_main]

use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("list.txt");
    std::fs::write(&path, bytes).expect("a file");
    let _ = mtl_faces::list::read(&path, FOLDER.path());
});
