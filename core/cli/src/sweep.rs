//! `mtlrun sweep`: one recipe at many points, a run folder each.

use crate::arguments::{Overrides, Sweep};
use crate::records;
use anyhow::{Context, Result};
use indexmap::IndexMap;
use mtl_core::files::write_atomically;
use mtl_core::graph::Graph;
use mtl_core::mistake;
use mtl_core::recipe::{Node, Override, Recipe, SECTIONS, Value, is_path};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// More points than this are a slip of the hand.
const MAX_POINTS: usize = 10_000;
/// Longest name of a point in bytes; file systems take 255, and its log has an ending.
const MAX_NAME: usize = 250;

/// A value of a path in the points of a sweep.
#[derive(Debug, Clone, PartialEq)]
struct Choice {
    /// As it is written, for the name of the point.
    written: String,
    /// As it is set.
    set: String,
}

impl From<String> for Choice {
    fn from(text: String) -> Self {
        Self { written: text.clone(), set: text }
    }
}

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
    // Mistakes show before the first run starts, and all at once.
    let recipes = checked(&points, args)?;
    if args.dry_run {
        for point in &points {
            println!("{}", out.join(&point.name).display());
            let job = Job { point, kept: false, threads: false };
            let words = arguments(&job, &out, args, false);
            println!("  mtlrun {}", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        }
        println!("{} points", points.len());
        return Ok(0);
    }
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
    let running = Running::listen()?;
    let next = AtomicUsize::new(0);
    let failed: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, jobs.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at).filter(|_| running.asked().is_none()) else { return };
                    let outcome =
                        run(job, &out, args, &running).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
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
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        eprintln!("{} of {} points failed; a second `mtlrun sweep` goes on with them:", failed.len(), points.len());
        for (name, why) in &failed {
            eprintln!("  {name}: {why} ({})", log_of(&out, name).display());
        }
    }
    if let Some(code) = running.asked() {
        println!("stopped by a signal: a second `mtlrun sweep` goes on");
        return Ok(code);
    }
    println!("compare them: mtlrun compare {}", out.display());
    Ok(u8::from(!failed.is_empty()))
}

/// A word for a shell, in quotes only where it needs them.
fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "_./=,:+@%-".contains(c);
    if word.chars().all(plain) { word.into() } else { shell_words::quote(word) }
}

/// The recipes of all points, their wiring checked.
///
/// # Errors
/// A mistake after telling what is wrong with which point, each thing once.
fn checked(points: &[Point], args: &Sweep) -> Result<Vec<Recipe>> {
    let mut told: HashSet<String> = HashSet::new();
    let (mut recipes, mut wrong) = (Vec::new(), 0);
    for point in points {
        let sets = args.overrides.set.iter().chain(&point.set).cloned().map(Override::Set);
        let unsets = args.overrides.unset.iter().chain(&point.unset).cloned().map(Override::Unset);
        let read = Recipe::read(&point.recipe, &sets.chain(unsets).collect::<Vec<_>>());
        match read.and_then(|mut recipe| Graph::new(&mut recipe).map(|_| recipe)) {
            Ok(recipe) => recipes.push(recipe),
            Err(found) => {
                wrong += 1;
                let text = found.render(std::io::stderr().is_terminal());
                if told.insert(text.clone()) {
                    eprint!("the point {}:\n{text}", point.name);
                }
            }
        }
    }
    if wrong > 0 {
        mistake!("{wrong} of {} points cannot be trained: nothing was started", points.len());
    }
    Ok(recipes)
}

/// Checks the points of a recipe that holds some in `[sweep]`; returns how many they are.
///
/// # Errors
/// As of a sweep with nothing else on the command line.
pub fn check(recipe: &Path, overrides: &Overrides) -> Result<usize> {
    let args = Sweep {
        recipe: recipe.to_owned(),
        overrides: overrides.clone(),
        grid: Vec::new(),
        zip: Vec::new(),
        out: None,
        jobs: 1,
        dry_run: true,
    };
    let points = points(&args)?;
    checked(&points, &args)?;
    Ok(points.len())
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

/// The runs that train, and what a signal has asked for. Each is in a process group of its own: what a terminal sends to
/// the sweep is handed on by the sweep, as often as it comes, so that a second Ctrl-C ends the runs as well.
#[derive(Default)]
struct Running {
    children: Mutex<Vec<Pid>>,
    signal: AtomicI32,
}

impl Running {
    /// Hands signals on from here.
    fn listen() -> Result<Arc<Self>> {
        let running = Arc::new(Self::default());
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listening for signals")?;
        let own = running.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                own.signal.store(signal, Ordering::SeqCst);
                for child in own.children().iter() {
                    // One that has just ended hears nothing any more.
                    let _ = kill_process(*child, Signal::TERM);
                }
            }
        });
        Ok(running)
    }

    fn children(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exit code that a signal has asked for.
    fn asked(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }

    /// Starts a run and waits for its end.
    fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        let mut children = self.children();
        let mut child = command.process_group(0).spawn().context("starting a run")?;
        let pid = Pid::from_child(&child);
        children.push(pid);
        drop(children);
        if self.asked().is_some() {
            kill_process(pid, Signal::TERM).context("stopping a run")?;
        }
        loop {
            // Under the lock: a number that is free again is never sent a signal.
            let mut children = self.children();
            if let Some(status) = child.try_wait().context("waiting for a run")? {
                children.retain(|other| *other != pid);
                return Ok(status);
            }
            drop(children);
            std::thread::sleep(PAUSE);
        }
    }
}

/// How often a run is looked after.
const PAUSE: Duration = Duration::from_millis(50);

fn run(job: &Job<'_>, out: &Path, args: &Sweep, running: &Running) -> Result<Outcome> {
    if job.kept {
        return Ok(Outcome::Kept);
    }
    let started = out.join(&job.point.name).join("recipe.resolved.toml").exists();
    let log = log_of(out, &job.point.name);
    let file = OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let before = file.metadata().map_or(0, |m| m.len() as usize);
    let program = std::env::current_exe().context("where this program is")?;
    let status = running.run(
        Command::new(program)
            .args(arguments(job, out, args, started))
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file),
    )?;
    match status.code() {
        Some(0) => return Ok(Outcome::Done),
        Some(130 | 143) => return Ok(Outcome::Stopped),
        _ => {}
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
    // As everywhere in a recipe, a path starts from the file that says it; what waits for a reference is left to the run.
    let choice = |of: &Recipe, path: &str, value: &serde_json::Value, place: Option<&Node>| -> Result<Choice> {
        let written = inline(value)?;
        let folder = place.map(|node| own.sources.folder(&node.origin));
        let set = match (value, folder) {
            (serde_json::Value::String(text), Some(folder)) if !text.contains("${") && is_path(of, path) => {
                inline(&folder.join(text).display().to_string().into())?
            }
            _ => written.clone(),
        };
        Ok(Choice { written, set })
    };
    let node = |keys: &[&str]| keys.iter().try_fold(&own.root, |node, key| node.get(key));
    let listed = |of: &IndexMap<String, Vec<serde_json::Value>>, key: &str| -> Result<IndexMap<String, Vec<Choice>>> {
        let each = |(path, values): (&String, &Vec<serde_json::Value>)| {
            let places = match node(&["sweep", key, path]).map(|n| &n.value) {
                Some(Value::Array(items)) => items.as_slice(),
                _ => &[],
            };
            let path = full(path);
            let choices = values.iter().enumerate().map(|(i, value)| choice(&own, &path, value, places.get(i)));
            let choices = choices.collect::<Result<_>>()?;
            Ok((path, choices))
        };
        of.iter().map(each).collect()
    };
    let (mut grid, mut zip) = (listed(&section.grid, "grid")?, listed(&section.zip, "zip")?);
    let mut given = HashSet::new();
    for (texts, into, flag) in [(&args.grid, &mut grid, "--grid"), (&args.zip, &mut zip, "--zip")] {
        for one in texts {
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
            if into.insert(path.clone(), values.into_iter().map(Choice::from).collect()).is_some()
                && given.contains(&path)
            {
                mistake!("`{path}` is given twice");
            }
            given.insert(path);
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
            let set = variant.set.iter().map(|(path, value)| {
                let place = node(&["sweep", "variants", name, "set", path]);
                Ok(format!("{path}={}", choice(of, path, value, place)?.set))
            });
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
fn with(point: &Point, values: &[(&String, &Choice)]) -> Point {
    let mut point = point.clone();
    for (path, value) in values {
        point.set.push(format!("{path}={}", value.set));
        let short = path.strip_prefix("run.").unwrap_or(path);
        let safe = |c: char| if c.is_alphanumeric() || "._-+".contains(c) { c } else { '_' };
        let value: String = value.written.trim_matches('"').chars().take(40).map(safe).collect();
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
        let made = with(&point, &[(&a, &"0.002".to_owned().into()), (&b, &"3".to_owned().into())]);
        assert_eq!(made.name, "plain,loss.domain.weight=0.002,seed=3");
        assert_eq!(made.set, ["loss.domain.weight=0.002", "run.seed=3"]);
    }
}
