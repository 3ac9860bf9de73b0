//! A component is a file below `src` that no other file names: adding one must build the crate again.

fn main() {
    println!("cargo:rerun-if-changed=src");
}
