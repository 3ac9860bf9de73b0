//! What takes too long for every change: `cargo xtask test --long`.

use crate::support::{Faces, REGISTRY, mtlrun, outcome, recipes};
use mtl_component::Draw;
use mtl_engine::graph::Graph;
use mtl_engine::recipe::Recipe;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

/// A run that is killed at twelve moments and resumed each time ends with the bits of one that was left alone.
#[test]
#[ignore = "minutes: cargo xtask test --long"]
fn killed_again_and_again() {
    let faces = Faces::new(5, 4);
    let dir = TempDir::new().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let steps = ["--set", "run.steps=400", "--set", "run.checkpoint.every=7", "--quiet"];
    faces.train(&whole, &steps);
    let mut draw = Draw::new(&[13]);
    for kill in 0..12 {
        let resume = broken.join("recipe.resolved.toml").exists();
        let more = [&steps[..], if resume { &["--resume"] } else { &[] }].concat();
        let mut child = mtlrun(&faces.tiny(&broken, &more)).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(400 + draw.below(1200)));
        child.kill().unwrap();
        child.wait().unwrap();
        let checkpoints = broken.join("checkpoints");
        for entry in std::fs::read_dir(&checkpoints).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let whole = !name.starts_with("step-") || name.contains(".tmp-");
            assert!(whole || entry.path().join("manifest.json").exists(), "after kill {kill}: {name} is not whole");
        }
    }
    let more = [&steps[..], &["--resume"]].concat();
    faces.train(&broken, &more);
    let read = |run: &std::path::Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    assert!(read(&whole) == read(&broken), "the bits differ");
}

/// Recipes with lines dropped, doubled, swapped and cut are judged; whatever the checker calls good has a graph.
#[test]
#[ignore = "minutes: cargo xtask test --long"]
fn random_recipes_are_judged_without_a_panic() {
    let (mut good, mut bad) = (0, 0);
    for (number, recipe) in recipes().into_iter().enumerate() {
        let text = std::fs::read_to_string(&recipe).unwrap();
        let folder = recipe.parent().unwrap();
        let path = folder.join(format!(".random-{}-{number}.toml", std::process::id()));
        for round in 0..1000 {
            let mut draw = Draw::new(&[number as u64, round]);
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            for _ in 0..1 + draw.below(4) {
                let at = draw.below(lines.len() as u64) as usize;
                match draw.below(5) {
                    0 => drop(lines.remove(at)),
                    1 => lines.insert(at, lines[at].clone()),
                    2 => {
                        let other = draw.below(lines.len() as u64) as usize;
                        lines.swap(at, other);
                    }
                    3 => {
                        let keep = draw.below(lines[at].chars().count() as u64 + 1) as usize;
                        lines[at] = lines[at].chars().take(keep).collect();
                    }
                    _ => lines[at] = lines[at].replace(['1', '2', '3'], "-7"),
                }
                if lines.is_empty() {
                    break;
                }
            }
            std::fs::write(&path, lines.join("\n")).unwrap();
            let found = Recipe::read(&REGISTRY, &path, &[]).and_then(|recipe| Graph::new(&recipe).map(|_| ()));
            match found {
                Ok(()) => good += 1,
                Err(found) => {
                    bad += 1;
                    assert!(found.errors() > 0 && !found.render(false).is_empty());
                }
            }
        }
        std::fs::remove_file(&path).unwrap();
    }
    assert!(good > 50 && bad > 200, "{good} good and {bad} bad");
}

/// TensorBoard's own reader and safetensors' Python package find in a run folder what was logged and saved.
#[test]
#[ignore = "needs Python packages: cargo xtask test --long"]
fn other_programs_read_what_a_run_writes() {
    const SCRIPT: &str = r#"
import json, sys
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
run = sys.argv[1]
events = EventAccumulator(run + "/tb", size_guidance={"scalars": 0, "images": 0})
events.Reload()
scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
weights = {name: list(value.shape) for name, value in load_file(run + "/weights.safetensors").items()}
print(json.dumps({"scalars": scalars, "images": len(events.Tags()["images"]), "graph": events.Tags()["graph"],
                  "weights": weights}))
"#;
    let place = std::env::var_os("MTLRUN_FOREIGN").expect("the folder of their environment");
    let faces = Faces::new(3, 4);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let python = std::path::Path::new(&place).join("bin/python");
    let output = std::process::Command::new(python).args(["-c", SCRIPT]).arg(&run).output().unwrap();
    assert!(output.status.success(), "{}", outcome(&output).1);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["images"].as_u64().unwrap() >= 1 && found["graph"] == true, "{found}");
    let mut compared = 0;
    for line in std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for (name, value) in line.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("loss/")) {
            let points = found["scalars"][name].as_array().unwrap();
            let point = points.iter().find(|point| point[0] == line["step"]).unwrap();
            let (theirs, ours) = (point[1].as_f64().unwrap(), value.as_f64().unwrap());
            // Curves are kept in single precision.
            assert!((theirs - ours).abs() <= 1e-6 * ours.abs(), "{name}: {theirs} {ours}");
            compared += 1;
        }
    }
    assert_eq!(compared, 6 * 4);
    let ours = mtl_engine::weights::read(&run.join("weights.safetensors")).unwrap();
    assert_eq!(found["weights"].as_object().unwrap().len(), ours.len());
    for (name, tensor) in ours {
        assert_eq!(found["weights"][&name], serde_json::json!(tensor.size()), "{name}");
    }
}

/// mxnet reads what is packed as insightface does: the block of identities, the labels, the pictures; pickle the set.
#[test]
#[ignore = "needs mxnet: cargo xtask test --long"]
fn mxnet_reads_what_is_packed() {
    const SCRIPT: &str = r#"
import hashlib, json, numbers, pickle, sys
import mxnet as mx
folder, pairs = sys.argv[1:]
records = mx.recordio.MXIndexedRecordIO(folder + "/train.idx", folder + "/train.rec", "r")
header, _ = mx.recordio.unpack(records.read_idx(0))
# As the dataset of arcface_torch finds its pictures.
keys = list(range(1, int(header.label[0]))) if header.flag > 0 else list(records.keys)
found = []
for key in keys:
    header, picture = mx.recordio.unpack(records.read_idx(key))
    label = header.label if isinstance(header.label, numbers.Number) else header.label[0]
    shape = mx.image.imdecode(picture).shape
    found.append([int(label), hashlib.sha256(picture).hexdigest(), shape[0]])
with open(pairs, "rb") as file:
    bins, same = pickle.load(file, encoding="bytes")
print(json.dumps({"records": found, "pairs": [hashlib.sha256(b).hexdigest() for b in bins], "same": same}))
"#;
    use sha2::{Digest, Sha256};
    let place = std::env::var_os("MTLRUN_MXNET").expect("the folder of its environment");
    let faces = Faces::new(5, 4);
    let dir = TempDir::new().unwrap();
    let digest = |name: &str| hex::encode(Sha256::digest(std::fs::read(faces.path(name)).unwrap()));
    let set = dir.path().join("pairs.bin");
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    crate::support::told(&["data", "pack", "--pairs", &text(&faces.path("pairs.txt")), "--out", &text(&set)]);
    for layout in ["insightface", "shuffled"] {
        let out = dir.path().join(layout);
        let list = text(&faces.path("list.txt"));
        crate::support::told(&["data", "pack", &list, "--layout", layout, "--out", &text(&out)]);
        let python = std::path::Path::new(&place).join("bin/python");
        let output = std::process::Command::new(python).args(["-c", SCRIPT]).arg(&out).arg(&set).output().unwrap();
        assert!(output.status.success(), "{}", outcome(&output).1);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut wanted = Vec::new();
        for (i, k) in (0..5).flat_map(|i| (0..4).map(move |k| (i, k))) {
            wanted.push(serde_json::json!([i, digest(&format!("{i}_{k}.jpg")), 20]));
        }
        let mut records = found["records"].as_array().unwrap().clone();
        if layout == "shuffled" {
            assert_ne!(records, wanted);
            let sorted = |of: &mut Vec<serde_json::Value>| of.sort_by_key(|record| record[1].to_string());
            sorted(&mut records);
            sorted(&mut wanted);
        }
        assert_eq!(records, wanted, "{layout}");
        let pairs = std::fs::read_to_string(faces.path("pairs.txt")).unwrap();
        let lines: Vec<Vec<&str>> = pairs.lines().map(|line| line.split(' ').collect()).collect();
        let files: Vec<String> = lines.iter().flat_map(|line| [digest(line[0]), digest(line[1])]).collect();
        assert_eq!(found["pairs"], serde_json::json!(files));
        assert_eq!(found["same"], serde_json::json!(lines.iter().map(|line| line[2] == "1").collect::<Vec<_>>()));
    }
}

/// The system calls that change what is on the disk, and how many of each go by between two that a kill is tried at.
const CALLS: [(&str, usize); 9] = [
    ("rename", 1),
    ("renameat2", 1),
    ("mkdir", 1),
    ("rmdir", 1),
    ("unlink", 1),
    ("unlinkat", 1),
    ("fsync", 3),
    ("write", 12),
    ("openat", 60),
];

/// Runs a command under strace, which kills it at the `nth` call of that name; whether it came so far.
fn killed_at(command: &std::process::Command, call: &str, nth: usize) -> bool {
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
    strace.arg(command.get_program()).args(command.get_args()).current_dir(crate::support::root());
    let status = strace.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    !status.success()
}

/// Killed at a system call that changes the disk, of a training, of one that replaces another, and of a sweep: the same
/// command, or with --resume, goes on or starts again, and ends with the bits of one that was left alone.
#[test]
#[ignore = "minutes, and needs strace: cargo xtask test --long"]
fn killed_at_each_system_call() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    let pairs = format!("evaluate.v.pairs={}", faces.path("pairs.txt").display());
    let sets = [
        "-q",
        "--set",
        "run.steps=4",
        "--set",
        "run.checkpoint.every=1",
        "--set",
        "run.checkpoint.keep_last=1",
        "--set",
        "evaluate.v={ component = \"verification\", folds = 2, every = 2 }",
        "--set",
        &pairs,
        "--set",
        "run.checkpoint.best=v.accuracy",
    ];
    faces.train(&whole, &sets);
    let read = |run: &std::path::Path| std::fs::read(run.join("weights.safetensors")).ok();
    let wanted = read(&whole);
    let kept = |run: &std::path::Path| {
        let steps = mtl_engine::checkpoint::list(&run.join("checkpoints")).into_iter().map(|(step, _)| step);
        (steps.collect::<Vec<_>>(), std::fs::read(run.join("checkpoints/best.json")).ok())
    };
    let (mut tried, mut wrong) = (0, Vec::new());
    for replacing in [false, true] {
        for (call, each) in CALLS {
            for nth in (1..).step_by(each) {
                let out = dir.path().join("run");
                let _ = std::fs::remove_dir_all(&out);
                let mut start = sets.to_vec();
                if replacing {
                    faces.train(&out, &["-q", "--set", "run.steps=1", "--set", "run.seed=9"]);
                    start.push("--overwrite");
                }
                if !killed_at(&mtlrun(&faces.tiny(&out, &start)), call, nth) {
                    break;
                }
                tried += 1;
                // As a user would: the same command again, and then what its message says.
                let mut told = Vec::new();
                let ways: [&[&str]; 3] = [&["--resume"], &[], &["--overwrite"]];
                let done = ways.iter().any(|way| {
                    let (code, text) =
                        outcome(&mtlrun(&faces.tiny(&out, &[&sets[..], way].concat())).output().unwrap());
                    told.push(format!("{way:?} {code}: {}", text.lines().next().unwrap_or_default()));
                    code == 0
                });
                // Resumed after its last step, a run knows already that the last checkpoint is proven, and needs no other.
                let ((steps, best), (all, wanted_best)) = (kept(&out), kept(&whole));
                let right = steps.last() == all.last() && steps.iter().all(|s| all.contains(s)) && best == wanted_best;
                if !done || read(&out) != wanted || !right {
                    wrong.push(format!("{call} {nth}, replacing {replacing}: {:?} {told:?}", kept(&out)));
                }
            }
        }
    }
    for (call, each) in CALLS {
        for nth in (1..).step_by(each * 3) {
            let out = dir.path().join("sweep");
            let _ = std::fs::remove_dir_all(&out);
            let list = format!("data.faces.list={}", faces.path("list.txt").display());
            let sweep = |command: &[&str]| {
                let all = ["sweep", "tests/recipes/tiny.toml", "--grid", "seed=1,2", "--set", "run.steps=2", "--set"];
                mtlrun(&[&all[..], &[&list, "--out", out.to_str().unwrap()], command].concat())
            };
            if !killed_at(&sweep(&[]), call, nth) {
                break;
            }
            tried += 1;
            // A run that has lost its sweep saves and ends soon.
            let mut code = 1;
            for _ in 0..3 {
                code = sweep(&[]).output().unwrap().status.code().unwrap_or(1);
                if code == 0 {
                    break;
                }
                std::thread::sleep(Duration::from_secs(1));
            }
            let finished = ["seed=1", "seed=2"].iter().filter(|name| read(&out.join(name)).is_some()).count();
            if code != 0 || finished != 2 {
                wrong.push(format!("sweep, {call} {nth}: exit {code}, {finished} of 2 finished"));
            }
        }
    }
    println!("{tried} kills");
    assert!(tried > 100 && wrong.is_empty(), "{} of {tried} went wrong:\n{}", wrong.len(), wrong.join("\n"));
}
