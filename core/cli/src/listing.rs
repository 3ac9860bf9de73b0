//! What the program knows: components, and kinds of findings.

use crate::arguments::List;
use mtl_component::{
    ConfigValue, Family, Id, Made, ModuleConfig, Origin, Provider, Registration, Registry, Result, mistake,
};
use mtl_recipe::suggestion;
use std::collections::BTreeMap;

/// Lists components by family.
pub fn list(registry: &Registry, args: &List) -> Result<u8> {
    let families: Vec<Family> = match &args.kind {
        None => registry.families(),
        Some(name) => match registry.family(name.trim_end_matches('s')).or_else(|| registry.family(name)) {
            Some(family) => vec![family],
            None => {
                let known = registry.families();
                mistake!("there is no kind `{name}`: {}", suggestion(name, known.iter().map(|f| f.name)))
            }
        },
    };
    for (i, family) in families.iter().enumerate() {
        if i > 0 {
            println!();
        }
        println!("{}", family.name);
        for r in registry.of_family(*family) {
            let of = match registry.provider(r) {
                Some(Provider::Plugin { name, version, .. }) => format!(" (plugin {name} {version})"),
                _ => String::new(),
            };
            println!("  {:<26} {}{of}", r.name, first_sentence(&r.doc()));
            if args.kind.is_some() {
                ports(r);
                keys(r);
            }
        }
    }
    Ok(0)
}

/// The ports of a component with its defaults, if it needs no key.
fn ports(r: &'static Registration) {
    let nothing = ConfigValue::empty(Origin { file: 0, span: 0..0 });
    let Some(Ok(module)) = <dyn ModuleConfig>::made(r, &nothing) else { return };
    let Ok(description) = module.describe() else { return };
    for (word, list) in [("in", &description.ports.inputs), ("out", &description.ports.outputs)] {
        for port in list {
            let may = if port.optional { ", may be left out" } else { "" };
            println!("    {word:<4} {:<19} {} [{}]{may}", port.name, port.dtype, port.pattern);
        }
    }
}

fn keys(r: &Registration) {
    let schema = r.schema();
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

/// Prints what a check of a recipe may find, for `recipes/diagnostics.md`.
pub fn diagnostics(registry: &Registry) -> Result<u8> {
    let own = mtl_recipe::ids::ALL.iter().chain(mtl_engine::ids::ALL);
    let rules = registry.rules().iter().flat_map(|rule| rule.ids);
    let all: BTreeMap<&str, &Id> = own.chain(rules).map(|id| (id.name, *id)).collect();
    println!(
        "# What `mtlrun check` may find\n\n\
         Every finding has an id that stays the same when its wording changes; `mtlrun check --json` gives it as `id`.\n\
         `mtlrun diagnostics` writes this list.\n\n| id | what it means |\n|---|---|"
    );
    for id in all.values() {
        println!("| `{}` | {} |", id.name, id.about.replace('|', "\\|"));
    }
    Ok(0)
}
