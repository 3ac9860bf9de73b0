//! Faces of the project's own making: rendered to a folder, and as data and evaluation of a run.

use crate::support::{mtlrun, outcome};
use std::path::Path;
use tempfile::TempDir;

fn render(out: &Path, more: &[&str]) -> (i32, String) {
    let args = ["data", "render", "--identities", "4", "--ages", "5,40,70", "--captures", "2", "--size", "16"];
    let args = [&args[..], &["--pairs", "12", "--out", out.to_str().unwrap()], more].concat();
    outcome(&mtlrun(&args).output().unwrap())
}

#[test]
fn a_rendered_folder_is_a_data_set() {
    let dir = TempDir::new().unwrap();
    let (one, two, sheet) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("sheet.png"));
    let (code, text) = render(&one, &["--sheet", sheet.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(render(&two, &[]).0, 0);
    let list = std::fs::read_to_string(one.join("list.txt")).unwrap();
    assert_eq!(list.lines().count(), 4 * 3 * 2);
    for line in list.lines() {
        let file = line.split(' ').nth(1).unwrap();
        assert_eq!(std::fs::read(one.join(file)).unwrap(), std::fs::read(two.join(file)).unwrap(), "{file}");
    }
    assert_eq!(std::fs::read_to_string(one.join("pairs.txt")).unwrap().lines().count(), 12);
    assert!(std::fs::read_to_string(one.join("card.md")).unwrap().contains("evidence about real people"));
    assert_eq!(image::open(&sheet).unwrap().width(), 3 * 16);

    let run = dir.path().join("run");
    let at = |key: &str, file: &str| format!("{key}={}", one.join(file).display());
    let (list, pairs) = (at("data.faces.list", "list.txt"), at("evaluate.verification.pairs", "pairs.txt"));
    let args = ["tests/recipes/tiny.toml", "--set", &list, "--set", "evaluate.verification.component=verification"];
    let rest = ["--set", &pairs, "--set", "evaluate.verification.folds=2", "--out", run.to_str().unwrap(), "-q"];
    let (code, text) = outcome(&mtlrun(&[&args[..], &rest].concat()).output().unwrap());
    assert_eq!(code, 0, "{text}");
    assert!(run.join("eval/verification.step-6.json").exists());
}

#[test]
fn wrong_numbers_are_refused_and_nothing_is_left_behind() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    for (wrong, word) in [
        (["--ages", "20,120"], "0 to 100 years"),
        (["--size", "0"], "--size is from 1"),
        (["--ages", "20,30"], "smaller gap"),
        (["--sheet", "sheet.jpg"], ".png"),
    ] {
        let args = [&["data", "render", "--identities", "4", "--out", out.to_str().unwrap()], &wrong[..]].concat();
        let (code, text) = outcome(&mtlrun(&args).output().unwrap());
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(word), "{text}");
        assert!(!out.exists());
    }
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "").unwrap();
    let (code, text) = render(&out, &[]);
    assert_eq!(code, 2);
    assert!(text.contains("not empty"), "{text}");
}

#[test]
fn a_run_needs_no_files_at_all() {
    let dir = TempDir::new().unwrap();
    let metrics = |name: &str, more: &[&str]| {
        let run = dir.path().join(name);
        let args = [&["tests/recipes/made.toml", "--out", run.to_str().unwrap(), "-q"], more].concat();
        let (code, text) = outcome(&mtlrun(&args).output().unwrap());
        assert_eq!(code, 0, "{text}");
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        text.lines().filter(|l| !l.contains("\"time\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    let cache = dir.path().join("cache");
    let folder = format!("data.faces.cache_folder={}", cache.display());
    let memory = metrics("memory", &[]);
    let disk = metrics("disk", &["--set", "data.faces.cache=disk", "--set", &folder]);
    assert_eq!(memory, disk, "a cache changes nothing");
    assert!(cache.read_dir().unwrap().count() > 0);
    for metric in [
        "eval/verification/accuracy",
        "eval/age/mae",
        "eval/leakage/identity_features_age_r2",
        "eval/leakage/identity_features_identity_accuracy",
        "eval/leakage/age_features_identity_accuracy",
        "eval/leakage/commonest_age_group",
    ] {
        assert!(memory.iter().any(|l| l.contains(metric)), "{metric} in {memory:?}");
    }
}

#[test]
fn an_evaluator_has_one_source() {
    let check = |set: &[&str]| {
        let sets = set.iter().flat_map(|s| ["--set", *s]);
        let args: Vec<&str> = ["check", "tests/recipes/made.toml"].into_iter().chain(sets).collect();
        outcome(&mtlrun(&args).output().unwrap())
    };
    let (code, text) = check(&[
        "evaluate.age.list=x.txt",
        "evaluate.verification.made.youngest=90",
        "data.faces.cache=disk",
        "data.faces.captures=0",
    ]);
    assert_eq!(code, 2);
    for word in ["two sources", "youngest (90) must be below oldest (84)", "captures"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(check(&["data.faces.cache=disk"]).1.contains("cache_folder go together"));
}
