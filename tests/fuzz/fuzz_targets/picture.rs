//! No picture may make a decoder panic, hang or take memory beyond the limit of pixels.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = mtl_standard::codec::decode(bytes);
});
