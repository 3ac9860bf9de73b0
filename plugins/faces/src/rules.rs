//! Rules of recipes on faces.

use crate::age_groups;
use mtl_component::{Diagnostic, RecipeView, ids, rule};

ids! {
    AGE_GROUPS "age-groups" "A recipe of faces gives no number of age groups, or one for which no groups are defined."
    TRAINED_ON_TEST_LIST "trained-on-test-list" "An evaluator measures on a list that a data stream trains on."
    TRAINED_ON_TEST_PEOPLE "trained-on-test-people" "An evaluator measures on made people that a data stream trains on."
}

rule!("age groups", [&AGE_GROUPS], age_groups_are_defined);
rule!("unseen lists", [&TRAINED_ON_TEST_LIST], lists_are_unseen);
rule!("unseen people", [&TRAINED_ON_TEST_PEOPLE], people_are_unseen);

fn age_groups_are_defined(recipe: &RecipeView<'_>, found: &mut Vec<Diagnostic>) {
    let grouped = |ports: &mtl_component::Ports| ports.outputs.iter().any(|port| port.name == "group");
    let here = recipe.section("data").any(|stream| stream.ports.is_some_and(grouped));
    match recipe.integer("dims.age_groups") {
        Some(groups) => {
            if let Err(e) = age_groups::edges(groups) {
                let d = Diagnostic::error(&AGE_GROUPS, e.to_string());
                found.push(d.at(&recipe.place("dims.age_groups"), "must be 4 to 8"));
            }
        }
        None if here => found.push(
            Diagnostic::error(&AGE_GROUPS, "the datasets of faces need the number of age groups")
                .at(&recipe.place("dims"), "`age_groups` must be given")
                .help("add age_groups = 7 to [dims]"),
        ),
        None => {}
    }
}

/// A list that a recipe trains on and measures with.
fn lists_are_unseen(recipe: &RecipeView<'_>, found: &mut Vec<Diagnostic>) {
    // The short form, and the source that it stands for.
    let lists = |table: &str| -> Vec<String> {
        let keys = [format!("{table}.list"), format!("{table}.source.path")];
        keys.into_iter().filter(|path| recipe.at(path).is_some_and(|list| list.str().is_some())).collect()
    };
    let text = |path: &str| recipe.at(path).and_then(|value| value.str());
    for stream in recipe.section("data").map(|placed| placed.name) {
        for path in lists(&format!("data.{stream}")) {
            for name in recipe.section("evaluate").map(|placed| placed.name) {
                for its in lists(&format!("evaluate.{name}")).iter().filter(|its| text(its) == text(&path)) {
                    let message = format!("`evaluate.{name}` measures on what `data.{stream}` trains on");
                    found.push(
                        Diagnostic::warning(&TRAINED_ON_TEST_LIST, message)
                            .at(&recipe.place(its), "the same pictures")
                            .also(&recipe.place(&path), "trained on")
                            .help("give it pictures of people that training does not see"),
                    );
                }
            }
        }
    }
}

/// Made people that a recipe trains on and measures with: accuracy on them says little.
fn people_are_unseen(recipe: &RecipeView<'_>, found: &mut Vec<Diagnostic>) {
    // Seed of the collection and range of people.
    let people = |path: &str| {
        let number = |key: &str| recipe.integer(&format!("{path}.{key}"));
        let (seed, first) = (number("seed")?, number("first")?);
        Some((seed, first, first.saturating_add(number("identities")?)))
    };
    let places = |table: &str| [format!("{table}.made"), format!("{table}.source")];
    for stream in recipe.section("data") {
        let table = format!("data.{}", stream.name);
        let own = (stream.registration.name == "synthetic_faces").then(|| table.clone());
        for path in places(&table).into_iter().chain(own) {
            let Some((seed, first, end)) = people(&path) else { continue };
            for name in recipe.section("evaluate").map(|placed| placed.name) {
                for made in places(&format!("evaluate.{name}")) {
                    let Some((its_seed, its_first, its_end)) = people(&made) else { continue };
                    let both = its_end.min(end) - its_first.max(first);
                    if seed == its_seed && both > 0 {
                        let message =
                            format!("`evaluate.{name}` measures on {both} of the people that `{table}` trains on");
                        found.push(
                            Diagnostic::warning(&TRAINED_ON_TEST_PEOPLE, message)
                                .at(&recipe.place(&made), "these people")
                                .also(&recipe.place(&path), "the same collection")
                                .help(format!("begin behind them, with first = {end} or more, or take another seed")),
                        );
                    }
                }
            }
        }
    }
}
