//! `mtlrun runs` and `mtlrun compare`: what several runs found, side by side.

use crate::arguments::{Compare, Format, Runs};
use crate::bootstrap::{DRAWS, Difference, Drawn, Judge, difference};
use crate::curves::{self, Chart, Curve};
use crate::records::{self, Record};
use anyhow::Result;
use indexmap::IndexMap;
use mtl_core::diagnostic::suggestion;
use mtl_core::mistake;
use mtl_core::recipe;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

/// Paths in which runs of one experiment may differ without being another variant.
const SAME: &[&str] = &["run.seed", "run.name", "run.device", "run.threads", "run.log_every"];

/// Lists the runs in a folder.
pub fn runs(args: &Runs) -> Result<u8> {
    let found = records::find(std::slice::from_ref(&args.folder))?;
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|run| {
            let state = if run.finished { "done" } else { "not finished" };
            // The first figure of each evaluator is its main one.
            let mut seen = HashSet::new();
            let main = run.metrics.iter().filter(|(name, _)| seen.insert(name.split('.').next()));
            let metrics: Vec<String> = main.map(|(n, v)| format!("{n} {v:.4}")).collect();
            let path = run.folder.display().to_string();
            vec![path, state.into(), format!("{}/{}", run.step, run.steps()), metrics.join("  ")]
        })
        .collect();
    print!("{}", aligned(&["run", "state", "step", "measured"].map(str::to_owned), &rows));
    Ok(0)
}

/// Runs that differ by their seeds alone.
struct Variant<'a> {
    label: String,
    runs: Vec<&'a Record>,
}

/// Mean, deviation (of the sample) and number of values.
#[derive(Clone, Copy)]
pub struct Figure {
    /// The mean.
    pub mean: f64,
    /// The deviation of the sample; of one value 0.
    pub deviation: f64,
    /// How many values.
    pub count: usize,
}

impl Figure {
    /// Of some values; none of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        (n > 0).then_some(Self { mean, deviation, count: n })
    }

    fn text(self) -> String {
        if self.count > 1 { format!("{:.4} ± {:.4}", self.mean, self.deviation) } else { format!("{:.4}", self.mean) }
    }
}

/// Compares runs.
pub fn compare(args: &Compare) -> Result<u8> {
    let (found, unfinished): (Vec<Record>, Vec<Record>) =
        records::find(&args.runs)?.into_iter().partition(|run| run.finished);
    if !unfinished.is_empty() {
        let names: Vec<String> =
            unfinished.iter().map(|r| format!("{} ({}/{})", r.folder.display(), r.step, r.steps())).collect();
        eprintln!("note: not finished, and left out: {}", names.join(", "));
    }
    if found.is_empty() {
        mistake!("none of the runs is finished");
    }
    for path in &args.by {
        if found.iter().all(|run| run.at(path).is_none()) {
            mistake!("no run has a value at `{path}`, which --by names: see `mtlrun show` for the paths");
        }
    }
    let variants = variants(&found, &args.by);
    let against = against(&variants, args.against.as_deref())?;
    if args.format == Format::Svg {
        print!("{}", curves::draw(&charts(&found, &variants, &args.metric)?)?);
        return Ok(0);
    }
    let all: Vec<&String> = {
        let mut names: Vec<&String> = found.iter().flat_map(|r| r.metrics.keys()).collect();
        let mut seen = HashSet::new();
        names.retain(|n| seen.insert(*n));
        names
    };
    for wanted in &args.metric {
        if !all.contains(&wanted) {
            if found.iter().any(|run| run.curves.contains_key(wanted)) {
                mistake!("`{wanted}` is a curve of training: --format svg draws it");
            }
            mistake!("no run has measured `{wanted}`: {}", suggestion(wanted, all.iter().map(|n| n.as_str())));
        }
    }
    let metrics: Vec<&str> = match args.metric.is_empty() {
        true => all.iter().map(|n| n.as_str()).collect(),
        false => args.metric.iter().map(String::as_str).collect(),
    };
    let figures: Vec<Vec<Option<Figure>>> = variants
        .iter()
        .map(|variant| {
            let values = |metric: &str| variant.runs.iter().filter_map(|r| r.metrics.get(metric).copied()).collect();
            metrics.iter().map(|metric| Figure::of(&values(metric) as &Vec<f64>)).collect()
        })
        .collect();
    let best: Vec<Option<f64>> = (0..metrics.len())
        .map(|m| {
            let means = figures.iter().filter_map(|row| Some(row[m]?.mean)).filter(|mean| mean.is_finite());
            let best = match direction(metrics[m])? {
                Better::Larger => means.max_by(f64::total_cmp),
                Better::Smaller => means.min_by(f64::total_cmp),
            };
            best.filter(|_| variants.len() > 1)
        })
        .collect();
    let cell = |row: usize, m: usize, mark: &dyn Fn(String) -> String| match figures[row][m] {
        Some(figure) => {
            let all = figure.count == variants[row].runs.len();
            let text = if all { figure.text() } else { format!("{} (of {})", figure.text(), figure.count) };
            if best[m] == Some(figure.mean) { mark(text) } else { text }
        }
        None => "–".into(),
    };
    let table = |mark: &dyn Fn(String) -> String| -> Vec<Vec<String>> {
        let line = |(i, v): (usize, &Variant<'_>)| {
            let mut line = vec![v.label.clone(), v.runs.len().to_string()];
            line.extend((0..metrics.len()).map(|m| cell(i, m, mark)));
            line
        };
        variants.iter().enumerate().map(line).collect()
    };
    let mut head = vec!["variant".to_owned(), "runs".to_owned()];
    head.extend(metrics.iter().map(|m| (*m).to_owned()));
    let apart = match args.format {
        // It has no place for them.
        Format::Csv => vec![vec![None; metrics.len()]; variants.len()],
        _ => differences(&variants, against, &metrics),
    };
    let columns: Vec<usize> = (0..metrics.len()).filter(|m| apart.iter().any(|row| row[*m].is_some())).collect();
    let title = format!(
        "difference from {} ± its deviation over the seeds of both [the middle 95 % of {DRAWS} paired draws of the cases]",
        variants[against].label
    );
    let mut apart_head = vec!["variant".to_owned()];
    apart_head.extend(columns.iter().map(|m| metrics[*m].to_owned()));
    let apart_rows: Vec<Vec<String>> = (0..variants.len())
        .filter(|row| *row != against)
        .map(|row| {
            let cells = columns.iter().map(|m| apart[row][*m].map_or("–".to_owned(), Difference::text));
            std::iter::once(variants[row].label.clone()).chain(cells).collect()
        })
        .collect();
    let markdown = |head: &[String], rows: &[Vec<String>]| {
        println!("| {} |", head.join(" | "));
        println!("|{}", "---|".repeat(head.len()));
        for row in rows {
            println!("| {} |", row.join(" | "));
        }
    };
    match args.format {
        Format::Table => {
            print!("{}", aligned(&head, &table(&|text| format!("{text} *"))));
            if !columns.is_empty() {
                print!("\n{title}:\n{}", aligned(&apart_head, &apart_rows));
            }
        }
        Format::Md => {
            markdown(&head, &table(&|text| format!("**{text}**")));
            if !columns.is_empty() {
                println!("\n{title}:\n");
                markdown(&apart_head, &apart_rows);
            }
        }
        Format::Csv => {
            println!(
                "variant,runs,{}",
                metrics.iter().map(|m| format!("{m},{m}.deviation")).collect::<Vec<_>>().join(",")
            );
            for (variant, row) in variants.iter().zip(&figures) {
                // One run has no deviation.
                let deviation = |f: &Figure| if f.count > 1 { f.deviation.to_string() } else { String::new() };
                let numbers = row.iter().map(|f| f.map_or(",".into(), |f| format!("{},{}", f.mean, deviation(&f))));
                let label = variant.label.replace('"', "\"\"");
                println!("\"{label}\",{},{}", variant.runs.len(), numbers.collect::<Vec<_>>().join(","));
            }
        }
        Format::Json => {
            let rows: Vec<Value> = variants
                .iter()
                .enumerate()
                .map(|(row, variant)| {
                    let figure = |m: usize| {
                        let f = figures[row][m]?;
                        let mut all = json!({ "mean": f.mean, "deviation": f.deviation, "count": f.count });
                        if let Some(d) = apart[row][m] {
                            let from = &variants[against].label;
                            all["difference"] = json!({
                                "from": from, "mean": d.mean, "deviation": d.deviation, "low": d.low, "high": d.high,
                            });
                        }
                        Some((metrics[m], all))
                    };
                    let found: IndexMap<&str, Value> = (0..metrics.len()).filter_map(figure).collect();
                    let folders: Vec<_> = variant.runs.iter().map(|r| &r.folder).collect();
                    json!({ "variant": variant.label, "runs": folders, "metrics": found })
                })
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Format::Svg => {}
    }
    Ok(0)
}

impl Difference {
    fn text(self) -> String {
        let deviation = self.deviation.map(|d| format!(" ± {d:.4}")).unwrap_or_default();
        format!("{:+.4}{deviation} [{:+.4}, {:+.4}]", self.mean, self.low, self.high)
    }
}

/// The variant of that label that the others are held against; without one the first.
fn against(variants: &[Variant<'_>], label: Option<&str>) -> Result<usize> {
    let Some(label) = label else { return Ok(0) };
    match variants.iter().position(|variant| variant.label == label) {
        Some(found) => Ok(found),
        None => mistake!(
            "--against names no variant: there is no `{label}`: {}",
            suggestion(label, variants.iter().map(|v| v.label.as_str()))
        ),
    }
}

/// The evaluators of a run, if its recipe is one of this program; else that is told.
fn judge(run: &Record) -> Option<Judge<'_>> {
    let found = Judge::new(run);
    if let Err(error) = &found {
        let path = run.folder.display();
        eprintln!("note: {path}: this program does not read its recipe, so that no interval is told:\n{error:#}");
    }
    found.ok()
}

/// For each variant and metric the difference from one of them, where the runs have kept what they measured case by
/// case. What stands in the way is told.
fn differences(variants: &[Variant<'_>], against: usize, metrics: &[&str]) -> Vec<Vec<Option<Difference>>> {
    let mut out = vec![vec![None; metrics.len()]; variants.len()];
    if variants.len() < 2 {
        return out;
    }
    let judges: Vec<Vec<Option<Judge<'_>>>> =
        variants.iter().map(|variant| variant.runs.iter().map(|run| judge(run)).collect()).collect();
    for (m, metric) in metrics.iter().enumerate() {
        let draw = |judge: &Option<Judge<'_>>| match judge.as_ref()?.draw(metric) {
            Ok(drawn) => drawn,
            Err(reason) => {
                eprintln!("note: no interval of `{metric}`: {reason}");
                None
            }
        };
        let drawn: Vec<Option<Vec<Drawn>>> = judges.iter().map(|runs| runs.iter().map(draw).collect()).collect();
        let runs = |row: usize| Some(drawn[row].as_ref()?.iter().collect::<Vec<&Drawn>>());
        for row in (0..variants.len()).filter(|row| *row != against) {
            let (Some(first), Some(second)) = (runs(against), runs(row)) else { continue };
            match difference(&first, &second) {
                Ok(found) => out[row][m] = found,
                Err(reason) => {
                    eprintln!("note: no interval of `{metric}` for {}: {reason}", variants[row].label);
                }
            }
        }
    }
    out
}

/// A chart for each wanted figure, `loss/total` by default; a line a variant, the mean over its runs at each step.
fn charts(runs: &[Record], variants: &[Variant<'_>], wanted: &[String]) -> Result<Vec<Chart>> {
    let default = ["loss/total".to_owned()];
    let wanted = if wanted.is_empty() { &default[..] } else { wanted };
    wanted
        .iter()
        .map(|name| {
            if !runs.iter().any(|r| r.curves.contains_key(name)) {
                let known = runs.iter().flat_map(|r| r.curves.keys()).map(String::as_str);
                mistake!("no run has a curve `{name}`: {}", suggestion(name, known));
            }
            let curve = |variant: &Variant<'_>| {
                let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
                for (step, value) in variant.runs.iter().filter_map(|r| r.curves.get(name)).flatten() {
                    let sum = sums.entry(*step).or_default();
                    *sum = (sum.0 + value, sum.1 + 1.0);
                }
                let points = sums.into_iter().map(|(step, (sum, count))| (step, sum / count)).collect();
                Curve { label: variant.label.clone(), points }
            };
            Ok(Chart { name: name.clone(), curves: variants.iter().map(curve).collect() })
        })
        .collect()
}

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Larger,
    Smaller,
}

/// Which way a figure is better, by the words of its name; none where that cannot be told.
fn direction(metric: &str) -> Option<Better> {
    let last = metric.split_once('.').map_or(metric, |(_, name)| name);
    let has = |words: &[&str]| words.iter().any(|word| last.contains(word));
    if has(&["mae", "eer", "error", "loss"]) {
        return Some(Better::Smaller);
    }
    // What a probe reads from features is good or bad as the experiment will have it.
    if has(&["features", "unchanged", "real_", "threshold", "commonest", "deviation"]) {
        return None;
    }
    has(&["accuracy", "auc", "tar", "rank_correlation", "rising", "cosine", "verified", "psnr", "ssim"])
        .then_some(Better::Larger)
}

/// Groups runs by the values in which their recipes differ, or by the given paths.
fn variants<'a>(runs: &'a [Record], by: &[String]) -> Vec<Variant<'a>> {
    let mut paths: Vec<String> = by.to_vec();
    if by.is_empty() {
        for run in runs.iter().skip(1) {
            for (path, ..) in recipe::difference(&runs[0].recipe, &run.recipe) {
                if !SAME.contains(&path.as_str()) && !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
    }
    let mut out: Vec<(Vec<Option<&Value>>, Variant<'a>)> = Vec::new();
    for run in runs {
        let key: Vec<Option<&Value>> = paths.iter().map(|p| run.at(p)).collect();
        match out.iter_mut().find(|(known, _)| *known == key) {
            Some((_, variant)) => variant.runs.push(run),
            None => {
                let label = label(&paths, &key, run, by.is_empty());
                out.push((key, Variant { label, runs: vec![run] }));
            }
        }
    }
    // Where names do not tell variants apart, everything that differs does.
    let labels: Vec<String> = out.iter().map(|(_, v)| v.label.clone()).collect();
    out.into_iter()
        .map(|(key, mut variant)| {
            if labels.iter().filter(|l| **l == variant.label).count() > 1 {
                variant.label = spelled(&paths, &key);
            }
            variant
        })
        .collect()
}

/// A few differing values are named; beyond them the name of the run says more.
fn label(paths: &[String], key: &[Option<&Value>], run: &Record, automatic: bool) -> String {
    let text = spelled(paths, key);
    if automatic && (paths.len() > 3 || text.len() > 70 || text.is_empty()) {
        let named = || run.at("run.name").and_then(Value::as_str).map(str::to_owned);
        return run.variant().or_else(named).unwrap_or_else(|| run.name());
    }
    text
}

/// The values that differ, each with its path.
fn spelled(paths: &[String], key: &[Option<&Value>]) -> String {
    let each = paths.iter().zip(key).map(|(path, value)| match value {
        Some(Value::String(text)) => format!("{path}={text}"),
        Some(value) => format!("{path}={value}"),
        None => format!("no {path}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

/// Columns as wide as their widest cell.
fn aligned(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = std::iter::once(&head[column]).chain(rows.iter().map(|r| &r[column]));
        cells.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    std::iter::once(line(head)).chain(rows.iter().map(|r| line(r))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, seed: u64, margin: f64, accuracy: f64) -> Record {
        Record {
            folder: name.into(),
            point: false,
            recipe: json!({ "run": { "seed": seed, "name": name }, "model": { "identity": { "margin": margin } } }),
            step: 1,
            metrics: IndexMap::from([("v.accuracy".to_owned(), accuracy)]),
            curves: IndexMap::new(),
            finished: true,
        }
    }

    #[test]
    fn runs_that_differ_by_seed_are_one_variant() {
        let runs = [run("a", 1, 0.3, 0.9), run("b", 2, 0.3, 0.8), run("c", 1, 0.5, 0.7)];
        let found = variants(&runs, &[]);
        let told: Vec<(&str, usize)> = found.iter().map(|v| (v.label.as_str(), v.runs.len())).collect();
        assert_eq!(told, [("model.identity.margin=0.3", 2), ("model.identity.margin=0.5", 1)]);
        let by_seed = variants(&runs, &["run.seed".to_owned()]);
        assert_eq!(by_seed[0].label, "run.seed=1");
        assert_eq!(by_seed[0].runs.len(), 2);
    }

    #[test]
    fn names_that_do_not_tell_variants_apart_are_spelled_out() {
        let mut runs = [run("exp", 1, 0.3, 0.9), run("exp", 1, 0.4, 0.9)];
        for (run, extra) in runs.iter_mut().zip([1, 2]) {
            run.recipe["model"] = json!({ "a": { "x": extra, "y": extra, "z": extra, "w": extra } });
        }
        let labels: Vec<String> = variants(&runs, &[]).into_iter().map(|v| v.label).collect();
        assert_eq!(
            labels,
            ["model.a.x=1 model.a.y=1 model.a.z=1 model.a.w=1", "model.a.x=2 model.a.y=2 model.a.z=2 model.a.w=2"]
        );
    }

    #[test]
    fn what_is_better_is_told_only_where_it_is_known() {
        assert_eq!(direction("age.mae"), Some(Better::Smaller));
        assert_eq!(direction("verification.tar_at_far_0.01"), Some(Better::Larger));
        for neutral in ["leakage.identity_features_age_r2", "ageing.threshold", "ageing.psnr_unchanged", "mine.thing"] {
            assert_eq!(direction(neutral), None, "{neutral}");
        }
    }

    #[test]
    fn the_deviation_is_that_of_the_sample() {
        let figure = Figure::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((figure.mean, figure.deviation, figure.count), (2.0, 1.0, 3));
        assert_eq!(Figure::of(&[0.5]).unwrap().text(), "0.5000");
        assert!(Figure::of(&[]).is_none());
    }
}
