//! What runs while the library is opened, before anything of it was asked for.

use std::ffi::{CString, c_char, c_int, c_void};

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
}

extern "C" fn construct() {
    let told = std::env::var("FAULTY_CONSTRUCTOR").unwrap_or_default();
    match told.split_once('=').unwrap_or((&told, "")) {
        ("panic", _) => panic!("in a constructor"),
        ("loop", _) => loop {
            std::thread::sleep(std::time::Duration::from_millis(50));
        },
        ("exit", _) => std::process::exit(0),
        ("write", path) => std::fs::write(path, "the constructor has run").unwrap(),
        ("open", path) => {
            let path = CString::new(path).unwrap();
            // SAFETY: the text ends with a zero byte; 2 is RTLD_NOW.
            assert!(!unsafe { dlopen(path.as_ptr(), 2) }.is_null());
        }
        _ => {}
    }
}

#[used]
// SAFETY: the section holds pointers to functions of this type, which the loader calls.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;
