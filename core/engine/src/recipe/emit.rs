//! Recipes as text again: the resolved recipe, differences, and the schema for editors.

use super::sections::*;
use super::value::Node;
use super::{Named, component_schema, schema_of};
use crate::component::{Kind, of_kind};
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
    let named = |kind: Kind| of_kind(kind).into_iter().map(|r| r.name).collect::<Vec<_>>();
    let module_slot = slot::<ModelSlot>("model", &Kind::MODULES, &mut definitions, &[]);
    let data_slot = slot::<DataSlot>(
        "data",
        &[Kind::Dataset],
        &mut definitions,
        &[
            ("sampler", json!({ "$ref": "#/definitions/sampler" })),
            ("transforms", json!({ "type": "array", "items": { "$ref": "#/definitions/transform" } })),
        ],
    );
    let sampler = slot::<Named>("sampler", &[Kind::Sampler], &mut definitions, &[]);
    let transform = slot::<Named>("transform", &[Kind::Transform], &mut definitions, &[]);
    let loss = slot::<LossSlot>("loss", &[Kind::Loss], &mut definitions, &[]);
    let optimizer = slot::<OptimizerSlot>("optimizer", &[Kind::Optimizer], &mut definitions, &[]);
    let scheduler = slot::<Named>("scheduler", &[Kind::Scheduler], &mut definitions, &[]);
    let evaluate = slot::<EvaluateSlot>("evaluate", &[Kind::Evaluator], &mut definitions, &[]);
    for (name, schema) in
        [("sampler", sampler), ("transform", transform), ("optimizer", optimizer), ("scheduler", scheduler)]
    {
        definitions.insert(name.into(), schema);
    }
    let mut phase = open(schema_of::<Phase>(), &mut definitions);
    if let Some(p) = phase.get_mut("properties").and_then(Json::as_object_mut) {
        p.insert("optimizer".into(), json!({ "$ref": "#/definitions/optimizer" }));
        p.insert("scheduler".into(), json!({ "$ref": "#/definitions/scheduler" }));
    }
    let mut node = open(schema_of::<GraphNode>(), &mut definitions);
    if let Some(map) = node.as_object_mut() {
        map.remove("additionalProperties");
        if let Some(p) = map.get_mut("properties").and_then(Json::as_object_mut) {
            p.insert(
                "apply".into(),
                json!({ "description": "The function to apply.", "type": "string", "enum": named(Kind::Function) }),
            );
        }
    }
    let run = open(schema_of::<Run>(), &mut definitions);
    let ema = open(schema_of::<Ema>(), &mut definitions);
    let sweep = open(schema_of::<SweepSection>(), &mut definitions);
    let table = |description: &str, of: Json| json!({ "description": description, "type": "object", "additionalProperties": of });
    let strings =
        |description: &str| json!({ "description": description, "type": "array", "items": { "type": "string" } });
    definitions.sort_keys();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of mtlrun",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "extends": strings("Recipes that this one builds on, from left to right; relative to this file."),
            "remove": strings("Dotted paths of the extended recipes that are dropped."),
            "run": run,
            "dims": table("Sizes shared by components.", json!({ "type": "integer", "minimum": 1 })),
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
    })
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

/// A table that names one of several components: the union of their keys for completion, and for each
/// component its exact, closed schema.
fn slot<C: schemars::JsonSchema>(
    name: &str,
    kinds: &[Kind],
    definitions: &mut Map<String, Json>,
    nested: &[(&str, Json)],
) -> Json {
    let common = open(schema_of::<C>(), definitions);
    let mut common = common.get("properties").and_then(Json::as_object).cloned().unwrap_or_default();
    common.extend(nested.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    let components: Vec<_> = kinds.iter().flat_map(|k| of_kind(*k)).collect();
    let mut union = common.clone();
    let mut branches = Vec::new();
    for r in &components {
        let schema = open(component_schema(r, &[], &[]), definitions);
        let own = schema.get("properties").and_then(Json::as_object).cloned().unwrap_or_default();
        for (key, value) in &own {
            let description = value.get("description").and_then(Json::as_str).unwrap_or_default();
            union.entry(key.clone()).or_insert_with(|| json!({ "description": format!("({}) {description}", r.name) }));
        }
        let mut properties = common.clone();
        properties.insert("component".into(), json!({ "const": r.name }));
        properties.extend(own);
        let definition = format!("{name}.{}", r.name);
        branches.push(json!({
            "if": { "properties": { "component": { "const": r.name } }, "required": ["component"] },
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
    union.insert("component".into(), json!({ "description": "The component.", "type": "string", "enum": names }));
    json!({ "type": "object", "properties": union, "additionalProperties": false, "allOf": branches })
}
