//! Training runs: folders, checkpoints, resuming, signals.

use crate::support::{Faces, mtlrun, outcome, root, wait_for};
use mtl_engine::weights::Tensors;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lines of training losses.
fn losses(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().filter(|l| l.contains("\"train\"")).map(str::to_owned).collect()
}

/// Weights, optimizer and losses are the same to the last bit.
fn assert_same(a: &Path, b: &Path, last: u64) {
    assert_eq!(bytes(&a.join("weights.safetensors")), bytes(&b.join("weights.safetensors")), "weights");
    for file in ["weights.safetensors", "optimizer.safetensors", "state.json"] {
        let in_checkpoint = format!("checkpoints/step-{last}/{file}");
        assert_eq!(bytes(&a.join(&in_checkpoint)), bytes(&b.join(&in_checkpoint)), "{in_checkpoint}");
    }
    assert_eq!(losses(a), losses(b));
}

#[test]
fn a_run_folder_holds_what_is_needed_to_repeat_it() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["--set", "run.histogram_every=3"]);
    for file in [
        "recipe.resolved.toml",
        "run.json",
        "metrics.jsonl",
        "weights.safetensors",
        "identities.json",
        "recipe.source/recipes/tiny.toml",
        "recipe.source/base/recognition.toml",
        "checkpoints/step-6/manifest.json",
    ] {
        assert!(run.join(file).exists(), "{file}");
    }
    let record: serde_json::Value = serde_json::from_slice(&bytes(&run.join("run.json"))).unwrap();
    assert_eq!(record["seed"], 3);
    assert_eq!(record["libtorch"], "2.11.0");
    assert_eq!(record["dims"]["identities"], 4);
    assert_eq!(record["data"]["faces"]["samples"], 12);
    let identities: Vec<String> = serde_json::from_slice(&bytes(&run.join("identities.json"))).unwrap();
    assert_eq!(identities, ["0", "1", "2", "3"]);
    let events = std::fs::read_dir(run.join("tb")).unwrap().next().unwrap().unwrap().path();
    let events = bytes(&events);
    for tag in ["loss/total", "lr/recognition", "faces/image", "backbone.input_layer.0.weight", "recipe/text_summary"] {
        assert!(events.windows(tag.len()).any(|w| w == tag.as_bytes()), "no {tag} in TensorBoard's file");
    }

    // The resolved recipe is the same run.
    let again = dir.path().join("again");
    let resolved = run.join("recipe.resolved.toml");
    let output = mtlrun(&[resolved.as_os_str(), "--out".as_ref(), again.as_os_str(), "-q".as_ref()]).output().unwrap();
    assert_eq!(outcome(&output).0, 0, "{}", outcome(&output).1);
    assert_same(&run, &again, 6);
    assert_eq!(bytes(&resolved), bytes(&again.join("recipe.resolved.toml")));
}

#[test]
fn killed_and_resumed_is_bit_for_bit_the_undisturbed_run() {
    let faces = Faces::new(5, 4);
    let dir = TempDir::new().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let steps = ["--set", "run.steps=40", "--set", "run.checkpoint.every=3", "--quiet"];
    faces.train(&whole, &steps);
    let mut child = mtlrun(&faces.tiny(&broken, &steps)).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a checkpoint", || broken.join("checkpoints/step-6").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!broken.join("weights.safetensors").exists(), "killed too late");
    // Other workers and another way of ahead-loading must not matter.
    let other = ["--resume", "--set", "data.faces.workers=3", "--set", "data.faces.prefetch=7"];
    faces.train(&broken, &[&steps[..], &other].concat());
    assert_same(&whole, &broken, 40);
}

#[test]
fn a_signal_saves_and_the_run_goes_on_from_there() {
    let faces = Faces::new(5, 4);
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    let steps = ["--set", "run.steps=60", "--set", "run.checkpoint.every=0", "--quiet"];
    faces.train(&whole, &steps);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let run = dir.path().join(format!("run-{code}"));
        let mut child = mtlrun(&faces.tiny(&run, &steps)).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("a step", || run.join("metrics.jsonl").exists() && !losses(&run).is_empty());
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!run.join("weights.safetensors").exists(), "stopped too late");
        faces.train(&run, &[&steps[..], &["--resume"]].concat());
        assert_same(&whole, &run, 60);
    }
}

#[test]
fn a_picture_that_breaks_in_mid_run_costs_no_step() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    let steps = ["--set", "run.checkpoint.every=0", "-q"];
    faces.train(&whole, &steps);
    // The first batch is drawn from 12 pictures by the seed: of three pictures at least one is not in it.
    let found = ["0_0.jpg", "1_1.jpg", "2_2.jpg", "3_0.jpg", "3_1.jpg"].iter().find(|name| {
        let (picture, run) = (faces.path(name), dir.path().join(name));
        let good = bytes(&picture);
        std::fs::write(&picture, &good[..good.len() / 2]).unwrap();
        let (code, text) = outcome(&mtlrun(&faces.tiny(&run, &steps)).output().unwrap());
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(**name), "{text}");
        std::fs::write(&picture, good).unwrap();
        let saved = std::fs::read_dir(run.join("checkpoints")).is_ok_and(|mut d| d.next().is_some());
        if saved {
            faces.train(&run, &[&steps[..], &["--resume"]].concat());
            assert_same(&whole, &run, 6);
        }
        saved
    });
    assert!(found.is_some(), "every picture was in the first batch");
}

#[test]
fn a_run_stopped_before_its_first_checkpoint_starts_again() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    faces.train(&whole, &["-q"]);
    faces.train(&broken, &["-q"]);
    std::fs::remove_dir_all(broken.join("checkpoints")).unwrap();
    faces.train(&broken, &["-q", "--resume"]);
    assert_same(&whole, &broken, 6);
}

#[test]
fn a_changed_recipe_is_resumed_only_when_allowed() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let resume = |more: &[&str]| {
        let more = [&["--resume", "-q"], more].concat();
        outcome(&mtlrun(&faces.tiny(&run, &more)).output().unwrap())
    };
    let (code, text) = resume(&["--set", "model.identity.margin=0.5"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("model.identity.margin: 0.35 -> 0.5"), "{text}");
    assert!(text.contains("--allow-recipe-change"), "{text}");
    let (code, text) = resume(&["--set", "model.identity.margin=0.5", "--allow-recipe-change", "--set", "run.steps=7"]);
    assert_eq!(code, 0, "{text}");
    assert!(run.join("checkpoints/step-7").exists());
    let other = "phase.recognition.optimizer={ component = \"adam\", lr = 0.001 }";
    let margin = ["--set", "model.identity.margin=0.5", "--allow-recipe-change", "--set", "run.steps=8"];
    let (code, text) = resume(&[&margin[..], &["--set", other]].concat());
    assert!(code == 0 && text.contains("another optimizer now, which starts without"), "{text}");
}

#[test]
fn a_filled_folder_is_refused_emptied_or_resumed() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let (code, text) = outcome(&mtlrun(&faces.tiny(&run, &["-q"])).output().unwrap());
    assert_eq!(code, 2);
    assert!(text.contains("is not empty") && text.contains("--overwrite"), "{text}");
    let before = bytes(&run.join("weights.safetensors"));
    faces.train(&run, &["-q", "--overwrite"]);
    assert_eq!(before, bytes(&run.join("weights.safetensors")), "the same recipe gives the same weights");
}

#[test]
fn a_truncated_checkpoint_is_passed_over_for_an_older_one() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let newest = run.join("checkpoints/step-6/weights.safetensors");
    let good = bytes(&newest);
    std::fs::write(&newest, &good[..good.len() / 2]).unwrap();
    let more = ["--resume", "--set", "run.steps=8"];
    let (code, text) = outcome(&mtlrun(&faces.tiny(&run, &more)).output().unwrap());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("is damaged") && text.contains("going on from"), "{text}");
    // With no good one left it is the user's turn.
    for entry in std::fs::read_dir(run.join("checkpoints")).unwrap() {
        let file = entry.unwrap().path().join("weights.safetensors");
        if file.exists() {
            std::fs::write(&file, b"x").unwrap();
        }
    }
    let (code, text) = outcome(&mtlrun(&faces.tiny(&run, &more)).output().unwrap());
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("expected") && text.contains("bytes, found 1"), "{text}");
}

#[test]
fn evaluation_embeddings_and_the_best_checkpoint() {
    let faces = Faces::new(6, 3);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    let (pairs, list) = (faces.path("pairs.txt"), faces.path("list.txt"));
    let sets = [
        "evaluate.verification.component=verification".to_owned(),
        format!("evaluate.verification.pairs={}", pairs.display()),
        format!("evaluate.verification.list={}", list.display()),
        "evaluate.verification.folds=2".into(),
        "evaluate.verification.every=2".into(),
        "evaluate.age.component=age".into(),
        format!("evaluate.age.list={}", list.display()),
        "run.checkpoint.best=verification.accuracy".into(),
    ];
    let more: Vec<&str> = sets.iter().flat_map(|s| ["--set", s.as_str()]).chain(["-q"]).collect();
    faces.train(&run, &more);
    let run_text = run.to_str().unwrap();
    for which in ["last", "best", "6"] {
        let output = mtlrun(&["eval", run_text, "--checkpoint", which, "--json"]).output().unwrap();
        assert_eq!(outcome(&output).0, 0, "{}", outcome(&output).1);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let accuracy = report["verification"]["metrics"]["accuracy"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy));
        assert!(report["age"]["metrics"]["mae"].as_f64().unwrap() > 0.0);
        if which == "last" {
            // Measured in training and from the saved weights: the same numbers.
            let in_training: serde_json::Value =
                serde_json::from_slice(&bytes(&run.join("eval/verification.step-6.json"))).unwrap();
            assert_eq!(in_training["metrics"], report["verification"]["metrics"]);
        }
    }
    let csv = dir.path().join("e.csv");
    let output = mtlrun(&["embed", run_text, list.to_str().unwrap(), "--out", csv.to_str().unwrap()]).output().unwrap();
    assert_eq!(outcome(&output).0, 0, "{}", outcome(&output).1);
    let text = std::fs::read_to_string(&csv).unwrap();
    assert_eq!(text.lines().count(), 1 + 18);
    assert!(text.lines().all(|l| l.split(',').count() == 3 + 16), "{text}");
    let tensors = dir.path().join("e.safetensors");
    let folder = faces.folder.path().to_str().unwrap();
    let output = mtlrun(&["embed", run_text, folder, "--out", tensors.to_str().unwrap()]).output().unwrap();
    assert_eq!(outcome(&output).0, 0, "{}", outcome(&output).1);
    let read = mtl_engine::weights::read(&tensors).unwrap();
    assert_eq!(read["embedding"].size(), [18, 16]);
    assert_eq!(read["age"].size(), [18]);
}

#[test]
fn precision_accumulation_averages_and_other_optimizers_train() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let cases: [&[&str]; 6] = [
        &["run.precision=bf16"],
        &["run.precision=fp16"],
        &["run.precision=float64"],
        &["phase.recognition.accumulate=2", "phase.recognition.clip_norm=1.0"],
        &["ema.modules=[\"backbone\", \"decompose\", \"embed\"]", "ema.decay=0.9"],
        &["phase.recognition.optimizer.component=adamw", "phase.recognition.optimizer.lr=0.001"],
    ];
    for (i, case) in cases.iter().enumerate() {
        let (whole, parts) = (dir.path().join(format!("w{i}")), dir.path().join(format!("p{i}")));
        let sets: Vec<&str> = case.iter().flat_map(|s| ["--set", s]).chain(["-q"]).collect();
        faces.train(&whole, &sets);
        for line in losses(&whole) {
            // Under loss scaling the first steps may overflow: then there is no gradient norm, but there are losses.
            let numbers: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(numbers["loss/total"].is_f64(), "{case:?}: {line}");
        }
        // Each kind of state survives a stop as well.
        faces.train(&parts, &[&sets[..], &["--set", "run.steps=4"]].concat());
        faces.train(&parts, &[&sets[..], &["--resume"]].concat());
        assert_same(&whole, &parts, 6);
    }
}

/// Two halves of a batch give the gradient of the whole one, where no batch statistics come in: all nodes run in
/// evaluation mode. What is left are roundings of double precision.
#[test]
fn accumulated_batches_are_one_large_batch() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let nodes = ["features", "parts", "embedding", "years", "leaked"];
    let modes: Vec<String> = nodes.iter().map(|n| format!("graph.{n}.mode=eval")).collect();
    let weights = |name: &str, accumulate: u32, batch: u32| {
        let sizes = [format!("phase.recognition.accumulate={accumulate}"), format!("data.faces.batch_size={batch}")];
        let all = modes.iter().chain(&sizes).flat_map(|s| ["--set", s.as_str()]);
        let run = dir.path().join(name);
        faces.train(&run, &all.chain(["--set", "run.precision=float64", "-q"]).collect::<Vec<_>>());
        mtl_engine::weights::read(&run.join("weights.safetensors")).unwrap()
    };
    let (whole, halves) = (weights("whole", 1, 4), weights("halves", 2, 2));
    let other = weights("other", 1, 2);
    let apart = |a: &Tensors, b: &Tensors| {
        a.iter().map(|(name, t)| (t - &b[name]).abs().max().double_value(&[])).fold(0.0, f64::max)
    };
    assert!(apart(&whole, &halves) < 1e-12, "{}", apart(&whole, &halves));
    assert!(apart(&whole, &other) > 1e-6, "half the samples make no difference");
}

#[test]
fn phases_run_when_they_are_due() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    let recipe = dir.path().join("two.toml");
    let tiny = root().join("tests/recipes/tiny.toml");
    std::fs::write(
        &recipe,
        format!(
            r#"extends = ["{}"]
[phase.recognition]
minimize = ["identity"]
update = ["backbone", "decompose", "embed", "identity"]
optimizer = {{ groups = [] }}
[phase.ages]
minimize = ["age"]
update = ["age"]
optimizer = {{ component = "adam", lr = 1e-3 }}
from = 2
every = 2
[model.leak]
random = true
[run]
checkpoint = {{ keep_last = 9, every = 1 }}
"#,
            tiny.display()
        ),
    )
    .unwrap();
    let list = format!("data.faces.list={}", faces.path("list.txt").display());
    let args = [recipe.to_str().unwrap(), "--set", &list, "--out", run.to_str().unwrap(), "-q"];
    let (code, text) = outcome(&mtlrun(&args).output().unwrap());
    assert_eq!(code, 0, "{text}");
    let weights = |step: u64| {
        mtl_engine::weights::read(&run.join(format!("checkpoints/step-{step}/weights.safetensors"))).unwrap()
    };
    let changed = |name: &str, step: u64| weights(step)[name] != weights(step - 1)[name];
    // Steps are counted from 0 in `from`: the third and the fifth step run the second phase.
    let found: Vec<bool> = (2..=6).map(|s| changed("age.group_output_layer.weight", s)).collect();
    assert_eq!(found, [false, true, false, true, false]);
    assert!((2..=6).all(|s| changed("backbone.input_layer.0.weight", s)));
}

#[test]
fn a_run_is_reproduced_from_its_record_bit_by_bit() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let again = |more: &[&str]| {
        let args = [&["reproduce", run.to_str().unwrap(), "-q", "--overwrite"], more].concat();
        let output = mtlrun(&args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = again(&[]);
    assert!(code == Some(0) && text.contains("are the same bit by bit"), "{text}");
    assert!(run.join("reproduced/weights.safetensors").exists());
    // The last bit of one recorded loss turned: told by name, step and both values.
    let path = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|l| l.contains("\"step\":3") && l.contains("loss/identity")).unwrap();
    let mut changed: serde_json::Value = serde_json::from_str(line).unwrap();
    let value = changed["loss/identity"].as_f64().unwrap();
    changed["loss/identity"] = f64::from_bits(value.to_bits() + 1).into();
    std::fs::write(&path, text.replace(line, &changed.to_string())).unwrap();
    let (code, told) = again(&[]);
    assert!(code == Some(1) && told.contains("NOT reproduced: `loss/identity` at step 3"), "{told}");
    // Before that step all is the same.
    assert_eq!(again(&["--steps", "2"]).0, Some(0));
    // Another machine is named.
    let path = run.join("run.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["machine"]["cpu"] = "another".into();
    std::fs::write(&path, record.to_string()).unwrap();
    assert!(again(&["--steps", "2"]).1.contains("processor differs: \"another\" then"));
    // The first half of a cosine is a part of the recorded course.
    let cosine = dir.path().join("cosine");
    faces.train(
        &cosine,
        &["-q", "--set", "run.steps=2", "--set", "phase.recognition.scheduler={ component = \"cosine\" }"],
    );
    let output = mtlrun(&["reproduce", cosine.to_str().unwrap(), "--steps", "1"]).output().unwrap();
    assert_eq!(outcome(&output).0, 0, "{}", outcome(&output).1);
    std::fs::write(&path, "{").unwrap();
    let (code, text) = outcome(&mtlrun(&["reproduce", run.to_str().unwrap()]).output().unwrap());
    assert!(code == 2 && text.contains("run.json is damaged"), "{text}");
}
