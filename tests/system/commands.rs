//! Commands that explain, draw, sweep and compare.

use crate::support::{self, REGISTRY, mtlrun, outcome, told};
use mtl_engine::inference::read_cases;
use mtl_engine::runs::RunFolder;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use tempfile::TempDir;

#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    support::refused(outcome(&mtlrun(args).output().unwrap()), words);
}

#[test]
fn a_value_is_explained_with_everyone_who_set_it() {
    let recipe = "recipes/small_faces.toml";
    let text = told(&["explain", "model.identity.scale", recipe]);
    for part in ["= 32.0", "a number", "default  64.0", "recognition.toml", "* recipes/small_faces.toml"] {
        assert!(text.contains(part), "expected {part:?} in:\n{text}");
    }
    let text =
        told(&["explain", "phase.recognition.optimizer.lr", recipe, "--set", "phase.recognition.optimizer.lr=0.2"]);
    assert!(text.contains("= 0.2") && text.contains("* --set") && text.contains("at least 0"), "{text}");
    // What lost is told with its value, and what was taken away.
    let lr = "phase.recognition.optimizer.lr";
    let (first, second) = (format!("{lr}=0.2"), format!("{lr}=0.3"));
    let text = told(&["explain", lr, recipe, "--set", &first, "--set", &second]);
    assert!(
        text.contains(&format!("  --set {first}: 0.2")) && text.contains(&format!("* --set {second}: 0.3")),
        "{text}"
    );
    let text = told(&["explain", "run.seed", recipe, "--set", "run.seed=4", "--unset", "run.seed"]);
    assert!(text.contains("--unset run.seed: taken away") && text.contains("= 0"), "{text}");
    let text = told(&["explain", "model.embed.size", recipe, "--set", "model.embed.size=${dims.age_groups}"]);
    assert!(
        text.contains("= 7") && text.contains("* --set model.embed.size=${dims.age_groups}: \"${dims.age_groups}\""),
        "{text}"
    );
    let text = told(&["explain", "run.precision", recipe]);
    assert!(text.contains("nobody: it is the default") && text.contains("\"fp16\": "), "{text}");
    let json = told(&["explain", "data.faces.batch_size", recipe, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["value"], 64);
    assert_eq!(json["expected"], "an integer, at least 1 and at most 1000000");
    refused(
        &["explain", "loss.years.weight", recipe],
        &["the recipe has no `loss.years.weight`: `loss` has no `years`"],
    );
    refused(&["explain", "model.identity.margn", recipe], &["no `model.identity.margn`", "did you mean `margin`"]);
}

#[test]
fn recipes_are_compared_resolved() {
    let text = told(&["show", "recipes/quickstart.toml", "--diff", "recipes/small_faces.toml"]);
    assert!(text.contains("run.steps: 420 -> 1400"), "{text}");
    assert!(text.contains("data.faces.component: \"synthetic_faces\" -> \"annotated_faces\""), "{text}");
    assert_eq!(told(&["show", "recipes/quickstart.toml", "--diff", "recipes/quickstart.toml"]), "");
}

#[test]
fn graphs_are_drawn_in_three_formats() {
    let dir = TempDir::new().unwrap();
    for (ending, parts) in [
        ("svg", ["<svg ", "seen_parts", "stroke-dasharray=\"2 3\"", "weight 75"]),
        ("dot", ["digraph", "seen_parts", "c2, c3, c4", "phase generator"]),
        ("mmd", ["flowchart TD", "seen_parts", "c2, c3, c4", "phase generator"]),
    ] {
        let out = dir.path().join(format!("g.{ending}"));
        told(&["graph", "recipes/fas_scaf.toml", "--out", out.to_str().unwrap()]);
        let text = std::fs::read_to_string(out).unwrap();
        for part in parts {
            assert!(text.contains(part), "{ending}: expected {part:?} in:\n{text}");
        }
    }
    std::fs::write(dir.path().join("file"), "").unwrap();
    let below = dir.path().join("file/g.svg");
    refused(&["graph", "recipes/fas_scaf.toml", "--out", below.to_str().unwrap()], &["cannot make the folder"]);
    refused(&["graph", "recipes/fas_scaf.toml", "--out", "g.png"], &[".svg, .dot or .mmd", "g.png"]);
}

#[test]
fn a_summary_counts_parameters() {
    let text = told(&["summary", "recipes/fas_scaf.toml", "--set", "model.icm.sigma=0.1"]);
    let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    let number = |name: &str| line(name)[2].parse::<i64>().unwrap();
    let arch = support::json("arch.json");
    let wanted = arch["AgingModule_7"]["n_param"].as_i64().unwrap();
    assert_eq!(number("icm") + number("decoder"), wanted);
    assert_eq!(number("critic"), arch["PatchDiscriminator_7_sn_4"]["n_param"].as_i64().unwrap());
    assert_eq!(line("backbone")[4], "0.0", "frozen modules have no gradients");
}

#[test]
fn completions_know_the_commands_of_plugins() {
    for shell in ["bash", "zsh", "fish"] {
        let text = told(&["completions", shell]);
        assert!(text.contains("embed") && text.contains("sweep"), "{shell}");
    }
}

fn sweep(out: &Path, more: &[&str]) -> (i32, String, String) {
    let args = ["sweep", "tests/recipes/made.toml", "--unset", "evaluate.leakage", "--set", "run.steps=2", "--out"];
    let output = mtlrun(&[&args[..], &[out.to_str().unwrap()], more].concat()).output().unwrap();
    let (code, text) = outcome(&output);
    (code, String::from_utf8(output.stdout).unwrap(), text)
}

/// On all of its cases, each once, an evaluator finds what it has reported.
fn cases_tell_the_metrics(run: &Path) {
    let folder = RunFolder::at(run);
    let recipe = folder.recipe(&REGISTRY, &[]).unwrap();
    let mut told = 0;
    for (name, entry) in &recipe.evaluate {
        let config = &entry.slot.config;
        let report = std::fs::read(folder.report(name, 2)).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        let cases = read_cases(&folder.cases(name, 2)).unwrap();
        let all = vec![1.0; cases.len()];
        for (metric, value) in report["metrics"].as_object().unwrap() {
            if let Some(found) = config.on_cases(metric, &cases, &all).unwrap() {
                // The sums are taken in another order.
                assert!((found - value.as_f64().unwrap()).abs() < 1e-12, "{name}.{metric}: {found} for {value}");
                told += 1;
            }
        }
        assert_eq!(config.on_cases("no such", &cases, &all).unwrap(), None);
    }
    assert_eq!(told, 6, "all metrics but the deviation over folds and the tails");
}

#[test]
fn a_sweep_is_kept_resumed_and_compared() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("sweep");
    let grid = ["--grid", "seed=1,2", "--grid", "model.identity.margin=0.1,0.4"];
    let (code, text, _) = sweep(&out, &[&grid[..], &["--dry-run"]].concat());
    assert_eq!(code, 0);
    assert!(text.contains("seed=2,model.identity.margin=0.4") && text.contains("4 points"), "{text}");
    assert!(!out.exists());

    let (code, text, error) = sweep(&out, &grid);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("[4/4] done"), "{text}");
    // A point that was lost is made again; the others are kept.
    std::fs::remove_file(out.join("seed=1,model.identity.margin=0.1/weights.safetensors")).unwrap();
    let (code, text, error) = sweep(&out, &grid);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("[1/4] done") && text.contains("[2/4] kept"), "{text}");

    // A finished run of another recipe is no result of this sweep.
    let (code, text, error) = sweep(&out, &[&grid[..], &["--set", "model.embed.dropout=0.1"]].concat());
    assert_eq!(code, 1, "{text}");
    assert!(error.contains("4 of 4 points failed") && error.contains("the recipe differs"), "{error}");

    let folder = out.to_str().unwrap();
    let runs = told(&["runs", folder]);
    assert_eq!(runs.lines().filter(|l| l.contains("done") && l.contains("2/2")).count(), 4, "{runs}");
    let table = told(&["compare", folder, "--metric", "verification.auc"]);
    assert!(table.contains("model.identity.margin=0.4  2 ") && table.contains("±") && table.contains(" *"), "{table}");
    let markdown = told(&["compare", folder, "--format", "md"]);
    assert!(
        markdown.starts_with("| variant ") && markdown.contains("| verification.accuracy |") && markdown.contains("**"),
        "{markdown}"
    );
    let csv = told(&["compare", folder, "--format", "csv", "--metric", "age.mae"]);
    assert!(csv.starts_with("variant,runs,age.mae,age.mae.deviation\nmodel.identity.margin=0.1,2,"), "{csv}");
    let json: serde_json::Value = serde_json::from_str(&told(&["compare", folder, "--format", "json"])).unwrap();
    assert_eq!(json[0]["metrics"]["age.mae"]["count"], 2);
    assert!(json[0]["metrics"]["age.mae"].get("difference").is_none());
    let apart = &json[1]["metrics"]["verification.auc"]["difference"];
    assert_eq!(apart["from"], "model.identity.margin=0.1");
    let of = |key: &str| apart[key].as_f64().unwrap();
    assert!(of("low") <= of("high") && of("mean").abs() <= 1.0 && of("deviation") >= 0.0, "{apart}");
    assert!(table.contains("difference from model.identity.margin=0.1 ± its deviation over the seeds"), "{table}");
    // Of ten different pairs none lies beyond a false accept rate that draws could tell anything of.
    assert!(json[1]["metrics"]["verification.fnmr_at_fmr_0.1"].get("difference").is_none());
    let other = told(&["compare", folder, "--metric", "age.mae", "--against", "model.identity.margin=0.4"]);
    assert!(other.contains("difference from model.identity.margin=0.4"), "{other}");
    refused(&["compare", folder, "--against", "margin"], &["--against names no variant", "model.identity.margin=0.1"]);
    cases_tell_the_metrics(&out.join("seed=1,model.identity.margin=0.1"));
    let by = told(&["compare", folder, "--by", "run.seed"]);
    // The narrower way round.
    assert!(by.starts_with("variant ") && by.lines().next().unwrap().contains("run.seed=2"), "{by}");
    let svg = told(&["compare", folder, "--format", "svg", "--metric", "loss/total"]);
    assert!(svg.contains("<svg") && svg.contains("polyline") && svg.contains("margin=0.4"), "{svg}");
    refused(&["compare", folder, "--metric", "verification.acuracy"], &["did you mean `verification.accuracy`"]);
    refused(&["compare", folder, "--by", "run.sed"], &["no run has a value at `run.sed`"]);
    refused(&["compare", "/nowhere"], &["/nowhere"]);
    refused(&["runs", dir.path().join("sweep/seed=1,model.identity.margin=0.1/tb").to_str().unwrap()], &["no run in"]);
}

#[test]
fn a_sweep_hands_on_a_signal_and_goes_on_later() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("sweep");
    let points = ["--grid", "seed=9,8", "--set", "run.steps=100000", "--set", "run.checkpoint.every=0"];
    let args = ["sweep", "tests/recipes/made.toml", "--unset", "evaluate", "--out", out.to_str().unwrap()];
    let mut child = mtlrun(&[&args[..], &points].concat()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let metrics = out.join("seed=9/metrics.jsonl");
    support::wait_for("a step", || std::fs::metadata(&metrics).is_ok_and(|m| m.len() > 0));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut told).unwrap();
    assert_eq!(status.code(), Some(143), "{told}");
    assert!(told.contains("[1/2] saved  seed=9") && told.contains("goes on"), "{told}");
    assert!(!out.join("seed=8").exists(), "no other point is started");
    assert_eq!(out.join("seed=9/checkpoints").read_dir().unwrap().count(), 1);
}

#[test]
fn a_table_is_in_the_order_of_its_sweep_and_named_by_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("table.toml");
    let made = support::root().join("tests/recipes/made.toml");
    let text = format!(
        "extends = [{made:?}]\nremove = [\"evaluate.leakage\", \"evaluate.age\"]\n[run]\nsteps = 1\n[sweep.grid]\n\
         \"run.seed\" = [1]\n[sweep.variants]\nwide = {{ set = {{ \"model.embed.size\" = 24, \"model.age.hidden\" = 8, \
         \"model.leak.hidden\" = 8, \"model.identity.scale\" = 16.0 }} }}\nplain = {{}}\n"
    );
    std::fs::write(&path, text).unwrap();
    let out = dir.path().join("out");
    told(&["sweep", path.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let table = told(&["compare", out.to_str().unwrap(), "--metric", "verification.accuracy"]);
    let first: Vec<&str> = table.lines().skip(1).take(2).map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(first, ["wide", "plain"], "{table}");
}

#[test]
fn a_point_that_fails_does_not_stop_the_others() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("sweep");
    let (code, text, error) = sweep(&out, &["--zip", "data.faces.cache=\"memory\",\"none\"", "--zip", "threads=1,1"]);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("data.faces.cache=memory,threads=1"), "{text}");
    // A learning rate that diverges in the first step.
    let (code, text, error) =
        sweep(&out, &["--grid", "phase.recognition.optimizer.lr=1e30,0.01", "--set", "run.steps=4"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("FAILED") && text.contains("[2/2] done"), "{text}");
    assert!(error.contains("1 of 2 points failed") && error.contains("diverged"), "{error}");
    let wrong = |more: &[&str], word: &str| {
        let (code, _, error) = sweep(&out, more);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains(word), "expected {word:?} in {error}");
    };
    wrong(&[], "a sweep needs points");
    wrong(&["--grid", "seed"], "PATH=VALUE");
    wrong(&["--grid", "seed=1,"], "a value is empty");
    wrong(&["--grid", "=1"], "no path");
    wrong(&["--grid", "seed=1,1"], "two points would be called `seed=1`");
    wrong(&["--grid", "seed=1,2", "--grid", "run.seed=3"], "given twice");
    wrong(&["--grid", "seed=1,2", "--zip", "seed=3,4"], "in the grid and in the zip");
    wrong(&["--zip", "seed=1,2", "--zip", "threads=1"], "go together");
    wrong(&["--grid", "model.identity.margn=1,2"], "margn");
}

#[test]
fn a_recipe_holds_its_own_points() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("table.toml");
    let made = support::root().join("tests/recipes/made.toml");
    let text = format!(
        "extends = [{made:?}]\n[sweep.grid]\n\"run.seed\" = [1, 2]\n[sweep.variants]\nplain = {{ unset = [\"evaluate\"] }}\n\
         channel = {{ set = {{ \"model.decompose.branches\" = \"channel\" }} }}\nother = {{ recipe = {made:?} }}\n"
    );
    std::fs::write(&path, text).unwrap();
    let found = told(&["sweep", path.to_str().unwrap(), "--dry-run", "--out", "x"]);
    assert!(found.contains("x/channel,seed=2") && found.contains("6 points"), "{found}");
    assert!(found.contains("--set 'model.decompose.branches=\"channel\"' --set run.seed=2 --unset sweep"), "{found}");
    assert!(found.contains("--unset evaluate --unset sweep"), "{found}");
    // The command line wins over the section.
    let fewer = told(&["sweep", path.to_str().unwrap(), "--dry-run", "--grid", "seed=5"]);
    assert!(fewer.contains("channel,seed=5") && fewer.contains("3 points"), "{fewer}");
    // A path in the section starts from its file, one of the command line from the working directory.
    let paths = dir.path().join("paths.toml");
    let tiny = support::root().join("tests/recipes/tiny.toml");
    let text = format!("extends = [{tiny:?}]\n[sweep.grid]\n\"data.faces.list\" = [\"a.txt\", \"b.txt\"]\n");
    std::fs::write(&paths, text).unwrap();
    let above = dir.path().join("above");
    std::fs::create_dir(&above).unwrap();
    let text = "extends = [\"../paths.toml\"]\n[sweep.grid]\n\"run.seed\" = [1]\n";
    std::fs::write(above.join("more.toml"), text).unwrap();
    let told_paths = told(&["sweep", above.join("more.toml").to_str().unwrap(), "--dry-run", "--out", "x"]);
    let wanted = dir.path().canonicalize().unwrap().join("b.txt");
    assert!(told_paths.contains(&format!("data.faces.list=\"{}\"", wanted.display())), "{told_paths}");
    assert!(told_paths.contains("x/data.faces.list=b.txt,seed=1"), "named as it is written: {told_paths}");
    // All points are checked before the first, by `check` too, and each mistake is told once.
    let wrong = dir.path().join("wrong.toml");
    let text =
        format!("extends = [{made:?}]\n[sweep.grid]\n\"run.seed\" = [1, 2]\n\"loss.domain.wieght\" = [0.1, 0.2]\n");
    std::fs::write(&wrong, text).unwrap();
    for args in [&["sweep", wrong.to_str().unwrap(), "--dry-run"][..], &["check", wrong.to_str().unwrap()]] {
        let (code, text) = outcome(&mtlrun(args).output().unwrap());
        assert!(code == 2 && text.contains("4 of 4 points of the sweep cannot be trained"), "{text}");
        assert_eq!(text.matches("did you mean `weight`").count(), 2, "once for each value: {text}");
    }
    let (code, text) = outcome(&mtlrun(&["check", path.to_str().unwrap()]).output().unwrap());
    assert_eq!(code, 0, "{text}");
    let empty = dir.path().join("empty.toml");
    std::fs::write(&empty, format!("extends = [{made:?}]\n[sweep.grid]\n\"run.seed\" = []\n")).unwrap();
    refused(&["sweep", empty.to_str().unwrap(), "--dry-run"], &["`run.seed` has no values"]);
    let up = dir.path().join("up.toml");
    std::fs::write(&up, format!("extends = [{made:?}]\n[sweep.variants]\n\"../up\" = {{}}\n")).unwrap();
    refused(&["sweep", up.to_str().unwrap(), "--dry-run"], &["`../up` cannot be the name of a variant"]);
    let other = found.lines().skip_while(|l| !l.contains("other,seed=1")).nth(1).unwrap();
    assert!(!other.contains("--unset sweep"), "{other}");
}

#[test]
fn findings_are_told_to_programs() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("bad.toml");
    let tiny = support::root().join("tests/recipes/tiny.toml");
    std::fs::write(&path, format!("extends = [{tiny:?}]\n[model.identity]\n# ä\nmargn = 0.5\n")).unwrap();
    let output = mtlrun(&["check", "--json", path.to_str().unwrap(), "recipes/aifr_scaf.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found[0]["good"], &found[1]["good"]), (&false.into(), &true.into()));
    let one = &found[0]["found"][0];
    assert_eq!(one["severity"], "error");
    assert_eq!(
        (&one["place"]["line"], &one["place"]["column"], &one["place"]["end_column"]),
        (&4.into(), &1.into(), &6.into())
    );
    assert!(one["place"]["file"].as_str().unwrap().ends_with("bad.toml"));
    assert!(one["help"][0].as_str().unwrap().contains("margin"), "{one}");
    let output = mtlrun(&["check", "--json", "/nowhere.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found[0]["found"][0]["message"].as_str().unwrap().contains("/nowhere.toml"));
}

#[test]
fn a_recipe_adds_metrics_and_hooks() {
    let dir = TempDir::new().unwrap();
    let run = dir.path().join("run");
    let recipe = dir.path().join("r.toml");
    let made = support::root().join("tests/recipes/made.toml");
    let text = format!(
        "extends = [{:?}]\nremove = [\"evaluate.leakage\"]\n[run.checkpoint]\nbest = \"age.within_20\"\n[evaluate.age]\nmetrics = \
         [{{ component = \"share_below\", name = \"within_20\", column = \"error\", bound = 20.0, better = \"larger\" }}]\n[hook.numbers]\n\
         component = \"csv_log\"\n",
        made.display().to_string()
    );
    std::fs::write(&recipe, text).unwrap();
    let recipe = recipe.to_str().unwrap();
    let output = mtlrun(&[recipe, "--out", run.to_str().unwrap()]).output().unwrap();
    let (code, text) = outcome(&output);
    assert!(code == 0 && text.contains("within_20 "), "{text}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(RunFolder::at(&run).report("age", 3)).unwrap()).unwrap();
    assert!((0.0..=1.0).contains(&report["metrics"]["within_20"].as_f64().unwrap()), "{report}");
    let best: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.join("checkpoints/best.json")).unwrap()).unwrap();
    assert_eq!(best["metric"], "age.within_20");
    let numbers = std::fs::read_to_string(run.join("numbers.csv")).unwrap();
    assert!(numbers.starts_with("step,name,value\n") && numbers.contains("\n3,loss/total,"), "{numbers}");
    refused(
        &[recipe, "--set", "hook.numbers.file=../numbers.csv"],
        &["`file` is the name of a file in the run folder"],
    );
}
