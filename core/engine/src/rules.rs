//! Rules across the tables of a recipe that the engine knows: what is asked for has to come about within the steps of
//! the run.

use crate::ids;
use crate::recipe::{ModulePrecision, Precision, Recipe};
use mtl_component::{Better, RenameTable};
use mtl_recipe::schema::NameOrPath;
use mtl_recipe::{Diagnostic, suggestion};

/// A rule of the engine itself, which sees the typed recipe.
type OwnRule = fn(&Recipe, &mut Vec<Diagnostic>);

/// What the engine's rules and the registered ones find, each by its name.
pub(crate) fn run_rules(recipe: &Recipe) -> Vec<Diagnostic> {
    let own: [(&str, OwnRule); 8] = [
        ("best checkpoint", best_is_measured),
        ("device", device_is_known),
        ("moving averages", averages_are_of_modules),
        ("phases", phases_run),
        ("precision", precision_is_used),
        ("ramps", ramps_end),
        ("tables of names", renames_are_known),
        ("weights of losses", losses_count),
    ];
    let view = recipe.view();
    let mut found: Vec<(&str, Vec<Diagnostic>)> = Vec::new();
    for (name, check) in own {
        let mut diagnostics = Vec::new();
        check(recipe, &mut diagnostics);
        found.push((name, diagnostics));
    }
    for rule in recipe.registry.rules() {
        let mut diagnostics = Vec::new();
        if let Err(error) = (rule.check)(&view, &mut diagnostics) {
            let d = Diagnostic::error(&ids::COMPONENT_PROBLEM, format!("{error:#}"));
            diagnostics.push(d.of(error.code()));
        }
        found.push((rule.name, diagnostics));
    }
    found.sort_by_key(|(name, _)| *name);
    found.into_iter().flat_map(|(_, diagnostics)| diagnostics).collect()
}

fn device_is_known(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let device = recipe.run.device.as_str();
    let number = device.strip_prefix("cuda:").is_some_and(|n| n.parse::<u32>().is_ok());
    if !number && !["cpu", "cuda"].contains(&device) {
        found.push(
            Diagnostic::error(&ids::UNKNOWN_DEVICE, format!("`run.device` does not know \"{device}\""))
                .at(&recipe.place("run.device"), "no such device")
                .help(suggestion(device, ["cpu", "cuda", "cuda:N"])),
        );
    }
}

fn best_is_measured(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let Some(metric) = &recipe.run.checkpoint.best else { return };
    let place = recipe.place("run.checkpoint.best");
    let evaluators = || recipe.evaluate.keys().map(String::as_str);
    let d = match metric.split_once('.') {
        Some((evaluator, name)) if recipe.evaluate.contains_key(evaluator) => {
            let entry = &recipe.evaluate[evaluator];
            match entry.metrics().find(|m| m.name == name) {
                Some(known) if known.better != Better::Neither => return,
                Some(_) => Diagnostic::error(
                    &ids::UNKNOWN_METRIC,
                    format!("`run.checkpoint.best`: `{name}` is neither better when larger nor when smaller"),
                )
                .at(&place, "cannot decide which checkpoint is best"),
                None => Diagnostic::error(
                    &ids::UNKNOWN_METRIC,
                    format!("`run.checkpoint.best`: `evaluate.{evaluator}` measures no `{name}`"),
                )
                .at(&place, "no such metric")
                .help(suggestion(name, entry.metrics().map(|m| m.name.as_str()))),
            }
        }
        Some((evaluator, _)) => Diagnostic::error(
            &ids::UNKNOWN_EVALUATOR,
            format!("`run.checkpoint.best` asks for a metric of `{evaluator}`, which is not an evaluator"),
        )
        .at(&place, "expected evaluator.metric")
        .help(suggestion(evaluator, evaluators())),
        None => Diagnostic::error(
            &ids::UNKNOWN_EVALUATOR,
            format!("`run.checkpoint.best` is {metric:?}, expected evaluator.metric"),
        )
        .at(&place, "such as verification.accuracy")
        .help(suggestion(metric, evaluators())),
    };
    found.push(d);
}

fn renames_are_known(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for (name, entry) in &recipe.model {
        let rename = entry.slot.common.weights.as_ref().and_then(|w| w.rename.as_ref());
        let Some(NameOrPath(text)) = rename.filter(|r| !NameOrPath::is_path(&r.0)) else { continue };
        let tables: Vec<&str> = recipe.registry.renames().iter().map(|table: &&RenameTable| table.name).collect();
        if !tables.contains(&text.as_str()) {
            let path = format!("model.{name}.weights.rename");
            found.push(
                Diagnostic::error(&ids::UNKNOWN_RENAME, format!("`{path}`: there is no table of names `{text}`"))
                    .at(&recipe.place(&path), "expected a registered table, or a path that ends in .toml")
                    .help(suggestion(text, tables)),
            );
        }
    }
}

fn averages_are_of_modules(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for module in recipe.ema.iter().flat_map(|ema| &ema.modules).filter(|m| !recipe.model.contains_key(*m)) {
        found.push(
            Diagnostic::error(&ids::UNKNOWN_MODULE, format!("`ema.modules` names `{module}`, which is not a module"))
                .at(&recipe.place("ema.modules"), "here")
                .help(suggestion(module, recipe.model.keys().map(String::as_str))),
        );
    }
}

fn phases_run(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let steps = recipe.run.steps;
    for (name, entry) in &recipe.phase {
        let (from, until) = (entry.common.from, entry.common.until);
        if let Some(until) = until.filter(|until| *until <= from) {
            found.push(
                Diagnostic::error(
                    &ids::PHASE_INTERVAL,
                    format!("the phase `{name}` ends at step {until}, before it begins at {from}"),
                )
                .at(&recipe.place(&format!("phase.{name}.until")), format!("must be above {from}")),
            );
        } else if from >= steps {
            found.push(
                Diagnostic::warning(
                    &ids::PHASE_INTERVAL,
                    format!("the phase `{name}` never runs: it begins after step {from}, and the run has {steps}"),
                )
                .at(&recipe.place(&format!("phase.{name}.from")), "steps are counted from 0 here"),
            );
        }
        let place = recipe.place(&format!("phase.{name}.scheduler"));
        match entry.schedule(steps) {
            Ok(description) => found.extend(description.warnings.into_iter().map(|warning| {
                Diagnostic::warning(&ids::SCHEDULE, format!("`phase.{name}.scheduler`: {warning}")).at(&place, "")
            })),
            Err(e) => {
                let message = format!("`phase.{name}.scheduler`: {e:#}");
                found.push(Diagnostic::error(&ids::COMPONENT_PROBLEM, message).at(&place, "").of(e.code()));
            }
        }
    }
}

fn precision_is_used(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let half = matches!(recipe.run.precision, Precision::Bf16 | Precision::Fp16);
    if half && recipe.model.values().all(|m| m.slot.common.precision != ModulePrecision::Amp) {
        found.push(
            Diagnostic::warning(
                &ids::PRECISION_UNUSED,
                "`run.precision` changes nothing: no module has precision = \"amp\"",
            )
            .at(&recipe.place("run.precision"), "only modules that ask for it compute in half precision")
            .help("add precision = \"amp\" to [model.NAME] of the large modules"),
        );
    }
}

fn ramps_end(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for (name, loss) in &recipe.loss {
        let Some(ramp) = loss.slot.common.ramp else { continue };
        let place = recipe.place(&format!("loss.{name}.ramp"));
        if ramp.until < ramp.from {
            found.push(
                Diagnostic::error(
                    &ids::RAMP_INTERVAL,
                    format!("the ramp of the loss `{name}` ends at {} before {}", ramp.until, ramp.from),
                )
                .at(&place, "`until` must not be below `from`"),
            );
        } else if ramp.until > recipe.run.steps {
            found.push(
                Diagnostic::warning(
                    &ids::RAMP_INTERVAL,
                    format!(
                        "the loss `{name}` never reaches its weight: its ramp ends at step {}, the run at {}",
                        ramp.until, recipe.run.steps
                    ),
                )
                .at(&place, "this ramp"),
            );
        }
    }
}

fn losses_count(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for (name, loss) in recipe.loss.iter().filter(|(_, loss)| loss.slot.common.weight == 0.0) {
        found.push(
            Diagnostic::warning(&ids::ZERO_WEIGHT, format!("the loss `{name}` has weight 0: it changes nothing"))
                .at(&loss.slot.origin, "still computed")
                .help("to leave it out, take its name from `minimize` too"),
        );
    }
}
