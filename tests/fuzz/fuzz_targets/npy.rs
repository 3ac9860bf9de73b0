//! No header of an array may make its reader panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = mtl_standard::npy::header(bytes);
});
