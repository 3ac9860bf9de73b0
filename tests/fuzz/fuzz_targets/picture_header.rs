//! No header of a picture may make its reader panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for start in [&[][..], &[0xff, 0xd8], b"\x89PNG\r\n\x1a\n", b"BM"] {
        let _ = mtl_standard::picture_header::read(&[start, bytes].concat());
    }
});
