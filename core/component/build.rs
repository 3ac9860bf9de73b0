//! Says by which compiler, for which target and from which sources the boundary to plugins is built.

use std::path::Path;
use std::process::Command;

#[path = "src/plugin/sources.rs"]
mod sources;

fn main() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for part in sources::BOUNDARY {
        println!("cargo:rerun-if-changed={}", core.join(part).display());
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let compiler = Command::new(variable("RUSTC")).arg("-vV").output().map(|o| o.stdout).unwrap_or_default();
    println!("cargo:rustc-env=MTL_RUSTC={}", sources::compiler(&String::from_utf8_lossy(&compiler)));
    println!("cargo:rustc-env=MTL_TARGET={}", variable("TARGET"));
    println!("cargo:rustc-env=MTL_PROFILE={}", variable("PROFILE"));
    match sources::hash(&core, sources::BOUNDARY) {
        Ok(hash) => println!("cargo:rustc-env=MTL_BOUNDARY={}", &hash[..32]),
        Err(reason) => println!("cargo:error=the sources of the boundary to plugins cannot be read: {reason}"),
    }
}
