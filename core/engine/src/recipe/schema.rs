//! The JSON schema of recipes, for editors and continuous integration.

use super::checker::{Named, component_schema};
use super::sections::*;
use mtl_component::{ComponentKind, Family, Registration, Registry};
use mtl_recipe::schema::WHOLE;
use mtl_recipe::schema_of;
use serde_json::{Map, Value as Json, json};

/// Makes schemas from the components of a registry.
struct Emitter<'r> {
    registry: &'r Registry,
    /// The definitions that the schema refers to.
    definitions: Map<String, Json>,
}

/// The schema of a recipe file, draft-07, made from the registered components.
///
/// No key is required, since a file that extends another may hold any part of a recipe; completeness is
/// checked after merging. A table that names a component is closed to that component's keys.
pub fn recipe_schema(registry: &Registry) -> Json {
    let mut emitter = Emitter { registry, definitions: Map::new() };
    for kind in [ComponentKind::Optimizer, ComponentKind::Scheduler, ComponentKind::Metric] {
        emitter.define(kind);
    }
    let module_slot = emitter.table_of("model", &registry.of_kind(ComponentKind::Module), ComponentKind::Module);
    let data_slot = emitter.kind("data", ComponentKind::Dataset);
    let loss = emitter.kind("loss", ComponentKind::Loss);
    let evaluate = emitter.kind("evaluate", ComponentKind::Evaluator);
    let hook = emitter.kind("hook", ComponentKind::Hook);
    let node = emitter.kind("graph", ComponentKind::Function);
    let mut phase = emitter.open(schema_of::<Phase>());
    if let Some(p) = phase.get_mut("properties").and_then(Json::as_object_mut) {
        p.insert("optimizer".into(), json!({ "$ref": "#/definitions/optimizer" }));
        p.insert("scheduler".into(), json!({ "$ref": "#/definitions/scheduler" }));
    }
    let run = emitter.open(schema_of::<Run>());
    let ema = emitter.open(schema_of::<Ema>());
    let sweep = emitter.open(schema_of::<SweepSection>());
    let sizes = |description: &str, of: Json| json!({ "description": description, "type": "object", "additionalProperties": of });
    let table = |description: &str, of: Json| {
        let mut table = sizes(description, of);
        // The names become parts of paths.
        table["propertyNames"] = json!({ "pattern": "^[A-Za-z0-9_-]{1,64}$" });
        table
    };
    let strings =
        |description: &str| json!({ "description": description, "type": "array", "items": { "type": "string" } });
    let mut definitions = emitter.definitions;
    definitions.sort_keys();
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of mtlrun",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "extends": strings("Recipes that this one builds on, from left to right; relative to this file."),
            "plugins": strings("Plugins whose components this recipe and those that extend it may name: names, or paths of .so files relative to this file."),
            "remove": strings("Dotted paths of the extended recipes that are dropped."),
            "run": run,
            "dims": sizes("Sizes shared by components.", json!({ "type": "integer", "minimum": 1, "maximum": WHOLE })),
            "data": table("Data streams by name.", data_slot),
            "model": table("Modules by name.", module_slot),
            "graph": table("Nodes by name: calls of modules and applications of functions.", node),
            "loss": table("Losses by name.", loss),
            "phase": table("Optimisations of a step by name.", phase),
            "evaluate": table("Evaluators by name.", evaluate),
            "hook": table("Observers of the run by name.", hook),
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

/// The schema of a table that names a component of one family.
pub fn family_schema(registry: &Registry, family: Family) -> Json {
    let mut emitter = Emitter { registry, definitions: Map::new() };
    let table = emitter.table_of(family.name, &registry.of_family(family), family.kind);
    rooted(&format!("A {} in a recipe of mtlrun", family.name), table, emitter.definitions)
}

/// The schema of a table that names this component.
pub fn table_schema(registry: &Registry, registration: &Registration) -> Json {
    let family = Family { kind: registration.kind, name: registration.family };
    let whole = family_schema(registry, family);
    let name = format!("{}.{}", registration.family, registration.name);
    let table = whole.pointer(&format!("/definitions/{name}")).cloned().unwrap_or_default();
    let definitions = whole.get("definitions").and_then(Json::as_object).cloned().unwrap_or_default();
    rooted(&format!("The {} `{}`", registration.family, registration.name), table, definitions)
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

impl Emitter<'_> {
    /// Defines the table of a kind under its name.
    fn define(&mut self, kind: ComponentKind) {
        let schema = self.kind(kind.name(), kind);
        self.definitions.insert(kind.name().into(), schema);
    }

    /// The table of the components of a kind, with definitions that begin with `name`.
    fn kind(&mut self, name: &str, kind: ComponentKind) -> Json {
        let components = self.registry.of_kind(kind);
        self.table_of(name, &components, kind)
    }

    /// The table of components of one kind: the engine's keys that go with them and the components' own.
    fn table_of(&mut self, name: &str, components: &[&Registration], kind: ComponentKind) -> Json {
        let array_of = |kind: ComponentKind| {
            let reference = format!("#/definitions/{kind}");
            json!({ "type": "array", "items": { "$ref": reference } })
        };
        let common = match kind {
            ComponentKind::Dataset => {
                self.define(ComponentKind::Source);
                self.define(ComponentKind::Sampler);
                self.define(ComponentKind::Transform);
                let mut common = self.keys::<DataSlot>();
                common.insert("source".into(), json!({ "$ref": "#/definitions/source" }));
                common.insert("sampler".into(), json!({ "$ref": "#/definitions/sampler" }));
                common.insert("transforms".into(), array_of(ComponentKind::Transform));
                common
            }
            ComponentKind::Evaluator => {
                self.define(ComponentKind::Source);
                self.define(ComponentKind::Metric);
                let mut common = self.keys::<EvaluateSlot>();
                common.insert("source".into(), json!({ "$ref": "#/definitions/source" }));
                let mut metrics = array_of(ComponentKind::Metric);
                metrics["description"] = "Further metrics, computed from the cases that the evaluator measures.".into();
                common.insert("metrics".into(), metrics);
                common
            }
            ComponentKind::Module => self.keys::<ModelSlot>(),
            ComponentKind::Loss => self.keys::<LossSlot>(),
            ComponentKind::Optimizer => self.keys::<OptimizerSlot>(),
            ComponentKind::Function => return self.node(name, components),
            ComponentKind::Source
            | ComponentKind::Sampler
            | ComponentKind::Transform
            | ComponentKind::Scheduler
            | ComponentKind::Metric
            | ComponentKind::Hook => self.keys::<Named>(),
        };
        self.slot("component", name, components, &common)
    }

    /// A node of the graph calls a module or applies a function, and only then has keys of its own.
    fn node(&mut self, name: &str, functions: &[&Registration]) -> Json {
        let mut called = self.keys::<NodeSlot>();
        let mut applied = called.clone();
        called.shift_remove("apply");
        let call = applied.shift_remove("call").unwrap_or_default();
        let mut table = self.slot("apply", name, functions, &applied);
        table["properties"]["call"] = call;
        self.definitions.insert(
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
    fn keys<C: schemars::JsonSchema>(&mut self) -> Map<String, Json> {
        let schema = self.open(schema_of::<C>());
        schema.get("properties").and_then(Json::as_object).cloned().unwrap_or_default()
    }

    /// A type's schema without its requirements; its own definitions move to the common ones.
    fn open(&mut self, mut schema: Json) -> Json {
        if let Some(map) = schema.as_object_mut() {
            map.remove("$schema");
            map.remove("title");
            map.remove("required");
            if let Some(Json::Object(own)) = map.remove("definitions") {
                self.definitions.extend(own);
            }
        }
        schema
    }

    /// A table that names one of several components under `key`: the union of their keys for completion, and for each
    /// component its exact, closed schema.
    fn slot(&mut self, key: &str, name: &str, components: &[&Registration], common: &Map<String, Json>) -> Json {
        let mut union = common.clone();
        let mut branches = Vec::new();
        for r in components {
            let schema = self.open(component_schema(r, &[], &[]));
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
            self.definitions.insert(
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
}
