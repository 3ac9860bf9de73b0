//! Program, machine and git state, for the record of a run.

use super::timestamp;
use crate::device::threads;
use crate::machine;
use crate::ranks::processes;
use crate::recipe::Recipe;
use mtl_recipe::files::read_bounded;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Program, machine and git state of this process, for a run of that recipe.
pub fn environment(recipe: &Recipe, overrides: &[String]) -> Value {
    json!({
        "started": timestamp(),
        "argv": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "overrides": overrides,
        "folder": std::env::current_dir().ok().map(|folder| folder.to_string_lossy().into_owned()),
        "mtlrun": env!("CARGO_PKG_VERSION"),
        "libtorch": mtl_torch::version().ok(),
        "cpu_capability": mtl_torch::cpu_capability().ok(),
        "git": git_state(),
        "plugins": plugins(recipe),
        "seed": recipe.run.seed,
        "device": recipe.run.device,
        "cuda": (recipe.run.device != "cpu").then(machine::cuda),
        "ranks": processes(),
        "threads": threads(recipe),
        "machine": {
            "host": machine::host(),
            "cpu": machine::cpu_name(),
            "memory_mib": machine::memory_mib(),
            "os": std::env::consts::OS,
        },
    })
}

/// The plugins of a recipe: what they are called, where they are, and hashes of their files and sources.
fn plugins(recipe: &Recipe) -> Value {
    let each = recipe.registry.plugins().iter().map(|plugin| {
        json!({
            "name": plugin.name,
            "version": plugin.version,
            "path": plugin.path.to_string_lossy(),
            "sha256": plugin.sha256,
            "sources_sha256": plugin.sources,
        })
    });
    each.collect()
}

/// How long git may take.
const GIT_TIME: Duration = Duration::from_secs(3);
/// The names of changed files that are recorded.
const GIT_NAMES: usize = 100;
/// What is read of what git writes.
const GIT_BYTES: u64 = 1 << 20;

/// The largest index of a repository that is looked at.
const GIT_INDEX: u64 = 256 << 20;

/// The commit of the working folder, and which tracked files differ from it.
fn git_state() -> Value {
    let found = git(&["rev-parse", "HEAD", "--show-toplevel", "--absolute-git-dir", "--git-common-dir"]);
    let lines: Vec<&str> = found.as_deref().unwrap_or_default().lines().collect();
    let [commit, top, own, common] = lines[..] else { return json!({ "commit": null, "changed": null }) };
    let changed = git_changed(commit, Path::new(top), Path::new(own), Path::new(common)).ok().flatten();
    let names = changed.as_deref().map(|text| text.lines().collect::<Vec<_>>());
    json!({
        "commit": commit,
        "changed": names.as_ref().map(|names| names.iter().take(GIT_NAMES).collect::<Vec<_>>()),
        "changed_count": names.as_ref().map(Vec::len),
    })
}

/// The tracked files that differ from a commit. A repository may name programs to be run, such as filters: git looks at
/// its files from a folder of ours, which has its commit, index and objects and nothing of its configuration.
fn git_changed(commit: &str, top: &Path, own: &Path, common: &Path) -> mtl_recipe::Result<Option<String>> {
    let folder = tempfile::Builder::new().prefix("mtlrun-git-").tempdir()?;
    let (index, objects) = (own.join("index"), common.join("objects").canonicalize()?);
    for made in ["refs", "objects/info"] {
        std::fs::create_dir_all(folder.path().join(made))?;
    }
    std::fs::write(folder.path().join("index"), read_bounded(&index, GIT_INDEX)?)?;
    // Git reads a file of unchanged size and time again if it is not older than the index: the copy keeps the index's age.
    let copy = std::fs::File::options().write(true).open(folder.path().join("index"))?;
    copy.set_modified(std::fs::metadata(&index)?.modified()?)?;
    std::fs::write(folder.path().join("HEAD"), format!("{commit}\n"))?;
    std::fs::write(folder.path().join("objects/info/alternates"), format!("{}\n", objects.display()))?;
    let place = [format!("--git-dir={}", folder.path().display()), format!("--work-tree={}", top.display())];
    let status = ["status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all"];
    Ok(git(&place.iter().map(String::as_str).chain(status).collect::<Vec<_>>()))
}

/// What git answers, without hooks, monitors, pagers and the user's own configuration. Locks are not taken, and a git that
/// does not answer is given up.
fn git(args: &[&str]) -> Option<String> {
    const CONFIGURATION: [&str; 6] =
        ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat"];
    let mut child = Command::new("git")
        .args(["--no-optional-locks", "--no-pager"])
        .args(CONFIGURATION)
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_EXTERNAL_DIFF", "")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let out = child.stdout.take()?;
    let (send, receive) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = out.take(GIT_BYTES).read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    let end = Instant::now() + GIT_TIME;
    let bytes = receive.recv_timeout(GIT_TIME).ok();
    while bytes.is_some() && Instant::now() < end {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => {
                return bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
            }
            Ok(Some(_)) | Err(_) => return None,
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
