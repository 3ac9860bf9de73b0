//! No recipe may make the checker panic, hang or take memory beyond a multiple of its own size.
#![no_main]

// The components of the project, so that their tables are checked as well.
use mtl_evaluation as _;
use mtl_recognition as _;
use mtl_synthesis as _;

use mtl_core::graph::Graph;
use mtl_core::recipe::Recipe;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("recipe.toml");
    std::fs::write(&path, bytes).expect("a file");
    let found = Recipe::read(&path, &[]).and_then(|mut recipe| Graph::new(&mut recipe).map(|_| ()));
    if let Err(found) = found {
        assert!(!found.render(false).is_empty());
    }
});
