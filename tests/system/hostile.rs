//! Input that was made to do harm, or by accident does: it is refused, or it is harmless.

use crate::support::{Faces, mtlrun, outcome, refused, root};
use mtl_engine::weights;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Runs a command that must end soon.
#[track_caller]
fn soon(command: &mut Command) -> (i32, String) {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it hangs: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    outcome(&child.wait_with_output().unwrap())
}

/// A file that never ends, and one that never begins.
fn special(dir: &Path) -> Vec<String> {
    let pipe = dir.join("pipe.jpg");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", dir.join("zero.jpg")).unwrap();
    vec![pipe.display().to_string(), dir.join("zero.jpg").display().to_string()]
}

#[test]
fn only_regular_files_are_read() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let trained = dir.path().join("trained");
    faces.train(&trained, &["-q", "--set", "run.steps=1"]);
    for (n, file) in special(dir.path()).iter().enumerate() {
        let out = dir.path().join(format!("run{n}"));
        let pairs = format!("evaluate.v={{ component = \"verification\", pairs = {file:?} }}");
        let weights = format!("model.backbone.weights={{ file = {file:?} }}");
        let rename =
            format!("model.backbone.weights={{ file = {:?}, rename = {file:?} }}", trained.join("weights.safetensors"));
        let list = format!("data.faces.list={file}");
        for set in [&pairs, &weights, &rename, &list] {
            let (code, text) = soon(&mut mtlrun(&faces.tiny(&out, &["-q", "--set", set])));
            assert_eq!(code, 2, "{set}: {text}");
        }
        let (code, text) = soon(&mut mtlrun(&["check", file]));
        assert_eq!(code, 2, "as a recipe: {text}");
        let csv = dir.path().join("e.csv");
        let (code, text) =
            soon(mtlrun(&["embed", trained.to_str().unwrap(), file]).args(["--out", csv.to_str().unwrap()]));
        assert_eq!(code, 2, "as a list of pictures: {text}");
        // As a picture among others.
        let other = Faces::new(4, 3);
        std::fs::remove_file(other.path("2_1.jpg")).unwrap();
        std::os::unix::fs::symlink(file, other.path("2_1.jpg")).unwrap();
        let (code, text) = soon(&mut mtlrun(&other.tiny(&out, &["-q"])));
        assert!(code == 2 && text.contains("2_1.jpg"), "{text}");
        let folder = other.folder.path().to_str().unwrap();
        let (code, text) =
            soon(mtlrun(&["embed", trained.to_str().unwrap(), folder]).args(["--out", csv.to_str().unwrap()]));
        assert!(code == 2 && text.contains("2_1.jpg"), "{text}");
    }
}

/// Writes a file of a checkpoint anew, with a manifest that fits.
fn forge(checkpoint: &Path, file: &str, bytes: &[u8]) {
    std::fs::write(checkpoint.join(file), bytes).unwrap();
    let path = checkpoint.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["files"][file] = serde_json::json!({ "bytes": bytes.len(), "sha256": hex::encode(Sha256::digest(bytes)) });
    std::fs::write(&path, manifest.to_string()).unwrap();
}

#[test]
fn the_state_of_an_optimizer_is_compared_with_its_parameters() {
    let faces = Faces::new(4, 3);
    for optimizer in ["sgd", "adam", "adamw"] {
        let dir = TempDir::new().unwrap();
        let out = dir.path().join("run");
        let component = format!("phase.recognition.optimizer.component={optimizer}");
        let sets = ["-q", "--set", component.as_str(), "--set", "phase.recognition.optimizer.lr=0.001"];
        faces.train(&out, &sets);
        let resume = [&sets[..], &["--resume", "--set", "run.steps=8"]].concat();
        let checkpoint = out.join("checkpoints/step-6");
        let good = weights::read(&checkpoint.join("optimizer.safetensors")).unwrap();
        let changed = |change: &dyn Fn(&tch::Tensor) -> tch::Tensor| {
            let tensors: Vec<(String, tch::Tensor)> = good
                .iter()
                .map(|(name, t)| (name.clone(), if t.dim() > 1 { change(t) } else { t.shallow_clone() }))
                .collect();
            let mut bytes = Vec::new();
            weights::stream(&tensors, &mut bytes).unwrap();
            forge(&checkpoint, "optimizer.safetensors", &bytes);
            faces.run(&out, &resume)
        };
        refused(changed(&|t| t.flatten(0, -1).narrow(0, 0, 1)), &["and its parameter", "not of this run"]);
        refused(changed(&|t| tch::Tensor::zeros([0], (t.kind(), t.device()))), &["not of this run"]);
        refused(changed(&|t| t.flatten(0, -1)), &["not of this run"]);
        // Another kind of number is converted.
        let (code, text) = changed(&|t| t.to_kind(tch::Kind::Double));
        assert_eq!(code, 0, "{optimizer}: {text}");
        let mut none = Vec::new();
        weights::stream(&[], &mut none).unwrap();
        let newest = out.join("checkpoints/step-8");
        forge(&newest, "optimizer.safetensors", &none);
        refused(
            faces.run(&out, &[&sets[..], &["--resume", "--set", "run.steps=9"]].concat()),
            &["no state of the optimizer"],
        );
    }
}

#[test]
fn what_is_not_finite_leaves_a_run_readable() {
    let faces = Faces::new(6, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    // Twelve different pairs tell no rate of a thousandth.
    let pairs = faces.path("pairs.txt");
    let verification =
        format!("evaluate.v={{ component = \"verification\", folds = 2, pairs = {pairs:?}, every = 2 }}");
    let sets = ["-q", "--set", &verification];
    faces.train(&out, &sets);
    faces.train(&out, &[&sets[..], &["--resume", "--set", "run.steps=8"]].concat());
    let (code, text) = outcome(&mtlrun(&["runs", dir.path().to_str().unwrap()]).output().unwrap());
    assert_eq!(code, 0, "{text}");
    // A byte that is no text costs a line of the metrics.
    let metrics = out.join("metrics.jsonl");
    let mut bytes = std::fs::read(&metrics).unwrap();
    bytes.splice(0..0, *b"\xff\n");
    std::fs::write(&metrics, bytes).unwrap();
    let output = mtlrun(&["runs", dir.path().to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("8/8"), "{output:?}");
}

#[test]
fn names_that_are_no_utf8_are_no_fault_of_the_program() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let odd = dir.path().join(OsStr::from_bytes(b"u\xff"));
    std::fs::create_dir(&odd).unwrap();
    let list = format!("data.faces.list={}", faces.path("list.txt").display());
    let tiny = root().join("tests/recipes/tiny.toml");
    let train = |recipe: &Path, out: &Path| {
        let mut command = mtlrun(&[recipe.as_os_str(), OsStr::new("--out"), out.as_os_str()]);
        command.args(["-q", "--set", &list]).current_dir(&odd);
        outcome(&command.output().unwrap())
    };
    for (recipe, out) in [(tiny.clone(), odd.join("run")), (tiny.clone(), dir.path().join("run"))] {
        let (code, text) = train(&recipe, &out);
        assert!(code == 0 && !text.contains("fault of its own"), "{text}");
    }
    let recipe = odd.join(OsStr::from_bytes(b"t\xff.toml"));
    std::fs::write(&recipe, format!("extends = [{tiny:?}]\n")).unwrap();
    let (code, text) = train(&recipe, &dir.path().join("again"));
    assert!(code == 0 && !text.contains("fault of its own"), "{text}");
    let output = mtlrun(&[OsStr::new("check"), OsStr::new("--json"), recipe.as_os_str()]).output().unwrap();
    let (code, text) = outcome(&output);
    assert!(code == 0 && serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok(), "{text}");
}

#[test]
fn training_runs_no_program_that_a_repository_names() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let inside = |args: &[&str]| {
        let done = Command::new("git").args(args).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    inside(&["init", "-q", "."]);
    std::fs::write(dir.path().join("a.txt"), "1").unwrap();
    std::fs::write(dir.path().join(".gitattributes"), "*.txt filter=evil\n").unwrap();
    inside(&["add", "."]);
    inside(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x"]);
    inside(&["config", "core.fsmonitor", "touch PWNED; false"]);
    inside(&["config", "filter.evil.clean", "touch PWNED; cat"]);
    std::fs::write(dir.path().join("a.txt"), "2").unwrap();
    // A change of the same size within the second of the commit is told later, too.
    std::thread::sleep(Duration::from_millis(1100));
    let train = |command: &mut Command| outcome(&command.current_dir(dir.path()).output().unwrap());
    let absolute = |out: &Path| {
        let mut args = faces.tiny(out, &["-q", "--set", "run.steps=1"]);
        args[0] = root().join(&args[0]).display().to_string();
        args
    };
    let out = dir.path().join("run");
    let (code, text) = train(&mut mtlrun(&absolute(&out)));
    assert_eq!(code, 0, "{text}");
    assert!(!dir.path().join("PWNED").exists(), "a program was run");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    assert_eq!(record["git"]["commit"].as_str().map(str::len), Some(40), "{record}");
    assert_eq!(record["git"]["changed"], serde_json::json!([" M a.txt"]), "{record}");
    // A git that does not answer.
    let fake = dir.path().join("bin");
    std::fs::create_dir(&fake).unwrap();
    std::fs::write(fake.join("git"), "#!/bin/sh\nexec sleep 100\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(fake.join("git")).status().unwrap().success());
    let path = format!("{}:{}", fake.display(), std::env::var("PATH").unwrap());
    let start = Instant::now();
    let (code, text) = train(mtlrun(&absolute(&dir.path().join("other"))).env("PATH", path));
    assert!(code == 0 && start.elapsed() < Duration::from_secs(30), "{:?}: {text}", start.elapsed());
}

#[test]
fn names_stay_within_the_run_folder() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let words = "1 to 64 letters, digits, `_` and `-`";
    for name in ["/abs/x", "../../up", "", "a b", "a\u{1b}[2J", "é"] {
        let set = format!("run.name={}", serde_json::to_string(name).unwrap());
        refused(faces.run(&out, &["--set", &set]), &[words]);
    }
    let long = "a".repeat(65);
    for name in ["/abs/evil", "x:1", "a/optimizer", "a\\u0000b", long.as_str()] {
        for section in ["data", "model", "graph", "loss", "phase", "evaluate", "hook"] {
            let recipe = dir.path().join("named.toml");
            let tiny = root().join("tests/recipes/tiny.toml");
            std::fs::write(&recipe, format!("extends = [{tiny:?}]\n[{section}.\"{name}\"]\ncomponent = \"x\"\n"))
                .unwrap();
            refused(outcome(&mtlrun(&["check", recipe.to_str().unwrap()]).output().unwrap()), &[words]);
        }
    }
    assert!(!out.exists() && !Path::new("/abs").exists());
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let escape = "\u{1b}[2J\u{7}owned";
    let raw = |text: &str| text.contains('\u{1b}') || text.contains('\u{7}');
    let list = dir.path().join(format!("{escape}.txt"));
    let (code, text) = faces.run(&dir.path().join("run"), &["--set", &format!("data.faces.list={}", list.display())]);
    assert!(code == 2 && text.contains("owned") && !raw(&text), "{text:?}");
    std::fs::write(&list, format!("1 {escape} x 0\n{}\n", "y".repeat(50 << 20))).unwrap();
    let (code, text) = faces.run(&dir.path().join("run"), &["--set", &format!("data.faces.list={}", list.display())]);
    assert!(code == 2 && text.len() < 2000 && !raw(&text), "{} bytes: {:.300?}", text.len(), text);
    // In tables, from what a run has written.
    let out = dir.path().join("runs").join(escape);
    faces.train(&out, &["-q"]);
    let line = "{\"step\": 6, \"kind\": \"eval\", \"eval/a/\\u001b[2Jowned\": 1.0}\n";
    let metrics = out.join("metrics.jsonl");
    std::fs::write(&metrics, std::fs::read_to_string(&metrics).unwrap() + line).unwrap();
    for command in ["runs", "compare"] {
        let output = mtlrun(&[command, dir.path().join("runs").to_str().unwrap()]).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && shown.contains("owned") && !raw(&shown), "{command}: {shown:?}");
    }
}

#[test]
fn what_a_variable_held_is_not_recorded() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let sets = [
        "-q",
        "--set",
        "run.name=secret-${env:MTLRUN_TEST_SECRET}",
        "--set",
        "phase.recognition.optimizer.lr=${env:MTLRUN_TEST_LR}",
    ];
    let train = |secret: &str, more: &[&str]| {
        let mut command = mtlrun(&faces.tiny(&out, &[&sets[..], more].concat()));
        outcome(&command.env("MTLRUN_TEST_SECRET", secret).env("MTLRUN_TEST_LR", "0.015625").output().unwrap())
    };
    let (code, text) = train("hunter2", &[]);
    assert_eq!(code, 0, "{text}");
    let found = Command::new("grep").args(["-rl", "-e", "hunter2", "-e", "0\\.015625"]).arg(&out).output().unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    // The learning rate is logged as such.
    let found: Vec<&str> = found.lines().filter(|f| !f.contains("metrics.jsonl") && !f.contains("/tb/")).collect();
    assert!(found.is_empty(), "{found:?}");
    let recipe = std::fs::read_to_string(out.join("recipe.resolved.toml")).unwrap();
    assert!(
        recipe.contains("secret-${env:MTLRUN_TEST_SECRET}") && recipe.contains("\"${env:MTLRUN_TEST_LR}\""),
        "{recipe}"
    );
    let (code, text) = train("hunter2", &["--resume", "--set", "run.steps=7"]);
    assert_eq!(code, 0, "{text}");
    let longer = ["--resume", "--set", "run.steps=8"];
    refused(train("other", &longer), &["${env:MTLRUN_TEST_SECRET}: \"another value\"", "--allow-recipe-change"]);
    // Without the variable the run can still be looked at, as long as the value is a text.
    let (code, text) = outcome(&mtlrun(&["runs", dir.path().to_str().unwrap()]).output().unwrap());
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_is_too_much_is_refused_at_once() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("made").display().to_string();
    for numbers in [
        ["--first", "18446744073709551615"],
        ["--pairs", "18446744073709551615"],
        ["--pairs", "1000000000000"],
        ["--captures", "10000000000"],
    ] {
        let (code, text) = soon(mtlrun(&["data", "render", "--out", &out]).args(numbers));
        assert!(code == 2 && !text.contains("fault of its own"), "{numbers:?}: {text}");
    }
    let large = ["data", "render", "--out", &out, "--identities", "1000000", "--captures", "10000"];
    refused(soon(&mut mtlrun(&large)), &["pictures are more than"]);
    let many = (0..9999).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let grid = |path: &str| format!("{path}={many}");
    let sweep =
        ["sweep", "tests/recipes/tiny.toml", "--dry-run", "--grid", &grid("seed"), "--grid", &grid("log_every")];
    refused(soon(&mut mtlrun(&sweep)), &["points are more than"]);
    let tiny = root().join("tests/recipes/tiny.toml");
    let recipe = dir.path().join("deep.toml");
    let path = format!("{}a", "a.".repeat(100_000));
    std::fs::write(&recipe, format!("extends = [{tiny:?}]\n[sweep.variants.x.set]\n\"dims.{path}\" = 1\n")).unwrap();
    refused(soon(&mut mtlrun(&["check", recipe.to_str().unwrap()])), &["a path of 100002 keys"]);
    let huge = ["--set", "dims.identities=100000000000", "--set", "data.faces.declares=false"];
    let (code, text) = soon(mtlrun(&["check", "tests/recipes/tiny.toml"]).args(huge));
    assert!(code == 0 && text.contains("optimizer state take 17.5 TiB, and this machine has"), "{text}");
    let least = ["check", "tests/recipes/tiny.toml", "--set", "model.identity.margin=-9223372036854775808"];
    refused(soon(&mut mtlrun(&least)), &["out of range"]);
    let recipe = dir.path().join("chain.toml");
    let mut text = format!("extends = [{tiny:?}]\n[graph]\n");
    for n in 0..20_000 {
        let before = if n == 0 { "features.c5".to_owned() } else { format!("n{}", n - 1) };
        text.push_str(&format!("n{n} = {{ apply = \"scale\", factor = 1.0, in = {{ input = \"{before}\" }} }}\n"));
    }
    std::fs::write(&recipe, text).unwrap();
    refused(soon(&mut mtlrun(&["check", recipe.to_str().unwrap()])), &["more than 1000"]);
}

#[test]
fn runs_that_start_in_one_second_have_folders_of_their_own() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let list = format!("data.faces.list={}", faces.path("list.txt").display());
    let tiny = root().join("tests/recipes/tiny.toml");
    let start = || {
        let mut command = mtlrun(&[tiny.to_str().unwrap(), "--set", &list, "--set", "run.steps=1", "-q"]);
        command.current_dir(dir.path()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    for child in children {
        let (code, text) = outcome(&child.wait_with_output().unwrap());
        assert_eq!(code, 0, "{text}");
    }
    let runs = std::fs::read_dir(dir.path().join("runs/tiny")).unwrap().flatten();
    assert_eq!(runs.filter(|run| run.path().join("weights.safetensors").exists()).count(), 4);
}

#[test]
fn a_cache_on_disk_is_shared_by_threads_and_streams() {
    let dir = TempDir::new().unwrap();
    let cache = dir.path().join("cache");
    let faces = format!(
        "data.faces={{ component = \"synthetic_faces\", identities = 3, ages_each = 1, captures = 2, size = 16, cache = \
         \"disk\", cache_folder = {cache:?}, workers = 4, batch_size = 8 }}"
    );
    for n in 0..3 {
        let _ = std::fs::remove_dir_all(&cache);
        let out = dir.path().join(format!("run{n}"));
        let args = ["tests/recipes/tiny.toml", "-q", "--set", &faces, "--out", out.to_str().unwrap()];
        let (code, text) = outcome(&mtlrun(&args).output().unwrap());
        assert_eq!(code, 0, "{text}");
    }
}

#[test]
fn outputs_do_not_replace_the_files_of_a_run() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    faces.train(&out, &["-q"]);
    let weights = out.join("weights.safetensors");
    let before = std::fs::read(&weights).unwrap();
    let list = faces.path("list.txt");
    let embed = ["embed", out.to_str().unwrap(), list.to_str().unwrap(), "--out", weights.to_str().unwrap()];
    refused(outcome(&mtlrun(&embed).output().unwrap()), &["is a file of a run"]);
    assert!(std::fs::read(&weights).unwrap() == before);
    // A link that was laid in the way is replaced, and not followed.
    let target = dir.path().join("target");
    std::fs::write(&target, "precious").unwrap();
    let csv = dir.path().join("e.csv");
    std::os::unix::fs::symlink(&target, &csv).unwrap();
    let embed = ["embed", out.to_str().unwrap(), list.to_str().unwrap(), "--out", csv.to_str().unwrap()];
    let (code, text) = outcome(&mtlrun(&embed).output().unwrap());
    assert!(code == 0 && std::fs::read_to_string(&target).unwrap() == "precious", "{text}");
    let lock = dir.path().join("locked");
    std::fs::create_dir(&lock).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), lock.join("run.lock")).unwrap();
    let (code, text) = faces.run(&lock, &["-q"]);
    assert!(code == 2 && !dir.path().join("elsewhere").exists(), "{text}");
}
