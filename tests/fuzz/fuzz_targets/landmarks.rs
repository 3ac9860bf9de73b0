//! No file of landmarks may make its reader panic.
#![no_main]

use mtl_faces::landmarks::{Nose, points};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for nose in [Nose::Tip, Nose::Base] {
        let _ = points(&text, nose);
    }
});
