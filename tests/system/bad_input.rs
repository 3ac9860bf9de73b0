//! What a user can do wrong: the exit code is 2 and the words say where and what to do.

use crate::support::{Faces, mtlrun, outcome, refused, root, with_small_files};
use std::path::Path;
use tempfile::TempDir;

fn train(faces: &Faces, more: &[&str]) -> (i32, String) {
    let dir = TempDir::new().unwrap();
    let more = [&["-q"], more].concat();
    outcome(&mtlrun(&faces.tiny(&dir.path().join("run"), &more)).output().unwrap())
}

/// Checks the tiny recipe with more TOML after it.
fn check(more: &str) -> (i32, String) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("r.toml");
    let tiny = root().join("tests/recipes/tiny.toml");
    std::fs::write(&path, format!("extends = [{:?}]\n{more}\n", tiny)).unwrap();
    outcome(&mtlrun(&["check", path.to_str().unwrap()]).output().unwrap())
}

#[test]
fn a_missing_recipe_or_folder() {
    refused(outcome(&mtlrun(&["nothing.toml"]).output().unwrap()), &["nothing.toml", "No such file"]);
    let faces = Faces::new(3, 2);
    refused(train(&faces, &["--set", "data.faces.list=/nowhere/list.txt"]), &["/nowhere"]);
    refused(train(&faces, &["--set", "data.faces.root=/nowhere"]), &["/nowhere", "`root`"]);
}

#[test]
fn faulty_lists() {
    let faces = Faces::new(3, 2);
    let write = |text: &str| std::fs::write(faces.path("list.txt"), text).unwrap();
    write("");
    refused(train(&faces, &[]), &["list.txt", "holds no picture"]);
    write("0 0_0.jpg 20 1\n1 1_0.jpg 20\n");
    refused(train(&faces, &[]), &["list.txt:2", "expected 4 fields", "found 3"]);
    write("0 0_0.jpg 20 1\n1 1_0.jpg 200 1\n");
    refused(train(&faces, &[]), &["list.txt:2", "an age from 0 to 120", "200"]);
    write("0 0_0.jpg 20 1\n0 0_1.jpg 30 1\n");
    refused(train(&faces, &[]), &["one identity", "at least two"]);
    write("0 0_0.jpg 20 1\n1 gone.jpg 30 1\n");
    refused(train(&faces, &[]), &["list.txt:2", "there is no file", "gone.jpg"]);
    std::fs::write(faces.path("list.txt"), [0xff, 0xfe, 0x00]).unwrap();
    refused(train(&faces, &[]), &["list.txt", "UTF-16"]);
    std::fs::write(faces.path("list.txt"), [b'0', 0xfe]).unwrap();
    refused(train(&faces, &[]), &["list.txt", "UTF-8", "byte 1"]);
}

#[test]
fn one_image_an_identity_is_enough() {
    let faces = Faces::new(2, 1);
    let (code, text) = train(&faces, &["--set", "run.steps=2"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn pictures_that_cannot_be_read() {
    let faces = Faces::new(3, 2);
    let path = faces.path("1_0.jpg");
    let good = std::fs::read(&path).unwrap();
    for bad in [&good[..good.len() / 2], b"no picture at all", b""] {
        std::fs::write(&path, bad).unwrap();
        refused(train(&faces, &[]), &["list.txt:3", "1_0.jpg", "on_bad_image = \"skip\""]);
        let dir = TempDir::new().unwrap();
        let run = dir.path().join("run");
        faces.train(&run, &["-q", "--set", "data.faces.on_bad_image=skip"]);
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert!(metrics.contains("data/skipped"), "the skipped pictures are counted");
    }
}

#[test]
fn grey_transparent_cmyk_and_tiny_pictures_are_read() {
    let faces = Faces::new(3, 2);
    let save = |name: &str, image: image::DynamicImage, format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        std::fs::write(faces.path(name), bytes.into_inner()).unwrap();
    };
    save("0_0.jpg", image::DynamicImage::new_luma8(20, 20), image::ImageFormat::Jpeg);
    save("0_1.jpg", image::DynamicImage::new_rgba8(20, 20), image::ImageFormat::Png);
    save("1_0.jpg", image::DynamicImage::new_rgb8(1, 1), image::ImageFormat::Jpeg);
    std::fs::write(faces.path("1_1.jpg"), CMYK).unwrap();
    let (code, text) = train(&faces, &["--set", "run.steps=4"]);
    assert_eq!(code, 0, "{text}");
}

/// An 8x8 CMYK JPEG of one colour, with Adobe's marker.
const CMYK: &[u8] = include_bytes!("../reference/cmyk.jpg");

#[test]
fn wrong_wiring_is_shown_at_its_line() {
    refused(
        check("[graph]\nfeatures = { call = \"backbone\", in = { picture = \"faces.image\" } }"),
        &["no input port `picture`", "r.toml:3", "image"],
    );
    refused(
        check(
            "[graph]\nlogits = { call = \"identity\", in = { embedding = \"embeding\", label = \"faces.identity\" } }",
        ),
        &["no node or data stream `embeding`", "did you mean `embedding`", "r.toml:3"],
    );
    refused(
        check("[graph]\nparts = { call = \"decompose\", in = { features = \"features\" } }"),
        &["several ports", "features.c5"],
    );
    refused(
        check("[graph]\nparts = { call = \"decompose\", in = { features = \"embedding\" } }"),
        &["the graph has a cycle", "parts", "embedding"],
    );
    refused(
        check("[graph]\nyears = { call = \"age\", in = { features = \"embedding\" } }"),
        &["`features` of `years`", "expected 4 sizes", "[4, 16]"],
    );
    refused(
        check("[graph]\nlogits = { call = \"identity\", in = { embedding = \"embedding\", label = \"faces.age\" } }"),
        &["expected integer numbers, found float", "`label`"],
    );
}

#[test]
fn sizes_that_do_not_fit() {
    refused(
        check("[data.faces]\nsize = 100"),
        &["`height` is 100, expected a multiple of", "features", "recognition.toml"],
    );
    refused(check("[dims]\nage_groups = 0"), &["`dims.age_groups` must be at least 1"]);
    let faces = Faces::new(3, 2);
    refused(train(&faces, &["--set", "dims.identities=7"]), &["`dims.identities` is 7", "has 3"]);
    refused(train(&faces, &["--set", "dims.age_groups=3"]), &["4 to 8"]);
}

#[test]
fn unknown_components_and_keys() {
    refused(
        check("[model.backbone]\ncomponent = \"ir5\""),
        &["there is no", "`ir5`", "did you mean `ir50`", "r.toml:3"],
    );
    // `margin` belongs to cosface, `scale` does too; normface has only a scale.
    refused(
        check("[model.identity]\ncomponent = \"normface\"\nmargin = 0.5"),
        &["`model.identity (normface)` has no key `margin`", "scale", "r.toml:4"],
    );
    refused(check("[model.identity]\nmargn = 0.5"), &["no key `margn`", "did you mean `margin`"]);
    refused(check("[modle.x]\ncomponent = \"ir50\""), &["no section `modle`", "did you mean `model`"]);
    refused(check("[run]\nseeds = 3"), &["`run` has no key `seeds`", "did you mean `seed`"]);
}

#[test]
fn values_of_wrong_type_or_range() {
    refused(check("[data.faces]\nbatch_size = -4"), &["`data.faces.batch_size` is out of range: -4", "at least 1"]);
    refused(check("[run]\nsteps = 64.5"), &["`run.steps` must be an integer, found a float", "64.5"]);
    // As in JSON Schema, a whole number is an integer however it is written.
    assert_eq!(check("[run]\nsteps = 1e3").0, 0);
    refused(check("[model.identity]\nmargin = \"big\""), &["must be a number, found a string", "\"big\""]);
    refused(check("[run]\nprecision = \"half\""), &["does not know \"half\"", "fp16"]);
    refused(check("[model.identity]\nmargin = nan"), &["out of range: nan"]);
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let (code, text) =
        check("[run]\nsteps = 0\nseeds = 1\n[model.backbone]\ncomponent = \"ir5\"\n[loss.age]\nwieght = 1");
    assert_eq!(code, 2);
    for word in ["`run.steps` is out of range", "no key `seeds`", "`ir5`", "no key `wieght`", "4 errors"] {
        assert!(text.contains(word), "expected {word:?} in:\n{text}");
    }
}

#[test]
fn phases_that_reach_nothing() {
    refused(
        check("[phase.recognition]\nupdate = [\"backbone\", \"embed\", \"identity\", \"age\", \"leak\", \"decompos\"]"),
        &["updates `decompos`, which is not a module", "did you mean `decompose`"],
    );
    refused(
        check("[phase.recognition]\nminimize = [\"identity\"]"),
        &["updates `age`, which none of its losses reaches"],
    );
    refused(
        check(
            "[phase.recognition]\nminimize = [\"identity\"]\nupdate = [\"embed\", \"identity\"]\noptimizer = { groups = [] }",
        ),
        &["nothing trains `backbone` and nothing loads its weights", "random = true"],
    );
}

#[test]
fn a_place_within_an_override_is_its_own() {
    // Letters of several bytes before it move the place and break nothing.
    for set in [
        "graph.years={ call = \"age\", in = { features = \"parts.agee\" } }",
        "evaluate.v={ component = \"verification\", pairs = \"pairs\", embedding = \"parts.agee\" }",
        "evaluate.v={ component = \"verification\", pairs = \"日日日\", embedding = \"parts.agee\" }",
    ] {
        let before = set.split_once("\"parts.agee").unwrap().0;
        let output = mtlrun(&["check", "--json", "recipes/quickstart.toml", "--set", set]).output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let places = found[0]["found"].as_array().unwrap();
        let place = places.iter().find(|d| d["message"].as_str().unwrap().contains("agee")).unwrap();
        assert_eq!(place["place"]["column"], before.chars().count() + 1, "{place}");
        let (code, text) = outcome(&mtlrun(&["check", "recipes/quickstart.toml", "--set", set]).output().unwrap());
        assert!(code == 2 && text.contains("parts.agee"), "{text}");
    }
}

#[test]
fn another_function_in_a_node_drops_the_keys_of_the_old_one() {
    let (code, text) =
        outcome(&mtlrun(&["check", "recipes/quickstart.toml", "--set", "graph.hidden.apply=detach"]).output().unwrap());
    assert!(text.contains("the keys of `reverse_gradient` were dropped: coefficient"), "{code} {text}");
    assert!(!text.contains("has no key"), "{text}");
}

#[test]
fn recipes_that_extend_each_other() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("a.toml"), "extends = [\"b.toml\"]").unwrap();
    std::fs::write(dir.path().join("b.toml"), "extends = [\"a.toml\"]").unwrap();
    let a = dir.path().join("a.toml");
    refused(outcome(&mtlrun(&["check", a.to_str().unwrap()]).output().unwrap()), &["in a circle", "b.toml"]);
    std::fs::write(&a, "extends = [\"gone.toml\"]\n[run]\nsteps = 1").unwrap();
    refused(outcome(&mtlrun(&["check", a.to_str().unwrap()]).output().unwrap()), &["gone.toml", "extended here"]);
    std::fs::write(&a, "[run\nsteps = 1").unwrap();
    refused(
        outcome(&mtlrun(&["check", a.to_str().unwrap()]).output().unwrap()),
        &["is not a valid recipe", "a.toml:1"],
    );
}

#[test]
fn overrides_that_make_no_sense() {
    let faces = Faces::new(3, 2);
    refused(train(&faces, &["--set", "run.steps"]), &["path=value", "--set"]);
    refused(train(&faces, &["--set", "run.steps=[1"]), &["not a TOML value"]);
    refused(train(&faces, &["--unset", "run.stepz"]), &["no `run.stepz` to unset"]);
    refused(
        train(&faces, &["--device", "cuda:x"]),
        &["`run.device` does not know \"cuda:x\"", "valid: cpu, cuda, cuda:N"],
    );
}

#[test]
fn an_unwritable_run_folder() {
    let faces = Faces::new(3, 2);
    let file = faces.path("file");
    std::fs::write(&file, "").unwrap();
    let output = mtlrun(&faces.tiny(&file.join("run"), &["-q"])).output().unwrap();
    refused(outcome(&output), &["cannot make the run folder", "file/run"]);
}

#[test]
fn a_full_disk_fails_with_words_and_keeps_the_last_checkpoint() {
    let faces = Faces::new(3, 2);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let args = faces.tiny(&run, &["-q", "--resume", "--set", "run.steps=8"]);
    let (code, text) = outcome(&with_small_files(40, &args).output().unwrap());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("saving the checkpoint") && text.contains("step-8"), "{text}");
    assert!(text.contains("File too large"), "{text}");
    assert!(run.join("checkpoints/step-6/manifest.json").exists());
    assert!(!run.join("checkpoints/step-8").exists());
    let left: Vec<_> = std::fs::read_dir(run.join("checkpoints")).unwrap().flatten().collect();
    assert!(left.iter().all(|e| !e.file_name().to_string_lossy().contains(".tmp-")), "{left:?}");
    faces.train(&run, &["-q", "--resume", "--set", "run.steps=8"]);
}

#[test]
fn a_batch_of_one_has_no_statistics() {
    let faces = Faces::new(3, 2);
    refused(
        train(&faces, &["--set", "data.faces.batch_size=1"]),
        &[
            "takes the statistics of a batch in training",
            "one value for each channel",
            "raise batch_size",
            "mode = \"eval\"",
        ],
    );
}

#[test]
fn a_failed_start_loses_nothing() {
    let faces = Faces::new(3, 2);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let before = std::fs::read(run.join("weights.safetensors")).unwrap();
    let gone = format!("model.backbone.weights={{ file = {:?} }}", dir.path().join("gone").display().to_string());
    let output = mtlrun(&faces.tiny(&run, &["-q", "--overwrite", "--set", &gone])).output().unwrap();
    refused(outcome(&output), &["cannot open the weights"]);
    assert_eq!(std::fs::read(run.join("weights.safetensors")).unwrap(), before, "the old run is still there");
    // Too few pairs for ten folds are found out before the old run is touched.
    std::fs::write(faces.path("pairs.txt"), "0_0.jpg 0_1.jpg 1\n0_0.jpg 1_0.jpg -1\n").unwrap();
    let pairs = format!("evaluate.v={{ component = \"verification\", pairs = {:?} }}", faces.path("pairs.txt"));
    let output = mtlrun(&faces.tiny(&run, &["-q", "--overwrite", "--set", &pairs])).output().unwrap();
    refused(outcome(&output), &["`evaluate.v`", "pairs.txt cannot be used", "2 folds"]);
    assert_eq!(std::fs::read(run.join("weights.safetensors")).unwrap(), before, "the old run is still there");
    refused(train(&faces, &["--set", "run.checkpoint.best=v.accuracy"]), &["run.checkpoint.best", "evaluator.metric"]);
}

#[test]
fn weights_and_checkpoints_of_another_recipe() {
    let faces = Faces::new(3, 2);
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    faces.train(&run, &["-q"]);
    let weights = run.join("weights.safetensors");
    let from =
        |key: &str, path: &Path| format!("model.backbone.weights={{ {key} = {:?} }}", path.display().to_string());
    let file = from("file", &weights);
    assert_eq!(train(&faces, &["--set", &file]).0, 0);
    refused(
        train(&faces, &["--set", &file, "--set", "model.backbone.width=16"]),
        &["weights of wrong shape", "backbone.", "in the file", "in the recipe"],
    );
    refused(train(&faces, &["--set", &from("file", &dir.path().join("gone"))]), &["cannot open the weights", "gone"]);
    let cut = dir.path().join("cut.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    refused(train(&faces, &["--set", &from("file", &cut)]), &["cut.safetensors", "not a complete safetensors file"]);
    let other = Faces::new(4, 2);
    let output = mtlrun(&other.tiny(&run, &["-q", "--resume"])).output().unwrap();
    refused(outcome(&output), &["the recipe differs", "data.faces.list"]);
    refused(
        outcome(&mtlrun(&["eval", faces.folder.path().to_str().unwrap()]).output().unwrap()),
        &["not a run folder"],
    );
    refused(
        outcome(&mtlrun(&["eval", run.to_str().unwrap(), "--checkpoint", "99"]).output().unwrap()),
        &["no such checkpoint"],
    );
}
