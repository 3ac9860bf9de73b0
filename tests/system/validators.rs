//! Recipes that are wrong in one place: our checker, the `jsonschema` crate and the validators that editors and
//! continuous integration use refuse each of them, and name the key.

use crate::support::{REGISTRY, mtlrun, outcome, recipes, root};
use mtl_engine::graph::Graph;
use mtl_engine::recipe::Recipe;
use mtl_recipe::Diagnostics;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One wrong line, the table that it stands in, and the word that an error has to hold.
const BAD: &[(&str, &str, &str)] = &[
    // Names.
    ("[rnu]", "steps = 1", "rnu"),
    ("[run]", "stesp = 10", "stesp"),
    ("[run.checkpoint]", "keep_lst = 1", "keep_lst"),
    ("[run.loss_scaling]", "grow = 2.0", "grow"),
    ("[data.faces]", "batchsize = 4", "batchsize"),
    ("[data.faces]", "component = \"annotated_face\"", "annotated_face"),
    ("[data.faces]", "sampler = { component = \"shufle\" }", "shufle"),
    ("[data.faces]", "sampler = { component = \"shuffle\", size = 3 }", "size"),
    ("[data.faces]", "transforms = [{ component = \"resize\", sise = 3 }]", "sise"),
    ("[data.faces]", "transforms = [{ component = \"rezise\" }]", "rezise"),
    ("[model.backbone]", "component = \"ir5\"", "ir5"),
    ("[model.backbone]", "widht = 8", "widht"),
    ("[model.backbone]", "precision = \"half\"", "precision"),
    ("[model.backbone]", "weights = { runs = \"x\" }", "runs"),
    ("[model.identity]", "margn = 0.3", "margn"),
    ("[graph.features]", "cal = \"backbone\"", "cal"),
    ("[graph.features]", "mode = \"training\"", "mode"),
    ("[graph.still]", "apply = \"dettach\"", "dettach"),
    ("[loss.identity]", "wieght = 1.0", "wieght"),
    ("[loss.identity]", "ramp = { until = 4, end = 5 }", "end"),
    ("[phase.recognition]", "minimise = [\"identity\"]", "minimise"),
    ("[phase.recognition.optimizer]", "component = \"sdg\"", "sdg"),
    ("[phase.recognition.optimizer]", "momentun = 0.9", "momentun"),
    ("[phase.recognition.optimizer]", "decay = \"none\"", "decay"),
    ("[phase.recognition.scheduler]", "component = \"cosin\"", "cosin"),
    ("[evaluate.pairs]", "component = \"verificatoin\"", "verificatoin"),
    ("[ema]", "modles = [\"backbone\"]", "modles"),
    ("[sweep]", "grids = { }", "grids"),
    // Types.
    ("[run]", "steps = \"many\"", "steps"),
    ("[run]", "steps = 1.5", "steps"),
    ("[run]", "channels_last = 1", "channels_last"),
    ("[run]", "phases = \"recognition\"", "phases"),
    ("[dims]", "age_groups = 7.5", "age_groups"),
    ("[data.faces]", "batch_size = [4]", "batch_size"),
    ("[data.faces]", "transforms = { }", "transforms"),
    ("[model.backbone]", "width = \"8\"", "width"),
    ("[loss.identity]", "weight = \"1\"", "weight"),
    ("[phase.recognition]", "minimize = \"identity\"", "minimize"),
    ("[phase.recognition]", "update = [1]", "update"),
    ("[evaluate.pairs]", "every = true", "every"),
    // Ranges.
    ("[run]", "steps = 0", "steps"),
    ("[run]", "threads = 5_000_000_000", "threads"),
    ("[run]", "log_every = -1", "log_every"),
    ("[dims]", "age_groups = 0", "age_groups"),
    ("[data.faces]", "workers = 0", "workers"),
    ("[data.faces]", "batch_size = 2_000_000", "batch_size"),
    ("[model.identity]", "margin = 1.5", "margin"),
    ("[model.identity]", "margin = nan", "margin"),
    ("[phase.recognition]", "clip_norm = 0.0", "clip_norm"),
    ("[phase.recognition]", "minimize = []", "minimize"),
    ("[phase.recognition.optimizer]", "lr = -0.1", "lr"),
    ("[ema]", "decay = 1.5", "decay"),
    // References.
    ("[model.backbone]", "component = \"${env:BACKBONE:ir18}\"", "component"),
    ("[model.identity]", "margin = \"${margin\"", "margin"),
    ("[phase.recognition]", "update = \"${env:MODULES:backbone}\"", "update"),
];

/// The tables that a wrong line joins; each line replaces the one of its key.
const GOOD: &[(&str, &[&str])] = &[
    ("[run]", &["steps = 10"]),
    ("[run.checkpoint]", &[]),
    ("[run.loss_scaling]", &["initial = 2.0", "growth = 2.0", "backoff = 0.5", "interval = 2"]),
    ("[dims]", &[]),
    ("[data.faces]", &["component = \"annotated_faces\"", "list = \"list.txt\"", "batch_size = 4"]),
    ("[model.backbone]", &["component = \"ir18\""]),
    ("[model.identity]", &["component = \"cosface\""]),
    ("[graph.features]", &["call = \"backbone\"", "in = { image = \"faces.image\" }"]),
    ("[graph.still]", &["apply = \"detach\"", "in = { input = \"features\" }"]),
    ("[loss.identity]", &["component = \"cross_entropy\""]),
    ("[phase.recognition]", &["minimize = [\"identity\"]", "update = [\"backbone\"]"]),
    ("[phase.recognition.optimizer]", &["component = \"sgd\"", "lr = 0.1"]),
    ("[phase.recognition.scheduler]", &["component = \"cosine\""]),
    ("[evaluate.pairs]", &["component = \"verification\""]),
    ("[ema]", &["modules = [\"backbone\"]"]),
    ("[sweep]", &[]),
];

fn key(line: &str) -> &str {
    line.split('=').next().unwrap_or_default().trim()
}

fn recipe(table: &str, line: &str) -> String {
    let mut text = String::new();
    let mut known = false;
    for (name, lines) in GOOD {
        let here = *name == table;
        known |= here;
        let kept = lines.iter().filter(|l| !here || key(l) != key(line)).copied();
        let lines: Vec<&str> = kept.chain(here.then_some(line)).collect();
        text.push_str(&format!("{name}\n{}\n", lines.join("\n")));
    }
    if known { text } else { format!("{text}{table}\n{line}\n") }
}

struct Written {
    folder: tempfile::TempDir,
    files: Vec<(PathBuf, &'static (&'static str, &'static str, &'static str))>,
}

fn write_all() -> Written {
    let folder = tempfile::TempDir::new().unwrap();
    let files = BAD.iter().enumerate().map(|(i, bad)| {
        let path = folder.path().join(format!("bad{i:02}.toml"));
        std::fs::write(&path, recipe(bad.0, bad.1)).unwrap();
        (path, bad)
    });
    let files = files.collect();
    Written { folder, files }
}

fn schema() -> jsonschema::Validator {
    let text = std::fs::read_to_string(root().join("schemas/recipe.schema.json")).unwrap();
    jsonschema::draft7::new(&serde_json::from_str(&text).unwrap()).unwrap()
}

/// A TOML text as validators see it.
fn as_json(text: &str) -> serde_json::Value {
    serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap()
}

fn findings(validator: &jsonschema::Validator, text: &str) -> Vec<String> {
    validator.iter_errors(&as_json(text)).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

#[test]
fn wrong_recipes_are_refused_by_the_program_and_by_the_schema() {
    assert!(BAD.len() >= 40);
    let (written, validator) = (write_all(), schema());
    let good = recipe("", "");
    assert_eq!(findings(&validator, good.trim_end_matches('\n')), Vec::<String>::new());
    for (path, (table, line, word)) in &written.files {
        let (code, text) = outcome(&mtlrun(&["check", path.to_str().unwrap()]).output().unwrap());
        assert_eq!(code, 2, "{table} {line}: {text}");
        assert!(text.contains(word), "{table} {line}: {text}");
        let found = findings(&validator, &std::fs::read_to_string(path).unwrap());
        assert!(found.iter().any(|f| f.contains(word)), "{table} {line}: {found:?}");
    }
}

/// Where the set-up has put the validators that editors use.
fn clients() -> Option<PathBuf> {
    std::env::var_os("MTLRUN_CLIENTS").map(PathBuf::from).filter(|p| p.join("bin/taplo").exists())
}

#[test]
fn editors_and_validators_agree() {
    let Some(clients) = clients() else {
        eprintln!("taplo and check-jsonschema are not here: `cargo xtask test` installs them where python3 is");
        return;
    };
    let written = write_all();
    let schema = root().join("schemas/recipe.schema.json");
    let good = recipes();
    let taplo = |files: &[&Path]| {
        let mut command = Command::new(clients.join("bin/taplo"));
        command.args(["lint", "--no-auto-config", "--colors", "never", "--schema"]);
        command.arg(format!("file://{}", schema.display())).args(files).current_dir(written.folder.path());
        command.output().unwrap()
    };
    let check = |files: &[&Path]| {
        let mut command = Command::new(clients.join("bin/check-jsonschema"));
        command.args(["--color", "never", "--schemafile"]).arg(&schema).args(files).output().unwrap()
    };
    let refs: Vec<&Path> = good.iter().map(PathBuf::as_path).collect();
    for output in [taplo(&refs), check(&refs)] {
        let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        assert!(output.status.success(), "{text}");
    }
    let refs: Vec<&Path> = written.files.iter().map(|(p, _)| p.as_path()).collect();
    // One call tells of all files; its lines name them.
    let told = check(&refs);
    assert!(!told.status.success());
    let mut by_file: BTreeMap<String, String> = BTreeMap::new();
    for line in String::from_utf8_lossy(&told.stdout).lines() {
        if let Some(at) = line.find("bad") {
            by_file.entry(line[at..at + 5].to_owned()).or_default().push_str(line);
        }
    }
    for (path, (table, line, word)) in &written.files {
        // Python's nan is neither below nor above a bound.
        if !line.ends_with("nan") {
            let own = by_file.get(path.file_stem().unwrap().to_str().unwrap()).cloned().unwrap_or_default();
            assert!(own.contains(word), "check-jsonschema on {table} {line}: {own}");
        }
        let output = taplo(&[path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(word), "taplo on {table} {line}: {text}");
    }
}

/// Every value of the good recipe replaced by others of every sort: as long as a value stands for itself, the program
/// and the schema agree on it. Wiring and rules across keys are the program's alone, so that only what it says of
/// types, names and ranges counts.
#[test]
fn schema_and_program_agree_on_single_values() {
    let validator = schema();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("r.toml");
    let values = [
        "true",
        "0",
        "1",
        "-1",
        "3",
        "7.0",
        "1.5",
        "-0.25",
        "0.5",
        "1e3",
        "1e19",
        "4_294_967_296",
        "9_007_199_254_740_993",
        "inf",
        "-inf",
        "nan",
        "\"\"",
        "\"cpu\"",
        "\"train\"",
        "\"amp\"",
        "\"normal\"",
        "[]",
        "[1]",
        "[\"a\"]",
        "[1, 2, 3, 4]",
        "{}",
    ];
    // A reference is as good as the value that it stands for.
    let good = [
        "true",
        "3",
        "64",
        "0.5",
        "cpu",
        "amp",
        "bf16",
        "all",
        "after_unscaling",
        "skip",
        "concat",
        "insightface",
        "worst",
        "classes",
    ];
    let referred: Vec<String> = good.iter().map(|value| format!("\"${{env:MTLRUN_NOT_SET:{value}}}\"")).collect();
    let keys: Vec<(&str, String)> = schema_keys();
    assert!(keys.len() > 60, "{}", keys.len());
    let (mut both, mut neither) = (0, 0);
    for (table, key) in &keys {
        for value in values {
            let text = recipe(table, &format!("{key} = {value}"));
            std::fs::write(&path, &text).unwrap();
            let said = Recipe::read(&REGISTRY, &path, &[]).err().map(|found| found.list).unwrap_or_default();
            let ours: Vec<&str> = said.iter().map(|d| d.message.as_str()).filter(|m| of_values(m)).collect();
            let theirs = findings(&validator, &text);
            assert_eq!(ours.is_empty(), theirs.is_empty(), "{table} {key} = {value}: {ours:?} {theirs:?}");
            if ours.is_empty() { neither += 1 } else { both += 1 }
        }
        // What a reference stands for the schema cannot know; it takes one wherever the program takes any.
        let taken = referred.iter().any(|value| {
            std::fs::write(&path, recipe(table, &format!("{key} = {value}"))).unwrap();
            !Recipe::read(&REGISTRY, &path, &[]).is_err_and(|found| found.list.iter().any(|d| of_values(&d.message)))
        });
        let theirs = findings(&validator, &recipe(table, &format!("{key} = {}", referred[0])));
        assert_eq!(taken, theirs.is_empty(), "a reference at {table} {key}: {theirs:?}");
    }
    assert!(both > 500 && neither > 100, "{both} refused and {neither} taken by both");
}

/// Whether a finding is about a single value.
fn of_values(message: &str) -> bool {
    [
        "must be",
        "is out of range",
        "does not know",
        "has no key",
        "lacks the key",
        "entries, expected",
        "characters, expected",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// The keys of the tables of the good recipe, from the schema of the component that stands there.
fn schema_keys() -> Vec<(&'static str, String)> {
    let text = std::fs::read_to_string(root().join("schemas/recipe.schema.json")).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    let own = |table: &str| {
        Some(match table {
            "[run]" | "[ema]" => format!("/properties/{}", table.trim_matches(['[', ']'])),
            "[run.checkpoint]" => "/definitions/Checkpoint".into(),
            "[run.loss_scaling]" => "/definitions/LossScaling".into(),
            "[data.faces]" => "/definitions/data.annotated_faces".into(),
            "[model.backbone]" => "/definitions/model.ir18".into(),
            "[model.identity]" => "/definitions/model.cosface".into(),
            "[loss.identity]" => "/definitions/loss.cross_entropy".into(),
            "[phase.recognition]" => "/properties/phase/additionalProperties".into(),
            "[phase.recognition.optimizer]" => "/definitions/optimizer.sgd".into(),
            "[phase.recognition.scheduler]" => "/definitions/scheduler.cosine".into(),
            "[evaluate.pairs]" => "/definitions/evaluate.verification".into(),
            "[dims]" | "[sweep]" | "[graph.features]" | "[graph.still]" => return None,
            other => panic!("where is the schema of {other}?"),
        })
    };
    let keys = GOOD.iter().flat_map(|(table, _)| {
        let properties = own(table).map(|at: String| &schema.pointer(&at).unwrap()["properties"]);
        let found = properties.and_then(|p| p.as_object().cloned());
        found.unwrap_or_default().into_iter().map(|(key, _)| (*table, key))
    });
    // What has a table of its own is asked there.
    let apart = |table: &str, key: &str| {
        let inner = format!("{}.{key}]", table.trim_end_matches(']'));
        GOOD.iter().any(|(name, _)| *name == inner)
    };
    keys.filter(|(table, key)| key != "component" && !apart(table, key)).collect()
}

/// What the checker says of a text; it has to say something of it and not panic.
fn checked(folder: &Path, text: &[u8]) -> Result<Recipe, Diagnostics> {
    let path = folder.join("any.toml");
    std::fs::write(&path, text).unwrap();
    Recipe::read(&REGISTRY, &path, &[]).and_then(|recipe| Graph::new(&recipe).map(|_| recipe))
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_the_checker_panic(text in proptest::prelude::any::<Vec<u8>>(), words in ".{0,200}") {
        let dir = tempfile::TempDir::new().unwrap();
        proptest::prop_assert!(checked(dir.path(), &text).is_err() || text.is_empty());
        proptest::prop_assert!(checked(dir.path(), words.as_bytes()).is_err());
    }

    #[test]
    fn no_change_of_a_recipe_makes_the_checker_panic(
        cut in proptest::prelude::any::<(proptest::sample::Index, proptest::sample::Index)>(),
        to in proptest::prelude::any::<proptest::sample::Index>(),
        more in "[\\[\\]{}=.,\"'#\\n a-z0-9_$-]{0,12}",
    ) {
        let dir = tempfile::TempDir::new().unwrap();
        let good = std::fs::read_to_string(root().join("tests/recipes/made.toml")).unwrap();
        let good = good.replace("../../recipes", &root().join("recipes").display().to_string());
        let good: Vec<char> = good.chars().collect();
        let (a, b, at) = (cut.0.index(good.len()), cut.1.index(good.len()), to.index(good.len()));
        let moved: String = good[..at].iter().chain(&good[a.min(b)..a.max(b)]).copied().chain(more.chars()).chain(good[at..].iter().copied()).collect();
        // Whether it is still a recipe does not matter.
        if let Err(found) = checked(dir.path(), moved.as_bytes()) {
            proptest::prop_assert!(!found.render(false).is_empty());
        }
    }
}

#[test]
fn texts_that_are_meant_to_break_the_checker() {
    let dir = tempfile::TempDir::new().unwrap();
    let many = 250_000;
    for (what, text) in [
        ("arrays in arrays", format!("a = {}", "[".repeat(many))),
        ("tables in tables", format!("a = {}", "{ a = ".repeat(many / 4))),
        ("a path of keys", format!("{}a = 1", "a.".repeat(many))),
        ("a header of keys", format!("[{}a]", "a.".repeat(many))),
        ("a long key", format!("{} = 1", "k".repeat(many))),
        ("a long wrong name", format!("[model.backbone]\ncomponent = \"{}\"", "i".repeat(many))),
        ("a huge array", format!("[run]\nphases = [{}]", "1,".repeat(many))),
        ("many keys", (0..many / 10).map(|i| format!("k{i} = 1\n")).collect()),
        ("many tables", (0..many / 20).map(|i| format!("[model.m{i}]\ncomponent = \"x\"\n")).collect()),
        ("many empty tables", (0..many / 20).map(|i| format!("[model.m{i}]\n")).collect()),
        ("many references", format!("[run]\nname = \"{}\"", "${run.seed}".repeat(many / 10))),
        ("many late references", (0..many / 20).map(|i| format!("[model.m{i}]\nx = \"${{data.a.b{i}}}\"\n")).collect()),
        ("quotes", "\"".repeat(many)),
        ("zeros", "\0".repeat(many)),
    ] {
        let start = std::time::Instant::now();
        let found = checked(dir.path(), text.as_bytes()).err().unwrap_or_else(|| panic!("{what}: taken"));
        let told = found.render(false);
        eprintln!("{what}: {} findings, {} bytes told, {:.2?}", found.list.len(), told.len(), start.elapsed());
    }
    // Recipes that extend each other, and a long chain of them.
    let write = |name: String, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.toml".into(), "extends = [\"b.toml\", \"b.toml\"]".into());
    write("b.toml".into(), "extends = [\"a.toml\", \"a.toml\"]".into());
    let found = Recipe::read(&REGISTRY, &dir.path().join("a.toml"), &[]).err().unwrap();
    assert!(found.to_string().contains("circle"), "{found}");
    // Each of these extends the next one twice: two to the power of their number if nothing stopped it.
    for i in 0..40 {
        write(format!("c{i}.toml"), format!("extends = [\"c{0}.toml\", \"c{0}.toml\"]", i + 1));
    }
    write("c40.toml".into(), String::new());
    let start = std::time::Instant::now();
    assert!(Recipe::read(&REGISTRY, &dir.path().join("c0.toml"), &[]).is_err());
    eprintln!("a chain that doubles: {:.2?}", start.elapsed());
}
