//! `mtlrun sweep`: one recipe at many points, a run folder each.

use crate::arguments::Sweep;
use crate::records;
use anyhow::{Context, Result};
use indexmap::IndexMap;
use mtl_core::files::write_atomically;
use mtl_core::mistake;
use mtl_core::recipe::{Override, Recipe, SECTIONS, is_path};
use mtl_core::train::Signals;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// More points than this are a slip of the hand.
const MAX_POINTS: usize = 10_000;
/// Longest name of a point in bytes; file systems take 255, and its log has an ending.
const MAX_NAME: usize = 250;

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    /// What differs; the name of its run folder.
    name: String,
    recipe: PathBuf,
    set: Vec<String>,
    unset: Vec<String>,
}

/// A point to be run, and what is known of it beforehand.
struct Job<'a> {
    point: &'a Point,
    /// It was finished before, by this recipe.
    kept: bool,
    /// The recipe says how many threads it takes.
    threads: bool,
}

/// How a point ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It was finished before.
    Kept,
    Done,
    /// A signal asked for it; its state is saved.
    Stopped,
    /// And why.
    Failed(String),
}

/// Runs every point that is not finished.
pub fn sweep(args: &Sweep) -> Result<u8> {
    let points = points(args)?;
    let stem = args.recipe.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("{stem}.sweep")));
    if args.dry_run {
        for point in &points {
            println!("{}", out.join(&point.name).display());
            let job = Job { point, kept: false, threads: false };
            println!("  mtlrun {}", arguments(&job, &out, args, false).join(" "));
        }
        println!("{} points", points.len());
        return Ok(0);
    }
    // Mistakes show before the first run starts.
    let recipes = points.iter().map(|point| checked(point, args)).collect::<Result<Vec<_>>>()?;
    let jobs: Vec<Job<'_>> = points
        .iter()
        .zip(&recipes)
        .map(|(point, recipe)| {
            let folder = out.join(&point.name);
            // A finished run of another recipe is no result of this sweep: going on with it tells what differs.
            let changes = mtl_core::runs::compare(&folder, recipe, false);
            let same = changes.is_ok_and(|c| !c.iter().any(|line| line.trim_start().starts_with("run.steps")));
            let kept = folder.join("weights.safetensors").exists() && same;
            Job { point, kept, threads: recipe.run.threads.is_some() }
        })
        .collect();
    if let Err(e) = std::fs::create_dir_all(&out) {
        mistake!("cannot make the folder {}: {e}", out.display());
    }
    let names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
    write_atomically(&out.join(records::SWEEP), &serde_json::to_vec_pretty(&names)?)?;
    let signals = Signals::listen()?;
    let next = AtomicUsize::new(0);
    let failed: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, jobs.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at).filter(|_| signals.asked().is_none()) else { return };
                    let outcome =
                        run(job, &out, args, &signals).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
                    let word = match &outcome {
                        Outcome::Kept => "kept",
                        Outcome::Done => "done",
                        Outcome::Stopped => "saved",
                        Outcome::Failed(_) => "FAILED",
                    };
                    println!("[{}/{}] {word:<6} {}", at + 1, jobs.len(), job.point.name);
                    if let Outcome::Failed(why) = outcome {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((job.point.name.clone(), why));
                    }
                }
            });
        }
    });
    if let Some(code) = signals.asked() {
        println!("stopped by a signal: a second `mtlrun sweep` goes on");
        return Ok(code);
    }
    println!("compare them: mtlrun compare {}", out.display());
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        return Ok(0);
    }
    eprintln!("{} of {} points failed; a second `mtlrun sweep` goes on with them:", failed.len(), points.len());
    for (name, why) in failed {
        eprintln!("  {name}: {why} ({})", log_of(&out, &name).display());
    }
    Ok(1)
}

/// The recipe of a point, its wiring checked.
fn checked(point: &Point, args: &Sweep) -> Result<Recipe> {
    let sets = args.overrides.set.iter().chain(&point.set).cloned().map(Override::Set);
    let unsets = args.overrides.unset.iter().chain(&point.unset).cloned().map(Override::Unset);
    let told = |e| {
        eprintln!("the point {}:", point.name);
        e
    };
    let mut recipe = Recipe::read(&point.recipe, &sets.chain(unsets).collect::<Vec<_>>()).map_err(told)?;
    mtl_core::graph::Graph::new(&mut recipe).map_err(told)?;
    Ok(recipe)
}

fn log_of(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.log"))
}

fn arguments(job: &Job<'_>, out: &Path, args: &Sweep, resume: bool) -> Vec<String> {
    let point = job.point;
    let mut list = vec![point.recipe.display().to_string()];
    for (flag, values) in [
        ("--set", &args.overrides.set),
        ("--set", &point.set),
        ("--unset", &args.overrides.unset),
        ("--unset", &point.unset),
    ] {
        list.extend(values.iter().flat_map(|v| [flag.to_owned(), v.clone()]));
    }
    list.extend(["--out".to_owned(), out.join(&point.name).display().to_string()]);
    if resume {
        list.push("--resume".into());
    }
    if args.jobs > 1 && !job.threads {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        list.extend(["--threads".to_owned(), (cores / args.jobs).max(1).to_string()]);
    }
    list
}

/// How often a run is looked after.
const PAUSE: Duration = Duration::from_millis(50);

fn run(job: &Job<'_>, out: &Path, args: &Sweep, signals: &Signals) -> Result<Outcome> {
    if job.kept {
        return Ok(Outcome::Kept);
    }
    let started = out.join(&job.point.name).join("recipe.resolved.toml").exists();
    let log = log_of(out, &job.point.name);
    let file = OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let before = file.metadata().map_or(0, |m| m.len() as usize);
    let program = std::env::current_exe().context("where this program is")?;
    // In a group of its own: what a terminal sends to the sweep is handed on once, by the sweep.
    let mut child = Command::new(program)
        .args(arguments(job, out, args, started))
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .context("starting a run")?;
    let mut told = false;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for a run")? {
            break status;
        }
        if signals.asked().is_some() && !std::mem::replace(&mut told, true) {
            kill_process(Pid::from_child(&child), Signal::TERM).context("stopping a run")?;
        }
        std::thread::sleep(PAUSE);
    };
    if status.success() {
        return Ok(Outcome::Done);
    }
    if told {
        return Ok(Outcome::Stopped);
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let own = text.get(before..).unwrap_or_default();
    let why = own.lines().find(|line| line.starts_with("error")).map_or_else(|| status.to_string(), str::to_owned);
    Ok(Outcome::Failed(why))
}

/// All points: variants times the grid times the rows of the zip.
fn points(args: &Sweep) -> Result<Vec<Point>> {
    let own = Recipe::read(&args.recipe, &args.overrides.list())?;
    let section = own.sweep.clone().unwrap_or_default();
    // As everywhere in a recipe, a path starts from the file that says it.
    let place = own.place("sweep");
    let folder = own.sources.folder(&place);
    let written = |recipe: &Recipe, path: &str, value: &serde_json::Value| match value {
        serde_json::Value::String(text) if is_path(recipe, path) => {
            inline(&folder.join(text).display().to_string().into())
        }
        other => inline(other),
    };
    let listed = |of: &IndexMap<String, Vec<serde_json::Value>>| -> Result<IndexMap<String, Vec<String>>> {
        let each = |(path, values): (&String, &Vec<serde_json::Value>)| {
            let path = full(path);
            let values = values.iter().map(|value| written(&own, &path, value)).collect::<Result<_>>()?;
            Ok((path, values))
        };
        of.iter().map(each).collect()
    };
    let (mut grid, mut zip) = (listed(&section.grid)?, listed(&section.zip)?);
    for (given, into, flag) in [(&args.grid, &mut grid, "--grid"), (&args.zip, &mut zip, "--zip")] {
        for one in given {
            let Some((path, values)) = one.split_once('=') else {
                mistake!("{flag} is PATH=VALUE,VALUE,…, found `{one}`");
            };
            let values = split(values);
            if values.iter().any(String::is_empty) {
                mistake!("{flag} {one}: a value is empty");
            }
            if path.trim().is_empty() {
                mistake!("{flag} {one}: there is no path before the `=`");
            }
            let path = full(path);
            let own = section.grid.keys().chain(section.zip.keys()).any(|own| full(own) == path);
            if let Some(known) = into.insert(path.clone(), values)
                && !own
            {
                mistake!("`{path}` is given twice, once with {}", known.join(","));
            }
        }
    }
    if let Some((path, _)) = grid.iter().chain(&zip).find(|(_, values)| values.is_empty()) {
        mistake!("`{path}` has no values in the sweep");
    }
    if let Some(path) = grid.keys().find(|path| zip.contains_key(*path)) {
        mistake!("`{path}` stands in the grid and in the zip: in one of them");
    }
    let rows = zip.values().next().map_or(1, Vec::len);
    if let Some((path, values)) = zip.iter().find(|(_, v)| v.len() != rows) {
        let first = zip.keys().next().cloned().unwrap_or_default();
        mistake!("the lists of a zip go together: `{first}` has {rows} values and `{path}` has {}", values.len());
    }
    let root = vec![Point { name: String::new(), recipe: args.recipe.clone(), set: Vec::new(), unset: Vec::new() }];
    let mut points: Vec<Point> = if section.variants.is_empty() {
        root
    } else {
        let made = section.variants.iter().map(|(name, variant)| {
            let other =
                variant.recipe.as_ref().map(|recipe| Recipe::read(recipe, &args.overrides.list())).transpose()?;
            let of = other.as_ref().unwrap_or(&own);
            let set = variant.set.iter().map(|(path, value)| Ok(format!("{path}={}", written(of, path, value)?)));
            Ok(Point {
                name: name.clone(),
                recipe: variant.recipe.as_ref().map_or_else(|| args.recipe.clone(), |r| r.0.clone()),
                set: set.collect::<Result<_>>()?,
                unset: variant.unset.clone(),
            })
        });
        made.collect::<Result<_>>()?
    };
    for (path, values) in &grid {
        points = points.iter().flat_map(|p| values.iter().map(|v| with(p, &[(path, v)]))).collect();
        too_many(points.len())?;
    }
    if !zip.is_empty() {
        let row = |i: usize| zip.iter().map(|(path, values)| (path, &values[i])).collect::<Vec<_>>();
        points = points.iter().flat_map(|p| (0..rows).map(|i| with(p, &row(i)))).collect();
        too_many(points.len())?;
    }
    if points.len() == 1 && points[0].name.is_empty() {
        mistake!(
            "a sweep needs points: --grid PATH=VALUE,…, --zip PATH=VALUE,…, or [sweep] in {}",
            args.recipe.display()
        );
    }
    let mut names = HashSet::new();
    for point in &points {
        let folder = Path::new(&point.name).components().map(|c| matches!(c, Component::Normal(_)));
        if folder.collect::<Vec<_>>() != [true] || point.name.len() > MAX_NAME {
            mistake!("`{}` is no name of a folder of at most {MAX_NAME} bytes: name the variant otherwise", point.name);
        }
        if !names.insert(&point.name) {
            mistake!(
                "two points would be called `{}` and share a run folder: their values differ only in what a name leaves \
                 out. Give them as [sweep.variants] with names of their own",
                point.name
            );
        }
    }
    for point in &mut points {
        if point.recipe == args.recipe && own.root.get("sweep").is_some() {
            point.unset.push("sweep".into());
        }
    }
    Ok(points)
}

/// A value as TOML writes it in one line.
fn inline(value: &serde_json::Value) -> Result<String> {
    Ok(match value {
        serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
            toml::Value::try_from(value).context("a value of the sweep")?.to_string()
        }
        serde_json::Value::String(text) => toml::Value::String(text.clone()).to_string(),
        other => other.to_string(),
    })
}

fn too_many(count: usize) -> Result<()> {
    if count > MAX_POINTS {
        mistake!("{count} points are more than {MAX_POINTS}: a sweep of fewer values");
    }
    Ok(())
}

/// The point with more values set.
fn with(point: &Point, values: &[(&String, &String)]) -> Point {
    let mut point = point.clone();
    for (path, value) in values {
        point.set.push(format!("{path}={value}"));
        let short = path.strip_prefix("run.").unwrap_or(path);
        let safe = |c: char| if c.is_alphanumeric() || "._-+".contains(c) { c } else { '_' };
        let value: String = value.trim_matches('"').chars().take(40).map(safe).collect();
        let part = format!("{short}={value}");
        point.name = if point.name.is_empty() { part } else { format!("{},{part}", point.name) };
    }
    point
}

/// A path that begins with no section is meant in [run].
fn full(path: &str) -> String {
    let path = path.trim();
    let first = path.split('.').next().unwrap_or_default();
    if SECTIONS.contains(&first) { path.to_owned() } else { format!("run.{path}") }
}

/// Values between commas that stand in no brackets and no quotes.
fn split(text: &str) -> Vec<String> {
    let (mut out, mut depth, mut quote) = (vec![String::new()], 0i32, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.into_iter().map(|v| v.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_split_outside_of_brackets_and_quotes() {
        assert_eq!(split("0,0.002"), ["0", "0.002"]);
        assert_eq!(split("[1, 2], [3]"), ["[1, 2]", "[3]"]);
        assert_eq!(split("\"a,b\",'c,d',{ x = 1, y = 2 }"), ["\"a,b\"", "'c,d'", "{ x = 1, y = 2 }"]);
    }

    #[test]
    fn a_point_is_named_by_what_differs() {
        let point = Point { name: "plain".into(), recipe: "r.toml".into(), set: Vec::new(), unset: Vec::new() };
        let (a, b) = ("loss.domain.weight".to_owned(), full("seed"));
        let made = with(&point, &[(&a, &"0.002".to_owned()), (&b, &"3".to_owned())]);
        assert_eq!(made.name, "plain,loss.domain.weight=0.002,seed=3");
        assert_eq!(made.set, ["loss.domain.weight=0.002", "run.seed=3"]);
    }
}
