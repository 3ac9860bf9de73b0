//! No list of pairs may make its reader panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = mtl_faces::pair_forms::parse(&text);
    let _ = mtl_faces::pair_forms::form(&text);
});
