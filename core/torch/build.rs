//! Compiles the C++ shim against the libtorch that torch-sys links.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from).unwrap_or_default();
    let include = libtorch.join("include");
    if !include.join("ATen/ATen.h").exists() {
        println!("cargo:error=no libtorch at {}: run `cargo xtask setup` once, then build again", libtorch.display());
        return;
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(false)
        // Before libtorch's own: headers that its wheel lacks, and one that asks for Python.
        .include("csrc/wheel")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .files(["shim", "kernels", "winograd", "groups", "buckets"].map(|name| format!("csrc/{name}.cpp")))
        .compile("mtl_torch_shim");
    // The same file once for any machine and once for AVX2; the program chooses when it runs.
    for (isa, flags) in [("baseline", &[][..]), ("avx2", &["-mavx2", "-mfma"][..])] {
        let mut tiles = cc::Build::new();
        flags.iter().for_each(|flag| {
            tiles.flag(flag);
        });
        tiles
            .cpp(true)
            .std("c++17")
            .opt_level(3)
            .warnings(false)
            .flag("-Wno-psabi")
            .define("MTL_ISA", isa)
            .file("csrc/winograd_tiles.cpp")
            .compile(&format!("mtl_winograd_{isa}"));
    }
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    println!("cargo:lib={}", libtorch.join("lib").display());
}
