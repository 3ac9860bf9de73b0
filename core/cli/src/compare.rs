//! `mtlrun runs` and `mtlrun compare`: what several runs found, side by side.

use crate::arguments::{Compare, Format, Runs};
use crate::curves::{self, Chart, Curve};
use crate::figures::{Difference, Figure, Interval};
use crate::resampling::{DRAWS, Resample, difference, direction, interval, resample};
use crate::table::{aligned, markdown, readable};
use indexmap::{IndexMap, IndexSet};
use mtl_component::{Axis, Better, Registry, ReportCurve, Result, mistake};
use mtl_engine::recipe::Recipe;
use mtl_engine::runs::{Record, State, find};
use mtl_evaluation::protocol::INDEPENDENT;
use mtl_recipe::files::read_bounded;
use mtl_recipe::{difference as changes, suggestion};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The largest report that is read.
const MAX_REPORT: u64 = 1 << 30;

/// Paths in which runs of one experiment may differ without being another variant.
const SAME: &[&str] = &["run.seed", "run.name", "run.device", "run.threads", "run.log_every"];

/// Lists the runs in a folder.
pub fn runs(args: &Runs) -> Result<u8> {
    let found = find(std::slice::from_ref(&args.folder))?;
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|run| {
            // The first figure of each evaluator is its main one.
            let mut seen = HashSet::new();
            let main = run.metrics.iter().filter(|(name, _)| seen.insert(name.split('.').next()));
            let metrics: Vec<String> = main.map(|(n, v)| format!("{n} {v:.4}")).collect();
            let path = run.folder.path().display().to_string();
            vec![path, run.state.to_string(), format!("{}/{}", run.step, run.steps()), metrics.join("  ")]
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

/// Compares runs.
pub fn compare(registry: &Arc<Registry>, args: &Compare) -> Result<u8> {
    let found = finished(args)?;
    let variants = variants(&found, &args.by);
    let against = against(&variants, args.against.as_deref())?;
    variants.iter().for_each(tell_builds);
    if args.format == Format::Svg {
        print!("{}", curves::draw(&charts(&found, &variants, &args.metric)?)?);
        return Ok(0);
    }
    let metrics = metrics(&found, &args.metric)?;
    let recipes = recipes(registry, &variants);
    let mut comparison = Comparison::new(&variants, against, &metrics, &recipes);
    // Comma-separated values have no place for differences.
    if args.format != Format::Csv {
        comparison.measure_differences(&recipes);
    }
    match args.format {
        Format::Csv => comparison.csv()?,
        Format::Svg => {}
        Format::Table => {
            let (head, rows) = comparison.figures_table(&|text| format!("{text} *"));
            print!("{}", readable(&head, &rows));
            if let Some((title, head, rows)) = comparison.sure() {
                print!("\n{title}:\n{}", readable(&head, &rows));
            }
        }
        Format::Md => {
            let (head, rows) = comparison.figures_table(&|text| format!("**{text}**"));
            print!("{}", markdown(&head, &rows));
            if let Some((title, head, rows)) = comparison.sure() {
                print!("\n{title}:\n\n{}", markdown(&head, &rows));
            }
        }
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&comparison.json())?);
        }
    }
    Ok(0)
}

/// Tells where the runs of a variant were trained with different builds of a plugin.
fn tell_builds(variant: &Variant<'_>) {
    let mut builds: IndexMap<String, HashSet<String>> = IndexMap::new();
    for run in &variant.runs {
        let record = run.folder.record().unwrap_or_default();
        for plugin in record.get("plugins").and_then(|all| all.as_array()).into_iter().flatten() {
            let text = |key: &str| plugin[key].as_str().unwrap_or_default().to_owned();
            builds.entry(text("name")).or_default().insert(text("sha256"));
        }
    }
    for (name, hashes) in builds.iter().filter(|(_, hashes)| hashes.len() > 1) {
        tracing::warn!("the runs of {} were trained with {} builds of the plugin {name}", variant.label, hashes.len());
    }
}

/// The finished ones of the runs; which are not is told.
fn finished(args: &Compare) -> Result<Vec<Record>> {
    let (found, unfinished): (Vec<Record>, Vec<Record>) =
        find(&args.runs)?.into_iter().partition(|run| run.state == State::Finished);
    if !unfinished.is_empty() {
        let name = |r: &Record| format!("{} ({}/{})", r.folder.path().display(), r.step, r.steps());
        let names: Vec<String> = unfinished.iter().map(name).collect();
        tracing::info!("not finished, and left out: {}", names.join(", "));
    }
    if found.is_empty() {
        mistake!("none of the runs is finished");
    }
    for path in &args.by {
        if found.iter().all(|run| run.at(path).is_none()) {
            mistake!("no run has a value at `{path}`, which --by names: see `mtlrun show` for the paths");
        }
    }
    Ok(found)
}

/// The figures that are compared: the wanted ones, or all that any run has measured.
fn metrics(runs: &[Record], wanted: &[String]) -> Result<Vec<String>> {
    let mut seen = HashSet::new();
    let mut all: Vec<&String> = runs.iter().flat_map(|run| run.metrics.keys().chain(&run.unresolved)).collect();
    all.retain(|name| seen.insert(*name));
    if let Some(wanted) = wanted.iter().find(|wanted| !all.contains(wanted)) {
        if runs.iter().any(|run| run.curves.contains_key(wanted)) {
            mistake!("`{wanted}` is a curve of training: --format svg draws it");
        }
        mistake!("no run has measured `{wanted}`: {}", suggestion(wanted, all.iter().map(|n| n.as_str())));
    }
    Ok(if wanted.is_empty() { all.into_iter().cloned().collect() } else { wanted.to_vec() })
}

/// The recipe of each run of each variant, where it is one of this program; else that is told.
fn recipes(registry: &Arc<Registry>, variants: &[Variant<'_>]) -> Vec<Vec<Option<Recipe>>> {
    let read = |run: &&Record| match run.folder.recipe(registry, &[]) {
        Ok(recipe) => Some(recipe),
        Err(error) => {
            let path = run.folder.path().display();
            tracing::info!("{path}: this program cannot read its recipe, so that no interval is given:\n{error:#}");
            None
        }
    };
    variants.iter().map(|variant| variant.runs.iter().map(read).collect()).collect()
}

/// What variants have measured.
struct Comparison<'a> {
    variants: &'a [Variant<'a>],
    against: usize,
    metrics: &'a [String],
    /// For each variant and metric.
    figures: Vec<Vec<Option<Figure>>>,
    /// For each metric the best mean, where it is known which way it is better.
    best: Vec<Option<f64>>,
    /// For each variant and metric the difference from one of them.
    apart: Vec<Vec<Option<Difference>>>,
    /// For each variant and metric how sure it is.
    own: Vec<Vec<Option<Interval>>>,
}

impl<'a> Comparison<'a> {
    fn new(
        variants: &'a [Variant<'a>],
        against: usize,
        metrics: &'a [String],
        recipes: &[Vec<Option<Recipe>>],
    ) -> Self {
        let figure = |variant: &Variant<'_>, metric: &String| {
            Figure::of(&variant.runs.iter().filter_map(|run| run.metrics.get(metric).copied()).collect::<Vec<_>>())
        };
        let figures: Vec<Vec<Option<Figure>>> =
            variants.iter().map(|variant| metrics.iter().map(|metric| figure(variant, metric)).collect()).collect();
        let best = |(m, metric): (usize, &String)| {
            // One variant alone is not the best.
            if variants.len() < 2 {
                return None;
            }
            let better = recipes.iter().flatten().flatten().find_map(|recipe| direction(recipe, metric))?;
            let means = figures.iter().filter_map(|row| Some(row[m]?.mean)).filter(|mean| mean.is_finite());
            match better {
                Better::Larger => means.max_by(f64::total_cmp),
                Better::Smaller => means.min_by(f64::total_cmp),
                Better::Neither => None,
            }
        };
        let best = metrics.iter().enumerate().map(best).collect();
        let apart = vec![vec![None; metrics.len()]; variants.len()];
        let own = vec![vec![None; metrics.len()]; variants.len()];
        Self { variants, against, metrics, figures, best, apart, own }
    }

    /// Fills in the differences, where the runs have kept what they measured case by case. What stands in the way is
    /// told.
    fn measure_differences(&mut self, recipes: &[Vec<Option<Recipe>>]) {
        for (m, metric) in self.metrics.iter().enumerate() {
            let draw = |(run, recipe): (&&Record, &Option<Recipe>)| {
                resample(run, recipe.as_ref()?, metric).unwrap_or_else(|reason| {
                    tracing::info!("no interval of `{metric}`: {reason}");
                    None
                })
            };
            let variants = self.variants.iter().zip(recipes);
            let drawn: Vec<Option<Vec<Resample>>> =
                variants.map(|(variant, recipes)| variant.runs.iter().zip(recipes).map(draw).collect()).collect();
            let runs = |row: usize| Some(drawn[row].as_ref()?.iter().collect::<Vec<&Resample>>());
            for row in 0..self.variants.len() {
                self.own[row][m] = runs(row).and_then(|runs| interval(&runs).ok().flatten());
            }
            for row in (0..self.variants.len()).filter(|row| *row != self.against) {
                let (Some(first), Some(second)) = (runs(self.against), runs(row)) else { continue };
                match difference(&first, &second) {
                    Ok(found) => self.apart[row][m] = found,
                    Err(reason) => {
                        tracing::info!("no interval of `{metric}` for {}: {reason}", self.variants[row].label);
                    }
                }
            }
        }
    }

    /// Whether a run of that row says of the metric that its cases are too few for it.
    fn unresolved(&self, row: usize, metric: &str) -> bool {
        self.variants[row].runs.iter().any(|run| run.unresolved.contains(metric))
    }

    fn cell(&self, row: usize, m: usize, mark: &dyn Fn(String) -> String) -> String {
        let Some(figure) = self.figures[row][m] else {
            return if self.unresolved(row, &self.metrics[m]) { "not resolved".into() } else { "–".into() };
        };
        let all = figure.count == self.variants[row].runs.len();
        let text = if all { figure.text() } else { format!("{} (of {})", figure.text(), figure.count) };
        if self.best[m] == Some(figure.mean) { mark(text) } else { text }
    }

    /// Head and rows of what was measured; `mark` marks the best.
    fn figures_table(&self, mark: &dyn Fn(String) -> String) -> (Vec<String>, Vec<Vec<String>>) {
        let mut head = vec!["variant".to_owned(), "runs".to_owned()];
        head.extend(self.metrics.iter().cloned());
        let line = |(row, variant): (usize, &Variant<'_>)| {
            let mut line = vec![variant.label.clone(), variant.runs.len().to_string()];
            line.extend((0..self.metrics.len()).map(|m| self.cell(row, m, mark)));
            line
        };
        (head, self.variants.iter().enumerate().map(line).collect())
    }

    fn title(&self) -> String {
        let known = || self.apart.iter().flatten().flatten();
        let drawn = match (known().any(|d| d.by_person), known().any(|d| !d.by_person)) {
            (true, false) => "the people".to_owned(),
            (false, _) => format!("the cases; {INDEPENDENT}"),
            (true, true) => {
                let by_case = |m: &usize| self.apart.iter().filter_map(|row| row[*m]).any(|d| !d.by_person);
                let names =
                    (0..self.metrics.len()).filter(by_case).map(|m| self.metrics[m].clone()).collect::<Vec<_>>();
                format!("the people; for {} of the cases, {INDEPENDENT}", names.join(", "))
            }
        };
        format!(
            "difference from {} ± its deviation over the seeds of both [the middle 95 % of {DRAWS} paired draws of {drawn}]",
            self.variants[self.against].label
        )
    }

    /// Title, head and rows of how sure it all is: differences, or of one variant alone its figures.
    fn sure(&self) -> Option<(String, Vec<String>, Vec<Vec<String>>)> {
        if self.variants.len() > 1 {
            return self.differences_table().map(|(head, rows)| (self.title(), head, rows));
        }
        let known: Vec<(&String, Interval)> =
            self.metrics.iter().zip(&self.own[0]).filter_map(|(metric, own)| Some((metric, (*own)?))).collect();
        let drawn = match known.iter().find(|(_, own)| !own.by_person) {
            None => "the people".to_owned(),
            Some((metric, _)) => format!("the people, or of the cases (such as for {metric}; {INDEPENDENT})"),
        };
        let head = vec!["metric".to_owned(), "interval".to_owned()];
        let rows: Vec<Vec<String>> = known.iter().map(|(metric, own)| vec![(*metric).clone(), own.text()]).collect();
        (!rows.is_empty()).then(|| (format!("the middle 95 % of {DRAWS} draws of {drawn}"), head, rows))
    }

    /// Head and rows of the differences, if there are some.
    fn differences_table(&self) -> Option<(Vec<String>, Vec<Vec<String>>)> {
        let known = |m: &usize| self.apart.iter().any(|row| row[*m].is_some());
        let columns: Vec<usize> = (0..self.metrics.len()).filter(known).collect();
        let mut head = vec!["variant".to_owned()];
        head.extend(columns.iter().map(|m| self.metrics[*m].clone()));
        let line = |row: usize| {
            let cells = columns.iter().map(|m| self.apart[row][*m].map_or("–".to_owned(), Difference::text));
            std::iter::once(self.variants[row].label.clone()).chain(cells).collect()
        };
        let rows = (0..self.variants.len()).filter(|row| *row != self.against).map(line).collect();
        (!columns.is_empty()).then_some((head, rows))
    }

    /// Prints means and deviations as comma-separated values.
    fn csv(&self) -> Result<()> {
        let mut out = csv::Writer::from_writer(std::io::stdout());
        let names = self.metrics.iter().flat_map(|m| [m.clone(), format!("{m}.deviation")]);
        out.write_record(["variant".to_owned(), "runs".to_owned()].into_iter().chain(names))?;
        for (variant, row) in self.variants.iter().zip(&self.figures) {
            // One run has no deviation.
            let deviation = |f: Figure| if f.count > 1 { f.deviation.to_string() } else { String::new() };
            let cells = row.iter().flat_map(|figure| match figure {
                Some(figure) => [figure.mean.to_string(), deviation(*figure)],
                None => [String::new(), String::new()],
            });
            out.write_record([variant.label.clone(), variant.runs.len().to_string()].into_iter().chain(cells))?;
        }
        Ok(out.flush()?)
    }

    fn json(&self) -> Vec<Value> {
        let figure = |row: usize, m: usize| {
            let f = self.figures[row][m]?;
            let mut all = json!({ "mean": f.mean, "deviation": f.deviation, "count": f.count });
            if let Some(own) = self.own[row][m] {
                all["interval"] = json!({ "low": own.low, "high": own.high, "drawn": drawn(own.by_person) });
            }
            if let Some(d) = self.apart[row][m] {
                let from = &self.variants[self.against].label;
                all["difference"] = json!({
                    "from": from, "mean": d.mean, "deviation": d.deviation, "low": d.low, "high": d.high,
                    "drawn": drawn(d.by_person),
                });
            }
            Some((self.metrics[m].as_str(), all))
        };
        let unresolved = |row: usize| -> Vec<&String> {
            self.metrics.iter().filter(|metric| self.unresolved(row, metric)).collect()
        };
        let variant = |(row, variant): (usize, &Variant<'_>)| {
            let found: IndexMap<&str, Value> = (0..self.metrics.len()).filter_map(|m| figure(row, m)).collect();
            let folders: Vec<_> = variant.runs.iter().map(|run| run.folder.path()).collect();
            json!({
                "variant": variant.label, "runs": folders, "metrics": found, "not_resolved": unresolved(row),
            })
        };
        self.variants.iter().enumerate().map(variant).collect()
    }
}

/// What the draws behind an interval were drawn from.
fn drawn(by_person: bool) -> &'static str {
    if by_person { "people" } else { INDEPENDENT }
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

/// A chart for each wanted figure, `loss/total` by default, with a line for each variant: the mean over its runs at each step.
fn charts(runs: &[Record], variants: &[Variant<'_>], wanted: &[String]) -> Result<Vec<Chart>> {
    let default = ["loss/total".to_owned()];
    let wanted = if wanted.is_empty() { &default[..] } else { wanted };
    wanted
        .iter()
        .map(|name| {
            if !runs.iter().any(|r| r.curves.contains_key(name)) {
                return reported(runs, variants, name);
            }
            let curve = |variant: &Variant<'_>| {
                let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
                for (step, value) in variant.runs.iter().filter_map(|r| r.curves.get(name)).flatten() {
                    let sum = sums.entry(*step).or_default();
                    *sum = (sum.0 + value, sum.1 + 1.0);
                }
                let points = sums.into_iter().map(|(step, (sum, count))| (step as f64, sum / count)).collect();
                Curve { label: variant.label.clone(), points }
            };
            let axes = [Axis::new("step"), Axis::new("")];
            Ok(Chart { name: name.clone(), axes, curves: variants.iter().map(curve).collect() })
        })
        .collect()
}

/// A chart of a curve that evaluators have reported, such as `verification.roc`: the newest of each run.
fn reported(runs: &[Record], variants: &[Variant<'_>], name: &str) -> Result<Chart> {
    let mut axes = None;
    let mut curves = Vec::new();
    for variant in variants {
        for run in &variant.runs {
            let Some(found) = reports(run).into_iter().find(|(own, _)| own == name) else { continue };
            let seed =
                run.at("run.seed").filter(|_| variant.runs.len() > 1).map_or(String::new(), |s| format!(", seed {s}"));
            axes.get_or_insert([found.1.x, found.1.y]);
            curves.push(Curve { label: format!("{}{seed}", variant.label), points: found.1.points });
        }
    }
    if let Some(axes) = axes {
        return Ok(Chart { name: name.to_owned(), axes, curves });
    }
    let of_evaluators: Vec<String> = runs.iter().flat_map(reports).map(|(name, _)| name).collect();
    let known = runs.iter().flat_map(|r| r.curves.keys()).chain(&of_evaluators).map(String::as_str);
    let known: IndexSet<&str> = known.collect();
    mistake!("no run has a curve `{name}`: {}", suggestion(name, known))
}

/// The curves in the newest reports of a run, as `evaluator.curve`.
fn reports(run: &Record) -> Vec<(String, ReportCurve)> {
    let folder = run.folder.reports();
    let files = folder.path().read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for file in files {
        let name = file.to_string_lossy().into_owned();
        let parts = name.strip_suffix(".json").and_then(|name| name.rsplit_once(".step-"));
        let Some((evaluator, Ok(step))) = parts.map(|(evaluator, step)| (evaluator, step.parse::<u64>())) else {
            continue;
        };
        let known = newest.entry(evaluator.to_owned()).or_default();
        *known = step.max(*known);
    }
    let mut out = Vec::new();
    for (evaluator, step) in newest {
        let bytes = read_bounded(&folder.report(&evaluator, step), MAX_REPORT).unwrap_or_default();
        let report: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let curves: Vec<ReportCurve> = serde_json::from_value(report["curves"].clone()).unwrap_or_default();
        out.extend(curves.into_iter().map(|curve| (format!("{evaluator}.{}", curve.name), curve)));
    }
    out
}

/// Groups runs by the values in which their recipes differ, or by the given paths.
fn variants<'a>(runs: &'a [Record], by: &[String]) -> Vec<Variant<'a>> {
    let mut paths: Vec<String> = by.to_vec();
    if by.is_empty() {
        for run in runs.iter().skip(1) {
            for change in changes(&runs[0].recipe, &run.recipe) {
                if !SAME.contains(&change.path.as_str()) && !paths.contains(&change.path) {
                    paths.push(change.path);
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
    // Where names do not distinguish variants, everything that differs is spelled out.
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
        // As it is written in sweeps: 0 and not 0.0.
        Some(Value::Number(n)) if n.as_f64().is_some_and(|v| v.fract() == 0.0 && v.abs() < 1e15) => {
            format!("{path}={}", n.as_f64().unwrap_or_default())
        }
        Some(value) => format!("{path}={value}"),
        None => format!("no {path}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_engine::runs::RunFolder;

    fn run(name: &str, seed: u64, margin: f64, accuracy: f64) -> Record {
        Record {
            folder: RunFolder::at(name),
            point: false,
            recipe: json!({ "run": { "seed": seed, "name": name }, "model": { "identity": { "margin": margin } } }),
            step: 1,
            metrics: IndexMap::from([("v.accuracy".to_owned(), accuracy)]),
            unresolved: IndexSet::new(),
            curves: IndexMap::new(),
            state: State::Finished,
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
}
