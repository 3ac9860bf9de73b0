//! `mtlrun data`: from what is on the disk to a trained and measured run.

use crate::support::{Faces, mtlrun, outcome, reference, refused, root, told};
use image::codecs::jpeg::JpegEncoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&told(&[args, &["--json"]].concat())).unwrap()
}

/// Made faces of some people in a folder, 48 pixels a side.
fn rendered(folder: &Path, first: u64, people: u64) {
    let (first, people) = (first.to_string(), people.to_string());
    let args =
        ["data", "render", "--identities", &people, "--first", &first, "--ages", "8,25,45,70", "--captures", "2"];
    told(&[&args[..], &["--size", "48", "--pairs", "40", "--out", text(folder)]].concat());
}

/// Trains the tiny recipe on data of one's own, and measures verification.
fn trained(out: &Path, sets: &[String]) {
    let mut args = vec!["tests/recipes/tiny.toml".to_owned(), "-q".into(), "--out".into(), out.display().to_string()];
    let verification = "evaluate.verification.component=verification".to_owned();
    for set in std::iter::once(&verification).chain(sets) {
        args.extend(["--set".to_owned(), set.clone()]);
    }
    let (code, text) = outcome(&mtlrun(&args).output().unwrap());
    assert_eq!(code, 0, "{text}");
}

/// Rendered faces, packed: training from records and verification on a packed set are those of the files, bit by bit.
#[test]
fn packed_faces_train_and_measure_as_their_files() {
    let dir = TempDir::new().unwrap();
    let (files, packed, set) = (dir.path().join("files"), dir.path().join("packed"), dir.path().join("pairs.bin"));
    rendered(&files, 0, 12);
    told(&["data", "pack", text(&files.join("list.txt")), "--out", text(&packed)]);
    told(&["data", "pack", "--pairs", text(&files.join("pairs.txt")), "--out", text(&set)]);
    let set_of = |key: &str, path: &Path| format!("{key}={}", path.display());
    let plain = dir.path().join("plain");
    let sets = [
        set_of("data.faces.list", &files.join("list.txt")),
        set_of("evaluate.verification.pairs", &files.join("pairs.txt")),
    ];
    trained(&plain, &sets);
    let from_packed = dir.path().join("from_packed");
    let sets = [
        set_of("data.faces.list", &packed.join("list.txt")),
        set_of("data.faces.records", &packed),
        set_of("evaluate.verification.bin", &set),
    ];
    trained(&from_packed, &sets);
    let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    assert!(weights(&plain) == weights(&from_packed));
    let metrics = |run: &Path| -> Value {
        let text = std::fs::read_to_string(run.join("eval/verification.step-6.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["metrics"].clone()
    };
    assert_eq!(metrics(&plain), metrics(&from_packed));
    // Any source will do: the slot of the dataset, the folder, the set with names.
    let slot = format!("data.faces.source={{ component = \"list\", path = \"{}\" }}", files.join("list.txt").display());
    let by_slot = dir.path().join("slot");
    let recipe = dir.path().join("recipe.toml");
    let tiny = root().join("tests/recipes/tiny.toml");
    std::fs::write(&recipe, format!("extends = [\"{}\"]\nremove = [\"data.faces.list\"]\n", tiny.display())).unwrap();
    let args = [text(&recipe), "-q", "--set", &slot, "--out", text(&by_slot)];
    let (code, said) = outcome(&mtlrun(&args).output().unwrap());
    assert_eq!(code, 0, "{said}");
    assert!(weights(&plain) == weights(&by_slot));
    let named =
        [set_of("evaluate.verification.bin", &set), set_of("evaluate.verification.names", &files.join("pairs.txt"))];
    let list = set_of("evaluate.verification.list", &files.join("list.txt"));
    let again = |sets: &[String]| -> Value {
        let mut args = vec!["eval".to_owned(), plain.display().to_string(), "--json".into()];
        args.extend(["--unset".into(), "evaluate.verification.pairs".into()]);
        sets.iter().for_each(|set| args.extend(["--set".to_owned(), set.clone()]));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        serde_json::from_str::<Value>(&told(&args)).unwrap()["verification"].clone()
    };
    let found = again(&[&named[..], &[list]].concat());
    assert_eq!(found["metrics"]["accuracy"], metrics(&plain)["accuracy"]);
    assert!(found["tables"].as_array().unwrap().iter().any(|table| table["name"] == "by_gap"), "{found}");
    // The embeddings of records are those of the files.
    let embedded = |input: &Path| {
        let out = dir.path().join("embedded.safetensors");
        told(&["embed", text(&plain), text(input), "--out", text(&out)]);
        std::fs::read(out).unwrap()
    };
    assert!(embedded(&packed) == embedded(&files.join("list.txt")));
}

#[test]
fn a_set_with_a_list_of_other_pairs_is_refused() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let set = dir.path().join("own.bin");
    told(&["data", "pack", "--pairs", text(&faces.path("pairs.txt")), "--out", text(&set)]);
    let pairs = std::fs::read_to_string(faces.path("pairs.txt")).unwrap();
    let other = dir.path().join("other.txt");
    let swapped: Vec<&str> = pairs.lines().rev().collect();
    std::fs::write(&other, swapped.join("\n")).unwrap();
    let check = |names: &Path| {
        let evaluator = format!(
            "evaluate.own={{ component = \"verification\", bin = \"{}\", names = \"{}\" }}",
            set.display(),
            names.display()
        );
        let args = faces.tiny(&dir.path().join("run"), &["--set", &evaluator]);
        outcome(&mtlrun(&args).output().unwrap())
    };
    refused(check(&other), &["pair 0 is of one person in", "and of two people in the list"]);
    std::fs::write(&other, pairs.lines().next().unwrap()).unwrap();
    refused(check(&other), &["has 16 pairs, and the list", "has 1: it is of another set"]);
    let evaluator = "evaluate.own={ component = \"age\" }";
    let args = faces.tiny(&dir.path().join("run"), &["--set", evaluator]);
    refused(outcome(&mtlrun(&args).output().unwrap()), &["it needs a `source` of pictures, or `list`, `records`"]);
    let evaluator =
        "evaluate.own={ component = \"age\", list = \"l.txt\", source = { component = \"folder\", path = \"x\" } }";
    let args = faces.tiny(&dir.path().join("run"), &["--set", evaluator]);
    refused(outcome(&mtlrun(&args).output().unwrap()), &["`list` and `source` are two sources of pictures"]);
}

/// What mxnet 1.9.1 wrote is extracted byte for byte.
#[test]
fn records_of_mxnet_become_the_files_that_they_were_made_of() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("files");
    told(&["data", "extract", text(&reference("mxnet")), "--out", text(&out)]);
    let truth = std::fs::read_to_string(reference("mxnet/truth.txt")).unwrap();
    let list = std::fs::read_to_string(out.join("list.txt")).unwrap();
    assert_eq!(list.lines().count(), truth.lines().count());
    let facts = &json(&["data", "inspect", text(&reference("mxnet"))])[0];
    assert_eq!((&facts["pictures"], &facts["formats"]["JPEG"]), (&48.into(), &48.into()), "{facts}");
    for line in truth.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let file =
            out.join(format!("{:06}/{:08}.jpg", fields[1].parse::<u32>().unwrap(), fields[0].parse::<u32>().unwrap()));
        assert!(image::open(&file).is_ok(), "{line}");
    }
}

/// A folder with files of these names.
fn folder(names: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in names {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    dir
}

#[test]
fn published_sets_become_lists_and_every_name_is_accounted_for() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("fgnet", &["images/001A02.JPG", "images/001a43a.JPG", "images/1A02.JPG"], &["001\timages/001A02.JPG\t2\t-"]),
        ("morph", &["AA_F/050188_00F46.JPG", "C_M/009055_1M54.JPG"], &["050188\tAA_F/050188_00F46.JPG\t46\t0"]),
        (
            "cacd",
            &["14_Ben_Corvin_0001.jpg", "37_Chloë_Dunmore_0003.jpg", "Ada_0001.jpg"],
            &["Ben_Corvin\t14_Ben_Corvin_0001.jpg\t14\t-", "Chloë_Dunmore\t37_Chloë_Dunmore_0003.jpg\t37\t-"],
        ),
        ("agedb", &["0_MariaHolm_35_f.jpg", "12_KarlLindt_128_m.jpg"], &["MariaHolm\t0_MariaHolm_35_f.jpg\t35\t0"]),
        (
            "utkface",
            &["26_1_3_20170117175041574.jpg", "61_1_20170109142408075.jpg.chip.jpg", "x.jpg"],
            &["-\t26_1_3_20170117175041574.jpg\t26\t0", "-\t61_1_20170109142408075.jpg.chip.jpg\t61\t0"],
        ),
        (
            "imdb",
            &["01/nm0000001_rm124825600_1899-5-10_1968.jpg"],
            &["nm0000001\t01/nm0000001_rm124825600_1899-5-10_1968.jpg\t69\t-"],
        ),
        ("lfw", &["Ada_Marlow/Ada_Marlow_0001.jpg"], &["Ada_Marlow\tAda_Marlow/Ada_Marlow_0001.jpg\t-\t-"]),
        (
            "ecaf",
            &["image_data/img_mtcnn/Karl_Lindt_adult_001.png"],
            &["Karl_Lindt\timage_data/img_mtcnn/Karl_Lindt_adult_001.png\t-\t-"],
        ),
        ("folders", &["10/a.jpg", "9/b c.jpg", "top.jpg"], &["10\t10/a.jpg\t-\t-", "9\t9/b c.jpg\t-\t-"]),
    ];
    for (kind, names, wanted) in cases {
        let (set, out) = (folder(names), TempDir::new().unwrap());
        let found = json(&["data", "convert", kind, text(set.path()), "--out", text(out.path())]);
        assert_eq!(found["found"], names.len(), "{kind}: {found}");
        let sum = found["accepted"].as_u64().unwrap() + found["rejected"].as_u64().unwrap();
        assert_eq!(sum, names.len() as u64, "{kind}: {found}");
        let list = std::fs::read_to_string(out.path().join("list.txt")).unwrap();
        for line in *wanted {
            assert!(list.lines().any(|found| found == *line), "{kind}: {line:?} in {list}");
        }
        let rejected = std::fs::read_to_string(out.path().join("rejected.txt")).unwrap();
        assert_eq!(rejected.lines().count() as u64, found["rejected"].as_u64().unwrap(), "{kind}: {rejected}");
        // Again, and the same bytes; the card keeps what it says.
        let card = std::fs::read(out.path().join("card.json")).unwrap();
        json(&["data", "convert", kind, text(set.path()), "--out", text(out.path())]);
        assert_eq!(list, std::fs::read_to_string(out.path().join("list.txt")).unwrap(), "{kind}");
        assert_eq!(card, std::fs::read(out.path().join("card.json")).unwrap(), "{kind}");
    }
    let none = folder(&["1.jpg"]);
    let args = ["data", "convert", "fgnet", text(none.path())];
    refused(outcome(&mtlrun(&args).output().unwrap()), &["none of 1 names", "is no name such as 001A43a.JPG"]);
}

#[test]
fn tables_and_pairs_of_published_sets_are_converted() {
    let dir = TempDir::new().unwrap();
    let table = dir.path().join("morph.csv");
    let rows = "id_num,picture_num,dob,doa,race,gender,facial_hair,age,age_diff,glasses,photo\n\
                1,0,1950-01-01,1990-01-01,B,M,0,40,0,0,A/1_0M40.JPG\n1,1,1950-01-01,1991-01-01,B,M,0,41,1,0,A/1_1M41.JPG\n\
                1,2,1951-01-01,1992-01-01,B,M,0,41,1,0,A/1_2M41.JPG\n1,3,1950-01-01,1991-01-01,B,M,0,43,2,0,A/1_3M43.JPG\n2,0,1960-01-01,1990-01-01,W,F,0,old,0,0,A/2_0F30.JPG\n";
    std::fs::write(&table, rows).unwrap();
    let found = json(&["data", "convert", "morph-csv", text(&table)]);
    assert_eq!((&found["accepted"], &found["rejected"]), (&2.into(), &3.into()), "{found}");
    let rejected = std::fs::read_to_string(dir.path().join("rejected.txt")).unwrap();
    assert!(rejected.contains("has the age 43, and another picture of 1991-01-01 the age 41"), "{rejected}");
    assert!(rejected.contains("date of birth 1951-01-01, and most rows of 1 have 1950-01-01"), "{rejected}");
    std::fs::write(&table, "name,age\nx,3\n").unwrap();
    let args = ["data", "convert", "morph-csv", text(&table)];
    refused(outcome(&mtlrun(&args).output().unwrap()), &["has no column `id_num`, but `name`, `age`"]);

    // Dates of birth in days of MATLAB, years of pictures, and one date that is none.
    let out = dir.path().join("imdb");
    let found = json(&["data", "convert", "imdb", text(&reference("mat/imdb.mat")), "--out", text(&out)]);
    assert_eq!((&found["accepted"], &found["rejected"]), (&2.into(), &1.into()), "{found}");
    let list = std::fs::read_to_string(out.join("list.txt")).unwrap();
    assert_eq!(
        list,
        "nm0000001\t01/nm0000001_rm124825600_1899-5-10_1968.jpg\t69\t1\nnm0000002\t02/nm0000002_rm1_1981-5-5_2009.jpg\t28\t0\n"
    );

    let set = folder(&["0000_0.jpg", "0000_1.jpg", "0200_0.jpg", "0200_1.jpg", "0399_0.jpg"]);
    let found = json(&["data", "convert", "cacd-vs", text(set.path())]);
    assert_eq!((&found["accepted"], &found["rejected"]), (&4.into(), &1.into()), "{found}");
    let pairs = std::fs::read_to_string(set.path().join("pairs.txt")).unwrap();
    assert_eq!(pairs, "0000_0.jpg\t0000_1.jpg\t1\n0200_0.jpg\t0200_1.jpg\t-1\n");

    let lst = dir.path().join("train.lst");
    let points = "\t0\t0\t9\t9\t1\t3\t5\t7\t9\t2\t4\t6\t8\t10";
    std::fs::write(&lst, format!("1\ta/x.jpg\t7\n1\ta/y.jpg\t7{points}\n3\t8.0\tb/z.jpg\nnothing\n")).unwrap();
    let found = json(&["data", "convert", "lst", text(&lst)]);
    assert_eq!((&found["accepted"], &found["rejected"]), (&3.into(), &1.into()), "{found}");
    let list = std::fs::read_to_string(dir.path().join("list.txt")).unwrap();
    assert_eq!(list, "7\ta/x.jpg\t-\t-\n7\ta/y.jpg\t-\t-\n8\tb/z.jpg\t-\t-\n");
    let landmarks = std::fs::read_to_string(dir.path().join("landmarks.csv")).unwrap();
    assert!(landmarks.contains("a/y.jpg,1.000,2.000,3.000,4.000"), "{landmarks}");
}

/// The five points of the template, as a line of a table.
fn template(name: &str, turned: bool) -> String {
    let points = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];
    let order = if turned { [1, 0, 2, 4, 3] } else { [0, 1, 2, 3, 4] };
    let numbers: Vec<String> = order.iter().flat_map(|i| points[*i]).map(|v: f64| v.to_string()).collect();
    format!("{name},{}\n", numbers.join(","))
}

#[test]
fn faces_are_aligned_by_their_points_and_failures_are_listed() {
    let dir = TempDir::new().unwrap();
    let files = dir.path().join("files");
    let args =
        ["data", "render", "--identities", "3", "--ages", "30", "--captures", "1", "--size", "112", "--pairs", "0"];
    told(&[&args[..], &["--out", text(&files)]].concat());
    let list = std::fs::read_to_string(files.join("list.txt")).unwrap();
    let names: Vec<&str> = list.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    let landmarks = dir.path().join("landmarks.csv");
    // One as it is, one with its eyes exchanged, and one without points.
    std::fs::write(&landmarks, format!("file,x0\n{}{}", template(names[0], false), template(names[1], true))).unwrap();
    let out = dir.path().join("aligned");
    let source = files.join("list.txt");
    let args = ["data", "align", text(&source), "--landmarks", text(&landmarks), "--out", text(&out)];
    let said = told(&args);
    for words in ["1 of 3 pictures aligned", "points do not fit a face: they stay 22.", "there are no points of it"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let pixels = |path: PathBuf| image::open(path).unwrap().into_rgb8().into_raw();
    assert!(pixels(files.join(names[0])) == pixels(out.join(names[0])), "what lies on the template stays as it is");
    assert_eq!(std::fs::read_to_string(out.join("failed.txt")).unwrap().lines().count(), 2);
    assert!(std::fs::read_to_string(out.join("list.txt")).unwrap().contains("\t30\t"));
    // The card of the source goes on.
    let card = std::fs::read_to_string(out.join("card.md")).unwrap();
    assert!(card.contains("Made faces") && card.contains("mtlrun data align"), "{card}");
    refused(outcome(&mtlrun(&args).output().unwrap()), &["is not empty"]);
    let nowhere = dir.path().join("nowhere");
    let with = |more: &[&str]| {
        let all = [&args[..3], more, &["--out", text(&nowhere)]].concat();
        outcome(&mtlrun(&all).output().unwrap())
    };
    refused(with(&["--detector", "nothing"]), &["there is no detector `nothing`: expected mtcnn"]);
    let empty = ["--detector", "mtcnn", "--detector-weights", text(dir.path())];
    refused(with(&empty), &["cannot open the weights", "pnet.pt"]);
}

#[test]
fn planted_faults_are_found_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let (train, test, out) = (dir.path().join("train"), dir.path().join("test"), dir.path().join("audit"));
    rendered(&train, 0, 12);
    rendered(&test, 100, 4);
    let list = std::fs::read_to_string(train.join("list.txt")).unwrap();
    let mut lines: Vec<Vec<String>> =
        list.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    let count = lines.len();
    let copied = |from: &str, to: &str, change: &dyn Fn(image::RgbImage) -> image::RgbImage| {
        let picture = change(image::open(train.join(from)).unwrap().into_rgb8());
        let file = std::fs::File::create(train.join(to)).unwrap();
        JpegEncoder::new_with_quality(file, 75).encode_image(&picture).unwrap();
    };
    let mut add = |of: usize, name: &str, person: Option<&str>| {
        let mut line = lines[of].clone();
        line[1] = name.to_owned();
        if let Some(person) = person {
            line[0] = person.to_owned();
        }
        lines.push(line);
    };
    let file = |i: usize| list.lines().nth(i).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    // Ten encoded anew, five mirrored, two under another name, one file twice, one cut, one of one colour.
    for i in 0..10 {
        copied(&file(i * 9), &format!("copy{i}.jpg"), &|picture| picture);
        add(i * 9, &format!("copy{i}.jpg"), None);
    }
    for i in 0..5 {
        copied(&file(i * 11 + 2), &format!("mirror{i}.jpg"), &|picture| image::imageops::flip_horizontal(&picture));
        add(i * 11 + 2, &format!("mirror{i}.jpg"), None);
    }
    for i in 0..2 {
        copied(&file(i * 8 + 3), &format!("other{i}.jpg"), &|picture| picture);
        add(i * 8 + 3, &format!("other{i}.jpg"), Some("11"));
    }
    std::fs::copy(train.join(file(20)), train.join("same.png")).unwrap();
    add(20, "same.png", None);
    let cut = std::fs::read(train.join(file(21))).unwrap();
    std::fs::write(train.join("cut.png"), &cut[..cut.len() / 2]).unwrap();
    add(21, "cut.png", None);
    image::RgbImage::from_pixel(48, 48, image::Rgb([9, 9, 9])).save(train.join("black.png")).unwrap();
    add(22, "black.png", None);
    let text_of: Vec<String> = lines.iter().map(|line| line.join(" ")).collect();
    std::fs::write(train.join("list.txt"), text_of.join("\n")).unwrap();
    // A picture of the test that is trained on.
    std::fs::copy(train.join(file(30)), test.join("leak.png")).unwrap();
    let tested = std::fs::read_to_string(test.join("list.txt")).unwrap() + "100 leak.png 30 1\n";
    std::fs::write(test.join("list.txt"), tested).unwrap();

    let (train, test) = (train.join("list.txt"), test.join("list.txt"));
    let args = ["data", "audit", text(&train), "--against", text(&test), "--out", text(&out), "--strict"];
    let output = mtlrun(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", outcome(&output).1);
    let audit: Value = serde_json::from_slice(&std::fs::read(out.join("audit.json")).unwrap()).unwrap();
    let found: BTreeMap<&str, u64> = audit["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["code"].as_str().unwrap(), finding["count"].as_u64().unwrap()))
        .collect();
    for (code, wanted) in [
        ("near-copy", 12),
        ("mirrored-copy", 5),
        ("two-people", 2),
        ("same-file", 1),
        ("unreadable", 1),
        ("constant", 1),
        ("tested-picture", 1),
    ] {
        assert_eq!(found.get(code), Some(&wanted), "{code}: {found:?}");
    }
    // Left out: the copies, the files of two people, what cannot be read, what is tested on.
    let kept = std::fs::read_to_string(out.join("keep.txt")).unwrap();
    assert_eq!(kept.lines().count(), count - 2 - 1, "{found:?}");
    let page = std::fs::read_to_string(out.join("audit.html")).unwrap();
    assert!(page.contains("mirrored-copy") && page.contains("data:image/jpeg;base64,"));
}

#[test]
fn damaged_files_are_inspected_up_to_the_damage() {
    let dir = TempDir::new().unwrap();
    let records = dir.path().join("train.rec");
    let whole = std::fs::read(reference("mxnet/train.rec")).unwrap();
    std::fs::write(&records, &whole[..whole.len() / 2]).unwrap();
    std::fs::copy(reference("mxnet/train.idx"), dir.path().join("train.idx")).unwrap();
    let facts = &json(&["data", "inspect", text(&records)])[0];
    let pictures = facts["pictures"].as_u64().unwrap();
    assert!((20..28).contains(&pictures) && facts["damaged"].as_str().unwrap().contains("the file was cut"), "{facts}");
    // What a file holds is not printed raw.
    let list = dir.path().join("list.txt");
    std::fs::write(&list, "column\u{1b}[31m,b\n1,2\n").unwrap();
    let said = told(&["data", "inspect", text(&list)]);
    assert!(!said.contains('\u{1b}') && said.contains("u001b[31m"), "{said:?}");
    for (file, words) in [
        ("bin/py3_protocol5_numpy.bin", "a verification set of insightface"),
        ("mat/agedb_protocol.mat", "pairs"),
        ("mat/cacd_v5.mat", "celebrityImageData"),
        ("names.json", ""),
    ] {
        let output = mtlrun(&["data", "inspect", text(&reference(file))]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains(words) && output.status.code() == Some(if words.is_empty() { 2 } else { 0 }),
            "{file}: {said}"
        );
    }
    let sheet = dir.path().join("sheet.png");
    told(&["data", "inspect", text(&reference("mxnet")), "--sheet", text(&sheet)]);
    assert_eq!(image::open(&sheet).unwrap().width(), 8 * 112);
    let pair = dir.path().join("pair.png");
    let set = reference("bin/py3_protocol4_bytes.bin");
    told(&["data", "inspect", text(&set), "--pair", "1", "--out", text(&pair)]);
    let (wide, high) = image::image_dimensions(&pair).unwrap();
    assert_eq!(wide, 2 * high);
}

/// A set that says it is large takes no memory for what it does not hold.
#[test]
fn memory_is_not_taken_for_what_a_file_claims() {
    let dir = TempDir::new().unwrap();
    let claims = dir.path().join("claims.bin");
    std::fs::write(&claims, b"\x80\x03]q\x00B\xff\xff\xff\x7fabc").unwrap();
    let sparse = dir.path().join("sparse.bin");
    std::fs::write(&sparse, b"\x80\x03](B\x00\x00\x00\xd0").unwrap();
    std::fs::File::options().write(true).open(&sparse).unwrap().set_len(3 << 30).unwrap();
    for (file, words) in [(&claims, "within 2147483647 bytes"), (&sparse, "the pickle ends")] {
        let output = std::process::Command::new("bash")
            .args(["-c", "ulimit -v 3500000; exec \"$@\"", "bash"])
            .args([env!("CARGO_BIN_EXE_mtlrun"), "data", "inspect", text(file)])
            .output()
            .unwrap();
        refused(outcome(&output), &[words]);
    }
}

#[test]
fn cards_grow_and_keep_what_was_said() {
    let dir = TempDir::new().unwrap();
    let files = dir.path().join("files");
    rendered(&files, 0, 4);
    let folder = text(&files);
    let said = told(&["data", "card", folder, "--fault", "few people", "--not-for", "photographs"]);
    for words in ["# Made faces", "few people", "- photographs", "- pictures: 32", "- 70-79: 8", "mtlrun data render"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    refused(
        outcome(&mtlrun(&["data", "card", folder, "--name", "Mine"]).output().unwrap()),
        &["the card says `Made faces` for name, which is not written over"],
    );
    let split = dir.path().join("split");
    let list = files.join("list.txt");
    told(&["data", "split", text(&list), "--test", "0.25", "--out", text(&split)]);
    let people = |name: &str| {
        let text = std::fs::read_to_string(split.join(name)).unwrap();
        text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((people("train.txt").len(), people("test.txt").len()), (3, 1));
    let gallery = dir.path().join("gallery");
    told(&["data", "split", text(&list), "--gallery", "--out", text(&gallery)]);
    let ages = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(gallery.join(name)).unwrap();
        text.lines().map(|line| line.split('\t').nth(2).unwrap().to_owned()).collect()
    };
    assert_eq!((ages("gallery.txt"), ages("probe.txt")), (vec!["8".to_owned(); 4], vec!["70".to_owned(); 4]));
    let pairs = dir.path().join("pairs.txt");
    let said =
        told(&["data", "pairs", text(&list), "--count", "16", "--folds", "2", "--gap", "15", "--out", text(&pairs)]);
    assert!(said.contains("16 pairs"), "{said}");
    let digest = |path: &Path| hex::encode(Sha256::digest(std::fs::read(path).unwrap()));
    let before = digest(&pairs);
    told(&["data", "pairs", text(&list), "--count", "16", "--folds", "2", "--gap", "15", "--out", text(&pairs)]);
    assert_eq!(before, digest(&pairs));
}
