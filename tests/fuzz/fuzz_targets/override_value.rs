//! No override may make the parser panic or hang.
#![no_main]

use mtl_component::Registry;
use mtl_engine::recipe::Recipe;
use mtl_recipe::Override;
use mtl_recognition as _;
use mtl_standard as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

static REGISTRY: LazyLock<Arc<Registry>> =
    LazyLock::new(|| Arc::new(Registry::built_in().expect("components of different names")));
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/tiny.toml");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for change in [Override::Set(text.to_owned()), Override::Unset(text.to_owned())] {
        let _ = Recipe::read(&REGISTRY, Path::new(RECIPE), &[change]);
    }
});
