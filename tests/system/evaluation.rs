//! Evaluation as users see it: what a list cannot tell, how sure rates are, and where reports go.

use crate::support::{Faces, mtlrun, outcome, refused, root, told};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

const STEP: &[&str] = &["-q", "--set", "run.steps=1"];

/// The evaluator `v` on pairs of these faces, with further keys.
fn verification(faces: &Faces, pairs: &str, more: &str) -> String {
    format!("evaluate.v={{ component = \"verification\", pairs = {:?}{more} }}", faces.path(pairs))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_list_that_is_not_mixed_is_refused_with_the_way_out() {
    let faces = Faces::new(6, 3);
    let pairs = std::fs::read_to_string(faces.path("pairs.txt")).unwrap();
    let (same, different): (Vec<&str>, Vec<&str>) = pairs.lines().partition(|line| line.ends_with(" 1"));
    std::fs::write(faces.path("apart.txt"), [same, different].concat().join("\n")).unwrap();
    let out = TempDir::new().unwrap();
    let train = |name: &str, more: &str| {
        faces.run(&out.path().join(name), &[STEP, &["--set", &verification(&faces, "apart.txt", more)]].concat())
    };
    refused(train("a", ""), &["does not mix same and different pairs", "folds = \"interleaved\"", "folds = \"list\""]);
    for (name, folds) in [("b", "\"interleaved\""), ("c", "\"interleaved\", fold_count = 3"), ("d", "\"list\"")] {
        let (code, text) = train(name, &format!(", folds = {folds}"));
        assert_eq!(code, 0, "{folds}: {text}");
    }
}

#[test]
fn what_a_list_cannot_tell_is_not_resolved() {
    let faces = Faces::new(6, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    let set = verification(&faces, "pairs.txt", ", folds = 2");
    faces.train(&run, &[STEP, &["--set", &set]].concat());
    let report = json(&run.join("eval/v.step-1.json"));
    assert!(report["metrics"]["fnmr_at_fmr_0.001"].is_null() && report["metrics"]["fnmr_at_fmr_0.1"].is_number());
    let row = &report["details"]["readings"][0];
    assert!(row["fnmr"].is_null() && row["reached"].is_number(), "{row}");
    assert_eq!(row["resolution"], 1.0 / 12.0);
    assert_eq!(report["details"]["intervals"], "pairs treated as independent: probably too narrow");
    assert_eq!(report["details"]["deviation_is"], "population");
    let chart = told(&["compare", run.to_str().unwrap(), "--format", "svg", "--metric", "v.det"]);
    assert!(chart.contains("v.det") && chart.contains("false match rate"), "{chart}");
    let compared = told(&["compare", run.to_str().unwrap()]);
    assert!(compared.contains("not resolved"), "{compared}");
    // The checkpoint that is best cannot be found by it, under either name.
    for best in ["fnmr_at_fmr_0.001", "tar_at_far_0.001"] {
        let best = format!("run.checkpoint.best=\"v.{best}\"");
        let list = format!("data.faces.list={}", faces.path("list.txt").display());
        let check = ["check", "--data", "tests/recipes/tiny.toml", "--set", &list, "--set", &set, "--set", &best];
        let words = ["which has no value", "12 different pairs", "1/12", "`v.fnmr_at_fmr_0.1`"];
        refused(outcome(&mtlrun(&check).output().unwrap()), &words);
    }
}

#[test]
fn an_older_name_can_be_watched() {
    let faces = Faces::new(6, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    let set = verification(&faces, "pairs.txt", ", folds = 2");
    let best = "run.checkpoint.best=\"v.tar_at_far_0.1\"";
    faces.train(&run, &[STEP, &["--set", &set, "--set", best]].concat());
    let metrics = &json(&run.join("eval/v.step-1.json"))["metrics"];
    let best = json(&run.join("checkpoints/best.json"));
    assert_eq!(best["metric"], "v.tar_at_far_0.1");
    assert_eq!(best["value"].as_f64().unwrap(), 1.0 - metrics["fnmr_at_fmr_0.1"].as_f64().unwrap());
}

#[test]
fn intervals_are_by_person_where_people_are_known() {
    let faces = Faces::new(6, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    let list = format!(", folds = 2, list = {:?}", faces.path("list.txt"));
    faces.train(&run, &[STEP, &["--set", &verification(&faces, "pairs.txt", &list)]].concat());
    let report = json(&run.join("eval/v.step-1.json"));
    assert_eq!(report["details"]["intervals"], "by person");
    let cases = mtl_engine::inference::read_cases(&run.join("eval/v.step-1.cases.safetensors")).unwrap();
    for column in ["same", "right", "distance", "fold", "a", "b", "gap", "age_a", "age_b", "sex_a", "sex_b"] {
        assert_eq!(cases.column(column).map(<[f64]>::len), Some(24), "{column}");
    }
    let rate = &report["details"]["readings"][2]["non_matches"];
    let (low, high) = (rate["low"].as_f64().unwrap(), rate["high"].as_f64().unwrap());
    assert!(low < high && rate["few_errors"] == true, "{rate}");
    let compared = told(&["compare", run.to_str().unwrap()]);
    assert!(
        compared.contains("the middle 95 % of 2000 draws of the people") && compared.contains("v.auc"),
        "{compared}"
    );
    // A list of other pictures knows none of these.
    std::fs::create_dir(faces.path("elsewhere")).unwrap();
    std::fs::copy(faces.path("list.txt"), faces.path("elsewhere/ages.txt")).unwrap();
    let list = format!(", folds = 2, list = {:?}", faces.path("elsewhere/ages.txt"));
    let found =
        faces.run(&out.path().join("b"), &[STEP, &["--set", &verification(&faces, "pairs.txt", &list)]].concat());
    refused(found, &["names none of the", "`root`"]);
    // A list that says other people than the pairs.
    let text = std::fs::read_to_string(faces.path("list.txt")).unwrap();
    std::fs::write(faces.path("moved.txt"), text.replacen("0 0_0.jpg", "5 0_0.jpg", 1)).unwrap();
    let list = format!(", folds = 2, list = {:?}", faces.path("moved.txt"));
    let found =
        faces.run(&out.path().join("c"), &[STEP, &["--set", &verification(&faces, "pairs.txt", &list)]].concat());
    refused(found, &["contradict each other", "one person by the pairs, and two people by the list"]);
}

#[test]
fn compare_draws_pairs_of_any_number() {
    // 407 pairs in ten folds: the mean over folds is not that over pairs.
    let faces = Faces::new(6, 3);
    let names: Vec<String> = (0..6).flat_map(|i| (0..3).map(move |k| format!("{i}_{k}.jpg"))).collect();
    let mut lines: Vec<String> = Vec::new();
    for n in 0..407usize {
        let (a, step) = (n % 18, 1 + n / 18 % 17);
        let b = (a + step) % 18;
        lines.push(format!("{} {} {}", names[a], names[b], if a / 3 == b / 3 { 1 } else { -1 }));
    }
    std::fs::write(faces.path("many.txt"), lines.join("\n")).unwrap();
    let out = TempDir::new().unwrap();
    let runs: Vec<String> = [1, 2]
        .iter()
        .map(|width| {
            let run = out.path().join(format!("{width}"));
            let set = verification(&faces, "many.txt", ", folds = \"interleaved\"");
            let width = format!("model.embed.dropout=0.{width}");
            faces.train(&run, &[STEP, &["--set", &set, "--set", &width]].concat());
            run.display().to_string()
        })
        .collect();
    let output =
        mtlrun(&["compare", "--metric", "v.accuracy", "--format", "json", &runs[0], &runs[1]]).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let difference = &found[1]["metrics"]["v.accuracy"]["difference"];
    assert!(difference["low"].is_number(), "{found} {}", outcome(&output).1);
    assert_eq!(difference["drawn"], "pairs treated as independent: probably too narrow");
}

#[test]
fn published_lists_of_pairs_are_read_as_they_are() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    // The same pairs in the forms of LFW and CALFW, and plain: one accuracy.
    let name = |person: usize, picture: usize| format!("P{person}/P{person}_{:04}.jpg", picture + 1);
    for person in 0..4 {
        std::fs::create_dir(faces.path(&format!("P{person}"))).unwrap();
        for picture in 0..3 {
            let from = faces.path(&format!("{person}_{picture}.jpg"));
            std::fs::copy(from, faces.path(&name(person, picture))).unwrap();
        }
    }
    let (mut plain, mut lfw, mut same, mut different) =
        (String::new(), "2\t4\n".to_owned(), String::new(), String::new());
    for fold in 0..2 {
        for person in 0..4 {
            let (a, b) = (name(person, fold), name(person, fold + 1));
            plain += &format!("{a} {b} 1\n");
            lfw += &format!("P{person}\t{}\t{}\n", fold + 1, fold + 2);
            same += &format!("{a} {0}\n{b} {0}\n", fold + 1);
        }
        for person in 0..4 {
            let other = (person + 1) % 4;
            let (a, b) = (name(person, fold), name(other, fold));
            plain += &format!("{a} {b} -1\n");
            lfw += &format!("P{person}\t{}\tP{other}\t{}\n", fold + 1, fold + 1);
            different += &format!("{a} 0\n{b} 0\n");
        }
    }
    let mut found = Vec::new();
    for (file, text) in [("plain.txt", plain), ("lfw.txt", lfw), ("calfw.txt", same + &different)] {
        std::fs::write(faces.path(file), text).unwrap();
        let run = out.path().join(file);
        faces.train(&run, &[STEP, &["--set", &verification(&faces, file, ", folds = 2")]].concat());
        let report = json(&run.join("eval/v.step-1.json"));
        found.push((report["metrics"].clone(), report["details"]["intervals"].clone()));
    }
    assert_eq!(found[0], found[2]);
    assert_eq!(found[0].0, found[1].0);
    assert!(found[1].1.as_str().unwrap().contains("person"), "LFW names people: {:?}", found[1].1);
}

#[test]
fn an_evaluation_does_not_replace_what_training_measured() {
    let faces = Faces::new(6, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    let set = verification(&faces, "pairs.txt", ", folds = 2");
    faces.train(&run, &[STEP, &["--set", &set]].concat());
    let own = run.join("eval/v.step-1.json");
    let before = std::fs::read(&own).unwrap();
    let folder = run.to_str().unwrap();
    let convention = "evaluate.v.folds=3";
    told(&["eval", folder, "--name", "mine", "--set", convention]);
    told(&["eval", folder, "--set", convention]);
    told(&["eval", folder, "--set", convention]);
    assert_eq!(std::fs::read(&own).unwrap(), before);
    let mine = run.join("evaluations/mine");
    assert!(mine.join("v.step-1.json").exists());
    let record = json(&mine.join("evaluation.json"));
    assert_eq!((&record["evaluate"]["v"]["folds"], &record["step"]), (&3.into(), &1.into()));
    assert_eq!(std::fs::read_dir(run.join("evaluations")).unwrap().count(), 3);
    refused(outcome(&mtlrun(&["eval", folder, "--name", "mine"]).output().unwrap()), &["is there already", "--name"]);
    let elsewhere = out.path().join("elsewhere");
    told(&["eval", folder, "--out", elsewhere.to_str().unwrap()]);
    let again = ["eval", folder, "--out", elsewhere.to_str().unwrap()];
    refused(outcome(&mtlrun(&again).output().unwrap()), &["is there already", "--out"]);
    let own = run.join("eval");
    refused(
        outcome(&mtlrun(&["eval", folder, "--out", own.to_str().unwrap()]).output().unwrap()),
        &["is there already"],
    );
    // What fails leaves the name free.
    let fails = ["eval", folder, "--name", "later", "--set", "evaluate.v.embedding=\"features.c1\""];
    let (code, text) = outcome(&mtlrun(&fails).output().unwrap());
    assert!(code == 2 && text.contains("`[batch, size]`"), "{text}");
    told(&["eval", folder, "--name", "later"]);
}

#[test]
fn pictures_are_embedded_one_by_one_and_bad_ones_are_left_out() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    faces.train(&run, STEP);
    let (folder, csv) = (run.to_str().unwrap(), out.path().join("e.csv"));
    let embed = |inputs: &[&Path], more: &[&str]| {
        let inputs = inputs.iter().map(|path| path.to_str().unwrap());
        let args: Vec<&str> = ["embed", folder].into_iter().chain(inputs).chain(more.iter().copied()).collect();
        let output = mtlrun(&[&args[..], &["--out", csv.to_str().unwrap()]].concat()).output().unwrap();
        (outcome(&output), std::fs::read_to_string(&csv).map_or(0, |text| text.lines().count()))
    };
    let one = faces.path("1_1.jpg");
    let ((code, text), lines) = embed(&[&one], &["--flip", "sum_raw"]);
    assert_eq!((code, lines), (0, 2), "{text}");
    let row = std::fs::read_to_string(&csv).unwrap();
    let norm: f64 = row.lines().nth(1).unwrap().split(',').skip(3).map(|v| v.parse::<f64>().unwrap().powi(2)).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    // A page of the web under the name of a picture, and what macOS lays beside files.
    std::fs::write(faces.path("page.jpg"), "<!DOCTYPE html>").unwrap();
    std::fs::write(faces.path("._1_1.jpg"), b"\0\x05\x16\x07\0\x02\0\0").unwrap();
    refused(embed(&[faces.folder.path()], &[]).0, &["page.jpg", "it is a web page"]);
    let ((code, text), lines) = embed(&[faces.folder.path()], &["--skip"]);
    assert!(code == 0 && lines == 13 && text.contains("1 of 13 pictures cannot be read"), "{lines} {text}");
    refused(embed(&[&root().join("Cargo.lock")], &[]).0, &["pictures are missing"]);
}

#[test]
fn a_failed_picture_can_count_as_unlike_all_others() {
    let faces = Faces::new(6, 3);
    std::fs::write(faces.path("broken.jpg"), "no picture").unwrap();
    let pairs = std::fs::read_to_string(faces.path("pairs.txt")).unwrap();
    std::fs::write(faces.path("pairs.txt"), format!("{pairs}broken.jpg 0_0.jpg 1\n0_1.jpg broken.jpg -1\n")).unwrap();
    let out = TempDir::new().unwrap();
    let train = |name: &str, more: &str| {
        faces.run(&out.path().join(name), &[STEP, &["--set", &verification(&faces, "pairs.txt", more)]].concat())
    };
    refused(train("a", ", folds = 2"), &["broken.jpg"]);
    let (code, text) = train("b", ", folds = 2, on_bad_embedding = \"worst\"");
    assert_eq!(code, 0, "{text}");
    let report = json(&out.path().join("b/eval/v.step-1.json"));
    assert_eq!(report["details"]["failed_pictures"]["count"], 1);
    let cases = mtl_engine::inference::read_cases(&out.path().join("b/eval/v.step-1.cases.safetensors")).unwrap();
    assert_eq!(cases.column("distance").unwrap()[24..], [4.0, 4.0]);
}

#[test]
fn tables_and_run_folders_are_explained() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    faces.train(&run, STEP);
    let table = told(&["explain", "run.checkpoint", run.to_str().unwrap()]);
    assert!(table.starts_with("[run.checkpoint]\nevery = 2\n"), "{table}");
    let damaged = out.path().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    std::fs::write(damaged.join("recipe.resolved.toml"), "[").unwrap();
    let output = mtlrun(&["runs", out.path().to_str().unwrap()]).output().unwrap();
    let (code, text) = outcome(&output);
    assert!(code == 0 && text.contains("damaged is left out"), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1/1"));
}

#[test]
fn what_was_meant_is_suggested() {
    let tiny = "tests/recipes/tiny.toml";
    let check = |set: &str| outcome(&mtlrun(&["check", tiny, "--set", set]).output().unwrap());
    refused(check("run.precision=fp32"), &["did you mean `float32`?"]);
    refused(check("run.device=gpu"), &["did you mean `cuda`?"]);
    refused(check("model.identity.component=ArcFace"), &["did you mean `arcface`?"]);
    refused(check("run.lr=0.1"), &["the recipe has `phase.recognition.optimizer.lr`"]);
    let run = |args: &[&str]| outcome(&mtlrun(args).output().unwrap());
    refused(run(&["train", tiny]), &["training needs no command: mtlrun RECIPE.toml"]);
    refused(run(&["tests/recipes/tinny.toml"]), &["did you mean tests/recipes/tiny.toml?"]);
}
