//! Inputs that once gave wrong results without a word: each is refused, warned of, or read as it is meant.

use crate::support::{Faces, mtlrun, outcome, root};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const STEP: &[&str] = &["-q", "--set", "run.steps=1"];

/// Trains a step on these faces with another list, and further arguments.
fn with_list(faces: &Faces, list: &str, more: &[&str]) -> (i32, String) {
    std::fs::write(faces.path("list.txt"), list).unwrap();
    let out = TempDir::new().unwrap();
    faces.run(&out.path().join("run"), &[STEP, more].concat())
}

#[track_caller]
fn says(found: &(i32, String), code: i32, words: &[&str]) {
    assert_eq!(found.0, code, "{}", found.1);
    for word in words {
        assert!(found.1.contains(word), "`{word}` is not in: {}", found.1);
    }
}

fn list(faces: &Faces) -> String {
    std::fs::read_to_string(faces.path("list.txt")).unwrap()
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_text() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let marked = format!("\u{feff}{}", list(&faces));
    std::fs::write(faces.path("list.txt"), marked).unwrap();
    let pairs = std::fs::read_to_string(faces.path("pairs.txt")).unwrap();
    std::fs::write(faces.path("pairs.txt"), format!("\u{feff}{pairs}")).unwrap();
    let run = out.path().join("run");
    let pairs = format!("evaluate.v={{component=\"verification\", folds=2, pairs={:?}}}", faces.path("pairs.txt"));
    faces.train(&run, &[STEP, &["--set", &pairs]].concat());
    let names: Vec<String> = serde_json::from_slice(&std::fs::read(run.join("identities.json")).unwrap()).unwrap();
    assert_eq!(names, ["0", "1", "2", "3"]);
    std::fs::write(faces.path("list.txt"), b"\xff\xfe0\0").unwrap();
    says(&faces.run(&out.path().join("other"), STEP), 2, &["UTF-16"]);
}

#[test]
fn lists_that_contradict_themselves_are_told() {
    let faces = Faces::new(4, 3);
    let whole = list(&faces);
    let more = |line: &str| with_list(&faces, &format!("{whole}{line}\n"), &[]);
    says(&more("3 0_0.jpg 5 0"), 2, &["list.txt:13", "is of `3` here and of `0` at", "list.txt:1"]);
    says(&more("0 0_0.jpg 77 0"), 0, &["a file is listed again with another age or gender"]);
    says(&more("00 1_0.jpg 6 1"), 2, &["is of `00` here and of `1`"]);
    // The same people under the same numbers in a second list are others, unless it is said.
    std::fs::create_dir(faces.path("other")).unwrap();
    std::fs::copy(faces.path("3_0.jpg"), faces.path("other/a.jpg")).unwrap();
    std::fs::write(faces.path("other/list.txt"), "0 a.jpg 30 0\n").unwrap();
    let second = format!("data.faces.more=[{{list={:?}}}]", faces.path("other/list.txt"));
    let out = TempDir::new().unwrap();
    std::fs::write(faces.path("list.txt"), &whole).unwrap();
    let people = |name: &str, more: &[&str]| {
        let run = out.path().join(name);
        faces.train(&run, &[STEP, &["--set", &second], more].concat());
        let names: Vec<String> = serde_json::from_slice(&std::fs::read(run.join("identities.json")).unwrap()).unwrap();
        names
    };
    assert_eq!(people("own", &[]), ["0", "1", "2", "3", "1:0"]);
    assert_eq!(people("shared", &["--set", "data.faces.shared_ids=true"]), ["0", "1", "2", "3"]);
}

#[test]
fn ages_that_nobody_knows_are_told() {
    let faces = Faces::new(4, 3);
    let text: String = list(&faces).lines().map(|l| format!("{} - -\n", &l[..l.find(".jpg").unwrap() + 4])).collect();
    says(&with_list(&faces, &text, &[]), 0, &["`loss.age` learns nothing", "not known of any of the 12 samples"]);
    let set = format!("data.faces.list={}", faces.path("list.txt").display());
    let output = mtlrun(&["check", "--data", "tests/recipes/tiny.toml", "--set", &set]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("12 pictures of 4 people; age known of none, gender of none"), "{told}");
    // An age that the estimator does not have.
    let old = text.replacen(" - -", " 105 -", 1);
    says(&with_list(&faces, &old, &[]), 2, &["is 105 at", "list.txt:1", "takes 0 to 100"]);
}

#[test]
fn a_picture_is_brought_to_one_size() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let twice = "data.faces.transforms=[{component=\"resize\",size=16}]";
    let sizes = ["--set", "data.faces.size=32", "--set", twice];
    let found = faces.run(&out.path().join("run"), &[STEP, &sizes].concat());
    says(&found, 2, &["brings the pictures of `data.faces` to 16x16", "`faces.image` has 32x32", "${data.faces.size}"]);
}

#[test]
fn pictures_that_are_skipped_are_named() {
    let faces = Faces::new(4, 3);
    for name in ["0_0.jpg", "2_1.jpg"] {
        std::fs::write(faces.path(name), "<html>").unwrap();
    }
    std::fs::remove_file(faces.path("3_2.jpg")).unwrap();
    let out = TempDir::new().unwrap();
    let skip = ["--set", "data.faces.on_bad_image=skip", "-q", "--set", "run.steps=6"];
    let found = faces.run(&out.path().join("run"), &skip);
    says(
        &found,
        0,
        &[
            "1 of 12 pictures are missing and are skipped",
            "3 pictures or other samples cannot be read",
            "replaced by the next readable one",
            "web page",
        ],
    );
    let found = faces.run(&out.path().join("other"), STEP);
    says(&found, 2, &["list.txt:12: there is no file"]);
}

#[test]
fn test_pictures_among_those_of_training_are_told() {
    let faces = Faces::new(4, 3);
    std::fs::create_dir(faces.path("test")).unwrap();
    let mut text = String::new();
    for (i, name) in ["0_0.jpg", "1_1.jpg"].iter().enumerate() {
        std::fs::copy(faces.path(name), faces.path("test").join(format!("copy{i}.jpg"))).unwrap();
        text.push_str(&format!("{i} copy{i}.jpg 30 1\n"));
    }
    std::fs::write(faces.path("test/list.txt"), text).unwrap();
    let out = TempDir::new().unwrap();
    let age = format!("evaluate.a={{component=\"age\", list={:?}}}", faces.path("test/list.txt"));
    let found = faces.run(&out.path().join("run"), &[STEP, &["--set", &age]].concat());
    says(&found, 0, &["`evaluate.a` measures on pictures that `data.faces` trains on: 2 of its 2 files", "copy0.jpg"]);
}

#[test]
fn weights_that_are_not_those_of_the_module_are_refused() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("first");
    faces.train(&run, STEP);
    let from = |key: &str, value: &str, more: &[&str]| {
        let set = format!("model.{key}.weights={value}");
        faces.run(&out.path().join("again"), &[STEP, &["--overwrite", "--set", &set], more].concat())
    };
    let file = run.join("weights.safetensors").display().to_string();
    let mut broken: Vec<(String, tch::Tensor)> =
        mtl_engine::weights::read(&run.join("weights.safetensors")).unwrap().into_iter().collect();
    let (name, _) = broken.iter().find(|(name, _)| name.starts_with("backbone.")).unwrap();
    let words = format!("`{name}` holds NaN or infinite values");
    let at = broken.iter().position(|(own, _)| own == name).unwrap();
    broken[at].1 = broken[at].1.full_like(f64::NAN);
    let other = out.path().join("nan.safetensors");
    mtl_engine::weights::write(&other, &broken).unwrap();
    let other = other.display().to_string();
    says(&from("backbone", &format!("{{file={other:?}}}"), &[]), 2, &[&words, "Take an earlier checkpoint"]);
    // The names of the whole model, of which none is the backbone's.
    let found = from("backbone", &format!("{{file={file:?}, prefix=\"\", strict=false}}"), &[]);
    says(
        &found,
        2,
        &["holds none of the weights of `model.backbone`", "model.backbone.weights.prefix = \"backbone.\""],
    );
    // The rows of a head go by the names of people.
    let head = format!("{{run={:?}}}", run.display().to_string());
    says(&from("identity", &head, &[]), 0, &[]);
    let whole = list(&faces);
    let renamed: String = whole.lines().map(|line| format!("p{line}\n")).collect();
    std::fs::write(faces.path("list.txt"), renamed).unwrap();
    says(
        &from("identity", &head, &[]),
        2,
        &["rows of other identities", "`p0`", "Drop the weights of `model.identity`"],
    );
    let grown = format!("{}9 0_0.jpg 30 0\n", whole.lines().skip(3).map(|l| format!("{l}\n")).collect::<String>());
    std::fs::write(faces.path("list.txt"), grown).unwrap();
    let set = format!("model.identity.weights={head}");
    let (code, text) = faces.run(&out.path().join("grown"), &["--set", "run.steps=1", "--set", &set]);
    assert!(code == 0 && text.contains("are taken by name: 3 of 4 identities are known"), "{text}");
}

#[test]
fn pictures_that_were_replaced_are_noticed() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    faces.train(&run, &["-q", "--deep", "--set", "run.steps=2"]);
    let more = |deep: &[&str]| faces.run(&run, &[&["-q", "--resume", "--set", "run.steps=2"], deep].concat());
    says(&more(&[]), 0, &[]);
    let picture = faces.path("1_1.jpg");
    let touched = std::fs::File::options().write(true).open(&picture).unwrap();
    touched.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    says(&more(&[]), 0, &["not known: they have the same sizes but were changed at other times"]);
    std::fs::copy(faces.path("0_0.jpg"), &picture).unwrap();
    says(&more(&["--deep"]), 0, &["the files of `data.faces` are not those of the record"]);
    let output = mtlrun(&["reproduce", "-q", "--deep", run.to_str().unwrap()]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("the files of `data.faces` are not those of the record"), "{told} {}", outcome(&output).1);
}

#[test]
fn the_first_steps_of_a_course_are_reproduced_whatever_the_schedule() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    let cosine = "phase.recognition.scheduler={component=\"cosine\"}";
    faces.train(&run, &["-q", "--set", "run.steps=6", "--set", cosine]);
    let output = mtlrun(&["reproduce", "-q", "--steps", "3", run.to_str().unwrap()]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("up to step 3 are the same bit by bit"), "{told} {}", outcome(&output).1);
}

#[test]
fn the_home_of_the_user_is_meant_by_a_tilde() {
    let faces = Faces::new(4, 3);
    let out = TempDir::new().unwrap();
    let mut args = faces.tiny(&out.path().join("run"), STEP);
    args[2] = "data.faces.list=\"~/list.txt\"".into();
    let output = mtlrun(&args).current_dir(root()).env("HOME", faces.folder.path()).output().unwrap();
    says(&outcome(&output), 0, &[]);
}

#[test]
fn what_tells_runs_apart_comes_first_among_hyperparameters() {
    let set = |text: &str| mtl_recipe::Override::Set(text.into());
    let path = root().join("tests/recipes/tiny.toml");
    let overrides = [set("phase.recognition.optimizer.lr=0.5"), set("run.seed=9")];
    let recipe = mtl_engine::recipe::Recipe::read(&crate::support::REGISTRY, &path, &overrides).unwrap();
    let names: Vec<String> = mtl_engine::log::outline::hparams(&recipe).into_iter().map(|(name, _)| name).collect();
    let at = |name: &str| names.iter().position(|own| own == name).unwrap_or_else(|| panic!("no {name}: {names:?}"));
    // Overrides, then the recipe's own keys, then those of what it extends.
    assert!(at("run.seed") < 2 && at("phase.recognition.optimizer.lr") < 2, "{names:?}");
    assert!(at("data.faces.batch_size") < at("loss.age.component"), "{names:?}");
}
