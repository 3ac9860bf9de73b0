//! Several processes that train together: the same numbers as one process, and how they end together.

use crate::support::{Faces, REGISTRY, json, mtlrun, outcome, reference, root, told, with_small_files};
use mtl_component::{Draw, Shard, World};
use mtl_engine::graph::Graph;
use mtl_engine::model::Model;
use mtl_engine::recipe::Recipe;
use mtl_torch::{Buckets, Group};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

/// What makes runs of one and of several processes comparable: double precision, and no draws on tensors.
const EXACT: [&str; 5] = ["-q", "--set", "run.precision=float64", "--set", "model.embed.dropout=0"];

/// The tensors of a file in double precision.
fn tensors(path: &Path) -> HashMap<String, Vec<f64>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
    let floats = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F64);
    floats.map(|(name, view)| (name.to_owned(), numbers(view.data()))).collect()
}

/// The largest difference of two tensors, in units of the largest value of the second, of at least 1.
fn apart(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let largest = wanted.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

/// The losses, gradient norms and other numbers of training by step.
pub fn numbers(run: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "train").map(|line| line.as_object().unwrap().clone()).collect()
}

/// Checks that two runs have the same losses and gradient norms, and the same weights but for some.
#[track_caller]
pub fn alike(one: &Path, other: &Path, but: impl Fn(&str) -> bool) {
    let (wanted, found) = (numbers(one), numbers(other));
    assert!(!wanted.is_empty());
    assert_eq!(wanted.len(), found.len());
    for (wanted, found) in wanted.iter().zip(&found) {
        assert_eq!(wanted.len(), found.len());
        for (name, value) in wanted.iter().filter(|(name, _)| *name != "kind") {
            let (a, b) = (found[name].as_f64().unwrap(), value.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "step {}: {name} is {a}, expected {b}", wanted["step"]);
        }
    }
    let (wanted, found) = (tensors(&one.join("weights.safetensors")), tensors(&other.join("weights.safetensors")));
    assert_eq!(wanted.len(), found.len());
    for (name, wanted) in wanted.iter().filter(|(name, _)| !but(name)) {
        let apart = apart(&found[name], wanted);
        assert!(apart <= 1e-9, "{name}: {apart:e}");
    }
}

pub fn done(output: &Output) {
    let (code, text) = outcome(output);
    assert_eq!(code, 0, "{text}");
}

/// A third of the ages is not known, and not equally many for each process.
fn faces_without_some_ages() -> Faces {
    let faces = Faces::new(4, 6);
    let list = std::fs::read_to_string(faces.path("list.txt")).unwrap();
    let without = |(i, line): (usize, &str)| {
        let mut words: Vec<&str> = line.split(' ').collect();
        if i % 3 == 0 {
            words[2] = "-";
        }
        words.join(" ")
    };
    let lines: Vec<String> = list.lines().enumerate().map(without).collect();
    std::fs::write(faces.path("list.txt"), lines.join("\n")).unwrap();
    faces
}

#[test]
fn recognition_of_two_and_three_ranks_is_that_of_one() {
    let (faces, dir) = (faces_without_some_ages(), TempDir::new().unwrap());
    for accumulate in [1, 3] {
        let run = |ranks: u64| {
            let out = dir.path().join(format!("{accumulate}-{ranks}"));
            let more =
                [format!("data.faces.batch_size={}", 12 / ranks), format!("phase.recognition.accumulate={accumulate}")];
            let more: Vec<&str> = more.iter().flat_map(|set| ["--set", set.as_str()]).collect();
            let ranks = ranks.to_string();
            faces.train(&out, &[&EXACT[..], &more, &["--nproc", &ranks]].concat());
            out
        };
        let one = run(1);
        for ranks in [2, 3] {
            alike(&one, &run(ranks), |_| false);
        }
    }
}

#[test]
fn synthesis_and_both_tasks_of_several_ranks_are_those_of_one() {
    let dir = TempDir::new().unwrap();
    let teacher = dir.path().join("teacher");
    let made = ["tests/recipes/made.toml", "--set", "run.steps=1", "--out", teacher.to_str().unwrap()];
    done(&mtlrun(&[&made[..], &EXACT].concat()).output().unwrap());
    // Recognition is trained on the batches of the synthesis as well.
    let both = dir.path().join("both.toml");
    let (recipes, unset) = (root().join("tests/recipes"), ["backbone", "decompose", "age"]);
    let remove: Vec<String> = unset.iter().map(|name| format!("\"model.{name}.weights\"")).collect();
    let text = format!(
        "extends = [\"{0}/made.toml\", \"{0}/tiny_age.toml\"]\nremove = [{1}, \"evaluate\"]\n[run]\nphases = [\"recognition\", \
         \"critic\", \"generator\"]\n",
        recipes.display(),
        remove.join(", ")
    );
    std::fs::write(&both, text).unwrap();
    for (recipe, accumulate) in
        [("tests/recipes/tiny_age.toml", 1), ("tests/recipes/tiny_age.toml", 3), (both.to_str().unwrap(), 1)]
    {
        let alone = recipe.ends_with("tiny_age.toml");
        let run = |ranks: u64| {
            let out = dir.path().join(format!("{alone}-{accumulate}-{ranks}"));
            let batch = 12 / ranks;
            let mut sets = vec![
                "run.steps=4".to_owned(),
                format!("data.faces.batch_size={batch}"),
                format!("data.targets.batch_size={batch}"),
                format!("phase.critic.accumulate={accumulate}"),
                format!("phase.generator.accumulate={accumulate}"),
            ];
            if alone {
                sets.extend(unset.map(|name| format!("model.{name}.weights.run={}", teacher.display())));
            }
            let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
            let dropout: &[&str] = if alone { &EXACT[..3] } else { &EXACT };
            let ranks = ranks.to_string();
            let unset: &[&str] = if alone { &["--unset", "evaluate.grid"] } else { &[] };
            let more = ["--nproc", &ranks, "--out", out.to_str().unwrap()];
            done(&mtlrun(&[&[recipe][..], dropout, &sets, unset, &more].concat()).output().unwrap());
            out
        };
        let one = run(1);
        for ranks in [2, 3] {
            // A bias before a BatchNorm has the gradient 0: what Adam divides by itself there is rounding, and the running
            // mean behind it follows.
            alike(&one, &run(ranks), |name| {
                (name.starts_with("decoder") || name.starts_with("critic"))
                    && (name.ends_with(".bias") || name.ends_with("running_mean"))
            });
        }
    }
}

/// The identity loss that the head computes itself, of which nobody sees the logits.
pub const FUSED: &str = "loss.identity={ component = \"value\", in = { value = \"logits.loss\" } }";

/// What the recipe wires into its loss otherwise.
pub const READS_LOGITS: [&str; 4] = ["--unset", "loss.identity.in.logits", "--unset", "loss.identity.in.target"];

/// Class matrices that are cut over the ranks give the numbers of whole ones, and one file; also where a rank has none.
#[test]
fn heads_that_are_cut_by_classes_are_those_of_one_rank() {
    let (faces, dir) = (faces_without_some_ages(), TempDir::new().unwrap());
    for head in ["cosface", "arcface", "normface", "softmax"] {
        let own = if head == "softmax" {
            "{ component = \"softmax\""
        } else {
            &format!("{{ component = \"{head}\", scale = 16.0")
        };
        let run = |name: &str, ranks: &str, sets: &[&str], more: &[&str]| {
            let out = dir.path().join(format!("{head}-{name}"));
            let clip = "phase.recognition.clip_norm=20.0";
            let sets = [&["data.faces.global_batch_size=12", clip], sets].concat();
            let fused = sets.contains(&FUSED);
            let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
            let unset: &[&str] = if fused { &READS_LOGITS } else { &[] };
            faces.train(&out, &[&EXACT[..], &sets, unset, &["--nproc", ranks], more].concat());
            out
        };
        let whole = run("whole", "1", &[&format!("model.identity={own} }}")], &[]);
        let cut = format!("model.identity={own}, shard = \"classes\" }}");
        // Four classes on three ranks are two, two and none.
        let all: &[&str] = if head == "cosface" { &["1", "2", "3"] } else { &["3"] };
        for ranks in all {
            alike(&whole, &run(ranks, ranks, &[&cut, FUSED], &[]), |_| false);
        }
        if head == "cosface" {
            // Saved by two ranks, gone on with by three, and by one whose head is whole.
            let short = ["run.steps=3", "run.checkpoint.every=3", &cut, FUSED];
            let again = run("again", "2", &short, &[]);
            let long = ["run.steps=6", "run.checkpoint.every=3", &cut, FUSED];
            run("again", "3", &long, &["--resume", "--allow-recipe-change"]);
            alike(&whole, &again, |_| false);
            run("once", "2", &short, &[]);
            let one = format!("model.identity={own} }}");
            let uncut = ["run.steps=6", "run.checkpoint.every=3", &one, FUSED];
            alike(&whole, &run("once", "1", &uncut, &["--resume", "--allow-recipe-change"]), |_| false);
        }
    }
    let args = faces.tiny(&dir.path().join("parts"), &["--set", "model.identity.shard=classes"]);
    let (code, text) = outcome(&mtlrun(&args).output().unwrap());
    assert_eq!(code, 2);
    for words in ["logits of a head that is cut by classes exist only in parts", "in = { value = \"logits.loss\" }"] {
        assert!(text.contains(words), "{text}");
    }
    let args = faces.tiny(&dir.path().join("none"), &["--set", "model.embed.shard=classes"]);
    let (_, text) = outcome(&mtlrun(&args).output().unwrap());
    assert!(text.contains("`model.embed` (embedding) has no classes to cut"), "{text}");
}

/// Of the classes that a step does not draw, no number moves; a run that is resumed draws the same ones.
#[test]
fn a_share_of_the_classes_takes_part_in_a_step() {
    let (faces, dir) = (Faces::new(12, 2), TempDir::new().unwrap());
    let cut = "model.identity={ component = \"cosface\", shard = \"classes\", sample_rate = 0.25 }";
    let run = |name: &str, ranks: &str, sets: &[&str], more: &[&str]| {
        let out = dir.path().join(name);
        let sets: Vec<&str> = [&[cut, FUSED], sets].concat().iter().flat_map(|set| ["--set", set]).collect();
        faces.train(&out, &[&EXACT[..], &sets, &READS_LOGITS, &["--nproc", ranks], more].concat());
        out
    };
    // Batches of 4 people at most: two rates differ in the rows that have moved.
    for (ranks, batch) in [("1", 4), ("2", 2)] {
        let moved = |rate: &str| {
            let name = format!("{ranks}-{rate}");
            let sets = [
                "run.steps=1",
                &format!("data.faces.batch_size={batch}"),
                &format!("phase.recognition.optimizer.lr={rate}"),
            ];
            tensors(&run(&name, ranks, &sets, &[]).join("weights.safetensors")).remove("identity.weight").unwrap()
        };
        let (one, other) = (moved("0.01"), moved("0.02"));
        let rows = one.chunks(16).zip(other.chunks(16)).filter(|(a, b)| a != b).count();
        // A process takes a quarter of its classes, and at least as many as there are samples: those of the batch fit.
        let wanted = if ranks == "1" { 4 } else { 2 * 4 };
        assert_eq!(rows, wanted, "{ranks} ranks");
    }
    let whole = run("whole", "2", &[], &[]);
    let parts = run("parts", "2", &["run.steps=2"], &[]);
    run("parts", "2", &[], &["--resume", "--allow-recipe-change"]);
    let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&parts), "other bits after a resume");
    for (set, words) in [
        (["--set", "phase.recognition.accumulate=2"], "accumulates 2 batches, each of which would draw other classes"),
        (["--unset", "model.identity.shard"], "takes a share of its classes in a step, and they are not cut"),
    ] {
        let more = [&EXACT[..], &["--set", cut, "--set", FUSED], &set, &READS_LOGITS].concat();
        let (code, text) = faces.run(&dir.path().join("refused"), &more);
        assert!(code == 2 && text.contains(words), "{text}");
    }
}

/// Real DistributedDataParallel, as `tests/reference/ddp.py` has run it: losses of each rank, gradients, weights.
#[test]
fn without_sync_batch_norm_two_ranks_have_the_numbers_of_pytorch() {
    let dir = TempDir::new().unwrap();
    let port = free_port();
    let sets = [
        "run.sync_batch_norm=false",
        "dims.identities=5",
        "dims.age_groups=7",
        "data.faces.list=none",
        "model.backbone.width=4",
        "model.embed.dropout=0",
        "phase.recognition.optimizer={ component = \"sgd\", lr = 0.01, momentum = 0.9, weight_decay = 0.0 }",
    ];
    let args = |rank: u64| {
        let mut args =
            vec!["trace".to_owned(), "tests/recipes/tiny.toml".into(), "--double".into(), "--steps=3".into()];
        args.extend(sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
        args.extend(["--unset".into(), "phase.recognition.scheduler".into()]);
        for (flag, name) in [("--inputs", format!("ddp_inputs_{rank}")), ("--weights", "ddp_weights".into())] {
            args.extend([flag.to_owned(), reference(&format!("{name}.safetensors")).display().to_string()]);
        }
        args.extend(["--report".into(), dir.path().join(format!("{rank}.json")).display().to_string()]);
        args
    };
    let ended = both([rank(0, port, &args(0)), rank(1, port, &args(1))]);
    assert!(ended.iter().all(|(code, _)| *code == 0), "{ended:?}");
    let wanted = json("ddp.json");
    let close = |found: &serde_json::Value, wanted: &serde_json::Value, what: &str| {
        let (found, wanted) = (found.as_f64().unwrap(), wanted.as_f64().unwrap());
        // Double precision, through three steps.
        assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0), "{what}: {found}, expected {wanted}");
    };
    for rank in 0..2 {
        let text = std::fs::read(dir.path().join(format!("{rank}.json"))).unwrap();
        let (found, wanted) = (serde_json::from_slice::<serde_json::Value>(&text).unwrap(), &wanted["ranks"][rank]);
        for (step, of) in wanted["steps"].as_array().unwrap().iter().enumerate() {
            let found = &found["steps"][step];
            for (loss, value) in of["losses"].as_object().unwrap() {
                close(&found["losses"][loss], value, &format!("step {step}, rank {rank}, {loss}"));
            }
            for (name, value) in of["grad_norms"].as_object().unwrap() {
                close(&found["phases"]["recognition"]["grad"][name][0], value, &format!("step {step}, {name}"));
            }
        }
        for (name, value) in wanted["weight_norms"].as_object().unwrap() {
            close(&found["steps"][2]["param"][name][0], value, name);
        }
    }
}

/// Batches of an evaluation are dealt out whole, so that kernels round as in one process.
/// The names of the spans of a profile, in their order, and the rows that they are in.
pub fn spans(profile: &Path) -> Vec<(String, String)> {
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(profile).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let word = |e: &serde_json::Value, key: &str| e[key].as_str().unwrap().to_owned();
    let lanes: HashMap<_, _> = events
        .iter()
        .filter(|e| e["name"] == "thread_name")
        .map(|e| (e["tid"].as_u64().unwrap(), word(&e["args"], "name")))
        .collect();
    let spans = events.iter().filter(|e| e["ph"] == "X");
    spans.map(|e| (word(e, "name"), lanes[&e["tid"].as_u64().unwrap()].clone())).collect()
}

#[test]
fn a_profile_shows_phases_nodes_and_buckets_of_each_rank() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let out = dir.path().join("out");
    faces.train(&out, &["-q", "--nproc", "2", "--profile=2"]);
    for file in ["profile.json", "profile-rank1.json"] {
        let spans = spans(&out.join(file));
        let count = |name: &str| spans.iter().filter(|(span, _)| span == name).count();
        // Of six steps the last two.
        for name in ["batches", "features (ir18)", "recognition: backward", "recognition: update"] {
            assert_eq!(count(name), 2, "{name} in {spans:?}");
        }
        assert_eq!((count("step 5"), count("step 6"), count("step 4")), (1, 1, 0));
        let buckets = spans.iter().filter(|(_, lane)| lane == "gradients between ranks");
        assert!(buckets.count() >= 2, "{spans:?}");
    }
    // They are the run's own, and stay in no one's way.
    faces.train(&out, &["-q", "--overwrite", "--set", "run.steps=1"]);
    assert!(!out.join("profile.json").exists() && !out.join("profile-rank1.json").exists());
}

#[test]
fn an_evaluation_by_three_ranks_is_that_of_one() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let args = ["tests/recipes/made.toml", "-q", "--nproc", "3", "--out", out.to_str().unwrap()];
    done(&mtlrun(&args).output().unwrap());
    let alone = mtlrun(&["eval", out.to_str().unwrap(), "--threads", "1", "--json"]).output().unwrap();
    let alone: serde_json::Value = serde_json::from_slice(&alone.stdout).unwrap();
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let measured: Vec<_> = lines.filter(|line| line["kind"] == "eval").collect();
    let mut compared = 0;
    for line in measured {
        for (name, value) in line.as_object().unwrap() {
            let Some(figure) = name.strip_prefix("eval/").filter(|_| value.is_number()) else { continue };
            let (evaluator, metric) = figure.split_once('/').unwrap();
            assert_eq!(&alone[evaluator]["metrics"][metric], value, "{name}");
            compared += 1;
        }
    }
    assert!(compared > 10, "{compared} figures, {alone}");
}

/// The run goes on with three ranks of batch 4 where two of batch 6 have left it.
#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let (faces, dir) = (Faces::new(4, 6), TempDir::new().unwrap());
    let global = ["--set", "data.faces.global_batch_size=12", "--set", "run.checkpoint.every=3"];
    let one = dir.path().join("one");
    faces.train(&one, &[&EXACT[..], &global].concat());
    let out = dir.path().join("ranks");
    let short = ["--nproc", "2", "--set", "run.steps=3"];
    faces.train(&out, &[&EXACT[..], &global, &short].concat());
    let long = ["--nproc", "3", "--resume", "--allow-recipe-change"];
    faces.train(&out, &[&EXACT[..], &global, &long].concat());
    alike(&one, &out, |_| false);
    let (code, text) = faces.run(&dir.path().join("uneven"), &[&EXACT[..], &global, &["--nproc", "5"]].concat());
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("`global_batch_size` is 12, which 5 ranks cannot share evenly"), "{text}");
}

/// One rank of 8, 64 and 512 by a group that does nothing: what the published network sends, and who has which classes.
#[test]
fn ranks_of_any_number_have_the_same_buckets_and_all_classes() {
    let recipe = Recipe::read(&REGISTRY, &root().join("recipes/aifr_scaf.toml"), &[]).unwrap();
    let graph = Graph::new(&recipe).unwrap();
    let outline = Model::outline(&recipe, &graph, 1).unwrap();
    let trained = outline.modules.iter().flat_map(|module| module.parameters.values());
    let trained = trained.filter(|entry| entry.role.is_some() && !entry.rows);
    // All zeros of one page each time: only the sizes matter.
    let params: Vec<Tensor> =
        trained.map(|entry| Tensor::zeros(entry.tensor.size(), (Kind::Float, Device::Cpu))).collect();
    let params: Vec<&Tensor> = params.iter().collect();
    let bytes: u64 = params.iter().map(|p| 4 * p.numel() as u64).sum();
    let largest = params.iter().map(|p| 4 * p.numel() as u64).max().unwrap();
    let mut plans = Vec::new();
    for size in [8u64, 64, 512] {
        for rank in [0, size - 1] {
            let buckets = Buckets::new(&Group::fake(rank, size).unwrap(), &params).unwrap().bytes();
            assert_eq!(buckets.iter().sum::<u64>(), bytes);
            plans.push(buckets);
        }
        // Glint360K.
        let parts: Vec<_> = (0..size).map(|rank| Shard::rows(360_232, World::new(rank, size, 0).unwrap())).collect();
        assert_eq!((parts[0].start, parts[size as usize - 1].end), (0, 360_232));
        assert!(parts.windows(2).all(|two| two[0].end == two[1].start && !two[0].is_empty()));
    }
    assert!(plans.iter().all(|plan| *plan == plans[0]), "the same for every rank");
    let most = (25 << 20) + largest;
    assert!(plans[0].len() > 4 && plans[0].iter().all(|bucket| *bucket < most), "{:?}", plans[0]);
    assert!(*plans[0].last().unwrap() <= (2 << 20) + (1 << 20), "little is left at the end: {:?}", plans[0]);
    // What a rank holds of a head of that size, by the command.
    let sets = ["--set", "dims.identities=360232", "--set", "model.identity.shard=classes", "--set", FUSED];
    let summary = |more: &[&str]| {
        told(&[&["summary", "recipes/aifr_scaf.toml", "--nproc", "8"], &sets[..], &READS_LOGITS, more].concat())
    };
    let (all, sampled) = (summary(&[]), summary(&["--set", "model.identity.sample_rate=0.1"]));
    let head = 360_232.0 * 512.0 * 4.0 / f64::from(1 << 20);
    let rest = bytes as f64 / f64::from(1 << 20);
    for (text, gradients) in [(&all, rest + head / 8.0), (&sampled, rest + head / 80.0)] {
        let words = format!("each of 8 ranks: {:.1} MiB of weights, {gradients:.1} of gradients", rest + head / 8.0);
        assert!(text.contains(&words), "{words}: {text}");
        assert!(text.contains(&format!("each sends {:.1} MiB of gradients", 2.0 * 7.0 / 8.0 * rest)), "{text}");
    }
}

/// The lines that tell an error.
fn errors(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains("error")).collect()
}

/// Arguments of a run of two processes that lasts for a while, and saves every second step.
fn lasting<'a>(steps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["-q", "--nproc", "2", "--set", steps, "--set", "run.checkpoint.every=2"], more].concat()
}

#[test]
fn what_one_rank_cannot_do_ends_all_with_one_message() {
    let (faces, dir) = (Faces::new(4, 3), TempDir::new().unwrap());
    // One picture cannot be read, and whoever draws it ends the run.
    std::fs::write(faces.path("1_1.jpg"), b"no picture").unwrap();
    let more = ["--set", "data.faces.on_bad_image=error"];
    let (code, text) = faces.run(&dir.path().join("bad"), &lasting("run.steps=50", &more));
    assert_eq!(code, 2, "{text}");
    assert_eq!(errors(&text).len(), 1, "{text}");
    assert!(text.contains("rank ") && text.contains("1_1.jpg"), "{text}");
    // What is wrong with the recipe is told once, by nobody's rank.
    let (code, text) = faces.run(&dir.path().join("wrong"), &lasting("run.steps=no", &[]));
    assert_eq!(code, 2, "{text}");
    assert!(!text.contains("rank"), "{text}");
    // Weights that are not finite, of which all hear in the same step.
    std::fs::copy(faces.path("1_0.jpg"), faces.path("1_1.jpg")).unwrap();
    let (code, text) =
        faces.run(&dir.path().join("nan"), &lasting("run.steps=50", &["--set", "phase.recognition.optimizer.lr=1e30"]));
    assert_eq!(code, 1, "{text}");
    assert_eq!(errors(&text).len(), 1, "{text}");
    assert!(text.contains("training has diverged"), "{text}");
}

#[test]
fn a_full_disk_ends_all_ranks_with_its_words() {
    let (faces, dir) = (Faces::new(4, 3), TempDir::new().unwrap());
    let out = dir.path().join("run");
    let args = faces.tiny(&out, &lasting("run.steps=30", &[]));
    let (code, text) = outcome(&with_small_files(100, &args).output().unwrap());
    assert_eq!(code, 1, "{text}");
    assert_eq!(errors(&text).len(), 1, "{text}");
    assert!(text.contains("rank 0 has failed") && text.contains("step-2"), "{text}");
    let left = std::fs::read_dir(out.join("checkpoints")).unwrap().count();
    assert_eq!(left, 0, "nothing half-written is left");
}

/// A process of a run whose launcher is this test.
fn rank(rank: u64, port: u16, args: &[String]) -> Child {
    let mut command = mtlrun(args);
    for (name, value) in [("RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", 2)] {
        command.env(name, value.to_string());
    }
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// What both of two processes say, with their exit codes.
fn both(children: [Child; 2]) -> [(i32, String); 2] {
    children.map(|child| outcome(&child.wait_with_output().unwrap()))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn ranks_that_do_not_do_the_same_say_so_before_they_communicate() {
    let (faces, dir) = (Faces::new(4, 3), TempDir::new().unwrap());
    for (n, (set, words)) in [
        (
            "phase.recognition.optimizer.lr=0.5",
            "`phase.recognition.optimizer.lr` is 0.01 for rank 0, and 0.5 for rank 1",
        ),
        ("model.embed.size=8", "`model.embed.size` is 16 for rank 0, and 8 for rank 1"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(n.to_string());
        let port = free_port();
        let [first, second] = [&["-q"][..], &["-q", "--set", set]].map(|more| faces.tiny(&out, more));
        let [leader, other] = both([rank(0, port, &first), rank(1, port, &second)]);
        assert_eq!((leader.0, other.0), (2, 2), "{} {}", leader.1, other.1);
        assert_eq!(leader.1, "");
        assert!(other.1.contains("rank 1 does not do what rank 0 does") && other.1.contains(words), "{}", other.1);
        assert_eq!(errors(&other.1).len(), 1, "{}", other.1);
    }
    // The same in both, and without a launcher's store.
    let (out, port) = (dir.path().join("same"), free_port());
    let args = faces.tiny(&out, &["-q"]);
    for (code, text) in both([rank(0, port, &args), rank(1, port, &args)]) {
        assert_eq!((code, text.as_str()), (0, ""));
    }
    assert!(out.join("weights.safetensors").exists());
}

/// Starts a run of two processes in the background, and waits for a checkpoint.
fn started(faces: &Faces, out: &Path, more: &[&str]) -> Child {
    let args = faces.tiny(out, more);
    let child = mtlrun(&args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let since = Instant::now();
    while std::fs::read_dir(out.join("checkpoints")).map_or(0, |all| all.count()) < 2 {
        assert!(since.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// The processes that a process has started.
fn children(of: &Child) -> Vec<i32> {
    let path = format!("/proc/{0}/task/{0}/children", of.id());
    std::fs::read_to_string(path).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn send(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// How a run in the background has ended.
fn ended(mut child: Child) -> (i32, String) {
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code().unwrap_or(-1), text)
}

#[test]
fn a_rank_that_is_killed_is_named_and_the_ranks_go_on_to_the_same_weights() {
    let (faces, dir) = (Faces::new(4, 3), TempDir::new().unwrap());
    let undisturbed = dir.path().join("undisturbed");
    faces.train(&undisturbed, &lasting("run.steps=150", &[]));
    let killed = dir.path().join("killed");
    let run = started(&faces, &killed, &lasting("run.steps=150", &["--max-restarts", "1"]));
    send(children(&run)[1], rustix::process::Signal::KILL);
    let (code, text) = ended(run);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("error: rank 1 was ended by SIGKILL; it was last seen "), "{text}");
    assert!(text.contains("note: starting the ranks again, from the newest checkpoint (1 of 1 restarts)"), "{text}");
    assert_eq!(errors(&text).len(), 1, "{text}");
    let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    assert!(weights(&killed) == weights(&undisturbed), "other weights after a restart");
}

#[test]
fn a_rank_that_is_stopped_is_named_and_ended() {
    let (faces, dir) = (Faces::new(4, 3), TempDir::new().unwrap());
    let run = started(&faces, &dir.path().join("run"), &lasting("run.steps=100000", &[]));
    let stopped = children(&run)[1];
    send(stopped, rustix::process::Signal::STOP);
    let since = Instant::now();
    let (code, text) = ended(run);
    assert_eq!(code, 1, "{text}");
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    assert_eq!(errors(&text).len(), 1, "{text}");
    assert!(text.contains("rank 1 has given no sign of life for "), "{text}");
    assert!(!Path::new(&format!("/proc/{stopped}")).exists(), "it is still there");
}

#[test]
fn a_signal_to_the_launcher_stops_all_ranks_at_one_step_and_they_can_go_on() {
    let (faces, dir) = (Faces::new(4, 3), TempDir::new().unwrap());
    let out = dir.path().join("run");
    let run = started(&faces, &out, &lasting("run.steps=100000", &[]));
    send(run.id() as i32, rustix::process::Signal::INT);
    let (code, text) = ended(run);
    assert_eq!((code, text.as_str()), (130, ""));
    let steps = |out: &Path| mtl_engine::checkpoint::list(&out.join("checkpoints")).last().unwrap().0;
    let step = steps(&out);
    let more = format!("run.steps={}", step + 3);
    // On one process, whose batch is that of both.
    let alone = ["-q", "--resume", "--allow-recipe-change", "--set", &more, "--set", "data.faces.batch_size=8"];
    faces.train(&out, &alone);
    assert_eq!(steps(&out), step + 3);
}

/// Ranks that are killed or stopped at thirty moments: each time one message, and after all of it the bits of a run that
/// was left alone.
#[test]
#[ignore = "minutes: cargo xtask test --long"]
fn random_ranks_killed_and_stopped_at_random_moments() {
    let (faces, dir) = (Faces::new(4, 3), TempDir::new().unwrap());
    let (undisturbed, broken) = (dir.path().join("undisturbed"), dir.path().join("broken"));
    let steps = "run.steps=1000";
    faces.train(&undisturbed, &lasting(steps, &[]));
    let mut draw = Draw::new(&[17]);
    for round in 0..30 {
        let resume: &[&str] = if broken.join("recipe.resolved.toml").exists() { &["--resume"] } else { &[] };
        let args = faces.tiny(&broken, &lasting(steps, resume));
        let run = mtlrun(&args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(900 + draw.below(1500)));
        let ranks = children(&run);
        let Some(victim) = ranks.get(draw.below(2) as usize) else { panic!("round {round}: the run has ended") };
        // A process that is stopped is found after some ten seconds.
        let stops = round % 6 == 5;
        let signal = if stops { rustix::process::Signal::STOP } else { rustix::process::Signal::KILL };
        send(*victim, signal);
        let since = Instant::now();
        let (code, text) = ended(run);
        assert_eq!(code, 1, "round {round}: {text}");
        assert!(since.elapsed() < Duration::from_secs(30), "round {round}: {:?}", since.elapsed());
        assert_eq!(errors(&text).len(), 1, "round {round}: {text}");
        let words = if stops { " has given no sign of life for " } else { " was ended by SIGKILL" };
        assert!(text.contains(words), "round {round}: {text}");
        for entry in std::fs::read_dir(broken.join("checkpoints")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let whole = !name.starts_with("step-") || name.contains(".tmp-");
            assert!(whole || entry.path().join("manifest.json").exists(), "round {round}: {name} is not whole");
        }
    }
    faces.train(&broken, &lasting(steps, &["--resume"]));
    let weights = |run: &Path| std::fs::read(run.join("weights.safetensors")).unwrap();
    assert!(weights(&broken) == weights(&undisturbed), "other bits");
}
