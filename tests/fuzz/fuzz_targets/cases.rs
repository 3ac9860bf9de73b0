//! No file of cases or table of names may make its reader panic or hang.
#![no_main]

use mtl_component::Registry;
use std::sync::{Arc, LazyLock};

static REGISTRY: LazyLock<Arc<Registry>> =
    LazyLock::new(|| Arc::new(Registry::built_in().expect("components of different names")));
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("names.toml");
    std::fs::write(&path, bytes).expect("a file");
    let _ = mtl_engine::inference::read_cases(&path);
    let _ = mtl_engine::weights::Rename::named(&REGISTRY, &path.display().to_string());
});
