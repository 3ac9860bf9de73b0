//! Rules of a course of training: what is asked for has to come about within its steps.

use crate::diagnostic::{Diagnostic, suggestion};
use crate::recipe::{ModulePrecision, Precision, Recipe};
use crate::rule;

rule!("best checkpoint", best_is_measured);
rule!("moving averages", averages_are_of_modules);
rule!("phases", phases_run);
rule!("precision", precision_is_used);
rule!("ramps", ramps_end);
rule!("weights of losses", losses_count);

fn best_is_measured(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let Some(metric) = &recipe.run.checkpoint.best else { return };
    let place = recipe.place("run.checkpoint.best");
    let evaluators = || recipe.evaluate.keys().map(String::as_str);
    match metric.split_once('.') {
        Some((evaluator, name)) if recipe.evaluate.contains_key(evaluator) => {
            let known = recipe.evaluate[evaluator].config.metrics();
            if !known.is_empty() && !known.iter().any(|k| k == name) {
                found.push(
                    Diagnostic::error(format!("`run.checkpoint.best`: `evaluate.{evaluator}` measures no `{name}`"))
                        .at(&place, "no such metric")
                        .help(suggestion(name, known.iter().map(String::as_str))),
                );
            }
        }
        Some((evaluator, _)) => found.push(
            Diagnostic::error(format!(
                "`run.checkpoint.best` asks for a metric of `{evaluator}`, which is no evaluator"
            ))
            .at(&place, "expected evaluator.metric")
            .help(suggestion(evaluator, evaluators())),
        ),
        None => found.push(
            Diagnostic::error(format!("`run.checkpoint.best` is {metric:?}, expected evaluator.metric"))
                .at(&place, "such as verification.accuracy")
                .help(suggestion(metric, evaluators())),
        ),
    }
}

fn averages_are_of_modules(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for module in recipe.ema.iter().flat_map(|ema| &ema.modules).filter(|m| !recipe.model.contains_key(*m)) {
        found.push(
            Diagnostic::error(format!("`ema.modules` names `{module}`, which is no module"))
                .at(&recipe.place("ema.modules"), "here")
                .help(suggestion(module, recipe.model.keys().map(String::as_str))),
        );
    }
}

fn phases_run(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let steps = recipe.run.steps;
    for (name, entry) in &recipe.phase {
        if recipe.waits(&format!("phase.{name}")) {
            continue;
        }
        let (from, until) = (entry.common.from, entry.common.until);
        if let Some(until) = until.filter(|until| *until <= from) {
            found.push(
                Diagnostic::error(format!("the phase `{name}` ends at step {until}, before it begins at {from}"))
                    .at(&recipe.place(&format!("phase.{name}.until")), format!("must be above {from}")),
            );
        } else if from >= steps {
            found.push(
                Diagnostic::warning(format!(
                    "the phase `{name}` never runs: it begins after step {from}, and the run has {steps}"
                ))
                .at(&recipe.place(&format!("phase.{name}.from")), "steps are counted from 0 here"),
            );
        }
        for warning in entry.scheduler.iter().flat_map(|s| s.warnings(steps)) {
            let place = recipe.place(&format!("phase.{name}.scheduler"));
            found.push(Diagnostic::warning(format!("`phase.{name}.scheduler`: {warning}")).at(&place, ""));
        }
    }
}

fn precision_is_used(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let half = matches!(recipe.run.precision, Precision::Bf16 | Precision::Fp16);
    if half && recipe.model.values().all(|m| m.common.precision != ModulePrecision::Amp) {
        found.push(
            Diagnostic::warning("`run.precision` changes nothing: no module has precision = \"amp\"")
                .at(&recipe.place("run.precision"), "only modules that ask for it compute in half precision")
                .help("add precision = \"amp\" to [model.NAME] of the large modules"),
        );
    }
}

fn ramps_end(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for (name, loss) in &recipe.loss {
        let Some(ramp) = loss.slot.common.ramp.filter(|_| !recipe.waits(&format!("loss.{name}"))) else { continue };
        let place = recipe.place(&format!("loss.{name}.ramp"));
        if ramp.until < ramp.from {
            found.push(
                Diagnostic::error(format!("the ramp of the loss `{name}` ends at {} before {}", ramp.until, ramp.from))
                    .at(&place, "`until` must not be below `from`"),
            );
        } else if ramp.until > recipe.run.steps {
            found.push(
                Diagnostic::warning(format!(
                    "the loss `{name}` never reaches its weight: its ramp ends at step {}, the run at {}",
                    ramp.until, recipe.run.steps
                ))
                .at(&place, "this ramp"),
            );
        }
    }
}

fn losses_count(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for (name, loss) in recipe.loss.iter().filter(|(_, loss)| loss.slot.common.weight == 0.0) {
        found.push(
            Diagnostic::warning(format!("the loss `{name}` has weight 0: it changes nothing"))
                .at(&loss.slot.origin, "still computed")
                .help("to leave it out, take its name from `minimize` too"),
        );
    }
}
