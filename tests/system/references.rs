//! References in recipes, as a researcher uses them.

use crate::support::{Faces, REGISTRY, mtlrun, outcome, refused};
use mtl_engine::recipe::Recipe;
use tempfile::TempDir;

#[test]
fn references_are_replaced_where_the_recipe_is_read() {
    let faces = Faces::new(3, 4);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let sets = [
        "--set",
        "model.age.hidden=${data.faces.batch_size}",
        "--set",
        "run.name=${env:MTLRUN_TEST_NAME:later}_${run.seed}",
    ];
    let output = mtlrun(&["show", "tests/recipes/tiny.toml"]).args(sets).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("hidden = 4") && told.contains("name = \"later_3\""), "{told}");
    let more: Vec<&str> = sets.iter().copied().chain(["--set", "run.steps=1"]).collect();
    faces.train(&out, &more);
    let resolved = std::fs::read_to_string(out.join("recipe.resolved.toml")).unwrap();
    assert!(resolved.contains("hidden = 4") && !resolved.contains("${"), "{resolved}");
    // The recorded run and the recipe with its references are the same.
    let again: Vec<&str> = more.iter().copied().chain(["--resume"]).collect();
    faces.train(&out, &again);
}

#[test]
fn a_reference_leads_to_a_value_of_the_recipe() {
    let check = |size: &str| {
        let set = format!("model.embed.size={size}");
        outcome(&mtlrun(&["check", "tests/recipes/tiny.toml", "--set", &set]).output().unwrap())
    };
    // What only the data decides has a size of its own, which ports name; no reference waits for it.
    for late in ["${dims.identities}", "${data.faces.identities}", "${data.faces.samples}"] {
        let name = late.trim_end_matches('}').rsplit('.').next().unwrap();
        refused(check(late), &[&format!("no `{name}`")]);
    }
    assert_eq!(check("${dims.age_groups}").0, 0);
    refused(check("${dims.age_group}"), &["did you mean `age_groups`"]);
    refused(check("${data.face.size}"), &["no `face`", "did you mean `faces`"]);
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
    let recipe = Recipe::read(&REGISTRY, &path, &[]).map_err(|e| e.to_string()).unwrap();
    let shown = |key: &str| std::path::PathBuf::from(recipe.root.at(key).unwrap().str().unwrap());
    assert_eq!(shown("evaluate.age.list"), base.canonicalize().unwrap().join("faces.txt"));
    assert_eq!(shown("evaluate.age.root"), dir.path().canonicalize().unwrap().join("faces"));
}
