//! No pickle may make the machine panic, hang or take memory beyond a multiple of its own size.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = mtl_engine::weights::pickle::tensors(bytes);
});
