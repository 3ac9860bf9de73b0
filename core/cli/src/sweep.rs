//! `mtlrun sweep`: one recipe at many points, a run folder each.

use crate::arguments::Sweep;
use anyhow::{Context, Result};
use indexmap::IndexMap;
use mtl_core::mistake;
use mtl_core::recipe::{Override, Recipe, SECTIONS};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More points than this are a slip of the hand.
const MAX_POINTS: usize = 10_000;

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    /// What differs; the name of its run folder.
    name: String,
    recipe: PathBuf,
    set: Vec<String>,
    unset: Vec<String>,
}

/// How a point ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was finished before.
    Kept,
    Done,
    Failed,
}

/// Runs every point that is not finished.
pub fn sweep(args: &Sweep) -> Result<u8> {
    let points = points(args)?;
    let stem = args.recipe.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("{stem}.sweep")));
    if args.dry_run {
        for point in &points {
            println!("{}", out.join(&point.name).display());
            println!("  mtlrun {}", arguments(point, &out, args, false).join(" "));
        }
        println!("{} points", points.len());
        return Ok(0);
    }
    // Mistakes show before the first run starts.
    for point in &points {
        let sets = args.overrides.set.iter().chain(&point.set).cloned().map(Override::Set);
        let unsets = args.overrides.unset.iter().chain(&point.unset).cloned().map(Override::Unset);
        let mut recipe = Recipe::read(&point.recipe, &sets.chain(unsets).collect::<Vec<_>>())
            .with_context(|| format!("the point {}", point.name))?;
        mtl_core::graph::Graph::new(&mut recipe).with_context(|| format!("the point {}", point.name))?;
    }
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new(vec![None; points.len()]);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, points.len()) {
            scope.spawn(|| {
                while let Some((at, point)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, points.get(i)?)))
                {
                    let outcome = run(point, &out, args).unwrap_or_else(|error| {
                        eprintln!("error: {}: {error:#}", point.name);
                        Outcome::Failed
                    });
                    let word = match outcome {
                        Outcome::Kept => "kept",
                        Outcome::Done => "done",
                        Outcome::Failed => "FAILED",
                    };
                    println!("[{}/{}] {word:<6} {}", at + 1, points.len(), point.name);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes[at] = Some(outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_default();
    let failed: Vec<&Point> =
        points.iter().zip(&outcomes).filter(|(_, o)| **o == Some(Outcome::Failed)).map(|(p, _)| p).collect();
    println!("compare them: mtlrun compare {}", out.display());
    if failed.is_empty() {
        return Ok(0);
    }
    eprintln!("{} of {} points failed; a second `mtlrun sweep` goes on with them:", failed.len(), points.len());
    for point in failed {
        let log = out.join(format!("{}.log", point.name));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let why = text.lines().rev().find(|l| l.contains("error")).unwrap_or("no message").trim().to_owned();
        eprintln!("  {}: {why} ({})", point.name, log.display());
    }
    Ok(1)
}

fn arguments(point: &Point, out: &Path, args: &Sweep, resume: bool) -> Vec<String> {
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
    if args.jobs > 1 && !args.overrides.set.iter().any(|s| s.starts_with("run.threads")) {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        list.extend(["--threads".to_owned(), (cores / args.jobs).max(1).to_string()]);
    }
    list
}

fn run(point: &Point, out: &Path, args: &Sweep) -> Result<Outcome> {
    let folder = out.join(&point.name);
    if folder.join("weights.safetensors").exists() {
        return Ok(Outcome::Kept);
    }
    let started = folder.join("recipe.resolved.toml").exists();
    let log = out.join(format!("{}.log", point.name));
    let file = OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let program = std::env::current_exe().context("where this program is")?;
    let status = Command::new(program)
        .args(arguments(point, out, args, started))
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("starting a run")?;
    Ok(if status.success() { Outcome::Done } else { Outcome::Failed })
}

/// All points: variants times the grid times the rows of the zip.
fn points(args: &Sweep) -> Result<Vec<Point>> {
    let own = Recipe::read(&args.recipe, &args.overrides.list())?;
    let section = own.sweep.unwrap_or_default();
    let text = |value: &serde_json::Value| -> String {
        match value {
            serde_json::Value::String(text) => format!("{text:?}"),
            other => other.to_string(),
        }
    };
    let listed = |of: &IndexMap<String, Vec<serde_json::Value>>| -> IndexMap<String, Vec<String>> {
        of.iter().map(|(path, values)| (path.clone(), values.iter().map(text).collect())).collect()
    };
    let (mut grid, mut zip) = (listed(&section.grid), listed(&section.zip));
    for (given, into, flag) in [(&args.grid, &mut grid, "--grid"), (&args.zip, &mut zip, "--zip")] {
        for one in given {
            let Some((path, values)) = one.split_once('=') else {
                mistake!("{flag} is PATH=VALUE,VALUE,…, found `{one}`");
            };
            let values = split(values);
            if values.iter().any(String::is_empty) {
                mistake!("{flag} {one}: a value is empty");
            }
            into.insert(full(path), values);
        }
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
        let made = section.variants.iter().map(|(name, variant)| Point {
            name: name.clone(),
            recipe: variant.recipe.as_ref().map_or_else(|| args.recipe.clone(), |r| r.0.clone()),
            set: variant.set.iter().map(|(path, value)| format!("{path}={}", text(value))).collect(),
            unset: variant.unset.clone(),
        });
        made.collect()
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
    for point in &mut points {
        if point.recipe == args.recipe && own.root.get("sweep").is_some() {
            point.unset.push("sweep".into());
        }
    }
    Ok(points)
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
