//! Recipes as text again: the resolved recipe, differences, and the schema for editors.

use super::schema::WHOLE;
use super::sections::*;
use super::value::Node;
use super::{Named, component_schema, schema_of};
use crate::component::{Kind, Registration, of_kind};
use serde_json::{Map, Value as Json, json};

/// The TOML text of a merged recipe; reading it gives the same recipe.
pub fn to_toml(root: &Node) -> anyhow::Result<String> {
    Ok(toml::to_string_pretty(&root.to_toml())?)
}

/// The values in which two recipes differ, as `path: old -> new`.
pub fn difference(old: &Json, new: &Json) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    walk("", Some(old), Some(new), &mut out);
    out
}

fn walk(path: &str, old: Option<&Json>, new: Option<&Json>, out: &mut Vec<(String, String, String)>) {
    if old == new {
        return;
    }
    if let (Some(Json::Object(a)), Some(Json::Object(b))) = (old, new) {
        let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
        keys.dedup();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            walk(&path, a.get(key), b.get(key), out);
        }
        return;
    }
    let text = |v: Option<&Json>| v.map_or_else(|| "(not set)".to_owned(), Json::to_string);
    out.push((path.to_owned(), text(old), text(new)));
}

/// The schema of a recipe file, draft-07, made from the registered components.
///
/// No key is required, since a file that extends another may hold any part of a recipe; completeness is
/// checked after merging. A table that names a component is closed to that component's keys.
pub fn recipe_schema() -> Json {
    let mut definitions = Map::new();
    define(&[Kind::Optimizer, Kind::Scheduler], &mut definitions);
    let module_slot = table_of("model", &Kind::MODULES, &mut definitions);
    let data_slot = table_of("data", &[Kind::Dataset], &mut definitions);
    let loss = table_of("loss", &[Kind::Loss], &mut definitions);
    let evaluate = table_of("evaluate", &[Kind::Evaluator], &mut definitions);
    let node = table_of("graph", &[Kind::Function], &mut definitions);
    let mut phase = open(schema_of::<Phase>(), &mut definitions);
    if let Some(p) = phase.get_mut("properties").and_then(Json::as_object_mut) {
        p.insert("optimizer".into(), json!({ "$ref": "#/definitions/optimizer" }));
        p.insert("scheduler".into(), json!({ "$ref": "#/definitions/scheduler" }));
    }
    let run = open(schema_of::<Run>(), &mut definitions);
    let ema = open(schema_of::<Ema>(), &mut definitions);
    let sweep = open(schema_of::<SweepSection>(), &mut definitions);
    let table = |description: &str, of: Json| json!({ "description": description, "type": "object", "additionalProperties": of });
    let strings =
        |description: &str| json!({ "description": description, "type": "array", "items": { "type": "string" } });
    definitions.sort_keys();
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of mtlrun",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "extends": strings("Recipes that this one builds on, from left to right; relative to this file."),
            "remove": strings("Dotted paths of the extended recipes that are dropped."),
            "run": run,
            "dims": table("Sizes shared by components.", json!({ "type": "integer", "minimum": 1, "maximum": WHOLE })),
            "data": table("Data streams by name.", data_slot),
            "model": table("Modules by name.", module_slot),
            "graph": table("Nodes by name: calls of modules and applications of functions.", node),
            "loss": table("Losses by name.", loss),
            "phase": table("Optimisations of a step by name.", phase),
            "evaluate": table("Evaluators by name.", evaluate),
            "ema": ema,
            "sweep": sweep,
        },
        "definitions": definitions,
    });
    referable(&mut schema);
    schema
}

/// Numbers, booleans and choices may also be references; the names of components may not.
fn referable(schema: &mut Json) {
    const REFERENCE: &str = r"^\$\{[^}]+\}$";
    match schema {
        Json::Array(list) => list.iter_mut().for_each(referable),
        Json::Object(map) => {
            if let Some(choices) = map.get_mut("oneOf").and_then(Json::as_array_mut) {
                choices.push(json!({ "type": "string", "pattern": REFERENCE }));
            }
            let plain = map.get("type").and_then(Json::as_str);
            if let Some(plain @ ("integer" | "number" | "boolean")) = plain {
                let types = json!([plain, "string"]);
                map.insert("type".into(), types);
                map.insert("pattern".into(), REFERENCE.into());
            }
            map.values_mut().for_each(referable);
        }
        _ => {}
    }
}

/// The schema of a table that names a component of one kind.
pub fn kind_schema(kind: Kind) -> Json {
    let mut definitions = Map::new();
    let table = table_of(kind.name(), &[kind], &mut definitions);
    rooted(&format!("A {kind} in a recipe of mtlrun"), table, definitions)
}

/// The schema of a table that names this component.
pub fn table_schema(registration: &Registration) -> Json {
    let whole = kind_schema(registration.kind);
    let name = format!("{}.{}", registration.kind, registration.name);
    let table = whole.pointer(&format!("/definitions/{name}")).cloned().unwrap_or_default();
    let definitions = whole.get("definitions").and_then(Json::as_object).cloned().unwrap_or_default();
    rooted(&format!("The {} `{}`", registration.kind, registration.name), table, definitions)
}

/// A document of its own: the schema with its title and the definitions that it refers to.
fn rooted(title: &str, table: Json, mut definitions: Map<String, Json>) -> Json {
    definitions.sort_keys();
    let (mut wanted, mut new) = (Vec::new(), references(&table));
    while let Some(name) = new.pop() {
        if !wanted.contains(&name) {
            new.extend(definitions.get(&name).map(references).unwrap_or_default());
            wanted.push(name);
        }
    }
    definitions.retain(|name, _| wanted.contains(name));
    let mut out = Map::new();
    out.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
    out.insert("title".into(), title.into());
    out.extend(table.as_object().cloned().unwrap_or_default());
    if !definitions.is_empty() {
        out.insert("definitions".into(), definitions.into());
    }
    let mut schema = out.into();
    referable(&mut schema);
    schema
}

/// The definitions that a schema refers to.
fn references(schema: &Json) -> Vec<String> {
    match schema {
        Json::Array(list) => list.iter().flat_map(references).collect(),
        Json::Object(map) => {
            let own = map.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix("#/definitions/"));
            own.map(str::to_owned).into_iter().chain(map.values().flat_map(references)).collect()
        }
        _ => Vec::new(),
    }
}

/// Defines the tables of these kinds under their names.
fn define(kinds: &[Kind], definitions: &mut Map<String, Json>) {
    for kind in kinds {
        let schema = table_of(kind.name(), &[*kind], definitions);
        definitions.insert(kind.name().into(), schema);
    }
}

/// The table of components of these kinds: the engine's keys that go with them and the components' own.
fn table_of(name: &str, kinds: &[Kind], definitions: &mut Map<String, Json>) -> Json {
    let common = match kinds {
        [Kind::Dataset] => {
            define(&[Kind::Sampler, Kind::Transform], definitions);
            let mut common = keys::<DataSlot>(definitions);
            common.insert("sampler".into(), json!({ "$ref": "#/definitions/sampler" }));
            let transforms = json!({ "type": "array", "items": { "$ref": "#/definitions/transform" } });
            common.insert("transforms".into(), transforms);
            common
        }
        [Kind::Loss] => keys::<LossSlot>(definitions),
        [Kind::Evaluator] => keys::<EvaluateSlot>(definitions),
        [Kind::Optimizer] => keys::<OptimizerSlot>(definitions),
        [Kind::Sampler | Kind::Transform | Kind::Scheduler] => keys::<Named>(definitions),
        [Kind::Function] => return node(name, definitions),
        _ => keys::<ModelSlot>(definitions),
    };
    slot("component", name, kinds, definitions, &common)
}

/// A node of the graph calls a module or applies a function, and only then has keys of its own.
fn node(name: &str, definitions: &mut Map<String, Json>) -> Json {
    let mut called = keys::<GraphNode>(definitions);
    let mut applied = called.clone();
    called.shift_remove("apply");
    let call = applied.shift_remove("call").unwrap_or_default();
    let mut table = slot("apply", name, &[Kind::Function], definitions, &applied);
    table["properties"]["call"] = call;
    definitions.insert(
        format!("{name}.call"),
        json!({ "type": "object", "properties": called, "additionalProperties": false }),
    );
    if let Some(branches) = table.get_mut("allOf").and_then(Json::as_array_mut) {
        branches.push(json!({
            "if": { "required": ["call"] },
            "then": { "$ref": format!("#/definitions/{name}.call") },
        }));
    }
    table
}

/// The keys of a type; its own definitions move to the common ones.
fn keys<C: schemars::JsonSchema>(definitions: &mut Map<String, Json>) -> Map<String, Json> {
    let schema = open(schema_of::<C>(), definitions);
    schema.get("properties").and_then(Json::as_object).cloned().unwrap_or_default()
}

/// A type's schema without its requirements; its own definitions move to the common ones.
fn open(mut schema: Json, definitions: &mut Map<String, Json>) -> Json {
    if let Some(map) = schema.as_object_mut() {
        map.remove("$schema");
        map.remove("title");
        map.remove("required");
        if let Some(Json::Object(own)) = map.remove("definitions") {
            definitions.extend(own);
        }
    }
    schema
}

/// A table that names one of several components under `key`: the union of their keys for completion, and for each
/// component its exact, closed schema.
fn slot(
    key: &str,
    name: &str,
    kinds: &[Kind],
    definitions: &mut Map<String, Json>,
    common: &Map<String, Json>,
) -> Json {
    let components: Vec<_> = kinds.iter().flat_map(|k| of_kind(*k)).collect();
    let mut union = common.clone();
    let mut branches = Vec::new();
    for r in &components {
        let schema = open(component_schema(r, &[], &[]), definitions);
        let own = schema.get("properties").and_then(Json::as_object).cloned().unwrap_or_default();
        for (own_key, value) in &own {
            let description = value.get("description").and_then(Json::as_str).unwrap_or_default();
            union
                .entry(own_key.clone())
                .or_insert_with(|| json!({ "description": format!("({}) {description}", r.name) }));
        }
        let mut properties = common.clone();
        properties.insert(key.into(), json!({ "const": r.name }));
        properties.extend(own);
        let definition = format!("{name}.{}", r.name);
        branches.push(json!({
            "if": { "properties": { key: { "const": r.name } }, "required": [key] },
            "then": { "$ref": format!("#/definitions/{definition}") },
        }));
        definitions.insert(
            definition,
            json!({
                "description": schema.get("description").cloned().unwrap_or_default(),
                "type": "object",
                "properties": properties,
                "additionalProperties": false,
            }),
        );
    }
    let names: Vec<&str> = components.iter().map(|r| r.name).collect();
    let about = union.get(key).and_then(|k| k.get("description")).cloned().unwrap_or_default();
    union.insert(key.into(), json!({ "description": about, "type": "string", "enum": names }));
    json!({ "type": "object", "properties": union, "additionalProperties": false, "allOf": branches })
}
