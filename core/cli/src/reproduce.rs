//! `mtlrun reproduce`: a recorded run once more, its numbers compared bit by bit.

use crate::arguments::Reproduce;
use crate::commands::observers;
use crate::messages;
use mtl_component::{Registry, Result, mistake};
use mtl_engine::graph::Graph;
use mtl_engine::ranks::Ranks;
use mtl_engine::runs::{Existing, Record, RunFolder, environment};
use mtl_engine::train::{Compared, TrainOptions, compared, train};
use mtl_recipe::Override;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What of the record decides the bits of a run, and how it is called.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("/mtlrun", "version of mtlrun"),
    ("/git/commit", "commit of the working directory"),
    ("/git/changed", "files changed since that commit"),
    ("/libtorch", "version of libtorch"),
    ("/machine/cpu", "processor"),
    ("/cpu_capability", "instruction set"),
    ("/threads", "threads"),
    ("/device", "device"),
];

/// Numbers of a run by step and name.
type Numbers = BTreeMap<(u64, String), f64>;

/// Trains the recorded recipe again and compares; exit code 1 if a number differs.
pub fn reproduce(registry: &Arc<Registry>, args: &Reproduce) -> Result<u8> {
    let run = RunFolder::resolve(&args.run)?;
    let then = run.record()?;
    if let Some(ranks) = then.get("ranks").and_then(Value::as_u64).filter(|ranks| *ranks > 1) {
        mistake!(
            "{0} was trained by {ranks} ranks, and reproduce trains in one process: train {0}/recipe.resolved.toml with \
             --nproc {ranks} into another folder, and compare",
            run.path().display()
        );
    }
    let mut overrides = Vec::new();
    // The number of threads decides the order of sums; a recipe that leaves it open took the cores of its machine.
    if let Some(threads) = then.get("threads").and_then(Value::as_u64) {
        overrides.push(format!("run.threads={threads}"));
    }
    let set: Vec<Override> = overrides.iter().cloned().map(Override::Set).collect();
    let recipe = run.recipe(registry, &set)?;
    run.allow_plugins(&recipe, args.allow_plugin_change)?;
    let steps = args.steps.unwrap_or(recipe.run.steps);
    if steps > recipe.run.steps {
        mistake!("--steps {steps} is more than the {} steps of the run", recipe.run.steps);
    }
    let recorded = Record::read(&run)?;
    let old = numbers(recorded, steps);
    if old.is_empty() {
        mistake!("{} holds no numbers up to step {steps}: there is nothing to compare with", run.path().display());
    }
    let different = changes(&then, &environment(&recipe, &[]));
    for line in &different {
        println!("{line}");
    }
    // Within the run: beside it, it would be taken for the newest one.
    let out = args.out.clone().unwrap_or_else(|| run.path().join("reproduced"));
    let options = TrainOptions {
        out: Some(out.clone()),
        existing: if args.overwrite { Existing::Overwrite } else { Existing::Refuse },
        allow_recipe_change: false,
        allow_plugin_change: false,
        checkpoint: None,
        until: Some(steps),
        deep: args.deep,
        profile: None,
        overrides: overrides.iter().map(|o| format!("--set {o}")).collect(),
    };
    if args.quiet {
        messages::be_quiet();
    }
    let graph = Graph::new(&recipe)?;
    let code = train(recipe, graph, &options, &Ranks::alone(), observers(args.quiet))?;
    if code != 0 {
        return Ok(code);
    }
    let Compared { changed, doubts } = compared(&then, &RunFolder::at(&out).record()?);
    changed.iter().chain(&doubts).for_each(|line| println!("warning: {line}"));
    let new = numbers(Record::read(&RunFolder::at(&out))?, steps);
    let Some(line) = first_difference(&old, &new) else {
        println!("reproduced: {} numbers up to step {steps} are the same bit by bit", old.len());
        return Ok(0);
    };
    println!("NOT reproduced: {line}");
    if different.is_empty() && changed.is_empty() && doubts.is_empty() {
        println!("nothing of the recorded environment differs");
    }
    Ok(1)
}

/// What training and evaluation logged up to a step, but for times.
fn numbers(run: Record, steps: u64) -> Numbers {
    let curves = run.curves.into_iter().filter(|(name, _)| !name.starts_with("time/"));
    let each = curves.flat_map(|(name, curve)| curve.into_iter().map(move |(step, v)| ((step, name.clone()), v)));
    each.filter(|((step, _), _)| *step <= steps).collect()
}

fn changes(then: &Value, now: &Value) -> Vec<String> {
    let nothing = Value::Null;
    let pairs = ENVIRONMENT.iter().map(|(pointer, name)| {
        (name, then.pointer(pointer).unwrap_or(&nothing), now.pointer(pointer).unwrap_or(&nothing))
    });
    pairs.filter(|(_, a, b)| a != b).map(|(name, a, b)| format!("{name} differs: {a} then, {b} now")).collect()
}

/// The first number, by step, that is not the same in both.
fn first_difference(old: &Numbers, new: &Numbers) -> Option<String> {
    old.iter().find_map(|((step, name), then)| match new.get(&(*step, name.clone())) {
        Some(now) if now.to_bits() == then.to_bits() => None,
        Some(now) => {
            Some(format!("`{name}` at step {step} was {then:?} and is {now:?}, apart by {:.3e}", (now - then).abs()))
        }
        None => Some(format!("`{name}` at step {step} was {then:?} and is not there now")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bit_counts() {
        let old = Numbers::from([((1, "loss/a".into()), 1.0), ((2, "loss/a".into()), 0.5)]);
        assert_eq!(first_difference(&old, &old.clone()), None);
        let mut new = old.clone();
        new.insert((2, "loss/a".into()), f64::from_bits(0.5f64.to_bits() + 1));
        let line = first_difference(&old, &new).unwrap();
        assert!(line.starts_with("`loss/a` at step 2 was 0.5 and is 0.5000000000000001"), "{line}");
        new.remove(&(2, "loss/a".to_owned()));
        assert!(first_difference(&old, &new).unwrap().contains("is not there now"));
    }

    #[test]
    fn what_differs_in_the_environment_is_named() {
        let then = serde_json::json!({ "machine": { "cpu": "A" }, "libtorch": "2.11.0" });
        let now = serde_json::json!({ "machine": { "cpu": "B" }, "libtorch": "2.11.0" });
        assert_eq!(changes(&then, &now), ["processor differs: \"A\" then, \"B\" now"]);
    }
}
