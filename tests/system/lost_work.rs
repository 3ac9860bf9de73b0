//! What may go wrong in a run costs no work: divergence, signals, failed evaluations, replaced runs, crashes.

use crate::support::{Faces, mtlrun, outcome, refused, root, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("weights.safetensors")).unwrap()
}

/// The steps of checkpoints, and what is known of them.
fn checkpoints(run: &Path) -> Vec<(u64, Option<mtl_engine::checkpoint::Verdict>)> {
    use mtl_engine::checkpoint::{list, verdict};
    list(&run.join("checkpoints")).iter().map(|(step, path)| (*step, verdict(path))).collect()
}

/// Saved after each step, and only the newest is to be kept.
const EACH: [&str; 5] = ["-q", "--set", "run.checkpoint.every=1", "--set", "run.checkpoint.keep_last=1"];

#[test]
fn a_diverged_update_does_not_replace_the_last_sound_checkpoint() {
    use mtl_engine::checkpoint::Verdict::{Proven, Unsound};
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    faces.train(&whole, &EACH);
    faces.train(&broken, &[&EACH[..], &["--set", "run.steps=4"]].concat());
    // The loss of step 5 is computed before its update, and finite; the weights that it saves are not sound.
    let wild = ["--resume", "--allow-recipe-change", "--set", "phase.recognition.optimizer.lr=1e38"];
    let (code, text) = faces.run(&broken, &[&EACH[..], &wild].concat());
    assert_eq!(code, 1, "{text}");
    for words in ["step 6", "training has diverged", "checkpoint of step 5 is not sound", "that of step 4: --resume"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(checkpoints(&broken), [(4, Some(Proven)), (5, Some(Unsound))]);
    let (code, text) = faces.run(&broken, &[&EACH[1..], &["--resume", "--allow-recipe-change"]].concat());
    assert!(code == 0 && text.contains("step-5 gave a loss that is not finite"), "{text}");
    assert!(weights(&whole) == weights(&broken), "the bits differ");
}

#[test]
fn a_diverged_last_step_is_not_called_done() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let broken = dir.path().join("run");
    faces.train(&broken, &[&EACH[..], &["--set", "run.steps=4"]].concat());
    let finished = weights(&broken);
    let wild =
        ["--resume", "--allow-recipe-change", "--set", "run.steps=5", "--set", "phase.recognition.optimizer.lr=1e38"];
    let (code, text) = faces.run(&broken, &[&EACH[..], &wild].concat());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("step 5") && text.contains("that of step 4"), "{text}");
    assert!(!text.contains("done:"), "{text}");
    assert!(weights(&broken) == finished, "the weights of a diverged run are called done");
}

#[test]
fn a_run_goes_on_from_an_earlier_step_when_asked() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let (whole, back) = (dir.path().join("whole"), dir.path().join("back"));
    faces.train(&whole, &["-q"]);
    faces.train(&back, &["-q"]);
    refused(faces.run(&back, &["--resume", "--checkpoint", "3"]), &["no checkpoint of step 3", "4, 6"]);
    let (code, text) = faces.run(&back, &["--resume", "--checkpoint", "4"]);
    assert!(code == 0 && text.contains("the later checkpoints are dropped: 6"), "{text}");
    assert!(weights(&whole) == weights(&back), "the bits differ");
    refused(faces.run(&back, &["--resume", "--set", "run.steps=3"]), &["has done 6 steps", "raise run.steps"]);
}

#[test]
fn an_evaluation_that_failed_is_made_up() {
    let (faces, others) = (Faces::new(4, 3), Faces::new(4, 3));
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let list = format!("evaluate.age.list={}", others.path("list.txt").display());
    let sets = ["-q", "--set", "evaluate.age.component=age", "--set", &list];
    let picture = others.path("1_1.jpg");
    let good = std::fs::read(&picture).unwrap();
    std::fs::write(&picture, &good[..good.len() / 2]).unwrap();
    let (code, text) = faces.run(&out, &sets);
    assert!(code == 2 && text.contains("1_1.jpg") && text.contains("at step 6"), "{text}");
    assert!(out.join("checkpoints/step-6").exists() && !out.join("weights.safetensors").exists());
    std::fs::write(&picture, good).unwrap();
    let (code, text) = faces.run(&out, &[&sets[1..], &["--resume"]].concat());
    assert!(code == 0 && text.contains("measuring what could not be measured at step 6: age"), "{text}");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("eval/age/mae") && out.join("eval/age.step-6.json").exists(), "{metrics}");
    // Once is enough.
    let (_, text) = faces.run(&out, &[&sets[1..], &["--resume"]].concat());
    assert!(!text.contains("measuring"), "{text}");
}

/// A run that takes long enough to be sent signals.
fn long(faces: &Faces, out: &Path) -> Command {
    let more = ["--set", "run.steps=100000", "--set", "run.checkpoint.every=0", "--set", "run.log_every=50"];
    let mut command = mtlrun(&faces.tiny(out, &more));
    command.stderr(Stdio::piped());
    command
}

fn started(out: &Path) {
    wait_for("a step", || {
        std::fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() > 1)
    });
}

#[test]
fn signals_save_and_say_so_at_once() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let hung_up = dir.path().join("hup");
    // Whoever started the tests may have told them to ignore it.
    let program = long(&faces, &hung_up);
    let mut listening = Command::new("env");
    listening.arg("--default-signal=HUP").arg(program.get_program()).args(program.get_args()).current_dir(root());
    let child = listening.stderr(Stdio::piped()).spawn().unwrap();
    started(&hung_up);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::USR1).unwrap();
    wait_for("a save", || !checkpoints(&hung_up).is_empty());
    kill_process(pid, Signal::HUP).unwrap();
    let output = child.wait_with_output().unwrap();
    let (code, text) = outcome(&output);
    assert_eq!(code, 129, "{text}");
    for words in ["SIGUSR1: saving after this step, and going on", "SIGHUP: saving after this step; once more"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(checkpoints(&hung_up).len(), 2);

    // Under nohup the terminal may go.
    let kept = dir.path().join("nohup");
    let program = long(&faces, &kept);
    let mut nohup = Command::new("nohup");
    nohup.arg(program.get_program()).args(program.get_args()).current_dir(root());
    let child = nohup.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    started(&kept);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::HUP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill_process(pid, Signal::TERM).unwrap();
    let (code, text) = outcome(&child.wait_with_output().unwrap());
    assert!(code == 143 && !text.contains("SIGHUP"), "{code}: {text}");
}

#[test]
fn a_second_signal_leaves_at_once_with_a_status_of_its_own() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    // A step of many batches, so that it is not over before the second signal.
    let mut command = long(&faces, &out);
    let child = command.args(["--set", "phase.recognition.accumulate=2000"]).spawn().unwrap();
    wait_for("the record", || out.join("run.json").exists());
    let pid = Pid::from_child(&child);
    for _ in 0..2 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        kill_process(pid, Signal::INT).unwrap();
    }
    let (code, text) = outcome(&child.wait_with_output().unwrap());
    assert!(code == 3 && text.contains("SIGINT: leaving without saving"), "{code}: {text}");
}

#[test]
fn a_crash_in_native_code_says_where() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let mut command = long(&faces, &out);
    let child = command.args(["--set", "run.checkpoint.every=20"]).spawn().unwrap();
    wait_for("a proven checkpoint", || checkpoints(&out).iter().any(|(_, verdict)| verdict.is_some()));
    kill_process(Pid::from_child(&child), Signal::SEGV).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(11));
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text.split_once("error: native code crashed (SIGSEGV) in step ").expect(&text).1;
    assert!(said.contains("The newest proven checkpoint is ") && said.contains("/checkpoints/step-"), "{text}");
}

#[test]
fn missing_memory_is_told_with_the_node_and_what_to_lower() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    // In an address space of 3.5 GB with the libraries in it.
    let limited = |identities: u64| {
        let identities = format!("dims.identities={identities}");
        let more = ["-q", "--set", &identities, "--set", "data.faces.declares=false", "--set", "run.steps=1"];
        let arguments = faces.tiny(&dir.path().join("run"), &more);
        let program = mtlrun(&arguments);
        let mut shell = Command::new("bash");
        shell
            .args(["-c", "ulimit -v 3500000; exec \"$@\"", "bash"])
            .arg(program.get_program())
            .args(program.get_args());
        let (code, text) = outcome(&shell.arg("--overwrite").current_dir(root()).output().unwrap());
        assert_eq!(code, 1, "{text}");
        assert!(!text.contains("frame #") && !text.contains("fault of its own"), "{text}");
        text
    };
    // Weights of 1.9 GB are beyond it; so is any copy of them.
    let text = limited(30_000_000);
    for words in ["not enough memory: ", "were asked for at once", "identity", "Lower batch_size"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // In a step it is told what holds it.
    let text = limited(13_000_000);
    for words in
        ["in step 1", "were asked for at once", "In use were:", "MiB  weights and buffers", "Most are activations"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Weights that no machine holds are not begun with.
    let classes = ["-q", "--set", "dims.identities=100000000000", "--set", "data.faces.declares=false"];
    let (code, text) = faces.run(&dir.path().join("classes"), &classes);
    assert!(code == 1 && text.contains("optimizer state take 17.5 TiB, and this machine has"), "{text}");
    // A batch that no machine holds.
    let large = ["-q", "--set", "data.faces.batch_size=1000000", "--set", "data.faces.size=512"];
    let (code, text) = faces.run(&dir.path().join("batch"), &large);
    assert!(code == 1 && text.contains("not enough memory for a batch of 1000000 samples"), "{text}");
}

#[test]
fn labels_beyond_the_classes_are_told_before_the_first_step() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let fewer = ["-q", "--set", "data.faces.declares=false", "--set", "dims.identities=3"];
    for head in ["cosface", "arcface", "normface", "softmax"] {
        let component = format!("model.identity={{ component = \"{head}\" }}");
        let out = dir.path().join(head);
        let more = [&fewer[..], &["--set", &component]].concat();
        refused(
            faces.run(&out, &more),
            &["`data.faces.identity` has labels up to 3", "list.txt:10", "has 3 identities", "3 of 12 samples"],
        );
        assert!(!out.exists(), "nothing has begun");
    }
    let list = format!("data.faces.list={}", faces.path("list.txt").display());
    let check = ["check", "tests/recipes/tiny.toml", "--data", "--set", &list];
    let check = [&check[..], &fewer[1..]].concat();
    refused(outcome(&mtlrun(&check).output().unwrap()), &["labels up to 3", "list.txt:10"]);
}

#[test]
fn a_run_is_replaced_only_by_one_that_has_a_checkpoint() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    faces.train(&out, &["-q"]);
    let old = weights(&out);
    // It fails in its first step: its picture cannot be read.
    let broken = Faces::new(4, 3);
    std::fs::read_dir(broken.folder.path()).unwrap().flatten().for_each(|entry| {
        if entry.path().extension().is_some_and(|e| e == "jpg") {
            std::fs::write(entry.path(), b"\xff\xd8").unwrap();
        }
    });
    let (code, text) = broken.run(&out, &["-q", "--overwrite"]);
    assert_eq!(code, 2, "{text}");
    assert!(weights(&out) == old && checkpoints(&out).len() == 2, "the old run is not put back");
    // What it has not made is not its to remove, and what it reads is not either.
    std::fs::write(out.join("thesis.tex"), "").unwrap();
    refused(faces.run(&out, &["-q", "--overwrite"]), &["has not made: thesis.tex"]);
    std::fs::remove_file(out.join("thesis.tex")).unwrap();
    let own =
        format!("model.backbone.weights={{ file = {:?}, prefix = \"backbone.\" }}", out.join("weights.safetensors"));
    refused(faces.run(&out, &["-q", "--overwrite", "--set", &own]), &["that is to be replaced", "weights.safetensors"]);
    assert!(weights(&out) == old);
    faces.train(&out, &["-q", "--overwrite", "--set", "run.seed=9"]);
    assert!(weights(&out) != old);
    assert!(std::fs::read_dir(&out).unwrap().flatten().all(|e| !e.file_name().to_string_lossy().starts_with('.')));
}

#[test]
fn a_run_folder_that_is_moved_away_ends_the_run() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let (out, elsewhere) = (dir.path().join("run"), dir.path().join("elsewhere"));
    let mut command = long(&faces, &out);
    let child = command.args(["--set", "run.checkpoint.every=100"]).spawn().unwrap();
    started(&out);
    std::fs::rename(&out, &elsewhere).unwrap();
    let (code, text) = outcome(&child.wait_with_output().unwrap());
    assert!(code == 1 && text.contains("was moved or removed"), "{code}: {text}");
    assert!(!out.exists(), "it is made again");
}

#[test]
fn a_log_that_cannot_be_written_is_told_and_costs_nothing() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    faces.train(&out, &["-q", "--set", "run.steps=4"]);
    std::fs::remove_dir_all(out.join("tb")).unwrap();
    std::fs::write(out.join("tb"), "in the way").unwrap();
    let (code, text) = faces.run(&out, &["-q", "--resume"]);
    assert!(code == 0 && text.contains("the run goes on without TensorBoard"), "{text}");
    assert!(out.join("checkpoints/step-6").exists());
}

/// Networks narrower than the vectors of the processor; wider ones are in other tests.
#[test]
fn narrow_networks_train() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    for width in [4, 6, 8] {
        for sets in [&["data.faces.size=32"][..], &["run.channels_last=false"], &["run.precision=bf16"]] {
            let width_set = format!("model.backbone.width={width}");
            let more: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
            let out = dir.path().join(format!("{width}-{}", sets[0]));
            faces.train(&out, &[&["-q", "--set", &width_set, "--set", "run.steps=2"], &more[..]].concat());
        }
    }
}
