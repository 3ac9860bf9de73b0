//! Help and messages, held by snapshots: `cargo insta review` shows what changed.

use crate::support::{Faces, mtlrun, root};
use std::path::Path;
use tempfile::TempDir;

/// Exit code, standard output and standard error of a command, without what differs from machine to machine.
fn shown(args: &[&str], folder: Option<&Path>) -> String {
    let output = mtlrun(args).env("COLUMNS", "100").env("NO_COLOR", "1").output().unwrap();
    let text = |bytes: &[u8]| {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if let Some(folder) = folder {
            text = text.replace(&folder.display().to_string(), "FOLDER");
        }
        text.replace(&root().display().to_string(), "ROOT")
    };
    let code = output.status.code().unwrap_or(-1);
    format!("exit code {code}\n--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn help() {
    insta::assert_snapshot!("help", shown(&["--help"], None));
    for command in ["check", "sweep", "compare", "age", "embed", "eval", "data", "schema", "explain", "trace"] {
        insta::assert_snapshot!(format!("help_{command}"), shown(&[command, "--help"], None));
    }
}

#[test]
fn listings() {
    insta::assert_snapshot!("list", shown(&["list"], None));
    insta::assert_snapshot!("list_head", shown(&["list", "head"], None));
    insta::assert_snapshot!("list_hook", shown(&["list", "hooks"], None));
    insta::assert_snapshot!("list_unknown", shown(&["list", "hed"], None));
}

#[test]
fn findings_about_recipes() {
    let check = |set: &[&str]| {
        let sets: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
        shown(&[&["check", "tests/recipes/made.toml"], &sets[..]].concat(), None)
    };
    insta::assert_snapshot!(
        "check_unwired",
        shown(&["check", "tests/recipes/made.toml", "--unset", "graph.years.in"], None)
    );
    for (name, sets) in [
        ("good", &["phase.recognition.scheduler.milestones=[2]"][..]),
        ("warning", &["loss.domain.weight=0"]),
        ("unknown_key", &["loss.domain.wieght=0.002"]),
        ("unknown_component", &["model.identity.component=cosfce"]),
        ("unknown_section", &["losses.domain.weight=0"]),
        ("out_of_range", &["model.identity.margin=1.5"]),
        ("wrong_type", &["run.steps=many"]),
        ("unknown_wire", &["graph.years.in.features=parts.agee"]),
        ("shapes", &["graph.years.in.features=embedding"]),
        ("untrained", &["phase.recognition.update=[\"backbone\", \"embed\", \"identity\", \"age\", \"leak\"]"]),
        ("reference", &["model.embed.size=${model.embd.size}"]),
        ("metric", &["run.checkpoint.best=verification.acuracy"]),
        ("age_groups", &["dims.age_groups=9"]),
    ] {
        insta::assert_snapshot!(format!("check_{name}"), check(sets));
    }
}

#[test]
fn mistakes_on_the_way() {
    let faces = Faces::new(2, 2);
    let folder = faces.folder.path();
    std::fs::write(faces.path("list.txt"), "1 0_0.jpg 20\n2 gone.jpg 20 1\n").unwrap();
    let out = TempDir::new().unwrap();
    let list = format!("data.faces.list={}", faces.path("list.txt").display());
    let run = out.path().join("run");
    let train = ["tests/recipes/tiny.toml", "--set", &list, "--out", run.to_str().unwrap(), "-q"];
    insta::assert_snapshot!("train_faulty_list", shown(&train, Some(folder)));
    insta::assert_snapshot!("no_such_command", shown(&["evl", "runs"], None));
    insta::assert_snapshot!("no_such_recipe", shown(&["/nowhere.toml"], None));
    insta::assert_snapshot!("no_such_run", shown(&["eval", "/nowhere"], None));
    insta::assert_snapshot!("no_such_device", shown(&["tests/recipes/made.toml", "--device", "cuda:x"], None));
    insta::assert_snapshot!(
        "not_a_run_folder",
        shown(&["embed", folder.to_str().unwrap(), "x", "--out", "e.csv"], Some(folder))
    );
}

/// The list of findings in the guide is what the program can find.
#[test]
fn the_guide_lists_every_finding() {
    let output = mtlrun(&["diagnostics"]).output().unwrap();
    let path = root().join("recipes/diagnostics.md");
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        told,
        "write it anew: mtlrun diagnostics > recipes/diagnostics.md"
    );
}
