//! References in recipes, as a researcher uses them.

use crate::support::{Faces, mtlrun, outcome, refused};
use tempfile::TempDir;

#[test]
fn a_reference_to_the_data_is_checked_by_name_and_settled_with_the_data() {
    let faces = Faces::new(3, 4);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let late = [
        "--set",
        "model.age.hidden=${data.faces.identities}",
        "--set",
        "loss.age.weight=${data.faces.samples}",
        "--set",
        "run.name=${env:MTLRUN_TEST_NAME:late}_${run.seed}",
    ];
    let output = mtlrun(&["check", "tests/recipes/tiny.toml"]).args(late).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("good") && told.contains("as far as is known without the data"), "{told}");
    let output = mtlrun(&["show", "tests/recipes/tiny.toml"]).args(late).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("hidden = \"${data.faces.identities}\"") && told.contains("name = \"late_3\""), "{told}");
    assert!(mtlrun(&["summary", "tests/recipes/tiny.toml"]).args(late).output().unwrap().status.success());

    let more: Vec<&str> = late.iter().copied().chain(["--set", "run.steps=1"]).collect();
    faces.train(&out, &more);
    let resolved = std::fs::read_to_string(out.join("recipe.resolved.toml")).unwrap();
    for line in ["hidden = 3", "weight = 12", "name = \"late_3\""] {
        assert!(resolved.contains(line), "expected {line:?} in:\n{resolved}");
    }
    assert!(!resolved.contains("${"), "{resolved}");
    // Its rules are asked once the numbers are known, and not before.
    let ramp = ["--set", "loss.age.ramp={ until = \"${data.faces.samples}\" }"];
    let output =
        mtlrun(&faces.tiny(&dir.path().join("ramp"), &[&ramp[..], &["--set", "run.steps=1"]].concat())).output();
    let (code, told) = outcome(&output.unwrap());
    assert!(code == 0 && told.contains("its ramp ends at step 12, the run at 1"), "{told}");
    let output = mtlrun(&["check", "tests/recipes/tiny.toml"]).args(ramp).output().unwrap();
    assert!(!outcome(&output).1.contains("ramp"), "{output:?}");
    // A finished run knows its sizes, and no numbers of samples.
    let eval = |size: &str| {
        let set = format!("model.age.hidden={size}");
        let text = outcome(&mtlrun(&["eval", out.to_str().unwrap(), "--set", &set]).output().unwrap()).1;
        assert!(!text.contains("memory"), "{text}");
        text
    };
    assert!(eval("${data.faces.samples}").contains("does not tell `data.faces.samples`"));
    assert!(!eval("${data.faces.identities}").contains("does not tell"));
    // The recorded run and the recipe with its references are the same.
    let again: Vec<&str> = more.iter().copied().chain(["--resume"]).collect();
    faces.train(&out, &again);
}

#[test]
fn a_size_of_the_data_fits_a_port_of_that_size_and_no_other() {
    let check = |size: &str| {
        let set = format!("model.embed.size={size}");
        outcome(&mtlrun(&["check", "tests/recipes/tiny.toml", "--set", &set]).output().unwrap())
    };
    assert_eq!(check("${dims.identities}").0, 0);
    refused(check("${dims.identites}"), &["neither the recipe nor its data gives `identites`", "`identities`"]);
    refused(check("${data.face.identities}"), &["there is no data stream `face`", "did you mean `faces`"]);
    // What is written elsewhere and does not fit is told at the reference, with the other place beside it.
    let (code, text) = check("${model.identity.margin}");
    assert!(code == 2 && text.contains("found a float"), "{text}");
    assert!(text.contains("${model.identity.margin}") && text.contains("where the value comes from"), "{text}");
    // The environment is read as what is wanted; its text is text where a name is wanted.
    assert_eq!(check("${env:MTLRUN_NOT_SET:24}").0, 0);
    let (code, text) = check("${env:MTLRUN_NOT_SET:wide}");
    assert!(code == 2 && text.contains("environment variable `MTLRUN_NOT_SET`"), "{text}");
    // A default of the stream is a value like any other.
    assert_eq!(check("${data.faces.prefetch}").0, 0);
    assert_eq!(check("${data.faces.size}").0, 0);
    refused(check("${data.faces.transforms}"), &["is a table or an array"]);
    // One place, one finding: not also that a string is no number.
    let (code, text) = check("${model.embd.size}");
    assert_eq!(code, 2);
    assert!(text.contains("gives no `embd`") && !text.contains("must be an integer"), "{text}");
}

#[test]
fn a_path_that_is_referred_to_starts_where_it_is_written() {
    let dir = TempDir::new().unwrap();
    let base = dir.path().join("base");
    std::fs::create_dir(&base).unwrap();
    std::fs::write(base.join("a.toml"), "[data.faces]\nlist = \"faces.txt\"\n").unwrap();
    let text = "extends = [\"base/a.toml\"]\n[run]\nsteps = 1\n[data.faces]\ncomponent = \"annotated_faces\"\nbatch_size = 2\n\
                [evaluate.age]\ncomponent = \"age\"\nlist = \"${data.faces.list}\"\nroot = \"${env:MTLRUN_TEST_ROOT:faces}\"\n";
    let path = dir.path().join("r.toml");
    std::fs::write(&path, text).unwrap();
    let recipe = mtl_core::recipe::Recipe::read(&path, &[]).map_err(|e| e.to_string()).unwrap();
    let shown = |key: &str| std::path::PathBuf::from(recipe.root.at(key).unwrap().str().unwrap());
    assert_eq!(shown("evaluate.age.list"), base.canonicalize().unwrap().join("faces.txt"));
    assert_eq!(shown("evaluate.age.root"), dir.path().canonicalize().unwrap().join("faces"));
}
