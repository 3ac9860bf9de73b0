//! Program, machine and git state, for the record of a run.

use super::timestamp;
use crate::device::threads;
use crate::machine;
use crate::recipe::Recipe;
use serde_json::{Value, json};
use std::process::Command;

/// Program, machine and git state of this process, for a run of that recipe.
pub fn environment(recipe: &Recipe, overrides: &[String]) -> Value {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    json!({
        "started": timestamp(),
        "argv": std::env::args().collect::<Vec<_>>(),
        "overrides": overrides,
        "folder": std::env::current_dir().ok(),
        "mtlrun": env!("CARGO_PKG_VERSION"),
        "libtorch": mtl_torch::version().ok(),
        "cpu_capability": mtl_torch::cpu_capability().ok(),
        "git": {
            "commit": git(&["rev-parse", "HEAD"]),
            "changed": git(&["status", "--porcelain"]).map(|s| s.lines().map(str::to_owned).collect::<Vec<_>>()),
        },
        "seed": recipe.run.seed,
        "device": recipe.run.device,
        "threads": threads(recipe),
        "machine": {
            "host": machine::host(),
            "cpu": machine::cpu_name(),
            "memory_mib": machine::memory_mib(),
            "os": std::env::consts::OS,
        },
    })
}
