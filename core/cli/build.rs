//! Lets the installed binary find libtorch where the set-up has put it, wherever the binary is copied.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(libtorch) = std::env::var_os("LIBTORCH")
        && let Ok(lib) = std::path::Path::new(&libtorch).join("lib").canonicalize()
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{}", lib.display());
    }
}
