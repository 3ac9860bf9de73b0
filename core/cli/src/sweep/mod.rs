//! `mtlrun sweep`: one recipe at many points, a run folder each.

mod points;
mod watching;

use crate::arguments::{Overrides, Sweep};
use crate::children::Children;
use crate::messages;
use mtl_component::{Registry, Result, mistake};
use mtl_engine::graph::Graph;
use mtl_engine::recipe::Recipe;
use mtl_engine::runs::{RunFolder, SWEEP, State};
use mtl_recipe::files::write_atomically;
use mtl_recipe::{Context, Override};
use points::{Point, points};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use watching::Watch;

/// A point to be run, and what is known of it beforehand.
struct Job<'a> {
    point: &'a Point,
    /// It was finished before, by this recipe.
    kept: bool,
    /// It was trained with another build of a plugin.
    changed: bool,
    /// The recipe says how many threads it takes.
    threads: bool,
    /// The files of its plugins, wherever they were found.
    plugins: Vec<String>,
}

fn plugins(recipe: &Recipe) -> Vec<String> {
    recipe.registry.plugins().iter().map(|plugin| plugin.path.display().to_string()).collect()
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
pub fn sweep(registry: &Arc<Registry>, args: &Sweep) -> Result<u8> {
    let points = points(registry, args)?;
    let stem = args.recipe.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("{stem}.sweep")));
    // Mistakes show before the first run starts, and all at once.
    let recipes = checked(registry, &points, args)?;
    if args.dry_run {
        for (point, recipe) in points.iter().zip(&recipes) {
            println!("{}", out.join(&point.name).display());
            let threads = recipe.run.threads.is_some();
            let job = Job { point, kept: false, changed: false, threads, plugins: plugins(recipe) };
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
            let folder = RunFolder::at(out.join(&point.name));
            // A finished run of another recipe is no result of this sweep: going on with it reports what differs.
            let same = || folder.allow(recipe, false).is_ok_and(|c| !c.iter().any(|c| c.path == "run.steps"));
            let changed = !folder.plugin_changes(recipe)?.is_empty();
            let kept = folder.state() == State::Finished && same() && !changed;
            Ok(Job { point, kept, changed, threads: recipe.run.threads.is_some(), plugins: plugins(recipe) })
        })
        .collect::<Result<_>>()?;
    let changed = jobs.iter().filter(|job| job.changed).count();
    if changed > 0 && !args.overwrite_changed {
        mistake!(
            "{changed} of {} points in {} were trained with another build of a plugin: name another --out for the new one, or \
             train them anew with --overwrite-changed",
            jobs.len(),
            out.display()
        );
    }
    if let Err(e) = std::fs::create_dir_all(&out) {
        mistake!("cannot make the folder {}: {e}", out.display());
    }
    let names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
    write_atomically(&out.join(SWEEP), &serde_json::to_vec_pretty(&names)?)?;
    let running = Children::listen(&[SIGINT, SIGTERM, SIGHUP], |_| true)?;
    let next = AtomicUsize::new(0);
    let place = |job: &Job<'_>, recipe: &Recipe| {
        (out.join(&job.point.name), job.point.name.clone(), recipe.run.steps, job.kept)
    };
    let watch = Watch {
        points: jobs.iter().zip(&recipes).map(|(job, recipe)| place(job, recipe)).collect(),
        course: Mutex::default(),
        over: AtomicBool::new(false),
    };
    let failed: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch.show());
        let mut workers = Vec::new();
        for _ in 0..args.jobs.clamp(1, jobs.len()) {
            workers.push(scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at).filter(|_| running.asked().is_none()) else { return };
                    if !job.kept {
                        messages::line(&format!("[{}/{}] starts {}", at + 1, jobs.len(), job.point.name));
                        watch.starts(at);
                    }
                    let outcome =
                        run(job, &out, args, &running).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
                    watch.ends(at);
                    // A plugin that was built meanwhile would make points of one sweep differ.
                    let folder = RunFolder::at(out.join(&job.point.name));
                    for change in folder.plugin_changes(&recipes[at]).unwrap_or_default() {
                        messages::line(&format!("warning: {}: {change}", job.point.name));
                    }
                    let word = match &outcome {
                        Outcome::Kept => "kept",
                        Outcome::Done => "done",
                        Outcome::Stopped => "saved",
                        Outcome::Failed(_) => "FAILED",
                    };
                    messages::result(&format!("[{}/{}] {word:<6} {}", at + 1, jobs.len(), job.point.name));
                    if let Outcome::Failed(why) = outcome {
                        locked(&failed).push((job.point.name.clone(), why));
                    }
                }
            }));
        }
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        watch.over.store(true, Ordering::Relaxed);
        if let Some(panic) = ended.into_iter().chain([watching.join()]).find_map(Result::err) {
            std::panic::resume_unwind(panic);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        let count = failed.len();
        messages::line(&format!(
            "{count} of {} points failed; a second `mtlrun sweep` goes on with them:",
            points.len()
        ));
        for (name, why) in &failed {
            messages::line(&format!("  {name}: {why} ({})", log_of(&out, name).display()));
        }
    }
    if let Some(code) = running.asked() {
        println!("stopped by a signal: a second `mtlrun sweep` goes on");
        return Ok(code);
    }
    println!("compare them: mtlrun compare {}", out.display());
    Ok(u8::from(!failed.is_empty()))
}

fn locked<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
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
fn checked(registry: &Arc<Registry>, points: &[Point], args: &Sweep) -> Result<Vec<Recipe>> {
    let mut told: HashSet<String> = HashSet::new();
    let (mut recipes, mut wrong) = (Vec::new(), 0);
    for point in points {
        let sets = args.overrides.set.iter().chain(&point.set).cloned().map(Override::Set);
        let unsets = args.overrides.unset.iter().chain(&point.unset).cloned().map(Override::Unset);
        let read = Recipe::read(registry, &point.recipe, &sets.chain(unsets).collect::<Vec<_>>());
        match read.and_then(|recipe| Graph::new(&recipe).map(|_| recipe)) {
            Ok(recipe) => recipes.push(recipe),
            Err(found) => {
                wrong += 1;
                let text = found.render(std::io::stderr().is_terminal());
                if told.insert(text.clone()) {
                    messages::line(format!("the point {}:\n{text}", point.name).trim_end());
                }
            }
        }
    }
    if wrong > 0 {
        mistake!("{wrong} of {} points of the sweep cannot be trained", points.len());
    }
    Ok(recipes)
}

/// Checks the points of a recipe that holds some in `[sweep]`; returns how many they are.
///
/// # Errors
/// As of a sweep with nothing else on the command line.
pub fn check(registry: &Arc<Registry>, recipe: &Path, overrides: &Overrides) -> Result<usize> {
    let args = Sweep {
        recipe: recipe.to_owned(),
        overrides: overrides.clone(),
        overwrite_changed: false,
        grid: Vec::new(),
        zip: Vec::new(),
        out: None,
        jobs: 1,
        nproc: 1,
        dry_run: true,
    };
    let points = points(registry, &args)?;
    checked(registry, &points, &args)?;
    Ok(points.len())
}

fn log_of(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.log"))
}

fn arguments(job: &Job<'_>, out: &Path, args: &Sweep, resume: bool) -> Vec<String> {
    let point = job.point;
    let mut list = vec![point.recipe.display().to_string()];
    for (flag, values) in [
        ("--plugin", &job.plugins),
        ("--set", &args.overrides.set),
        ("--set", &point.set),
        ("--unset", &args.overrides.unset),
        ("--unset", &point.unset),
    ] {
        list.extend(values.iter().flat_map(|v| [flag.to_owned(), v.clone()]));
    }
    list.extend(["--out".to_owned(), out.join(&point.name).display().to_string()]);
    if job.changed {
        list.push("--overwrite".into());
    } else if resume {
        list.push("--resume".into());
    }
    if args.jobs > 1 && !job.threads {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let each = (cores / args.jobs / args.nproc as usize).max(1);
        list.extend(["--threads".to_owned(), each.to_string()]);
    }
    if args.nproc > 1 {
        list.extend(["--nproc".to_owned(), args.nproc.to_string()]);
    }
    list
}

fn run(job: &Job<'_>, out: &Path, args: &Sweep, running: &Children) -> Result<Outcome> {
    if job.kept {
        return Ok(Outcome::Kept);
    }
    let started = RunFolder::at(out.join(&job.point.name)).has_started();
    let log = log_of(out, &job.point.name);
    let file = OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let before = file.metadata().map_or(0, |m| m.len() as usize);
    // The program that runs, also after another was built in its place.
    let status = running.run(
        Command::new("/proc/self/exe")
            .args(arguments(job, out, args, started))
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file),
    )?;
    match status.code() {
        Some(0) => return Ok(Outcome::Done),
        Some(129 | 130 | 143) if running.asked().is_some() => return Ok(Outcome::Stopped),
        _ => {}
    }
    let text = std::fs::read(&log).unwrap_or_default();
    let own = String::from_utf8_lossy(text.get(before..).unwrap_or_default());
    let why = own.lines().find(|line| line.starts_with("error")).map_or_else(|| status.to_string(), str::to_owned);
    Ok(Outcome::Failed(why))
}
