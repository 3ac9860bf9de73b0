//! The committed schema and recipes.

use crate::support::{mtlrun, outcome, recipes, root};
use std::path::Path;

#[test]
fn the_committed_schemas_are_those_of_the_program() {
    let dir = tempfile::TempDir::new().unwrap();
    let output = mtlrun(&["schema", "--out", dir.path().to_str().unwrap()]).output().unwrap();
    assert_eq!(outcome(&output).0, 0);
    let names = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.retain(|name| name != "README.md");
        names.sort();
        names
    };
    assert_eq!(names(dir.path()), names(&root().join("schemas")));
    for name in names(dir.path()) {
        assert!(
            std::fs::read(root().join("schemas").join(&name)).unwrap()
                == std::fs::read(dir.path().join(&name)).unwrap(),
            "schemas/{} is stale: run `cargo run -- schema --out schemas`",
            name.display()
        );
    }
}

#[test]
fn a_component_has_a_schema_of_its_own() {
    let output = mtlrun(&["schema", "--component", "head/cosface"]).output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let validator = jsonschema::draft7::new(&schema).unwrap();
    assert!(validator.is_valid(&serde_json::json!({ "component": "cosface", "margin": 0.4 })));
    assert!(!validator.is_valid(&serde_json::json!({ "component": "cosface", "margin": 1.4 })));
    assert!(!validator.is_valid(&serde_json::json!({ "component": "arcface" })));
    for (given, said) in
        [("head/cosfac", "did you mean `cosface`"), ("heads/x", "did you mean `head`"), ("x", "KIND/NAME")]
    {
        let (code, text) = outcome(&mtlrun(&["schema", "--component", given]).output().unwrap());
        assert!(code == 2 && text.contains(said), "{text}");
    }
}

#[test]
fn every_recipe_is_good_and_names_its_schema() {
    let all = recipes();
    assert!(all.len() >= 5);
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let schema = first.strip_prefix("#:schema ").unwrap_or_else(|| panic!("{}", path.display()));
        assert!(path.parent().unwrap().join(schema).exists(), "{}: {schema}", path.display());
        if path.parent().unwrap().ends_with("base") {
            continue;
        }
        let output = mtlrun(&["check", path.to_str().unwrap()]).output().unwrap();
        assert_eq!(outcome(&output).0, 0, "{}", outcome(&output).1);
    }
}

#[test]
fn listing_and_showing() {
    let output = mtlrun(&["list", "head"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["cosface", "margin", "[default: 0.35]"] {
        assert!(text.contains(word), "{text}");
    }
    let (code, text) = outcome(&mtlrun(&["list", "heads_"]).output().unwrap());
    assert_eq!(code, 2);
    assert!(text.contains("did you mean `head`"), "{text}");
    let output = mtlrun(&["show", "recipes/aifr_scaf.toml", "--set", "model.identity.margin=0.5"]).output().unwrap();
    let shown: toml::Table = toml::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
    assert_eq!(shown["model"]["identity"]["margin"].as_float(), Some(0.5));
    // Defaults and absolute paths are filled in.
    assert_eq!(shown["model"]["decompose"]["pooling"].as_str(), Some("sum"));
    assert!(Path::new(shown["data"]["faces"]["list"].as_str().unwrap()).is_absolute());
    let doctor = mtlrun(&["doctor"]).output().unwrap();
    assert_eq!(doctor.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("libtorch         2.11.0"));
}

#[test]
fn the_committed_drawing_is_that_of_the_program() {
    let dir = tempfile::TempDir::new().unwrap();
    let out = dir.path().join("g.svg");
    let output = mtlrun(&["graph", "recipes/mtl_scaf.toml", "--out", out.to_str().unwrap()]).output().unwrap();
    assert_eq!(outcome(&output).0, 0);
    assert!(
        std::fs::read(root().join("recipes/graphs/mtl_scaf.svg")).unwrap() == std::fs::read(out).unwrap(),
        "recipes/graphs/mtl_scaf.svg is stale: run `cargo run -- graph recipes/mtl_scaf.toml --out recipes/graphs/mtl_scaf.svg`"
    );
}
