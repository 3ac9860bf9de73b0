//! No recipe may make the checker panic, hang or take memory beyond a multiple of its own size.
#![no_main]

// The components of the project, so that their tables are checked as well.
use mtl_evaluation as _;
use mtl_recognition as _;
use mtl_standard as _;
use mtl_synthesis as _;

use mtl_component::Registry;
use mtl_engine::graph::Graph;
use mtl_engine::recipe::Recipe;
use std::sync::{Arc, LazyLock};

static REGISTRY: LazyLock<Arc<Registry>> =
    LazyLock::new(|| Arc::new(Registry::built_in().expect("components of different names")));
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("recipe.toml");
    std::fs::write(&path, bytes).expect("a file");
    let found = Recipe::read(&REGISTRY, &path, &[]).and_then(|recipe| Graph::new(&recipe).map(|_| ()));
    if let Err(found) = found {
        assert!(!found.render(false).is_empty());
    }
});
