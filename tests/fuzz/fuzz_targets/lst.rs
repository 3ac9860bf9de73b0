//! No list with tabs may make its reader panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for line in String::from_utf8_lossy(bytes).lines() {
        let _ = mtl_faces::lst::entry(line);
    }
});
