//! No file of MATLAB may make its reader panic, hang or take memory beyond a multiple of what it holds.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = mtl_standard::mat::parse(bytes);
    // Behind a header that fits more gets through.
    let mut header = b"MATLAB 5.0 MAT-file".to_vec();
    header.resize(124, b' ');
    header.extend([0, 1, b'I', b'M']);
    let _ = mtl_standard::mat::parse(&[&header, bytes].concat());
});
