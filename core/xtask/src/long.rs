//! What takes too long for every change: `cargo xtask test --long`.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{cache, needs, validators};

/// One long test.
struct Long {
    name: &'static str,
    /// Why it cannot run here, if it cannot.
    skipped: Option<String>,
    command: Vec<&'static str>,
}

/// Why a tool cannot be used, unless the command, such as one that prints its version, runs.
fn lacks(command: &[&str]) -> Option<String> {
    (!needs::runs(command)).then(|| format!("`{}` does not run", command.join(" ")))
}

/// A test of the whole program that is left out otherwise.
fn ignored(name: &'static str) -> Vec<&'static str> {
    vec!["cargo", "test", "--locked", "-p", "mtlrun", "--test", "system", "--", "--ignored", "--exact", name]
}

/// The readers that are fuzzed; tests/fuzz holds a target for each.
const FUZZED: [&str; 18] = [
    "cases",
    "checkpoint",
    "landmarks",
    "list",
    "lst",
    "mat",
    "npy",
    "override_value",
    "pairs",
    "pickle",
    "picture",
    "picture_header",
    "pytorch_weights",
    "recipe",
    "records",
    "run_folder",
    "safetensors",
    "verification_set",
];

/// Half a minute of a fuzz target.
fn fuzz(target: &'static str) -> Vec<&'static str> {
    let seconds = "-max_total_time=30";
    vec!["cargo", "fuzz", "run", "-s", "none", "--fuzz-dir", "tests/fuzz", target, "--", seconds]
}

/// Runs all of them; one that lacks a tool is skipped with the reason.
///
/// # Errors
/// After the last one, if any has failed.
pub fn run(root: &Path) -> Result<()> {
    let clients = validators::clients(&cache::root()?)?;
    let mxnet = validators::mxnet(&cache::root()?)?;
    let no_mxnet = mxnet.is_none().then(|| "mxnet could not be installed".to_owned());
    let no_clients = clients.is_none().then(|| "the Python packages could not be installed".to_owned());
    let all = [
        Long { name: "kill loops", skipped: None, command: ignored("long::killed_again_and_again") },
        Long {
            name: "random recipes",
            skipped: None,
            command: ignored("long::random_recipes_are_judged_without_a_panic"),
        },
        Long {
            name: "kills at system calls",
            skipped: lacks(&["strace", "-V"]),
            command: ignored("long::killed_at_each_system_call"),
        },
        Long {
            name: "random training",
            skipped: None,
            command: ignored("random_training::random_small_recipes_train_or_are_refused"),
        },
        Long {
            name: "small convolutions",
            skipped: None,
            command: vec![
                "cargo",
                "test",
                "--locked",
                "-p",
                "mtl-component",
                "--test",
                "convolutions",
                "--",
                "--ignored",
            ],
        },
        Long {
            name: "foreign clients",
            skipped: no_clients,
            command: ignored("long::other_programs_read_what_a_run_writes"),
        },
        Long { name: "mxnet", skipped: no_mxnet, command: ignored("long::mxnet_reads_what_is_packed") },
        Long {
            name: "plugins under valgrind",
            skipped: lacks(&["valgrind", "--version"]),
            command: ignored("plugins::a_plugin_is_clean_under_valgrind"),
        },
        Long {
            name: "valgrind",
            skipped: lacks(&["valgrind", "--version"]),
            command: vec![
                "env",
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=valgrind --quiet --error-exitcode=9 --undef-value-errors=no",
                "cargo",
                "test",
                "--locked",
                "-p",
                "mtl-torch",
                "--lib",
            ],
        },
    ];
    let lacks_fuzz = lacks(&["cargo", "fuzz", "--version"]);
    let fuzzing = FUZZED.map(|target| Long { name: target, skipped: lacks_fuzz.clone(), command: fuzz(target) });
    let mut failed = Vec::new();
    for Long { name, skipped, command } in all.into_iter().chain(fuzzing) {
        if let Some(reason) = skipped {
            println!("{name}: skipped: {reason}");
            continue;
        }
        println!("{name}: {}", command.join(" "));
        let start = Instant::now();
        let mut child = Command::new(command[0]);
        child.args(&command[1..]).current_dir(root);
        child.envs(clients.as_deref().map(|place| ("MTLRUN_FOREIGN", place)));
        child.envs(mxnet.as_deref().map(|place| ("MTLRUN_MXNET", place)));
        if !child.status().with_context(|| format!("cannot run {}", command[0]))?.success() {
            failed.push(name);
        }
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
