//! Plugins: built, loaded, refused, contained, recorded.

use crate::support::*;
use mtl_component::plugin::{API_LEVEL, Field, Header, Meaning, layout};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// The plugins of the repository, built once by `mtlrun plugin build`.
pub struct Built {
    /// Where they are.
    _folder: TempDir,
    example: PathBuf,
    pub faulty: PathBuf,
    /// Where verdicts are kept, apart from the user's own.
    cache: TempDir,
}

pub static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let out = TempDir::new().unwrap();
    let built = |folder: &str, file: &str| {
        // A relative folder, as one types it.
        let program = mtlrun(&["plugin", "build", root().join(folder).to_str().unwrap(), "--out", "built"]);
        let output =
            Command::new(program.get_program()).args(program.get_args()).current_dir(out.path()).output().unwrap();
        let (code, text) = outcome(&output);
        assert_eq!(code, 0, "{text}");
        out.path().join("built").join(file)
    };
    let example = built("plugins/example", "libexample_plugin.so");
    let faulty = built("tests/faulty", "libfaulty_plugin.so");
    Built { example, faulty, cache: TempDir::new().unwrap(), _folder: out }
});

/// The program with a place of its own for verdicts.
fn program<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = mtlrun(args);
    command.env("XDG_CACHE_HOME", BUILT.cache.path());
    command
}

fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> (i32, String) {
    both(&program(args).output().unwrap())
}

/// The exit code and all that was printed.
fn both(output: &Output) -> (i32, String) {
    let (code, text) = outcome(output);
    (code, String::from_utf8_lossy(&output.stdout).into_owned() + &text)
}

/// Arguments that train the tiny recipe with a plugin.
fn tiny(faces: &Faces, out: &Path, plugin: &Path, more: &[&str]) -> Vec<String> {
    let mut args = faces.tiny(out, more);
    args.extend(["--plugin".to_owned(), plugin.display().to_string()]);
    args
}

/// Trains the tiny recipe with a plugin.
fn train(faces: &Faces, out: &Path, plugin: &Path, more: &[&str]) -> (i32, String) {
    run(&tiny(faces, out, plugin, more))
}

const GATE: [&str; 2] = ["--set", "model.decompose.component=channel_gate"];

#[test]
fn a_plugin_trains_and_is_listed_described_and_recorded() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let example = BUILT.example.to_str().unwrap();
    let (code, text) = run(&["list", "decomposition", "--plugin", example]);
    assert!(code == 0 && text.contains("channel_gate") && text.contains("(plugin example-plugin 0.1.0)"), "{text}");

    // A recipe that names it, in a folder of its own, with a schema that knows it.
    let recipe = dir.path().join("mine.toml");
    let tiny = root().join("tests/recipes/tiny.toml");
    let head = format!("extends = [{:?}]\nplugins = [{example:?}]\n", tiny.display());
    let body =
        format!("[model.decompose]\ncomponent = \"channel_gate\"\n[data.faces]\nlist = {:?}\n", faces.path("list.txt"));
    std::fs::write(&recipe, head + &body).unwrap();
    let recipe = recipe.to_str().unwrap();
    let schema = dir.path().join("mine.schema.json");
    let (code, text) = run(&["schema", "--recipe", recipe, "--out", schema.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let schema: serde_json::Value = serde_json::from_slice(&std::fs::read(schema).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let as_json = |text: &str| serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
    assert!(validator.is_valid(&as_json("plugins = [\"x\"]\n[model.d]\ncomponent = \"channel_gate\"\nreduction = 4")));
    assert!(!validator.is_valid(&as_json("[model.d]\ncomponent = \"channel_gate\"\nreduction = 0")));
    assert_eq!(run(&["check", recipe]).0, 0);
    let out = dir.path().join("run");
    let (code, text) = run(&[recipe, "--out", out.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");

    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    let plugin = &record["plugins"][0];
    assert_eq!((plugin["name"].as_str(), plugin["version"].as_str()), (Some("example-plugin"), Some("0.1.0")));
    assert_eq!(plugin["path"].as_str(), Some(example));
    assert!(["sha256", "sources_sha256"].iter().all(|key| plugin[*key].as_str().unwrap().len() == 64), "{plugin}");
    // What was recorded can be read, wherever the recipe was.
    let recorded = out.join("recipe.resolved.toml");
    let text = std::fs::read_to_string(&recorded).unwrap();
    assert!(text.contains(&format!("plugins = [{example:?}]")), "{text}");
    let (code, text) = run(&["explain", "model.decompose.reduction", out.to_str().unwrap()]);
    assert!(code == 0 && text.contains("= 16"), "{text}");

    // Without the plugin the component is not known, and it is said where one comes from.
    refused(
        outcome(&program(&faces.tiny(&dir.path().join("no"), &GATE)).output().unwrap()),
        &["there is no module `channel_gate`", "name its plugin in the recipe: plugins = [\"…\"]"],
    );
}

#[test]
fn a_killed_run_of_a_plugin_resumes_to_the_same_bits() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let more = [&GATE[..], &["--set", "run.steps=200", "--set", "run.checkpoint.every=5"]].concat();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let (code, text) = train(&faces, &whole, &BUILT.example, &more);
    assert_eq!(code, 0, "{text}");
    let args = tiny(&faces, &broken, &BUILT.example, &more);
    let mut child = program(&args).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a checkpoint", || {
        broken
            .join("checkpoints")
            .read_dir()
            .is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| e.path().join("manifest.json").exists())))
    });
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    assert!(!broken.join("weights.safetensors").exists(), "killed too late");
    let (code, text) = train(&faces, &broken, &BUILT.example, &[&more[..], &["--resume"]].concat());
    assert_eq!(code, 0, "{text}");
    let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&broken), "other weights after a kill");
}

#[test]
fn a_changed_plugin_is_refused_unless_told() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let (out, plugin) = (dir.path().join("run"), dir.path().join("libexample_plugin.so"));
    std::fs::copy(&BUILT.example, &plugin).unwrap();
    let short = [&GATE[..], &["--set", "run.steps=4"]].concat();
    let (code, text) = train(&faces, &out, &plugin, &short);
    assert_eq!(code, 0, "{text}");
    // The same sources, another file: bytes behind the last section mean nothing.
    let mut bytes = std::fs::read(&plugin).unwrap();
    bytes.extend(b"built another time");
    replace(&plugin, &bytes);
    let longer = [&GATE[..], &["--resume"]].concat();
    let changed = ["the plugin example-plugin is another file", "it was built again from the same src and Cargo.toml"];
    refused(train(&faces, &out, &plugin, &longer), &[changed[0], changed[1], "say --allow-plugin-change"]);
    let reproduce = ["reproduce", out.to_str().unwrap(), "--steps", "2"];
    refused(run(&reproduce), &[changed[0], "say --allow-plugin-change"]);
    let (code, text) = run(&[&reproduce[..], &["--allow-plugin-change"]].concat());
    assert!(code == 0 && text.contains("reproduced: "), "{text}");
    // A command that only looks goes on, and says so.
    let (code, text) = run(&[
        "embed",
        out.to_str().unwrap(),
        faces.path("0_0.jpg").to_str().unwrap(),
        "--out",
        dir.path().join("e.csv").to_str().unwrap(),
    ]);
    assert!(code == 0 && text.contains(changed[0]), "{text}");
    let (code, text) = train(&faces, &out, &plugin, &[&longer[..], &["--allow-plugin-change"]].concat());
    assert!(code == 0 && text.contains(changed[0]), "{text}");
    // From then on the new file is that of the run.
    let (code, text) = train(&faces, &out, &plugin, &[&longer[..], &["--set", "run.steps=8"]].concat());
    assert!(code == 0 && !text.contains(changed[0]), "{text}");
}

/// Writes a file beside the old one and renames it, as a build does.
fn replace(path: &Path, bytes: &[u8]) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, bytes).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

#[test]
fn a_sweep_hands_plugins_on_to_its_points() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&BUILT.example, folder.join("libexample_plugin.so")).unwrap();
    let recipe = dir.path().join("sweep.toml");
    let tiny = root().join("tests/recipes/tiny.toml");
    let text = format!(
        "extends = [{:?}]\nplugins = [\"example_plugin\"]\n[run]\nsteps = 2\n[data.faces]\nlist = {:?}\n[sweep.grid]\n\
         \"model.decompose.component\" = [\"attention_decomposition\", \"channel_gate\"]\n",
        tiny.display(),
        faces.path("list.txt")
    );
    std::fs::write(&recipe, text).unwrap();
    let (recipe, out) = (recipe.to_str().unwrap(), dir.path().join("out"));
    let (code, text) = run(&["sweep", recipe, "--out", out.to_str().unwrap()]);
    assert!(code == 2 && text.contains("no libexample_plugin.so in"), "{text}");
    let sweep = ["sweep", recipe, "--out", out.to_str().unwrap(), "--plugin-path", folder.to_str().unwrap()];
    let (code, text) = run(&sweep);
    assert!(code == 0 && text.matches("done ").count() == 2, "{text}");
    let (code, text) = run(&["compare", out.to_str().unwrap(), "--metric", "loss/total", "--format", "svg"]);
    assert!(code == 0 && text.contains("channel_gate"), "{text}");
    // Finished points of the same plugin are kept; those of another build are not mixed with new ones.
    let (code, text) = run(&sweep);
    assert!(code == 0 && text.matches("kept ").count() == 2, "{text}");
    let mut bytes = std::fs::read(&BUILT.example).unwrap();
    bytes.extend(b"built another time");
    replace(&folder.join("libexample_plugin.so"), &bytes);
    refused(run(&sweep), &["2 of 2 points", "another build of a plugin", "--overwrite-changed"]);
    let (code, text) = run(&[&sweep[..], &["--overwrite-changed"]].concat());
    assert!(code == 0 && text.matches("done ").count() == 2, "{text}");
}

#[test]
fn plugins_are_found_in_the_places_that_the_environment_names() {
    let dir = TempDir::new().unwrap();
    let (named, data) = (dir.path().join("named"), dir.path().join("data/mtlrun/plugins/example_plugin"));
    for folder in [&named, &data] {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::copy(&BUILT.example, folder.join("libexample_plugin.so")).unwrap();
    }
    let list = |name: &str, value: &Path| {
        let mut command = program(&["list", "loss", "--plugin", "example-plugin"]);
        command.current_dir(dir.path()).env("XDG_DATA_HOME", dir.path().join("none"));
        both(&command.env(name, value).output().unwrap())
    };
    for (name, value) in [("MTLRUN_PLUGIN_PATH", &named), ("XDG_DATA_HOME", &dir.path().join("data"))] {
        let (code, text) = list(name, value);
        assert!(code == 0 && text.contains("log_cosh"), "{name}: {text}");
    }
    refused(list("MTLRUN_PLUGIN_PATH", Path::new("/nowhere")), &["there is no plugin `example-plugin`", "/nowhere"]);
}

#[test]
fn a_run_goes_on_when_its_plugin_is_taken_away() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let (out, plugin) = (dir.path().join("run"), dir.path().join("libexample_plugin.so"));
    std::fs::copy(&BUILT.example, &plugin).unwrap();
    let more = [&GATE[..], &["--set", "run.steps=300"]].concat();
    let args = tiny(&faces, &out, &plugin, &more);
    let child = program(&args).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a step", || {
        std::fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() > 1)
    });
    std::fs::remove_file(&plugin).unwrap();
    let (code, text) = outcome(&child.wait_with_output().unwrap());
    assert!(code == 0 && out.join("weights.safetensors").exists(), "{text}");
    let explain = ["explain", "run.steps", out.to_str().unwrap()];
    refused(run(&explain), &["recipe.resolved.toml:", "there is no plugin", "libexample_plugin.so"]);
    // Its file may be elsewhere now.
    let (code, text) = run(&[&explain[..], &["--plugin", BUILT.example.to_str().unwrap()]].concat());
    assert!(code == 0 && text.contains("run.steps = 300"), "{text}");
}

/// Memory errors from loading a plugin to dropping its components, in a run of two steps.
#[test]
#[ignore = "needs valgrind and minutes: cargo xtask test --long"]
fn a_plugin_is_clean_under_valgrind() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let more = [
        &GATE[..],
        &[
            "--set",
            "run.steps=2",
            "--set",
            "loss.years={ component = \"log_cosh\", in = { input = \
        \"years.age\", target = \"faces.age\" } }",
            "--set",
            "phase.recognition.minimize=[\"identity\", \"age\", \
        \"domain\", \"years\"]",
        ],
    ]
    .concat();
    // Under valgrind the program is not its own: the file has to be known before.
    let (code, text) = train(&faces, &dir.path().join("first"), &BUILT.example, &more);
    assert_eq!(code, 0, "{text}");
    let args = tiny(&faces, &dir.path().join("run"), &BUILT.example, &more);
    let plain = program(&args);
    let mut command = Command::new("valgrind");
    // libtorch's kernels read values that are not set and are then not used.
    command.args(["--error-exitcode=9", "--undef-value-errors=no"]).arg(plain.get_program()).args(plain.get_args());
    let output = command.current_dir(root()).env("XDG_CACHE_HOME", BUILT.cache.path()).output().unwrap();
    let (code, text) = both(&output);
    assert!(code == 0 && text.contains("ERROR SUMMARY: 0 errors"), "{text}");
}

/// Where the header begins in a file.
fn header_at(bytes: &[u8]) -> usize {
    let magic = b"MTLPLUG\n";
    bytes.windows(magic.len()).position(|part| part == magic).unwrap()
}

/// The field of that meaning.
fn field(meaning: Meaning) -> &'static Field {
    Header::field(meaning).unwrap()
}

/// The plugin with other bytes at the place of a field, in a folder of its own.
fn patched(dir: &Path, field: &Field, change: impl Fn(&mut [u8])) -> PathBuf {
    let mut bytes = std::fs::read(&BUILT.faulty).unwrap();
    let at = header_at(&bytes);
    change(&mut bytes[at + field.at..at + field.at + field.len]);
    let path = dir.join("libpatched.so");
    replace(&path, &bytes);
    path
}

#[test]
fn one_other_byte_in_any_field_of_the_header_is_refused_before_any_code_runs() {
    let dir = TempDir::new().unwrap();
    let trace = dir.path().join("constructed");
    let check = |path: &Path| {
        let mut command = program(&["plugin", "check", path.to_str().unwrap()]);
        both(&command.env("FAULTY_CONSTRUCTOR", format!("write={}", trace.display())).output().unwrap())
    };
    let other_level =
        format!("was built for level {} of the boundary, and this program has level {API_LEVEL}", API_LEVEL ^ 1);
    for field in Header::FIELDS {
        let path = patched(dir.path(), field, |bytes| bytes[0] ^= 1);
        let words: &[&str] = match field.meaning {
            Meaning::Magic => &["does not begin as a header"],
            Meaning::Size => &["the header of the plugin", "bytes, and that of this program"],
            Meaning::Api => &[&other_level, "mtlrun plugin build"],
            Meaning::Text("compiler") => &["built with another compiler: 0.", "and this program with 1."],
            Meaning::Text("target") => {
                &["built with another target: y86_64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"]
            }
            Meaning::Text("panic strategy") => &["panic = \"tnwind\"", "could not be contained"],
            Meaning::Text("profile") => &["built in the profile eebug, and this program in debug"],
            Meaning::Text("sources of mtlrun") => {
                &["against other sources of mtlrun", "after building the program itself"]
            }
            Meaning::Text(other) => panic!("no words for {other}"),
            Meaning::Layout => &["lays out Tensor in 9 bytes by 8, and this program in 8 by 8"],
            Meaning::Identities => &["built with another crate anyhow than this program"],
            Meaning::Own(_) | Meaning::Checksum => &["the header of the plugin", "is damaged"],
        };
        refused(check(&path), words);
        assert!(!trace.exists(), "{:?}: the constructor has run", field.meaning);
    }
    // That of another type, by its place in the table.
    let table = field(Meaning::Layout);
    let error = layout().iter().position(|(name, ..)| *name == "Error").unwrap();
    let path = patched(dir.path(), table, |bytes| bytes[8 * error] += 8);
    refused(check(&path), &["lays out Error in 16 bytes by 8, and this program in 8 by 8"]);
    // The file as it is runs its constructor, in the other process and in this one.
    let (code, text) = check(&BUILT.faulty);
    assert!(code == 0 && trace.exists(), "{text}");
    assert!(text.contains("decomposition/faulty") && text.contains("the rule `faulty`"), "{text}");
}

/// The checksum that fits the other bytes of a header.
fn seal(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = header_at(&bytes);
    let sum = Header::checksum_of(&bytes[at..at + size_of::<Header>()]);
    let field = field(Meaning::Checksum);
    bytes[at + field.at..at + field.at + field.len].copy_from_slice(&sum.to_le_bytes());
    replace(path, &bytes);
}

#[test]
fn what_is_no_plugin_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(&BUILT.example).unwrap();
    let shut = file("shut.so", &whole);
    std::fs::set_permissions(&shut, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let root_reads = std::fs::read(&shut).is_ok();
    let folder = dir.path().join("folder.so");
    std::fs::create_dir(&folder).unwrap();
    let c10 = root().join(".libtorch/lib/libc10.so");
    let krate = field(Meaning::Own("crate"));
    let lacking = patched(dir.path(), krate, |bytes| bytes[0] = b'x');
    seal(&lacking);
    for (path, words) in [
        (dir.path().join("none.so"), "No such file or directory"),
        (file("empty.so", b""), "it is empty"),
        (file("text.so", b"#!/bin/sh\necho hello\n"), "it is no ELF file"),
        (file("cut.so", &whole[..whole.len() / 2]), "is damaged or cut off"),
        (file("head.so", &whole[..70]), "is damaged or cut off"),
        (folder, "is a folder, expected the file"),
        (PathBuf::from("/dev/null"), "is a pipe or a device"),
        (c10, "it has no section .mtlplugin"),
        (lacking, "lacks the function mtl_plugin_open_xaulty_plugin"),
    ] {
        refused(run(&["plugin", "check", path.to_str().unwrap()]), &[words]);
    }
    if !root_reads {
        refused(run(&["plugin", "check", shut.to_str().unwrap()]), &["Permission denied"]);
    }
    // In a recipe it is said where it is named.
    let recipe = dir.path().join("r.toml");
    std::fs::write(&recipe, "plugins = [\"text.so\"]\n[run]\nsteps = 1\n").unwrap();
    refused(run(&["check", recipe.to_str().unwrap()]), &["it is no ELF file", "r.toml:1:12", "named here"]);
    std::fs::write(&recipe, "plugins = [\"nothing\"]\n[run]\nsteps = 1\n").unwrap();
    refused(run(&["check", recipe.to_str().unwrap()]), &["there is no plugin `nothing`: no libnothing.so in"]);
    std::fs::write(&recipe, "plugins = \"text.so\"\n[run]\nsteps = 1\n").unwrap();
    refused(run(&["check", recipe.to_str().unwrap()]), &["`plugins` must be an array of strings"]);
    let set = ["check", "tests/recipes/tiny.toml", "--set", "plugins=[\"x\"]"];
    refused(run(&set), &["plugins can be neither set nor removed", "with --plugin NAME"]);
}

#[test]
fn a_constructor_that_ends_or_stops_the_process_does_so_elsewhere() {
    let dir = TempDir::new().unwrap();
    let check = |constructor: &str, more: &[&str]| {
        let mut command = program(&[&["plugin", "check", BUILT.faulty.to_str().unwrap()], more].concat());
        both(&command.env("XDG_CACHE_HOME", dir.path()).env("FAULTY_CONSTRUCTOR", constructor).output().unwrap())
    };
    refused(check("panic", &[]), &["its code ended the process", "aborted, as by a panic in a constructor"]);
    // What was found is kept, and said to be.
    let list = ["list", "--plugin", BUILT.faulty.to_str().unwrap()];
    let listed = || both(&program(&list).env("XDG_CACHE_HOME", dir.path()).output().unwrap());
    refused(listed(), &["aborted, as by a panic", "That was found before; mtlrun plugin check tries it anew"]);
    refused(check("exit", &[]), &["its code ended the process while it was opened"]);
    refused(check("loop", &[]), &["it did not open within 10 s, and was ended"]);
    // Another libtorch beside the program's.
    for (name, words) in [("libtorch.so", "it brings a second libtorch"), ("libc10.so", "its code ended the process")] {
        let second = dir.path().join(name);
        match name {
            // One that does nothing: what counts is that it is mapped.
            "libtorch.so" => {
                let arguments = ["-shared", "-x", "c++", "/dev/null", "-o", second.to_str().unwrap()];
                assert!(Command::new("c++").args(arguments).status().unwrap().success());
            }
            _ => drop(std::fs::copy(root().join(".libtorch/lib").join(name), &second).unwrap()),
        }
        refused(check(&format!("open={}", second.display()), &[]), &["libfaulty_plugin.so", words]);
    }
    assert_eq!(check("", &[]).0, 0);
    assert_eq!(listed().0, 0);
}

#[test]
fn two_of_one_name_are_refused_with_both_origins() {
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("libother.so");
    std::fs::copy(&BUILT.example, &copy).unwrap();
    let both = ["list", "--plugin", BUILT.example.to_str().unwrap(), "--plugin", copy.to_str().unwrap()];
    refused(run(&both), &["two plugins are called example-plugin", "libexample_plugin.so and ", "libother.so"]);
    // Under another name, and with a sum that fits, its components are still the same.
    let path = dir.path().join("librenamed.so");
    let mut bytes = std::fs::read(&BUILT.example).unwrap();
    let at = header_at(&bytes);
    let name = field(Meaning::Own("name"));
    bytes[at + name.at] = b'E';
    std::fs::write(&path, bytes).unwrap();
    seal(&path);
    let both = ["list", "--plugin", BUILT.example.to_str().unwrap(), "--plugin", path.to_str().unwrap()];
    refused(
        run(&both),
        &["are called", "one of the plugin example-plugin 0.1.0 (", "one of the plugin Example-plugin 0.1.0 ("],
    );
}

/// Where a component stands in the tiny recipe, and what the program says when it panics in one of its methods.
struct Case {
    /// Overrides, in which FAULT is the method.
    sets: &'static [&'static str],
    component: &'static str,
    methods: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        sets: &["model.decompose={ component = \"faulty\", fault = \"FAULT\" }"],
        component: "decomposition/faulty",
        methods: &["describe", "build", "forward"],
    },
    Case {
        sets: &["data.faces={ component = \"faulty\", batch_size = 4, fault = \"FAULT\", transforms = [] }"],
        component: "dataset/faulty",
        methods: &["describe", "open", "sample", "column", "place", "files"],
    },
    Case {
        sets: &[
            "data.faces={ component = \"faces\", size = 16, batch_size = 4, source = { component = \"faulty\", fault = \"FAULT\" } }",
        ],
        component: "source/faulty",
        methods: &["describe", "open", "picture", "file"],
    },
    Case {
        sets: &["data.faces.sampler={ component = \"faulty\", fault = \"FAULT\" }"],
        component: "sampler/faulty",
        methods: &["open", "index"],
    },
    Case {
        sets: &[
            "data.faces.transforms=[{ component = \"faulty\", fault = \"FAULT\" }, { component = \"resize\", size = 16 }]",
        ],
        component: "transform/faulty",
        methods: &["describe", "open", "apply"],
    },
    Case {
        sets: &["phase.recognition.optimizer={ component = \"faulty\", lr = 0.1, groups = [], fault = \"FAULT\" }"],
        component: "optimizer/faulty",
        methods: &["describe", "open", "step", "state"],
    },
    Case {
        sets: &["phase.recognition.scheduler={ component = \"faulty\", fault = \"FAULT\" }"],
        component: "scheduler/faulty",
        methods: &["describe", "lr"],
    },
    Case {
        sets: &[
            "evaluate.own={ component = \"faulty\", every = 2, fault = \"FAULT\" }",
            "run.checkpoint.best=own.length",
        ],
        component: "evaluator/faulty",
        methods: &["describe", "open", "check", "files", "unresolved"],
    },
];

/// The plugin's faults in each method: the words, and the exit code 1.
#[test]
fn a_panic_in_any_method_becomes_an_error_that_names_plugin_component_and_method() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    for Case { sets, component, methods } in CASES {
        for method in *methods {
            let out = dir.path().join(format!("{}-{method}", component.replace('/', "-")));
            let sets: Vec<String> = sets.iter().map(|set| set.replace("FAULT", method)).collect();
            let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
            let (code, text) = train(&faces, &out, &BUILT.faulty, &more);
            let words = format!("{component} of the plugin faulty-plugin panicked in `{method}`: ");
            assert!(text.contains(&words), "{component} {method}: {text}");
            assert!(text.contains("(src/components.rs:"), "{component} {method}: {text}");
            assert_eq!(code, 1, "{component} {method}: {text}");
            let checked = *method == "describe";
            assert!(checked || text.contains("note: a panic is a fault in the code of the plugin"), "{text}");
            assert!(!out.join("weights.safetensors").exists(), "{component} {method}");
        }
    }
    // The state before the fault is saved, and training goes on from it.
    let out = dir.path().join("saved");
    let more = ["--set", "phase.recognition.scheduler={ component = \"faulty\", fault = \"lr\" }"];
    let (code, text) = train(&faces, &out, &BUILT.faulty, &more);
    assert!(code == 1 && text.contains("panicked in `lr`"), "{text}");
    let mended =
        ["--set", "phase.recognition.scheduler={ component = \"faulty\" }", "--resume", "--allow-recipe-change"];
    let (code, text) = train(&faces, &out, &BUILT.faulty, &mended);
    assert_eq!(code, 0, "{text}");
    let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("\"loss/total\"")).count(), 6, "{lines}");
}

#[test]
fn other_faults_of_a_plugin_are_contained_or_told() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let mut runs = 0;
    let mut with = |sets: &[&str]| {
        runs += 1;
        let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        train(&faces, &dir.path().join(runs.to_string()), &BUILT.faulty, &more)
    };
    let decompose = |fault: &str| format!("model.decompose={{ component = \"faulty\", fault = \"{fault}\" }}");
    for (fault, code, words) in [
        ("a mistake", 2, &["building the module `decompose`: the plugin finds 64 channels"][..]),
        (
            "a failure",
            1,
            &["the plugin has failed", "decomposition/faulty of the plugin faulty-plugin failed in `build`"],
        ),
        ("libtorch", 1, &["in the node `parts` (faulty)", "failed in `forward`"]),
        ("scopes", 1, &["panicked in `forward`: in scopes of no gradient and of another precision"]),
        ("thread", 0, &["done: 6 steps"]),
        ("drop", 0, &["warning: decomposition/faulty of the plugin faulty-plugin panicked in `drop`"]),
        ("backward", 1, &["modified by an inplace operation"]),
        ("device", 1, &["in the node `parts` (faulty)"]),
        (
            "shape",
            1,
            &["in the node `parts` (faulty)", "it gives `age` as float [4, 1, 1, 1], expected float [", "64, 1, 1]"],
        ),
        ("type", 1, &["in the node `parts` (faulty)", "it gives `age` as int64 [4, 64, 1, 1], expected float ["]),
        ("count", 1, &["in the node `parts` (faulty)", "it gives 1 outputs, and has 2 output ports"]),
    ] {
        let (found, text) = with(&[&decompose(fault)]);
        assert_eq!(found, code, "{fault}: {text}");
        for word in words {
            assert!(text.contains(word), "{fault}: expected {word:?} in: {text}");
        }
    }
    let (code, text) = with(&[
        "loss.still={ component = \"detached\", in = { input = \"embedding\" } }",
        "phase.recognition.minimize=[\"identity\", \"age\", \"domain\", \"still\"]",
    ]);
    assert!(code == 0 && text.contains("warning: `loss.still` has no gradient, so that it trains nothing"), "{text}");
    let own = |fault: &str| format!("evaluate.own={{ component = \"faulty\", every = 2, fault = \"{fault}\" }}");
    // The state is saved, and the evaluation made up by a resumed run.
    for (fault, method) in
        [("evaluate", "evaluate"), ("read", "evaluate"), ("each", "evaluate"), ("no grad", "evaluate")]
    {
        let (code, text) = with(&[&own(fault)]);
        let words = format!("evaluator/faulty of the plugin faulty-plugin panicked in `{method}`: ");
        assert!(code == 1 && text.contains(&words), "{fault}: {code}: {text}");
    }
    let metric = "{ component = \"faulty\", fault = \"measure\" }";
    let (_, text) = with(&[&format!("evaluate.own={{ component = \"faulty\", every = 2, metrics = [{metric}] }}")]);
    assert!(text.contains("metric/faulty of the plugin faulty-plugin panicked in `measure`"), "{text}");
    let (code, text) = with(&[&format!(
        "evaluate.own={{ component = \"faulty\", metrics = [{}] }}",
        metric.replace("measure", "describe")
    )]);
    assert!(code == 1 && text.contains("panicked in `describe`"), "{text}");
    for (fault, code) in [("problems", 1), ("files", 1), ("open", 1), ("on", 0)] {
        let (found, text) = with(&[&format!("hook.own={{ component = \"faulty\", fault = \"{fault}\" }}")]);
        assert!(text.contains(&format!("hook/faulty of the plugin faulty-plugin panicked in `{fault}`")), "{text}");
        assert_eq!(found, code, "{fault}: {text}");
    }
    let (code, text) = with(&["run.seed=666"]);
    assert!(code == 1 && text.contains("the rule `faulty` of the plugin faulty-plugin failed"), "{text}");
    // A function that gives the default of a key, which the schema asks as well.
    let args = tiny(&faces, &dir.path().join("default"), &BUILT.faulty, &[]);
    let output = program(&args).env("FAULTY_DEFAULT", "1").env("XDG_CACHE_HOME", dir.path()).output().unwrap();
    let (code, text) = both(&output);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("faulty of the plugin faulty-plugin panicked in `schema`"), "{text}");
    // A type that decodes itself.
    let (code, text) = with(&["model.decompose={ component = \"faulty\", careful = false }"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("decomposition/faulty of the plugin faulty-plugin panicked in `deserialize`"), "{text}");
}

#[test]
fn an_optimizer_that_cannot_load_its_state_and_a_comparison_that_fails_name_the_plugin() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let optimizer = |fault: &str| {
        format!("phase.recognition.optimizer={{ component = \"faulty\", lr = 0.1, groups = [], fault = \"{fault}\" }}")
    };
    let (code, text) = train(&faces, &out, &BUILT.faulty, &["--set", &optimizer("")]);
    assert_eq!(code, 0, "{text}");
    let more = ["--set", &optimizer("load"), "--resume", "--allow-recipe-change", "--set", "run.steps=8"];
    let (code, text) = train(&faces, &out, &BUILT.faulty, &more);
    assert!(code == 1 && text.contains("optimizer/faulty of the plugin faulty-plugin panicked in `load`"), "{text}");

    let measured = "evaluate.own={ component = \"faulty\", every = 6, fault = \"on_cases\" }";
    for seed in ["1", "2"] {
        let more = ["--set", measured, "--set", &format!("run.seed={seed}")];
        let (code, text) = train(&faces, &dir.path().join("pair").join(seed), &BUILT.faulty, &more);
        assert_eq!(code, 0, "{text}");
    }
    let pair = dir.path().join("pair");
    let (code, text) = run(&["compare", pair.to_str().unwrap(), "--by", "run.seed", "--metric", "own.length"]);
    assert!(text.contains("evaluator/faulty of the plugin faulty-plugin panicked in `on_cases`"), "{code}: {text}");
}

#[test]
fn nothing_in_a_run_folder_is_run() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let (out, plugin) = (dir.path().join("run"), dir.path().join("libexample_plugin.so"));
    std::fs::copy(&BUILT.example, &plugin).unwrap();
    let (code, text) = train(&faces, &out, &plugin, &GATE);
    assert_eq!(code, 0, "{text}");
    // As a folder from elsewhere may have it.
    std::fs::rename(&plugin, out.join("libexample_plugin.so")).unwrap();
    let record = out.join("recipe.resolved.toml");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace(plugin.to_str().unwrap(), "./libexample_plugin.so")).unwrap();
    refused(
        run(&["explain", "run.steps", out.to_str().unwrap()]),
        &["and not the absolute path of a file outside of its folder"],
    );
}

#[test]
fn a_new_plugin_outside_the_repository_builds_and_trains() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("my-idea");
    let (code, text) = run(&["plugin", "new", "my-idea", "--kind", "loss", "--folder", dir.path().to_str().unwrap()]);
    assert!(code == 0 && text.contains("mtlrun plugin build"), "{text}");
    refused(run(&["plugin", "new", "my-idea", "--folder", dir.path().to_str().unwrap()]), &["is there already"]);
    refused(
        run(&["plugin", "new", "cosface", "--folder", dir.path().to_str().unwrap()]),
        &["a head `cosface` already"],
    );
    refused(run(&["plugin", "new", "7", "--folder", dir.path().to_str().unwrap()]), &["cannot be called `7`"]);
    let recipe = folder.join("recipe.toml");
    let small = [
        "--set",
        "run.steps=2",
        "--set",
        "data.faces.identities=4",
        "--set",
        "data.faces.captures=1",
        "--unset",
        "evaluate",
        "--unset",
        "run.checkpoint.best",
    ];
    let check = [&["check", recipe.to_str().unwrap()], &small[..]].concat();
    refused(run(&check), &["the plugin `my_idea` is not built: mtlrun plugin build"]);
    let (code, text) = run(&["plugin", "build", folder.to_str().unwrap()]);
    assert!(code == 0 && text.contains("my-idea 0.1.0 registers loss/my_idea"), "{text}");
    assert!(folder.join("libmy_idea.so").exists() && folder.join("Cargo.lock").exists());
    let out = dir.path().join("run");
    let (code, text) = run(&[&[recipe.to_str().unwrap(), "--out", out.to_str().unwrap()], &small[..]].concat());
    assert_eq!(code, 0, "{text}");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("loss/years"), "{metrics}");
    let (code, text) = both(&program(&["plugin", "list"]).current_dir(dir.path()).output().unwrap());
    assert!(code == 0 && text.contains("my-idea") && text.contains("fits this program"), "{text}");
    // A file that is in use stays as it is: the new one has another number.
    let number = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(folder.join("libmy_idea.so")).unwrap());
    let before = number();
    let (code, text) = run(&["plugin", "build", folder.to_str().unwrap()]);
    assert!(code == 0 && number() != before, "{text}");
    // An edit that was not built is told; by the name of the folder or of the plugin the file is found.
    let source = folder.join("src/loss.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, format!("{text}// one more line\n")).unwrap();
    let (code, text) = run(&["list", "loss", "--recipe", recipe.to_str().unwrap()]);
    assert!(code == 0 && text.contains("the sources of the plugin my-idea have changed since"), "{text}");
    let (code, text) = both(&program(&["plugin", "check", "my-idea"]).current_dir(dir.path()).output().unwrap());
    assert!(code == 0 && text.contains("registers loss/my_idea"), "{text}");
    // What has a key that every table has, registers nothing, or does not compile leaves the old file.
    let number_before = number();
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("sharpness", "weight")).unwrap();
    refused(
        run(&["plugin", "build", folder.to_str().unwrap()]),
        &["loss/my_idea has a key `weight`", "Rename it; taken are"],
    );
    std::fs::write(folder.join("src/lib.rs"), "mtl_component::export_plugin!();").unwrap();
    refused(run(&["plugin", "build", folder.to_str().unwrap()]), &["the plugin my-idea registers nothing"]);
    assert_eq!(number(), number_before);
    std::fs::write(folder.join("src/lib.rs"), "this is no Rust").unwrap();
    let (code, text) = run(&["plugin", "build", folder.to_str().unwrap()]);
    assert!(code == 2 && text.contains("the plugin does not build") && folder.join("libmy_idea.so").exists(), "{text}");
    let build = ["plugin", "build", folder.to_str().unwrap(), "--sdk", dir.path().to_str().unwrap()];
    refused(run(&build), &["the sources of mtlrun are needed", "--sdk DIR or MTLRUN_SDK"]);
    refused(run(&["plugin", "build", "recipes"]), &["there is no crate in recipes", "mtlrun plugin new"]);
}

#[test]
fn the_recipes_of_all_examples_train() {
    let dir = TempDir::new().unwrap();
    let recipes = root().join("plugins/example/recipes");
    let mut trained = 0;
    let folder = BUILT.example.parent().unwrap().to_str().unwrap();
    for entry in recipes.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let kind = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let out = dir.path().join(&kind);
        let mut args = vec![path.to_str().unwrap(), "--out", out.to_str().unwrap(), "--plugin-path", folder];
        args.extend(["--set", "run.steps=2", "--set", "run.log_every=1"]);
        if kind != "dataset" && kind != "source" {
            args.extend(["--set", "data.faces.identities=4", "--set", "data.faces.captures=1"]);
        }
        if kind != "dataset" {
            args.extend(["--set", "data.faces.batch_size=8", "--set", "evaluate.verification.count=20"]);
            args.extend([
                "--set",
                "evaluate.verification.made.identities=6",
                "--set",
                "evaluate.age.made.identities=6",
            ]);
        }
        let (code, text) = run(&args);
        assert_eq!(code, 0, "{kind}: {text}");
        if kind == "evaluator" {
            assert!(out.join("eval/noise.step-2.json").exists(), "{text}");
        }
        if kind == "hook" {
            assert!(out.join("best.txt").exists(), "{text}");
        }
        trained += 1;
    }
    assert_eq!(trained, 13);
}
