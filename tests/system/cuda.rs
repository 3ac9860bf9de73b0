//! The path of GPUs on a machine without one: the program as it is, with a stand-in for libtorch_cuda.so.
//!
//! `tests/stand_in` computes on the CPU, in memory that only tensors "on the device" may use. It counts what a real
//! device would make the host wait for, and fills the target of a copy with NaN until the host has waited for it.

use crate::plugins::BUILT;
use crate::ranks::{FUSED, READS_LOGITS, alike, done, numbers, spans};
use crate::support::{Faces, mtlrun, outcome, refused, root};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tempfile::TempDir;

/// The folder of the stand-in's library, which is compiled where its sources have changed.
static STAND_IN: LazyLock<PathBuf> = LazyLock::new(|| {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand_in");
    std::fs::create_dir_all(&out).unwrap();
    let (sources, libtorch) = (root().join("tests/stand_in"), root().join(".libtorch"));
    let library = out.join("libtorch_cuda.so");
    let changed = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let files: Vec<PathBuf> = std::fs::read_dir(&sources).unwrap().map(|entry| entry.unwrap().path()).collect();
    let shim = std::fs::read_dir(root().join("core/torch/csrc")).unwrap().map(|entry| entry.unwrap().path());
    let newest = files.iter().cloned().chain(shim).filter_map(|path| changed(&path)).max();
    if changed(&library) <= newest {
        let fresh = out.join(format!("fresh-{}.so", std::process::id()));
        // It may be a wrapper and options, such as `ccache g++ -pipe`.
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let mut words = compiler.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or("c++"));
        command.args(words);
        command.args(["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-D_GLIBCXX_USE_CXX11_ABI=1"]);
        for include in ["core/torch/csrc/wheel", "core/torch/csrc", ".libtorch/include"] {
            command.arg("-I").arg(root().join(include));
        }
        command.arg("-I").arg(libtorch.join("include/torch/csrc/api/include"));
        command.args(files.iter().filter(|path| path.extension().is_some_and(|e| e == "cpp"))).arg("-o").arg(&fresh);
        done(&command.output().unwrap());
        std::fs::rename(&fresh, &library).unwrap();
        let second = out.join("libmtl_torch_cuda.so");
        let _ = std::fs::remove_file(&second);
        std::os::unix::fs::symlink(&library, &second).unwrap();
    }
    out
});

/// The program beside the stand-in, with so many devices.
fn program<S: AsRef<std::ffi::OsStr>>(args: &[S], devices: u32) -> Command {
    let mut command = mtlrun(args);
    command.env("LD_LIBRARY_PATH", &*STAND_IN).env("STAND_IN_DEVICES", devices.to_string());
    command
}

fn on_gpu<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> (i32, String) {
    outcome(&program(args, 1).output().unwrap())
}

#[track_caller]
fn trained<S: AsRef<std::ffi::OsStr>>(args: &[S]) {
    let (code, text) = on_gpu(args);
    assert_eq!(code, 0, "{text}");
}

/// How often what happened, and the addresses of the calls that led to it.
type Events = BTreeMap<(String, String), u64>;

/// What the host has waited for in a run.
fn events<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Events {
    let log = TempDir::new().unwrap();
    let log = log.path().join("log");
    done(&program(args, 1).env("STAND_IN_LOG", &log).output().unwrap());
    let text = std::fs::read_to_string(&log).unwrap();
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split('\t').collect();
            ((words[1].to_owned(), words[2].to_owned()), words[0].parse().unwrap())
        })
        .collect()
}

/// The places in our own sources of the calls that led to an event, innermost first.
fn places(calls: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for call in calls.split(' ') {
        let (file, offset) = call.rsplit_once('+').unwrap();
        let found = Command::new("addr2line").args(["-i", "-e", file, offset]).output().unwrap();
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let ours = |line: &&str| {
            ["/core/engine/", "/core/component/", "/plugins/", "/faulty/"].iter().any(|p| line.contains(p))
        };
        out.extend(text.lines().filter(ours).map(|line| line.split(" (").next().unwrap_or(line).to_owned()));
    }
    out
}

/// What a run of more steps makes the host wait for that a shorter one does not, in words.
fn in_each_step(args: &[String], steps: [u64; 2]) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let [short, long] = steps.map(|steps| {
        let out = dir.path().join(steps.to_string());
        let mut args = args.to_vec();
        args.extend(["--set".into(), format!("run.steps={steps}"), "--out".into(), out.display().to_string()]);
        events(&args)
    });
    let more = long.iter().filter(|(what, count)| short.get(*what).copied().unwrap_or(0) < **count);
    more.map(|((what, calls), count)| format!("{count} times: {what}, at {}", places(calls).join(" < "))).collect()
}

fn sets(sets: &[&str]) -> Vec<String> {
    sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect()
}

/// Trained recognition that the ageing recipes start from, on the CPU.
fn teacher(dir: &Path) -> PathBuf {
    let out = dir.join("teacher");
    let args = ["tests/recipes/made.toml", "-q", "--set", "run.steps=1", "--out", out.to_str().unwrap()];
    done(&mtlrun(&args).output().unwrap());
    out
}

/// Arguments that train the tiny ageing recipe.
fn ageing(teacher: &Path) -> Vec<String> {
    let mut args =
        vec!["tests/recipes/tiny_age.toml".to_owned(), "-q".into(), "--unset".into(), "evaluate.grid".into()];
    for name in ["backbone", "decompose", "age"] {
        args.extend(["--set".to_owned(), format!("model.{name}.weights.run={}", teacher.display())]);
    }
    args
}

const EXACT: [&str; 3] = ["-q", "--set", "run.precision=float64"];
const CUDA: [&str; 2] = ["--device", "cuda"];

#[test]
fn training_on_the_device_has_the_numbers_of_the_cpu() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let [cpu, gpu] = ["cpu", "gpu"].map(|name| dir.path().join(name));
    faces.train(&cpu, &EXACT);
    trained(&faces.tiny(&gpu, &[&EXACT[..], &CUDA, &["--set", "run.histogram_every=2"]].concat()));
    alike(&cpu, &gpu, |_| false);

    let teacher = teacher(dir.path());
    let [cpu, gpu] = ["cpu-age", "gpu-age"].map(|name| dir.path().join(name));
    let age = |out: &Path, more: &[&str]| {
        let mut args = ageing(&teacher);
        args.extend(sets(&["run.precision=float64", "run.steps=3"]));
        args.extend(["--out".to_owned(), out.display().to_string()]);
        args.extend(more.iter().map(|word| (*word).to_owned()));
        args
    };
    done(&mtlrun(&age(&cpu, &[])).output().unwrap());
    trained(&age(&gpu, &CUDA));
    // As for several ranks: a bias before a BatchNorm has the gradient 0, which Adam divides by itself.
    alike(&cpu, &gpu, |name| name.ends_with(".bias") || name.ends_with("running_mean"));
}

#[test]
fn ranks_with_a_device_each_have_the_numbers_of_one_on_the_cpu() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let exact = [&EXACT[..], &["--set", "model.embed.dropout=0", "--set"]].concat();
    let one = dir.path().join("one");
    faces.train(&one, &[&exact[..], &["data.faces.batch_size=12"]].concat());
    let ranks = |name: &str, number: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let two = ["data.faces.batch_size=6", "--nproc", number];
        let args = faces.tiny(&out, &[&exact[..], &two, more].concat());
        (outcome(&program(&args, 2).output().unwrap()), out)
    };
    let cut = [&["--set", "model.identity.shard=\"classes\"", "--set", FUSED], &READS_LOGITS[..], &CUDA].concat();
    for (name, more) in [("two", &CUDA[..]), ("cut", &cut)] {
        let ((code, text), out) = ranks(name, "2", more);
        assert_eq!(code, 0, "{text}");
        alike(&one, &out, |_| false);
    }
    let told = |name: &str, number: &str, device: &str| ranks(name, number, &["--device", device]).0;
    let few = ["3 ranks on this machine need a GPU each, and CUDA reports 2", "--nproc 2"];
    refused(told("few", "3", "cuda"), &few);
    refused(told("named", "2", "cuda:1"), &["`cuda:1` is one device, and 2 ranks"]);
}

#[test]
fn a_step_between_logs_waits_for_nothing() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let teacher = teacher(dir.path());
    let unseen = ["run.log_every=1000", "run.checkpoint.every=1000"];
    for precision in ["float32", "fp16"] {
        let quiet = sets(&[&format!("run.precision={precision}"), unseen[0], unseen[1], "run.device=cuda"]);
        let recognition = [vec!["tests/recipes/tiny.toml".to_owned(), "-q".into()], quiet.clone()].concat();
        let list = sets(&[&format!("data.faces.list={}", faces.path("list.txt").display())]);
        for args in [[recognition, list].concat(), [ageing(&teacher), quiet].concat()] {
            let found = in_each_step(&args, [3, 6]);
            assert!(found.is_empty(), "{} in {precision}:\n{}", args[0], found.join("\n"));
        }
    }
}

#[test]
fn steps_by_graphs_have_the_numbers_of_direct_ones() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let teacher = teacher(dir.path());
    let both = |args: &[String], name: &str| {
        ["false", "true"].map(|graphs| {
            let out = dir.path().join(format!("{name}-{graphs}"));
            let more = sets(&["run.steps=9", "run.device=cuda", &format!("run.cuda_graphs={graphs}")]);
            trained(&[args, &more, &["--out".to_owned(), out.display().to_string()]].concat());
            out
        })
    };
    // The same kernels: the same bits.
    let list = format!("data.faces.list={}", faces.path("list.txt").display());
    for precision in ["float32", "fp16"] {
        let ramp = "loss.age.ramp={ from = 0, until = 5 }";
        let more = [&list, ramp, "phase.recognition.accumulate=2", &format!("run.precision={precision}")];
        let recognition = vec!["tests/recipes/tiny.toml".to_owned(), "-q".into()];
        let args = [recognition, sets(&more), vec!["--profile=2".to_owned()]].concat();
        let [direct, graphs] = both(&args, precision);
        let on_device = |run: &Path, name: &str| {
            let spans = spans(&run.join("profile.json"));
            spans.into_iter().filter(|(span, lane)| span == name && lane == "device").count()
        };
        assert_eq!(on_device(&direct, "recognition: backward"), 4, "two batches in each of two steps");
        assert_eq!(on_device(&graphs, "graph 0"), 2);
        let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
        assert!(weights(&direct) == weights(&graphs), "{precision}");
        assert_eq!(numbers(&direct), numbers(&graphs), "{precision}");
    }
    // Two phases, where memory lies otherwise and the CPU's sums are taken in another order.
    let [direct, graphs] = both(&[ageing(&teacher), sets(&["run.precision=float64"])].concat(), "ageing");
    alike(&direct, &graphs, |_| false);
    let refused_by = |more: &[&str], words: &[&str]| {
        let out = dir.path().join("refused");
        let args = [&["-q", "--overwrite", "--set", "run.cuda_graphs=true", "--set", "run.steps=6"], more].concat();
        refused(outcome(&program(&faces.tiny(&out, &args), 2).output().unwrap()), words);
    };
    refused_by(&["--device", "cpu"], &["run.cuda_graphs needs a GPU, and the run is on `cpu`"]);
    refused_by(&["--device", "cuda", "--nproc", "2"], &["run.cuda_graphs is for one process, and there are 2"]);
    let sampled = [
        &["--set", "model.identity.sample_rate=0.5", "--set", "model.identity.shard=\"classes\"", "--set", FUSED],
        &READS_LOGITS[..],
        &CUDA,
    ];
    refused_by(&sampled.concat(), &["`model.identity.sample_rate` draws other classes"]);
    refused_by(
        &["--device", "cuda", "--set", "graph.hidden.from=0.0"],
        &["computes with the number of the step", "reverse_gradient"],
    );
}

#[test]
fn what_a_component_does_wrong_on_a_device_is_found() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let with = |fault: &str| {
        let mut args = vec!["tests/recipes/tiny.toml".to_owned(), "-q".into()];
        args.extend(["--plugin".to_owned(), BUILT.faulty.display().to_string()]);
        let list = format!("data.faces.list={}", faces.path("list.txt").display());
        let decompose = format!("model.decompose={{ component = \"faulty\", fault = \"{fault}\" }}");
        args.extend(sets(&[&list, &decompose, "run.device=cuda", "run.log_every=1000", "run.checkpoint.every=1000"]));
        args
    };
    let out = |name: &str| vec!["--out".to_owned(), dir.path().join(name).display().to_string()];
    let (code, text) = on_gpu(&[with("mixed"), out("mixed")].concat());
    assert_eq!(code, 1, "{text}");
    for words in ["in the node `parts`", "Expected all tensors to be on the same device"] {
        assert!(text.contains(words), "{text}");
    }
    let found = in_each_step(&with("reads"), [3, 6]);
    assert!(
        matches!(&found[..], [one] if one.starts_with("6 times: reads values") && one.contains("faulty/src/components.rs:")),
        "{found:?}"
    );
    // Read before it was there: the numbers are none.
    let (code, text) = on_gpu(&[with("early"), out("early")].concat());
    assert!(code == 1 && text.contains("`loss/age` is NaN"), "{code}: {text}");
}

#[test]
fn runs_on_the_device_resume_with_the_same_bits_and_are_used() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    for precision in ["fp16", "bf16"] {
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(format!("{name}-{precision}")));
        let precision = format!("run.precision={precision}");
        let more = ["-q", "--device", "cuda", "--set", &precision, "--set", "run.steps=8"];
        trained(&faces.tiny(&whole, &more));
        trained(&faces.tiny(&parts, &[&more[..], &["--set", "run.steps=4"]].concat()));
        trained(&faces.tiny(&parts, &[&more[..], &["--resume", "--allow-recipe-change"]].concat()));
        let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
        assert!(weights(&whole) == weights(&parts), "{precision}");
    }
}

#[test]
fn commands_that_open_a_run_do_so_on_the_device() {
    let (faces, dir) = (Faces::new(2, 2), TempDir::new().unwrap());
    let teacher = teacher(dir.path());
    let aged = dir.path().join("aged");
    trained(
        &[
            ageing(&teacher),
            sets(&["run.steps=1", "run.device=cuda"]),
            vec!["--out".into(), aged.display().to_string()],
        ]
        .concat(),
    );
    let face = faces.path("0_0.jpg");
    let [face, teacher, aged] = [&face, &teacher, &aged].map(|path| path.to_str().unwrap());
    let list = faces.path("list.txt");
    let both = |args: &[&str], file: &str| {
        let found = ["cpu", "cuda"].map(|device| {
            let out = dir.path().join(format!("{device}-{file}"));
            let output =
                program(&[args, &["--device", device, "--out", out.to_str().unwrap()]].concat(), 1).output().unwrap();
            done(&output);
            std::fs::read(&out).unwrap()
        });
        assert!(found[0] == found[1], "{args:?}");
    };
    both(&["embed", teacher, list.to_str().unwrap()], "embedded.csv");
    both(&["age", aged, face, "--to", "60"], "aged.png");
    let reports = ["cpu", "cuda"].map(|device| {
        let output = program(&["eval", teacher, "--json", "--device", device], 1).output().unwrap();
        done(&output);
        let mut report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // When and where it was made.
        report.as_object_mut().unwrap().retain(|key, _| key == "figures" || key == "evaluators");
        report
    });
    assert_eq!(reports[0], reports[1]);
    let output = program(&["doctor"], 2).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.lines().any(|line| line.starts_with("cuda devices") && line.ends_with(" 2")), "{text}");
    assert!(text.contains("ranks on several GPUs can communicate"), "{text}");
    let (code, text) = on_gpu(&["tests/recipes/tiny.toml", "--device", "cuda:1"]);
    assert!(code == 2 && text.contains("`cuda:1` is not available: CUDA reports 1 device"), "{text}");
}
