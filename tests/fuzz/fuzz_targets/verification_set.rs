//! No verification set may make its reader panic, call anything, or take memory beyond a multiple of what it holds.
#![no_main]

use mtl_faces::verification_set::VerificationSet;
use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    if let Ok(set) = VerificationSet::open(file.path()) {
        for index in 0..set.len().min(8) {
            let _ = set.picture(index);
        }
    }
});
