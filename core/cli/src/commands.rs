//! The commands on recipes and runs.

use crate::arguments::{Check, Eval, Explain, GraphArgs, List, Schema, Show, Summary, Trace, Train};
use crate::messages;
use crate::progress::{Progress, pictures};
use mtl_component::{Dim, Registration, Registry, Report, Result, mistake};
use mtl_engine::data;
use mtl_engine::device;
use mtl_engine::drawing;
use mtl_engine::graph::Graph;
use mtl_engine::inference::{
    Comparing, Evaluators, Judges, ModelInference, open_run, warn_of_trained_pictures, write_report,
};
use mtl_engine::memory;
use mtl_engine::model::Model;
use mtl_engine::ranks::{Place, Ranks};
use mtl_engine::recipe::{EvaluateEntry, Recipe, family_schema, is_name, plugins_of, recipe_schema, table_schema};
use mtl_engine::runs::{Existing, ReportFolder, RunFolder, environment};
use mtl_engine::trace::{TraceOptions, trace as run_trace};
use mtl_engine::train::{Observer, TrainOptions, train as run_train};
use mtl_recipe::files::write_atomically;
use mtl_recipe::{Context, Diagnostics, Error, Override, difference, suggestion, to_toml};
use std::path::Path;
use std::sync::Arc;

fn read(registry: &Arc<Registry>, path: &Path, overrides: &[Override]) -> Result<Recipe> {
    Ok(Recipe::read(registry, path, overrides)?)
}

/// A recipe and its checked graph.
fn checked(registry: &Arc<Registry>, path: &Path, overrides: &[Override]) -> Result<(Recipe, Graph)> {
    let recipe = read(registry, path, overrides)?;
    let graph = Graph::new(&recipe)?;
    Ok((recipe, graph))
}

/// Trains a recipe.
pub fn train(registry: &Arc<Registry>, args: &Train) -> Result<u8> {
    let Some(path) = &args.recipe else { mistake!("no recipe is named: mtlrun RECIPE, or mtlrun --help") };
    let place = Place::of_environment()?;
    if args.ranks.wants_processes() && place.as_ref().is_none_or(|place| !place.launched) {
        if let Some(place) = place {
            mistake!(
                "another launcher has started {} ranks, of which this is rank {}: leave out --nproc and --nnodes",
                place.size,
                place.rank
            );
        }
        // What is wrong with the recipe is told once, before there are processes.
        let (recipe, graph) = checked(registry, path, &[args.overrides.list(), args.place.list()].concat())?;
        warn(&recipe, &graph, args.quiet)?;
        return crate::launch::launch(&args.ranks);
    }
    let Some(place) = place else { return train_alone(registry, path, args, &Ranks::alone(), true) };
    let (leads, tells) = (place.rank == 0, place.rank == 0 && !place.launched);
    messages::be_rank(leads);
    let ranks = Ranks::join(place)?;
    ranks.conclude(mtl_recipe::guarded(|| train_alone(registry, path, args, &ranks, tells)))
}

/// Shows what a check warns of.
fn warn(recipe: &Recipe, graph: &Graph, quiet: bool) -> Result<()> {
    if !quiet {
        let mut warnings = graph.warnings().to_vec();
        warnings.extend(memory::warning(recipe, graph)?);
        messages::findings(&recipe.diagnostics(warnings));
    }
    Ok(())
}

/// Trains in this process.
fn train_alone(registry: &Arc<Registry>, path: &Path, args: &Train, ranks: &Ranks, tells: bool) -> Result<u8> {
    let overrides = [args.overrides.list(), args.place.list()].concat();
    let texts = [args.overrides.texts(), args.place.texts()].concat();
    if args.quiet {
        messages::be_quiet();
    }
    let (recipe, graph) = checked(registry, path, &overrides)?;
    warn(&recipe, &graph, args.quiet || !tells)?;
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Refuse,
    };
    let options = TrainOptions {
        out: args.out.clone(),
        existing,
        allow_recipe_change: args.allow_recipe_change,
        allow_plugin_change: args.allow_plugin_change,
        checkpoint: args.checkpoint,
        until: None,
        deep: args.deep,
        profile: args.profile,
        overrides: texts,
    };
    run_train(recipe, graph, &options, ranks, observers(args.quiet))
}

/// What shows the progress of training.
pub fn observers(quiet: bool) -> Vec<Box<dyn Observer>> {
    if quiet { Vec::new() } else { vec![Box::new(Progress::default())] }
}

/// Checks recipes.
pub fn check(registry: &Arc<Registry>, args: &Check) -> Result<u8> {
    let mut worst = 0;
    let mut told = Vec::new();
    for path in &args.recipes {
        let found = check_one(registry, path, args);
        if let Err(error) = &found {
            worst = worst.max(error.exit_status());
        }
        if args.json {
            told.push(as_json(path, found));
            continue;
        }
        match found {
            Ok((line, warnings)) => {
                messages::findings(&warnings);
                println!("{}: {line}", path.display());
            }
            Err(error) => messages::error(&error),
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    }
    Ok(worst)
}

fn as_json(path: &Path, found: Result<(String, Diagnostics), Error>) -> serde_json::Value {
    let (good, found) = match found {
        Ok((_, warnings)) => (true, warnings.to_json()),
        Err(error) => match error.diagnostics() {
            Some(found) => (false, found.to_json()),
            None => (false, serde_json::json!([{ "severity": "error", "message": format!("{error:#}") }])),
        },
    };
    serde_json::json!({ "recipe": path.to_string_lossy(), "good": good, "found": found })
}

fn check_one(registry: &Arc<Registry>, path: &Path, args: &Check) -> Result<(String, Diagnostics)> {
    let (recipe, graph) = checked(registry, path, &args.overrides.list())?;
    if args.data {
        let data = data::open(&recipe)?;
        let evaluators = Evaluators::open(&recipe)?;
        if !args.json {
            for (name, dataset) in &data.streams {
                match dataset.summary.as_str() {
                    "" => println!("data.{name}: {} samples", dataset.len),
                    summary => println!("data.{name}: {summary}"),
                }
            }
        }
        data::orders(&recipe, &data, mtl_component::World::alone())?;
        let resolved = graph.resolved(&data.dims);
        data::labels_fit(&resolved, &data)?;
        data::labels_are_known(&resolved, &data)?;
        data::first_samples(&data)?;
        warn_of_trained_pictures(&data, &evaluators, Comparing::All)?;
        let outline = Model::outline(&recipe, &resolved, 1)?;
        evaluators.check(&ModelInference::new(&outline, &recipe, &Judges::default())?)?;
    }
    let mut warnings = graph.warnings().to_vec();
    warnings.extend(memory::warning(&recipe, &graph)?);
    let warnings = recipe.diagnostics(warnings);
    let losses = graph.nodes().len() - recipe.graph.len();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let parts = [
        count(graph.modules().len(), "module"),
        count(recipe.graph.len(), "node"),
        format!("{losses} loss{}", if losses == 1 { "" } else { "es" }),
        count(graph.phases().len(), "phase"),
        count(recipe.evaluate.len(), "evaluator"),
    ];
    let mut line = format!("good ({})", parts.join(", "));
    if recipe.sweep.is_some() {
        line.push_str(&format!(", and {} points of its sweep", crate::sweep::check(registry, path, &args.overrides)?));
    }
    Ok((line, warnings))
}

/// Prints a recipe, or what differs from another.
pub fn show(registry: &Arc<Registry>, args: &Show) -> Result<u8> {
    let recipe = read(registry, &args.recipe, &args.overrides.list())?;
    let Some(other) = &args.diff else {
        print!("{}", to_toml(&recipe.root)?);
        return Ok(0);
    };
    for change in difference(&recipe.root.to_json(), &read(registry, other, &[])?.root.to_json()) {
        println!("{change}");
    }
    Ok(0)
}

/// Explains a value of a recipe.
pub fn explain(registry: &Arc<Registry>, args: &Explain) -> Result<u8> {
    let recipe = match args.recipe.is_dir() {
        true => RunFolder::resolve(&args.recipe)?.recipe(registry, &args.overrides.list())?,
        false => read(registry, &args.recipe, &args.overrides.list())?,
    };
    let found = mtl_engine::recipe::explain(&recipe, &args.path)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(0);
    }
    match (&found.value, recipe.root.at(&args.path)) {
        (Some(serde_json::Value::Object(_)), Some(table)) => print!("[{}]\n{}", found.path, to_toml(table)?),
        (Some(value), _) => println!("{} = {value}", found.path),
        (None, _) => println!("{} = not set", found.path),
    }
    for (what, text) in [
        ("is", found.about),
        ("may be", found.expected),
        ("default", found.default.map(|d| d.to_string())),
        ("such as", found.example.map(|e| e.to_string())),
    ] {
        if let Some(text) = text {
            println!("  {what:<8} {text}");
        }
    }
    let dropped = !found.set_by.is_empty() && found.set_by.iter().all(|by| !by.in_force && by.value.is_some());
    if found.set_by.is_empty() && found.value.is_some() {
        println!("  set by   nobody: it is the default");
    }
    for by in found.set_by {
        let mark = if by.in_force { "*" } else { " " };
        let value = match by.value {
            None => "taken away".to_owned(),
            Some(serde_json::Value::Object(table)) => {
                format!("{{ {} }}", table.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            Some(value) => value.to_string(),
        };
        println!("  set by {mark} {}: {value}", by.place);
    }
    if dropped {
        println!("  set by * nobody any more: another component was named there, or the table removed");
    }
    Ok(0)
}

/// Draws the multi-task graph of a recipe.
pub fn graph(registry: &Arc<Registry>, args: &GraphArgs) -> Result<u8> {
    let (recipe, graph) = checked(registry, &args.recipe, &args.overrides.list())?;
    write_atomically(&args.out, drawing::draw(&recipe, &graph, &args.out)?.as_bytes())?;
    println!("{}", args.out.display());
    Ok(0)
}

/// Parameters of each module with the memory of weights, gradients and optimizer state in single precision.
pub fn summary(registry: &Arc<Registry>, args: &Summary) -> Result<u8> {
    let (recipe, graph) = checked(registry, &args.recipe, &args.overrides.list())?;
    let mebibytes = |numbers: u64| numbers as f64 * 4.0 / f64::from(1 << 20);
    println!(
        "{:<14} {:<24} {:>12} {:>12} {:>14} {:>14}",
        "module", "component", "parameters", "weights MiB", "gradients MiB", "optimizer MiB"
    );
    let mut sums = [0.0; 4];
    for (m, (module, of)) in graph.modules().iter().zip(memory::numbers(&recipe, &graph, 1)?).enumerate() {
        let (count, component) = (of.weights, recipe.model[m].slot.registration.name);
        let row = [count as f64, mebibytes(count), mebibytes(of.gradients), mebibytes(of.optimizer)];
        sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
        println!("{:<14} {component:<24} {count:>12} {:>12.1} {:>14.1} {:>14.1}", module.name, row[1], row[2], row[3]);
    }
    println!("{:<14} {:<24} {:>12} {:>12.1} {:>14.1} {:>14.1}", "together", "", sums[0], sums[1], sums[2], sums[3]);
    if let Some(ranks) = args.nproc {
        let all = memory::numbers(&recipe, &graph, ranks)?;
        let sum = |of: fn(&memory::Numbers) -> u64| mebibytes(all.iter().map(of).sum());
        println!(
            "each of {ranks} ranks: {:.1} MiB of weights, {:.1} of gradients, {:.1} of optimizer state, {:.1} of buckets",
            sum(|n| n.weights),
            sum(|n| n.gradients),
            sum(|n| n.optimizer),
            sum(|n| n.buckets)
        );
        // Around a ring, each rank sends its part of a sum and then its part of the result to its neighbour.
        let sent = 2.0 * (ranks - 1) as f64 / ranks as f64 * sum(|n| n.buckets);
        println!("each sends {sent:.1} MiB of gradients in a step of all phases");
    }
    // Only sizes that some module is built with.
    let used = |name: &str| {
        let ports =
            recipe.model.values().flat_map(|m| m.description.ports.inputs.iter().chain(&m.description.ports.outputs));
        ports.into_iter().any(|port| port.below.as_deref() == Some(name) || port.pattern.contains(&format!("${name}")))
    };
    let open = graph.dims().iter().filter(|(name, d)| matches!(d, Dim::Named(_)) && used(name));
    let open: Vec<&str> = open.map(|(name, _)| name.as_str()).collect();
    if !open.is_empty() {
        println!("known only with the data, and counted as 1: {}", open.join(", "));
        println!("to count them in full: --set dims.{}=…", open[0]);
    }
    Ok(0)
}

/// The registry with a recipe's plugins as well.
fn with_plugins_of(registry: &Arc<Registry>, recipe: Option<&Path>) -> Result<Arc<Registry>> {
    recipe.map_or_else(|| Ok(registry.clone()), |path| Ok(plugins_of(registry, path)?))
}

/// Lists components by family.
pub fn list(registry: &Arc<Registry>, args: &List) -> Result<u8> {
    let registry = with_plugins_of(registry, args.recipe.as_deref())?;
    crate::listing::list(&registry, args)
}

/// Writes the schemas of recipes and of families of components.
pub fn schema(registry: &Arc<Registry>, args: &Schema) -> Result<u8> {
    let registry = &with_plugins_of(registry, args.recipe.as_deref())?;
    if let (Some(_), None, Some(file)) = (&args.recipe, &args.component, &args.out) {
        let text = format!("{}\n", serde_json::to_string_pretty(&recipe_schema(registry))?);
        write_atomically(file, text.as_bytes())?;
        println!("{}", file.display());
        return Ok(0);
    }
    let mut schemas = vec![match &args.component {
        None => ("recipe".to_owned(), recipe_schema(registry)),
        Some(text) => {
            let registration = component(registry, text)?;
            (format!("{}.{}", registration.family, registration.name), table_schema(registry, registration))
        }
    }];
    if args.component.is_none() && args.out.is_some() {
        let families = registry.families().into_iter();
        schemas.extend(families.map(|family| (family.name.to_owned(), family_schema(registry, family))));
    }
    for (name, schema) in schemas {
        let text = format!("{}\n", serde_json::to_string_pretty(&schema)?);
        match &args.out {
            None => print!("{text}"),
            Some(folder) => {
                let path = folder.join(format!("{name}.schema.json"));
                write_atomically(&path, text.as_bytes())?;
                println!("{}", path.display());
            }
        }
    }
    Ok(0)
}

/// The component that `FAMILY/NAME` means.
fn component(registry: &Registry, text: &str) -> Result<&'static Registration> {
    let Some((family, name)) = text.split_once('/') else {
        mistake!("--component is KIND/NAME, such as head/cosface; found `{text}`");
    };
    let Some(family) = registry.family(family) else {
        let known = registry.families();
        mistake!("there is no kind `{family}` of tables: {}", suggestion(family, known.iter().map(|f| f.name)));
    };
    let known = registry.of_family(family);
    match known.iter().find(|r| r.name == name) {
        Some(found) => Ok(found),
        None => {
            mistake!("there is no {} `{name}`: {}", family.name, suggestion(name, known.iter().map(|r| r.name)))
        }
    }
}

/// Prints the numbers of a recipe on given inputs and weights.
pub fn trace(registry: &Arc<Registry>, args: &Trace) -> Result<u8> {
    let recipe = read(registry, &args.recipe, &args.overrides.list())?;
    let options = TraceOptions {
        inputs: args.inputs.clone(),
        weights: args.weights.clone(),
        rename: args.rename.clone(),
        steps: args.steps,
        double: args.double,
        device: args.device.clone(),
        eval: args.eval,
        per_loss: args.per_loss,
        out: args.out.clone(),
        report: args.report.clone(),
    };
    // Each rank traces inputs of its own, and all average their gradients.
    let ranks = match Place::of_environment()? {
        Some(place) => Ranks::join(place)?,
        None => Ranks::alone(),
    };
    ranks.conclude(mtl_recipe::guarded(|| {
        let report = run_trace(&recipe, &options, ranks.connect(device::device(&args.device)?)?)?;
        if args.report.is_none() {
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        Ok(0)
    }))
}

/// Evaluates a run.
pub fn eval(registry: &Arc<Registry>, args: &Eval) -> Result<u8> {
    if let Some(name) = args.name.as_deref().filter(|name| !is_name(name)) {
        mistake!("--name {name:?}: expected 1 to 64 letters, digits, `_` and `-`");
    }
    let mut overrides = args.overrides.list();
    overrides.extend(args.place.list());
    let run = open_run(registry, &args.run, &args.checkpoint, &overrides)?;
    device::configure(&run.recipe)?;
    if run.recipe.evaluate.is_empty() {
        mistake!("the recipe of {} has no [evaluate.NAME]", args.run.display());
    }
    let evaluators = Evaluators::open(&run.recipe)?;
    let model = ModelInference::new(&run.model, &run.recipe, &Judges::default())?.telling(pictures());
    let named = match (&args.out, &args.name) {
        (Some(out), _) => Some(ReportFolder::at(out)),
        (None, Some(name)) => Some(run.folder.evaluation(name)),
        (None, None) => None,
    };
    // Nothing that was measured is written over, by training or by another evaluation.
    if let Some(folder) = &named {
        let own = folder.path().canonicalize().ok().zip(run.folder.reports().path().canonicalize().ok());
        if folder.record().exists() || own.is_some_and(|(folder, own)| folder == own) {
            mistake!("{} is there already: give another --out or --name", folder.path().display());
        }
    }
    let mut record = environment(&run.recipe, &args.overrides.texts());
    record["run"] = run.folder.path().display().to_string().into();
    record["step"] = run.step.into();
    record["evaluate"] = run.recipe.root.to_json().get("evaluate").cloned().unwrap_or_default();
    let mut reports = Vec::new();
    for (name, entry) in evaluators.entries() {
        let report = evaluators.measure(name, &model).with_context(|| format!("in `evaluate.{name}`"))?;
        reports.push((name, entry, report));
    }
    let folder = match named {
        Some(folder) => folder,
        None => run.folder.new_evaluation()?,
    };
    write_atomically(&folder.record(), &serde_json::to_vec_pretty(&record)?)?;
    let mut all = serde_json::Map::new();
    for (name, entry, report) in reports {
        let pictures = write_report(&folder, name, run.step, &report)?;
        if !args.json {
            println!("{name} (step {})", run.step);
            print!("{}", measured(entry, &report));
            for ((picture, _), path) in report.pictures.iter().zip(&pictures) {
                println!("  {picture:<26} {}", path.display());
            }
            println!("  {:<26} {}", "the whole report", folder.report(name, run.step).display());
        }
        all.insert(name.to_owned(), serde_json::to_value(&report)?);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(0)
}

/// The metrics of a report with what is said beside them, a line each.
fn measured(entry: &EvaluateEntry, report: &Report) -> String {
    let mut out = String::new();
    for (metric, value) in &report.metrics {
        let notes: Vec<&str> =
            report.notes.iter().filter(|(name, _)| name == metric).map(|(_, note)| note.as_str()).collect();
        let notes = notes.join(", ");
        let unit = entry.metrics().find(|known| known.name == *metric).map_or("", |known| known.unit);
        let line = match value.is_finite() {
            true => format!("  {metric:<26} {value:.4} {unit}  {notes}"),
            false => format!("  {metric:<26} {}", if notes.is_empty() { "no value" } else { notes.as_str() }),
        };
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for (topic, note) in report.notes.iter().filter(|(name, _)| !report.metrics.contains_key(name)) {
        out.push_str(&format!("  {topic:<26} {note}\n"));
    }
    out
}
