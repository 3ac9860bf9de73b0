//! Rules of recipes on faces.

use crate::age_groups;
use mtl_core::diagnostic::Diagnostic;
use mtl_core::recipe::Recipe;
use mtl_core::rule;

rule!("age groups", age_groups_are_defined);
rule!("unseen lists", lists_are_unseen);
rule!("unseen people", people_are_unseen);

fn age_groups_are_defined(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    let here = recipe.data.values().any(|d| d.slot.registration.origin == env!("CARGO_PKG_NAME"));
    match recipe.dims.get("age_groups") {
        Some(groups) => {
            if let Err(e) = age_groups::edges(*groups) {
                found.push(Diagnostic::error(e.to_string()).at(&recipe.place("dims.age_groups"), "must be 4 to 8"));
            }
        }
        None if here => found.push(
            Diagnostic::error("the datasets of faces need the number of age groups")
                .at(&recipe.place("dims"), "`age_groups` must be given")
                .help("add age_groups = 7 to [dims]"),
        ),
        None => {}
    }
}

/// A list that a recipe trains on and measures with.
fn lists_are_unseen(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    for stream in recipe.data.keys() {
        let path = format!("data.{stream}.list");
        let Some(list) = recipe.root.at(&path).filter(|list| list.str().is_some()) else { continue };
        for name in recipe.evaluate.keys() {
            let its = format!("evaluate.{name}.list");
            if recipe.root.at(&its).is_some_and(|node| node.str() == list.str()) {
                found.push(
                    Diagnostic::warning(format!(
                        "`evaluate.{name}` measures on the list that `data.{stream}` trains on"
                    ))
                    .at(&recipe.place(&its), "the same list")
                    .also(&recipe.place(&path), "trained on")
                    .help("give it a list of people that training does not see"),
                );
            }
        }
    }
}

/// Made people that a recipe trains on and measures with: accuracy on them says little.
fn people_are_unseen(recipe: &Recipe, found: &mut Vec<Diagnostic>) {
    // Seed of the collection and range of people.
    let people = |path: &str| {
        let number = |key: &str| recipe.root.at(path)?.get(key)?.to_json().as_i64();
        let (seed, first) = (number("seed")?, number("first")?);
        Some((seed, first, first.saturating_add(number("identities")?)))
    };
    for (stream, data) in &recipe.data {
        if data.slot.registration.name != "synthetic_faces" {
            continue;
        }
        let path = format!("data.{stream}");
        let Some((seed, first, end)) = people(&path) else { continue };
        for name in recipe.evaluate.keys() {
            let made = format!("evaluate.{name}.made");
            let Some((its_seed, its_first, its_end)) = people(&made) else { continue };
            let both = its_end.min(end) - its_first.max(first);
            if seed == its_seed && both > 0 {
                found.push(
                    Diagnostic::warning(format!(
                        "`evaluate.{name}` measures on {both} of the people that `{path}` trains on"
                    ))
                    .at(&recipe.place(&made), "these people")
                    .also(&recipe.place(&path), "the same collection")
                    .help(format!("begin behind them, with first = {end} or more, or take another seed")),
                );
            }
        }
    }
}
