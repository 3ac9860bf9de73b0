//! Runs of an earlier version, whose states have no version: everything but resuming them still works.
//!
//! `reference/earlier` holds two that commit 8020988 has trained, without optimizer states and logs: recognition
//! (`tests/recipes/made.toml`) and ageing on its weights (`tests/recipes/tiny_age.toml`), as narrow as they can be.

use crate::support::{mtlrun, outcome, reference, refused, told};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What the recognition run was started with.
const RECOGNITION: &[&str] = &[
    "tests/recipes/made.toml",
    "--set",
    "run.checkpoint.every=0",
    "--set",
    "run.checkpoint.best=verification.auc",
    "--set",
    "model.backbone.width=2",
    "--set",
    "model.embed.size=4",
    "--set",
    "model.age.hidden=4",
    "--set",
    "model.leak.hidden=4",
    "--unset",
    "evaluate.leakage",
];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { std::fs::copy(&from, &to).map(|_| ()).unwrap() }
    }
}

fn earlier(dir: &TempDir, name: &str) -> PathBuf {
    let run = dir.path().join(name);
    copy(&reference("earlier").join(name), &run);
    run
}

#[test]
fn an_earlier_run_is_listed_compared_evaluated_and_embedded() {
    let dir = TempDir::new().unwrap();
    let run = earlier(&dir, "recognition");
    let folder = run.to_str().unwrap();
    let listed = told(&["runs", dir.path().to_str().unwrap()]);
    assert!(listed.contains("done") && listed.contains("2/2") && listed.contains("verification.accuracy"), "{listed}");
    assert!(told(&["compare", folder]).contains("verification.auc"));

    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let measured: Vec<serde_json::Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let found: serde_json::Value = serde_json::from_str(&told(&["eval", folder, "--json"])).unwrap();
    let mut compared = 0;
    for (evaluator, report) in found.as_object().unwrap() {
        for (metric, value) in report["metrics"].as_object().unwrap() {
            // Rates at thresholds had other names, and were read otherwise.
            let then = measured.iter().find_map(|line| line[format!("eval/{evaluator}/{metric}")].as_f64());
            let Some(then) = then else {
                assert!(metric.starts_with("fnmr_at_fmr_"), "{metric}");
                continue;
            };
            // Another processor rounds otherwise.
            assert!((value.as_f64().unwrap() - then).abs() < 1e-3, "{evaluator}.{metric}: {value}, then {then}");
            compared += 1;
        }
    }
    assert_eq!(compared, 7);

    let faces = crate::support::Faces::new(2, 2);
    let out = dir.path().join("e.csv");
    told(&["embed", folder, faces.path("list.txt").to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(out).unwrap().lines().count(), 1 + 4);
}

#[test]
fn an_earlier_run_ages_faces() {
    let dir = TempDir::new().unwrap();
    let run = earlier(&dir, "ageing");
    let faces = crate::support::Faces::new(2, 1);
    for to in ["groups", "20,40"] {
        let out = dir.path().join(format!("{to}.png"));
        let face = faces.path("0_0.jpg");
        told(&["age", run.to_str().unwrap(), face.to_str().unwrap(), "--to", to, "--out", out.to_str().unwrap()]);
        assert!(image::open(out).unwrap().width() >= 3 * 16);
    }
}

#[test]
fn an_earlier_run_is_not_resumed_and_its_weights_are_used() {
    let dir = TempDir::new().unwrap();
    let run = earlier(&dir, "recognition");
    let folder = run.to_str().unwrap();
    let longer = ["--set", "run.steps=4", "--out", folder, "--resume", "-q"];
    refused(
        outcome(&mtlrun(&[RECOGNITION, &longer].concat()).output().unwrap()),
        &["saved by an earlier version of mtlrun", "can be evaluated, but not resumed", "weights = { run"],
    );
    let weights = format!("model.backbone.weights={{ run = {folder:?} }}");
    let out = dir.path().join("new");
    let new = ["--set", "run.steps=1", "--set", &weights, "--out", out.to_str().unwrap()];
    let (code, text) = outcome(&mtlrun(&[RECOGNITION, &new].concat()).output().unwrap());
    assert!(code == 0 && text.contains("model.backbone: ") && text.contains("tensors from"), "{text}");
}
