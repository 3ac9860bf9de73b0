//! Pictures in record files: joined to a list, taken whole, and refused with their place.

use crate::support::{Faces, mtlrun, outcome, refused, told};
use std::path::Path;
use tempfile::TempDir;

/// Faces in a folder and the same in a record file.
fn packed() -> (Faces, TempDir) {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let out = dir.path().join("packed");
    let said = told(&["data", "pack", faces.path("list.txt").to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(said.contains("24 pictures of 4 people"), "{said}");
    (faces, dir)
}

/// Trains the tiny recipe on other data.
fn trained(out: &Path, sets: &[String]) -> (i32, String) {
    let mut args = vec!["tests/recipes/tiny.toml".to_owned(), "-q".into(), "--out".into(), out.display().to_string()];
    args.extend(sets.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    outcome(&mtlrun(&args).output().unwrap())
}

#[test]
fn a_list_joined_to_records_trains_the_bits_of_its_files() {
    let (faces, dir) = packed();
    let folder = dir.path().join("packed");
    let names: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    assert_eq!(std::fs::read_to_string(folder.join("property")).unwrap(), "4,20,20\n");
    let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    let files = dir.path().join("files");
    faces.train(&files, &["-q"]);
    let list = format!("data.faces.list={}", folder.join("list.txt").display());
    for records in [folder.clone(), folder.join("train.rec")] {
        let joined = dir.path().join(format!("joined-{}", records.is_dir()));
        let (code, text) = trained(&joined, &[list.clone(), format!("data.faces.records={}", records.display())]);
        assert_eq!(code, 0, "{text}");
        assert!(weights(&files) == weights(&joined));
    }
    // A folder that holds something is left alone.
    let list = faces.path("list.txt");
    let args = ["data", "pack", list.to_str().unwrap(), "--out", folder.to_str().unwrap()];
    refused(outcome(&mtlrun(&args).output().unwrap()), &["is not empty"]);
}

#[test]
fn records_without_a_list_train_people_of_unknown_ages() {
    let (_faces, dir) = packed();
    let recipe = dir.path().join("recipe.toml");
    let tiny = crate::support::root().join("tests/recipes/tiny.toml");
    let text = format!(
        "extends = [\"{}\"]\nremove = [\"data.faces.list\"]\n[data.faces]\nrecords = \"packed\"\n",
        tiny.display()
    );
    std::fs::write(&recipe, text).unwrap();
    let out = dir.path().join("run");
    let output = mtlrun(&[recipe.to_str().unwrap(), "--out", out.to_str().unwrap()]).output().unwrap();
    let (code, text) = outcome(&output);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("24 pictures of 4 people; age known of none, gender of none"), "{text}");
    let names = std::fs::read_to_string(out.join("identities.json")).unwrap();
    assert_eq!(serde_json::from_str::<Vec<String>>(&names).unwrap(), ["0", "1", "2", "3"]);
}

#[test]
fn records_are_extracted_byte_for_byte_and_described() {
    let (faces, dir) = packed();
    let packed = dir.path().join("packed");
    let out = dir.path().join("files");
    let [from, to] = [&packed, &out].map(|path| path.to_str().unwrap());
    let said = told(&["data", "extract", from, "--out", to]);
    assert!(said.contains("24 pictures, and list.txt"), "{said}");
    // The list that was packed names the files in the same order as the list of the extraction.
    let names = |list: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(list).unwrap();
        text.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
    };
    let (original, extracted) = (names(&faces.path("list.txt")), names(&out.join("list.txt")));
    assert_eq!(extracted, names(&packed.join("list.txt")));
    for (a, b) in original.iter().zip(&extracted) {
        assert!(std::fs::read(faces.path(a)).unwrap() == std::fs::read(out.join(b)).unwrap(), "{a} and {b}");
    }
    std::fs::write(out.join(&extracted[3]), "cut").unwrap();
    let said = told(&["data", "extract", from, "--out", to]);
    assert!(said.contains("24 pictures, of which 23 were there"), "{said}");
    let some = dir.path().join("some");
    let said = told(&["data", "extract", from, "--out", some.to_str().unwrap(), "--people", "2,3", "--limit", "7"]);
    assert!(said.contains("7 pictures") && !some.join("000001").exists(), "{said}");

    let inspected = |path: &str| -> serde_json::Value {
        let text = told(&["data", "inspect", path, "--json"]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].clone()
    };
    let facts = inspected(from);
    assert_eq!(facts["form"], "with a block of identities, as insightface packs it");
    for (key, wanted) in [("records", 29), ("pictures", 24), ("people", 4)] {
        assert_eq!(facts[key], wanted, "{facts}");
    }
    assert_eq!((&facts["pictures_a_person"]["median"], &facts["property"]), (&6.0.into(), &"4,20,20".into()));
    assert_eq!((&facts["sizes"]["20x20"], &facts["formats"]["JPEG"]), (&24.into(), &24.into()));
    let facts = inspected(faces.path("list.txt").to_str().unwrap());
    assert_eq!((&facts["is"], facts.get("missing_files")), (&"an annotated list".into(), None));
    assert_eq!((&inspected(to)["is"], &inspected(to)["people"]), (&"a folder of people".into(), &4.into()));
    let picture = dir.path().join("one.jpg");
    told(&["data", "inspect", from, "--key", "5", "--out", picture.to_str().unwrap()]);
    assert!(std::fs::read(&picture).unwrap() == std::fs::read(out.join(&extracted[4])).unwrap());
    let none = dir.path().join("nothing");
    refused(outcome(&mtlrun(&["data", "inspect", none.to_str().unwrap()]).output().unwrap()), &["cannot open"]);
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let (_faces, dir) = packed();
    let folder = dir.path().join("packed");
    let records = format!("data.faces.records={}", folder.display());
    let with = |line: &str| {
        let list = dir.path().join("list.txt");
        std::fs::write(&list, format!("1 000000/00000001.jpg 20 1\n{line}\n")).unwrap();
        trained(&dir.path().join("refused"), &[format!("data.faces.list={}", list.display()), records.clone()])
    };
    refused(with("2 Ann/first.jpg 20 1"), &["list.txt:2: expected a name that ends in label and key"]);
    refused(with("2 000001/00000099.jpg 20 1"), &["list.txt:2:", "has no record 99"]);
    refused(with("2 000003/00000007.jpg 20 1"), &["the name says the label 3, and the record 7", "of other records"]);
    // A file that was cut: the index knows more than there is.
    let file = std::fs::File::options().write(true).open(folder.join("train.rec")).unwrap();
    file.set_len(2000).unwrap();
    refused(with("2 000001/00000007.jpg 20 1"), &["offsets lie behind the end", "the file was cut"]);
    std::fs::remove_file(folder.join("train.idx")).unwrap();
    refused(with("2 000001/00000007.jpg 20 1"), &["which has no index (.idx) beside it"]);
    let none = dir.path().join("none");
    std::fs::create_dir(&none).unwrap();
    let list = format!("data.faces.list={}", folder.join("list.txt").display());
    let records = format!("data.faces.records={}", none.display());
    refused(trained(&dir.path().join("refused"), &[list, records]), &["holds no .rec file"]);
}
