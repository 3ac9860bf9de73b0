//! No checkpoint may make the reader panic, hang or read files elsewhere. The bytes up to the first zero are the
//! manifest, those up to the second the state, and the rest the weights.
#![no_main]

use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = FOLDER.path().join("step-1");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    for file in ["manifest.json", "state.json", "weights.safetensors"] {
        std::fs::write(folder.join(file), parts.next().unwrap_or_default()).expect("a file");
    }
    let _ = mtl_engine::checkpoint::state(&folder);
    let _ = mtl_engine::checkpoint::read(&folder);
    let _ = mtl_engine::checkpoint::best(FOLDER.path());
});
