//! What takes too long for every change: `cargo xtask test --long`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{cache, needs, validators};

/// One long test.
struct Long {
    name: &'static str,
    /// What it needs, as a command that succeeds where it is there.
    needs: &'static [&'static str],
    command: Vec<String>,
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

/// A test of the whole program that is left out otherwise.
fn ignored(name: &str) -> Vec<String> {
    words(&["cargo", "test", "--locked", "-p", "mtlrun", "--test", "system", "--", "--ignored", "--exact", name])
}

/// Runs all of them; one that lacks a tool is skipped with the reason.
///
/// # Errors
/// After the last one, if any has failed.
pub fn run(root: &Path) -> Result<()> {
    let clients = validators::clients(&cache::root()?)?;
    let all = [
        Long { name: "kill loops", needs: &[], command: ignored("long::killed_again_and_again") },
        Long {
            name: "random recipes",
            needs: &[],
            command: ignored("long::random_recipes_are_judged_without_a_panic"),
        },
        Long { name: "foreign clients", needs: &[], command: ignored("long::other_programs_read_what_a_run_writes") },
        Long { name: "valgrind", needs: &["valgrind", "--version"], command: Vec::new() },
        Long {
            name: "fuzzing",
            needs: &["cargo", "+nightly", "fuzz", "--version"],
            command: words(&[
                "cargo",
                "+nightly",
                "fuzz",
                "run",
                "-s",
                "none",
                "--fuzz-dir",
                "tests/fuzz",
                "pickle",
                "--",
                "-max_total_time=60",
            ]),
        },
    ];
    let mut failed = Vec::new();
    for mut long in all {
        if !long.needs.is_empty() && !needs::runs(long.needs) {
            println!("{}: skipped: `{}` does not run", long.name, long.needs.join(" "));
            continue;
        }
        if long.name == "foreign clients" && clients.is_none() {
            println!("{}: skipped: their Python packages could not be installed", long.name);
            continue;
        }
        if long.name == "valgrind" {
            long.command = words(&["valgrind", "--quiet", "--error-exitcode=9", "--undef-value-errors=no"]);
            long.command.push(test_binary(root)?.display().to_string());
        }
        println!("{}: {}", long.name, long.command.join(" "));
        let start = Instant::now();
        let variable = clients.as_deref().map(|place| ("MTLRUN_FOREIGN", place.as_os_str()));
        if !succeeds(root, &long.command, variable)? {
            failed.push(long.name);
        }
        println!("{}: {:.1} s", long.name, start.elapsed().as_secs_f64());
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn succeeds(root: &Path, command: &[String], variable: Option<(&str, &OsStr)>) -> Result<bool> {
    let status = Command::new(&command[0]).args(&command[1..]).envs(variable).current_dir(root).status();
    Ok(status.with_context(|| format!("cannot run {}", command[0]))?.success())
}

/// The built unit tests of the shim, for a program that runs them.
fn test_binary(root: &Path) -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["test", "--locked", "-p", "mtl-torch", "--no-run", "--message-format=json"])
        .current_dir(root)
        .output()
        .context("cannot run cargo")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let ours = message["target"]["name"] == "mtl_torch" && message["profile"]["test"] == true;
        if let Some(path) = message["executable"].as_str().filter(|_| ours) {
            return Ok(path.into());
        }
    }
    bail!("the tests of mtl-torch were not built: {}", String::from_utf8_lossy(&output.stderr))
}
