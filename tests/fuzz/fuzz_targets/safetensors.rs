//! No file of weights may make the reader panic, hang or take memory beyond its own size.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = mtl_engine::weights::parse(bytes, std::path::Path::new("weights"));
});
