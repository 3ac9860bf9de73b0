//! The commands of the engine.

use crate::arguments::{Check, Eval, Explain, GraphArgs, List, Schema, Show, Summary, Trace, Train};
use anyhow::{Context, Result};
use mtl_core::component::{Dim, Factory, Kind, Registration, find, named, of_kind};
use mtl_core::diagnostic::{Diagnostics, suggestion};
use mtl_core::evaluate::{Measure, Report};
use mtl_core::files::write_atomically;
use mtl_core::graph::{Graph, Model, drawing};
use mtl_core::mistake;
use mtl_core::recipe::{Node, Origin, Override, Recipe, difference, kind_schema, recipe_schema, table_schema, to_toml};
use mtl_core::runs::Existing;
use mtl_core::session;
use mtl_core::trace::{TraceOptions, trace as run_trace};
use mtl_core::train::{TrainOptions, train as run_train};
use std::io::IsTerminal;
use std::path::Path;

fn read(path: &Path, overrides: &[Override]) -> Result<Recipe> {
    Ok(Recipe::read(path, overrides)?)
}

pub fn train(args: &Train) -> Result<u8> {
    let Some(path) = &args.recipe else { mistake!("no recipe is named: mtlrun RECIPE, or mtlrun --help") };
    let mut overrides = args.overrides.list();
    let mut texts = args.overrides.texts();
    for (flag, key, value) in [
        ("--device", "run.device", args.device.clone()),
        ("--threads", "run.threads", args.threads.map(|n| n.to_string())),
    ] {
        if let Some(value) = value {
            overrides.push(Override::Set(format!("{key}={value}")));
            texts.push(format!("{flag} {value}"));
        }
    }
    let recipe = read(path, &overrides)?;
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Refuse,
    };
    let options = TrainOptions {
        out: args.out.clone(),
        existing,
        allow_recipe_change: args.allow_recipe_change,
        quiet: args.quiet,
        overrides: texts,
    };
    run_train(recipe, &options)
}

pub fn check(args: &Check) -> Result<u8> {
    let mut worst = 0;
    let mut told = Vec::new();
    for path in &args.recipes {
        let found = check_one(path, args);
        if let Err(error) = &found {
            worst = worst.max(mtl_core::diagnostic::exit_code(error));
        }
        if args.json {
            told.push(as_json(path, found));
            continue;
        }
        match found {
            Ok((line, warnings)) => {
                eprint!("{}", warnings.render(std::io::stderr().is_terminal()));
                println!("{}: {line}", path.display());
            }
            Err(error) => super::tell(&error),
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    }
    Ok(worst)
}

fn as_json(path: &Path, found: Result<(String, Diagnostics)>) -> serde_json::Value {
    let (good, found) = match found {
        Ok((_, warnings)) => (true, warnings.to_json()),
        Err(error) => match error.chain().find_map(|e| e.downcast_ref::<Diagnostics>()) {
            Some(found) => (false, found.to_json()),
            None => (false, serde_json::json!([{ "severity": "error", "message": format!("{error:#}") }])),
        },
    };
    serde_json::json!({ "recipe": path, "good": good, "found": found })
}

fn check_one(path: &Path, args: &Check) -> Result<(String, Diagnostics)> {
    let mut recipe = read(path, &args.overrides.list())?;
    let mut graph = Graph::new(&mut recipe)?;
    if args.data {
        let (data, _) = session::open(&mut recipe, &mut graph)?;
        session::files_are_there(&recipe)?;
        if !args.json {
            for (name, dataset) in &data {
                println!("data.{name}: {} samples", dataset.len());
            }
        }
        session::plans(&recipe, &data)?;
    }
    let warnings = Diagnostics { list: std::mem::take(&mut recipe.warnings), sources: recipe.sources.clone() };
    let losses = graph.nodes.len() - recipe.graph.len();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let parts = [
        count(graph.modules.len(), "module"),
        count(recipe.graph.len(), "node"),
        format!("{losses} loss{}", if losses == 1 { "" } else { "es" }),
        count(graph.phases.len(), "phase"),
        count(recipe.evaluate.len(), "evaluator"),
    ];
    let mut line = format!("good ({})", parts.join(", "));
    if recipe.sweep.is_some() {
        line.push_str(&format!(", and {} points of its sweep", crate::sweep::check(path, &args.overrides)?));
    }
    if recipe.waiting() > 0 {
        line.push_str(", as far as is known without the data: --data opens it");
    }
    Ok((line, warnings))
}

pub fn list(args: &List) -> Result<u8> {
    let kinds: Vec<Kind> = match &args.kind {
        None => Kind::ALL.into_iter().filter(|k| !of_kind(*k).is_empty()).collect(),
        Some(name) => match named(name.trim_end_matches('s')).or_else(|| named(name)) {
            Some(kind) => vec![kind],
            None => mistake!("there is no kind `{name}`: {}", suggestion(name, Kind::ALL.iter().map(|k| k.name()))),
        },
    };
    for (i, kind) in kinds.iter().enumerate() {
        if i > 0 {
            println!();
        }
        println!("{kind}");
        if of_kind(*kind).is_empty() {
            println!("  none");
        }
        for r in of_kind(*kind) {
            println!("  {:<26} {}", r.name, first_sentence(&r.doc()));
            if args.kind.is_some() {
                ports(r);
                keys(r);
            }
        }
    }
    Ok(0)
}

/// The ports of a component with its defaults, if it needs no key.
fn ports(r: &Registration) {
    let nothing = Node::empty(Origin { file: 0, span: 0..0 });
    let Factory::Block(make) = &r.factory else { return };
    let Ok(block) = make(&nothing) else { return };
    let ports = block.ports();
    for (word, list) in [("in", &ports.inputs), ("out", &ports.outputs)] {
        for port in list {
            let may = if port.optional { ", may be left out" } else { "" };
            println!("    {word:<4} {:<19} {} [{}]{may}", port.name, port.dtype, port.pattern);
        }
    }
}

fn keys(r: &Registration) {
    let schema = (r.schema)();
    let Some(properties) = schema.get("properties").and_then(|p| p.as_object()) else { return };
    for (key, value) in properties {
        let about = value.get("description").and_then(|d| d.as_str()).unwrap_or_default();
        let default = value.get("default").filter(|d| !d.is_null()).map(|d| format!(" [default: {d}]"));
        println!("    {key:<24} {}{}", first_sentence(about), default.unwrap_or_default());
    }
}

fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    // "et al." and "eq. 4" end no sentence.
    let ends = |at: &usize| !["al", "eq", "e.g", "i.e"].iter().any(|short| text[..*at].ends_with(&format!(" {short}")));
    match text.match_indices(". ").map(|(at, _)| at).find(ends) {
        Some(at) => text[..=at].to_owned(),
        None => text,
    }
}

pub fn show(args: &Show) -> Result<u8> {
    let recipe = read(&args.recipe, &args.overrides.list())?;
    let Some(other) = &args.diff else {
        print!("{}", to_toml(&recipe.root)?);
        return Ok(0);
    };
    for (path, here, there) in difference(&recipe.root.to_json(), &read(other, &[])?.root.to_json()) {
        println!("{path}: {here} -> {there}");
    }
    Ok(0)
}

pub fn explain(args: &Explain) -> Result<u8> {
    let recipe = read(&args.recipe, &args.overrides.list())?;
    let found = mtl_core::recipe::explain(&recipe, &args.path)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(0);
    }
    let value = found.value.as_ref().map_or_else(|| "not set".to_owned(), ToString::to_string);
    println!("{} = {value}", found.path);
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
        let value = by.value.map_or_else(|| "taken away".to_owned(), |v| v.to_string());
        println!("  set by {mark} {}: {value}", by.place);
    }
    if dropped {
        println!("  set by * nobody any more: another component was named there, or the table removed");
    }
    Ok(0)
}

pub fn graph(args: &GraphArgs) -> Result<u8> {
    let mut recipe = read(&args.recipe, &args.overrides.list())?;
    let graph = Graph::new(&mut recipe)?;
    recipe.settle_without_data()?;
    write_atomically(&args.out, drawing::draw(&recipe, &graph, &args.out)?.as_bytes())?;
    println!("{}", args.out.display());
    Ok(0)
}

/// Parameters of each module with the memory of weights, gradients and optimizer state in single precision.
pub fn summary(args: &Summary) -> Result<u8> {
    let mut recipe = read(&args.recipe, &args.overrides.list())?;
    let graph = Graph::new(&mut recipe)?;
    recipe.settle_without_data()?;
    let counts = Model::counts(&recipe, &graph, 1)?;
    let mebibytes = |numbers: i64| numbers as f64 * 4.0 / f64::from(1 << 20);
    println!(
        "{:<14} {:<24} {:>12} {:>12} {:>14} {:>14}",
        "module", "component", "parameters", "weights MiB", "gradients MiB", "optimizer MiB"
    );
    let mut sums = [0.0; 4];
    for (m, (module, count)) in graph.modules.iter().zip(&counts).enumerate() {
        let updating = graph.phases.iter().zip(recipe.phase.values()).filter(|(p, _)| p.updates[m]);
        let state: i64 = updating.map(|(_, entry)| entry.optimizer.config.state_each() as i64 * count).sum();
        let row =
            [*count as f64, mebibytes(*count), if module.trained { mebibytes(*count) } else { 0.0 }, mebibytes(state)];
        sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
        let component = recipe.model[m].registration.name;
        println!("{:<14} {component:<24} {count:>12} {:>12.1} {:>14.1} {:>14.1}", module.name, row[1], row[2], row[3]);
    }
    println!("{:<14} {:<24} {:>12} {:>12.1} {:>14.1} {:>14.1}", "together", "", sums[0], sums[1], sums[2], sums[3]);
    let open: Vec<&str> =
        graph.dims.iter().filter(|(_, d)| matches!(d, Dim::Named(_))).map(|(name, _)| name.as_str()).collect();
    if !open.is_empty() {
        println!("known only with the data, and counted as 1: {}", open.join(", "));
        if let Some(size) = open.iter().find(|name| !name.contains('.')) {
            println!("to count them in full: --set dims.{size}=…");
        }
    }
    Ok(0)
}

pub fn schema(args: &Schema) -> Result<u8> {
    let mut schemas = vec![match &args.component {
        None => ("recipe".to_owned(), recipe_schema()),
        Some(text) => {
            let registration = component(text)?;
            (format!("{}.{}", registration.kind, registration.name), table_schema(registration))
        }
    }];
    if args.component.is_none() && args.out.is_some() {
        schemas.extend(Kind::TABLES.iter().map(|kind| (kind.name().to_owned(), kind_schema(*kind))));
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

/// The component that `KIND/NAME` means.
fn component(text: &str) -> Result<&'static Registration> {
    let Some((kind, name)) = text.split_once('/') else {
        mistake!("--component is KIND/NAME, such as head/cosface; found `{text}`");
    };
    let Some(kind) = named(kind).filter(|kind| Kind::TABLES.contains(kind)) else {
        mistake!("there is no kind `{kind}` of tables: {}", suggestion(kind, Kind::TABLES.iter().map(|k| k.name())));
    };
    match find(&[kind], name) {
        Some(found) => Ok(found),
        None => mistake!("there is no {kind} `{name}`: {}", suggestion(name, of_kind(kind).iter().map(|r| r.name))),
    }
}

pub fn trace(args: &Trace) -> Result<u8> {
    let recipe = read(&args.recipe, &args.overrides.list())?;
    let options = TraceOptions {
        inputs: args.inputs.clone(),
        weights: args.weights.clone(),
        rename: args.rename.clone(),
        steps: args.steps,
        double: args.double,
        eval: args.eval,
        per_loss: args.per_loss,
        out: args.out.clone(),
        report: args.report.clone(),
    };
    let report = run_trace(recipe, &options)?;
    if args.report.is_none() {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(0)
}

pub fn eval(args: &Eval) -> Result<u8> {
    let mut run = session::open_run(&args.run, &args.checkpoint, &args.overrides.list())?;
    session::configure(&run.recipe)?;
    if run.recipe.evaluate.is_empty() {
        mistake!("the recipe of {} has no [evaluate.NAME]", args.run.display());
    }
    let evaluators = session::evaluators(&mut run.recipe)?;
    let measure = Measure::new(&run.model, &run.recipe, session::threads(&run.recipe))?;
    let mut all = serde_json::Map::new();
    for (name, slot) in &evaluators {
        let report = slot.config.evaluate(&measure).with_context(|| format!("in `evaluate.{name}`"))?;
        let pictures = report.write(&run.folder, name, run.step)?;
        if !args.json {
            println!("{name} (step {})", run.step);
            for (metric, value) in &report.metrics {
                println!("  {metric:<26} {value:.4}");
            }
            for ((picture, _), path) in report.pictures.iter().zip(&pictures) {
                println!("  {picture:<26} {}", path.display());
            }
            println!("  {:<26} {}", "all of it", Report::path(&run.folder, name, run.step).display());
        }
        all.insert(name.clone(), serde_json::to_value(&report)?);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(0)
}
