//! Face age synthesis as a user runs it: a teacher, a generator on its weights, pictures of other ages.

use crate::support::{TensorFile, mtlrun, outcome, reference, refused, root, told};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

struct Trained {
    folder: TempDir,
    teacher: PathBuf,
    run: PathBuf,
    /// Rendered pictures of 16 and of 20 pixels.
    faces: PathBuf,
    larger: PathBuf,
}

fn train(recipe: &str, out: &Path, more: &[String]) -> (i32, String) {
    let mut args = vec![recipe.to_owned(), "--out".into(), out.display().to_string(), "-q".into()];
    args.extend(more.iter().cloned());
    outcome(&mtlrun(&args).output().unwrap())
}

/// `--set` for every module that starts from the teacher.
fn weights(key: &str, path: &Path) -> Vec<String> {
    ["backbone", "decompose", "age"]
        .iter()
        .flat_map(|m| {
            let set = format!("model.{m}.weights={{ {key} = {path:?} }}");
            // The recipe names a run.
            let unset = ["--unset".to_owned(), format!("model.{m}.weights.run")];
            ["--set".to_owned(), set].into_iter().chain(unset.into_iter().filter(|_| key == "file"))
        })
        .collect()
}

fn set(values: &[&str]) -> Vec<String> {
    values.iter().flat_map(|v| ["--set".to_owned(), (*v).to_owned()]).collect()
}

fn render(out: &Path, size: &str) {
    let args =
        ["data", "render", "--identities", "2", "--ages", "30", "--captures", "1", "--pairs", "0", "--size", size];
    let (code, text) = outcome(&mtlrun(&[&args[..], &["--out", out.to_str().unwrap()]].concat()).output().unwrap());
    assert_eq!(code, 0, "{text}");
}

/// A teacher and a generator, trained once.
fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (teacher, run, faces, larger) = (at("teacher"), at("run"), at("faces"), at("larger"));
        let (code, text) = train("tests/recipes/made.toml", &teacher, &["--unset".into(), "evaluate".into()]);
        assert_eq!(code, 0, "{text}");
        let (code, text) = train("tests/recipes/tiny_age.toml", &run, &weights("run", &teacher));
        assert_eq!(code, 0, "{text}");
        render(&faces, "16");
        render(&larger, "20");
        Trained { folder, teacher, run, faces, larger }
    })
}

fn age(more: &[&str]) -> (i32, String, String) {
    let output = mtlrun(&[&["age"], more].concat()).output().unwrap();
    let (code, text) = outcome(&output);
    (code, String::from_utf8_lossy(&output.stdout).into_owned(), text)
}

#[test]
fn a_grid_is_drawn_while_training_and_the_teacher_is_not_changed() {
    let t = trained();
    for step in [2, 3] {
        let grid = image::open(t.run.join(format!("eval/grid.grid.step-{step}.png"))).unwrap();
        assert_eq!(
            (grid.width(), grid.height()),
            (8 * 16, 3 * 16 + 12),
            "headings, three faces, the input and seven groups"
        );
    }
    let metrics = std::fs::read_to_string(t.run.join("metrics.jsonl")).unwrap();
    for (step, weight) in [(1, "0.0"), (2, "5.0"), (3, "10.0")] {
        let line = metrics.lines().find(|l| l.starts_with(&format!("{{\"step\":{step},\"kind\":\"train\""))).unwrap();
        assert!(line.contains(&format!("\"weight/right_age\":{weight}")), "the ramp in step {step}: {line}");
    }
    let read = |run: &Path| mtl_engine::weights::read(&run.join("weights.safetensors")).unwrap();
    let (teacher, own) = (read(&t.teacher), read(&t.run));
    let mut compared = 0;
    for (name, tensor) in &own {
        if let Some(before) = teacher.get(name) {
            assert!(tensor.equal(before), "{name} has changed");
            compared += 1;
        }
    }
    assert!(compared > 50);
    assert!(own.keys().any(|k| k == "critic.main.2.weight_u"), "the singular vectors are saved");
    assert!(own.keys().all(|k| !k.contains("_unit_mapping")), "the masks are not");
}

#[test]
fn faces_are_shown_at_groups_at_ages_and_moving() {
    let t = trained();
    let (run, faces) = (t.run.to_str().unwrap(), t.faces.join("images"));
    let faces = faces.to_str().unwrap();
    let out = |name: &str| t.folder.path().join(name);
    let grid = out("grid.png");
    let (code, shown, text) = age(&[run, faces, "--out", grid.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(shown.contains("seen age") && shown.contains("61+") && shown.contains("grid.png"), "{shown}");
    let grid = image::open(grid).unwrap();
    assert_eq!((grid.width(), grid.height()), (8 * 16, 2 * 16 + 12));

    let strips = out("strips");
    let (code, shown, text) = age(&[run, faces, "--to", "20,40.5", "--out", strips.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0, "{text}");
    let told: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(told["wanted"], serde_json::json!(["20", "40.5"]));
    assert!(told["faces"][1]["aged_to"]["40.5"].as_f64().is_some() && told["faces"][0]["seen_age"].as_f64().is_some());
    let written: Vec<_> = told["written"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(written.len(), 3, "two strips and a grid: {written:?}");
    assert_eq!(image::open(written[0]).unwrap().width(), 3 * 16);

    let moving = out("moving.gif");
    let (code, _, text) = age(&[run, faces, "--to", "0..20", "--step", "10", "--out", moving.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let file = std::io::BufReader::new(std::fs::File::open(moving).unwrap());
    let frames = image::AnimationDecoder::into_frames(image::codecs::gif::GifDecoder::new(file).unwrap());
    assert_eq!(frames.count(), 4, "three ages and one on the way back");

    let (code, _, text) =
        age(&[run, t.larger.join("images").to_str().unwrap(), "--out", out("l.png").to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("is 20x20 and is resized to 16x16"), "{text}");
}

#[test]
fn true_pictures_take_part_and_a_resumed_run_draws_the_same() {
    let t = trained();
    let recipe = "tests/recipes/tiny_paired.toml";
    let at = |name: &str| t.folder.path().join(name);
    let weights = weights("run", &t.teacher);
    let (whole, cut) = (at("paired"), at("paired_cut"));
    let (code, text) = train(recipe, &whole, &weights);
    assert_eq!(code, 0, "{text}");
    let (code, text) = train(recipe, &cut, &[weights.clone(), set(&["run.steps=2"])].concat());
    assert_eq!(code, 0, "{text}");
    let (code, text) = train(recipe, &cut, &[weights.clone(), vec!["--resume".into()]].concat());
    assert_eq!(code, 0, "{text}");
    let read = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    assert!(read(&whole) == read(&cut), "weights");
    let metrics = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    for loss in ["true_pixels", "true_structure", "true_features"] {
        assert!(metrics.contains(&format!("\"loss/{loss}\":0.")), "{loss}: {metrics}");
    }

    // Made pairs and photographs, which have none, in one batch.
    let list = t.faces.join("list.txt");
    let mixed = |stream: &str, ages: &str| {
        format!(
            "data.{stream}={{ component = \"faces\", made = {{ identities = 6, ages = {ages}, captures = 1, size = 16 }}, \
             more = [{{ list = {list:?} }}], size = 16, batch_size = 4 }}"
        )
    };
    let sets = set(&[&mixed("faces", "[20.0, 50.0]"), &mixed("targets", "[5.0, 35.0, 75.0]"), "run.steps=2"]);
    let (code, text) = train(recipe, &at("mixed"), &[weights.clone(), sets].concat());
    assert_eq!(code, 0, "{text}");

    let with = |key: &str| train(recipe, &at("paired_none"), &[weights.clone(), set(&[key])].concat());
    refused(
        with("data.targets.sampler.alone=error"),
        &["18 of 36 samples have no partner of the same identity and capture, such as made picture 1"],
    );
    refused(with("data.targets.pairs_with=face"), &["pairs with `face`, which is no other data stream", "faces"]);
    refused(with("data.targets.pairs_with=targets"), &["pairs with `targets`, which is no other data stream"]);
    refused(with("data.faces.pairs_with=targets"), &["which follows `faces` itself"]);
    refused(with("data.targets.batch_size=5"), &["pairs with `faces`, whose batches have another size"]);
    refused(with("data.targets.sampler.component=shuffle"), &["finds no partners", "drop `pairs_with`"]);
}

#[test]
fn other_runs_judge_and_made_faces_know_the_truth() {
    let t = trained();
    let judged = t.folder.path().join("judged");
    let judge = |name: &str| format!("evaluate.ageing.{name}={{ run = {:?} }}", t.teacher);
    let made = "evaluate.ageing.made={ identities = 8, first = 100, ages_each = 3, captures = 1, size = 16 }";
    let sets = set(&["evaluate.ageing.component=ageing", made, "evaluate.ageing.faces=2", &judge("estimator")]);
    let with = |pairs: &str| [sets.clone(), set(&[&judge("recogniser"), pairs]), weights("run", &t.teacher)].concat();
    let few = train("tests/recipes/tiny_age.toml", &judged, &with("evaluate.ageing.pairs=40"));
    refused(few, &["`far` = 0.01 of 20 real pairs", "say pairs = 200 or more"]);
    let more = [with("evaluate.ageing.pairs=200"), set(&["evaluate.ageing.far=0.1"])].concat();
    let (code, text) = train("tests/recipes/tiny_age.toml", &judged, &more);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("was trained against"), "the teacher as judge is told: {text}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(judged.join("eval/ageing.step-3.json")).unwrap()).unwrap();
    let metric = |name: &str| report["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {report}"));
    for name in ["group_accuracy", "rising", "verified", "real_verified", "ssim", "ssim_unchanged"] {
        assert!((0.0..=1.0).contains(&metric(name)), "{name}");
    }
    assert!(metric("rank_correlation").abs() <= 1.0 && metric("psnr") > 5.0 && metric("psnr_unchanged") > 5.0);
    // What doing nothing and the true pictures get stands beside it.
    for name in ["change_direction", "rank_correlation_truth", "cosine_truth", "verified_truth", "group_accuracy_truth"]
    {
        assert!(metric(name).abs() <= 1.0 + 1e-6, "{name}");
    }
    assert!(metric("sharpness") > 0.0 && metric("sharpness_unchanged") > 0.0 && metric("change_size") >= 0.0);
    assert!(metric("slope").is_finite() && metric("slope_truth").is_finite());
    assert!(metric("roughness") >= 0.0 && metric("roughness_truth") >= 0.0);
    assert!(metric("age_mae_truth") >= 0.0 && metric("age_mae_unchanged") >= 0.0 && metric("change_share").is_finite());
    let details = &report["details"];
    let rows = |table: usize| report["tables"][table]["rows"].as_array().unwrap();
    assert_eq!((report["tables"][0]["name"].as_str(), rows(0).len()), (Some("by_group"), 7));
    assert!(metric("age_mae_interval") <= metric("age_mae"));
    assert_eq!(details["flip"], "sum_raw", "as the judge's own verification");
    assert_eq!((details["courses"].as_array().unwrap().len(), rows(1).len()), (2, 6));
    let aged: f64 = rows(1).iter().map(|row| row[1].as_f64().unwrap()).sum();
    assert_eq!(aged, 14.0, "two faces at seven groups");
    let columns = report["tables"][1]["columns"].as_array().unwrap();
    let of_truth = columns.iter().position(|column| column["label"] == "true_verified").unwrap();
    let judged_rows = || rows(1).iter().filter(|row| row[of_truth].is_number());
    assert!(judged_rows().count() > 0, "{report}");
    for row in rows(1).iter().filter(|row| row[1].as_f64() > Some(0.0)) {
        // With the threshold that aged pictures are judged by, the true ones are judged too.
        assert_eq!(row[of_truth].is_null(), row[of_truth - 1].is_null(), "{row}");
    }
    // Too few pairs of a gap for the rate have no threshold.
    assert!(rows(1).iter().all(|row| row[2].as_f64().unwrap() >= 10.0 || row[3].is_null()), "{report}");
    let cases = mtl_engine::inference::read_cases(&judged.join("eval/ageing.step-3.cases.safetensors")).unwrap();
    assert_eq!((cases.len(), cases.column("person").unwrap()[6..8].to_vec()), (14, vec![0.0, 1.0]));
    let compared =
        told(&["compare", judged.to_str().unwrap(), "--metric", "ageing.change_share", "--metric", "ageing.slope"]);
    assert!(compared.contains("draws of the people") && compared.matches("ageing.").count() == 4, "{compared}");
}

/// Recognition first, then synthesis on the encoder as it then is: one joint step is those two runs.
#[test]
fn a_joint_step_is_a_recognition_step_and_then_a_synthesis_step() {
    let dir = TempDir::new().unwrap();
    let joint = dir.path().join("joint.toml");
    let tests = root().join("tests/recipes");
    let text = format!(
        "extends = [{:?}, {:?}]\nremove = [\"model.backbone.weights\", \"model.decompose.weights\", \
         \"model.age.weights\", \"evaluate\"]\n[run]\nphases = [\"recognition\", \"critic\", \"generator\"]\n",
        tests.join("made.toml"),
        tests.join("tiny_age.toml")
    );
    std::fs::write(&joint, text).unwrap();
    let base = set(&["run.precision=float64", "run.steps=1"]);
    let at = |name: &str| dir.path().join(name);
    // The same pictures in all three.
    let unset = ["--unset".to_owned(), "evaluate".to_owned()];
    let same_data = set(&[r#"data.faces.transforms=[{ component = "normalize" }]"#]);
    let run = |recipe: &str, name: &str, more: &[String]| {
        let (code, text) = train(recipe, &at(name), &[&base[..], &same_data, more].concat());
        assert_eq!(code, 0, "{text}");
        mtl_engine::weights::read(&at(name).join("weights.safetensors")).unwrap()
    };
    let both = run(joint.to_str().unwrap(), "both", &[]);
    let recognition = run("tests/recipes/made.toml", "recognition", &unset);
    let more = [weights("run", &at("recognition")), unset.to_vec()].concat();
    let synthesis = run("tests/recipes/tiny_age.toml", "synthesis", &more);
    for (name, tensor) in &both {
        let alone = recognition.get(name).or_else(|| synthesis.get(name)).unwrap_or_else(|| panic!("no {name}"));
        assert!(tensor.equal(alone), "{name} differs");
    }
    assert!(synthesis.keys().filter(|k| !recognition.contains_key(*k)).count() > 50);
}

#[test]
fn weights_that_do_not_fit() {
    let t = trained();
    let recipe = "tests/recipes/tiny_age.toml";
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let with = |more: Vec<String>| train(recipe, &out, &more);
    let nowhere = dir.path().join("nowhere");
    refused(with(weights("run", &nowhere)), &["there is no run", "nowhere", "train it first"]);
    refused(with(weights("run", dir.path())), &["is not a run folder", "recipe.resolved.toml"]);
    let no_weights =
        ["backbone", "decompose", "age"].iter().flat_map(|m| ["--unset".into(), format!("model.{m}.weights")]);
    refused(with(no_weights.collect()), &["nothing trains `backbone`", "random = true"]);
    let wide = [weights("run", &t.teacher), set(&["model.backbone.width=16"])].concat();
    refused(with(wide), &["weights of wrong shape", "is [8] in the file and [16] in the recipe"]);
    let groups = [weights("run", &t.teacher), set(&["dims.age_groups=5"])].concat();
    refused(with(groups), &["group_output_layer.weight", "[7, 101] in the file and [5, 101] in the recipe"]);
    let prefix = format!("model.backbone.weights={{ run = {:?}, prefix = \"back.\" }}", t.teacher);
    refused(with([weights("run", &t.teacher), set(&[&prefix])].concat()), &["under `back.`", "backbone."]);

    let both = set(&["model.age.weights.file=x.pth"]);
    refused(with([weights("run", &t.teacher), both].concat()), &["either `run` or `file`", "--unset"]);

    let evil = reference("pytorch/evil.pth");
    refused(with(weights("file", &evil)), &["evil.pth", "`posix.system`", "Nothing was run"]);
    let good = std::fs::read(t.teacher.join("weights.safetensors")).unwrap();
    let cut = dir.path().join("cut.safetensors");
    std::fs::write(&cut, &good[..good.len() / 2]).unwrap();
    refused(with(weights("file", &cut)), &["cut.safetensors", "not a complete safetensors file"]);
    let pth = dir.path().join("cut.pth");
    let bytes = std::fs::read(reference("pytorch/kinds.pth")).unwrap();
    std::fs::write(&pth, &bytes[..bytes.len() / 2]).unwrap();
    refused(with(weights("file", &pth)), &["cut.pth", "not a complete zip archive"]);

    // Released weights with masks of another sharing, and a name that is missing with the nearest one left over.
    let mut file = TensorFile::default();
    file.floats("generator.router._unit_mapping", &[2, 3], &[0.0; 6]);
    file.floats("generator.conv1.1.wieght", &[25], &[0.0; 25]);
    let path = dir.path().join("released.safetensors");
    file.write(&path);
    let icm = |more: &str| {
        let icm = format!("model.icm.weights={{ file = {path:?}, rename = \"mtlface\"{more} }}");
        with([weights("run", &t.teacher), set(&[&icm])].concat())
    };
    refused(icm(""), &["icm.router._unit_mapping", "another configuration of `model.icm`"]);
    let mut file = TensorFile::default();
    file.floats("generator.conv1.1.wieght", &[25], &[0.0; 25]);
    file.write(&path);
    refused(icm(""), &["lacks", "nearest that is left over is `icm.conv1.1.wieght`", "strict = false"]);
    // Nothing of the module would be loaded.
    refused(icm(", strict = false"), &["holds none of the weights of `model.icm`", "`icm.conv1.1.wieght`"]);
}

#[test]
fn groups_that_are_empty_or_not_wired() {
    let t = trained();
    let dir = TempDir::new().unwrap();
    let with = |more: &[&str]| {
        let more = [weights("run", &t.teacher), set(more)].concat();
        train("tests/recipes/tiny_age.toml", &dir.path().join("run"), &more)
    };
    let few = ["data.targets.ages=[5.0, 15.0, 25.0, 35.0, 75.0]"];
    refused(with(&few), &["no sample has the group 41-50, 51-60", "allow_empty = true"]);
    refused(with(&["graph.routed.in.age=targets.age"]), &["`routed` (task_router)", "wire one of them"]);
    let small = ["data.targets.size=12"];
    refused(with(&small), &["the module `critic` is called with `height` = 12", "16"]);
    refused(with(&["model.critic.layers=3"]), &["`height/8` is 2, expected more than 2"]);
}

#[test]
fn wrong_ages_pictures_and_runs() {
    let t = trained();
    let run = t.run.to_str().unwrap();
    let face = t.faces.join("images/0000/0000_30_0.png");
    let face = face.to_str().unwrap();
    let out = t.folder.path().join("x.png");
    let out = out.to_str().unwrap();
    let wrong = |args: &[&str], words: &[&str]| {
        let (code, _, text) = age(args);
        refused((code, text), words);
        assert!(!Path::new(out).exists());
    };
    wrong(&[run, face, "--to", "130", "--out", out], &["0 to 100 years", "130"]);
    wrong(&[run, face, "--to", "50..20", "--out", out], &["a range goes up"]);
    wrong(&[run, face, "--to", "old", "--out", out], &["groups, ages such as 20,40,60", "`old`"]);
    wrong(&[run, face, "--out", "x.jpg"], &[".png or .gif", "x.jpg"]);
    let own = t.faces.join("images/0000");
    wrong(&[run, face, "--out", own.to_str().unwrap()], &["would write over the input", "0000_30_0.png"]);
    wrong(&[run, face, "--out", face], &["would write over the input"]);
    wrong(&[run, "/nowhere/face.png", "--out", out], &["there is no picture or folder /nowhere/face.png"]);
    let text = t.folder.path().join("text.png");
    std::fs::write(&text, "no picture").unwrap();
    wrong(&[run, text.to_str().unwrap(), "--out", out], &["text.png"]);
    let teacher = t.teacher.to_str().unwrap();
    wrong(&[teacher, face, "--out", out], &["ages no pictures", "fas_scaf.toml"]);
    wrong(&["/nowhere", face, "--out", out], &["there is no run /nowhere"]);
}
