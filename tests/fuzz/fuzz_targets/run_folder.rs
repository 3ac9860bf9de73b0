//! No run folder may make its readers panic or hang. The bytes up to the first zero are the recipe, those up to the
//! second the record, and the rest the metrics.
#![no_main]

use mtl_engine::runs::{Record, RunFolder};
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let run = RunFolder::at(FOLDER.path());
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    for path in [run.recipe_path(), run.record_path(), run.metrics()] {
        std::fs::write(path, parts.next().unwrap_or_default()).expect("a file");
    }
    let _ = run.record();
    let _ = Record::read(&run);
    let _ = RunFolder::resolve(FOLDER.path());
});
