//! Explains a value of a recipe: what it is, what it may be, and where it was set.

use super::checker::{Named, component_schema};
use super::sections::*;
use super::{Recipe, SECTIONS};
use mtl_component::{ComponentKind, Registration};
use mtl_recipe::load::override_value;
use mtl_recipe::schema::{is_path_format, range_text, resolve};
use mtl_recipe::value::parse;
use mtl_recipe::{ConfigValue, Result, Value, mistake, schema_of};
use serde_json::Value as Json;

/// Everything that is known of one path of a recipe.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Explanation {
    /// The dotted path.
    pub path: String,
    /// The value in force; none if nothing sets it and it has no default.
    pub value: Option<Json>,
    /// What it is, in the words of its documentation.
    pub about: Option<String>,
    /// The type and the allowed range, or the choices.
    pub expected: Option<String>,
    /// The default.
    pub default: Option<Json>,
    /// A value that it may have.
    pub example: Option<Json>,
    /// The places that set it or take it away, the later over the earlier.
    pub set_by: Vec<SetBy>,
}

/// A place that sets a value, or takes it away.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SetBy {
    /// `file:line`, or the override.
    pub place: String,
    /// The value as it is written there; none where it is taken away.
    pub value: Option<Json>,
    /// Whether it is the one in force.
    pub in_force: bool,
}

/// Explains a dotted path.
///
/// # Errors
/// A mistake if a recipe has no such path; it names the nearest ones.
pub fn explain(recipe: &Recipe, path: &str) -> Result<Explanation> {
    let node = recipe.root.at(path);
    let schema = schema_at(recipe, path);
    if node.is_none() && schema.is_none() && !SECTIONS.contains(&path) {
        mistake!("the recipe has no `{path}`: {}", recipe.root.missing(path));
    }
    let in_force = recipe.root.entry(path).map(|entry| &entry.key);
    let mut set_by = Vec::new();
    let covers = |of: &str| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let overrides = (0..recipe.sources.iter().count()).filter(|file| recipe.sources.get(*file).path.is_none());
    for file in recipe.order.iter().copied().chain(overrides) {
        let source = recipe.sources.get(file);
        if source.path.is_some() {
            let Ok(own) = parse(&source.text, file) else { continue };
            let removed = match own.get("remove").map(|n| &n.value) {
                Some(Value::Array(items)) => items.iter().find(|item| item.str().is_some_and(covers)),
                _ => None,
            };
            if let Some(item) = removed {
                let place = format!("{} (remove)", recipe.sources.locate(&item.origin));
                set_by.push(SetBy { place, value: None, in_force: false });
            }
            let Some(found) = own.entry(path) else { continue };
            set_by.push(SetBy {
                place: recipe.sources.locate(&found.node.origin),
                value: Some(found.node.to_json()),
                in_force: in_force == Some(&found.key),
            });
            continue;
        }
        let (key, text) = source.text.split_once('=').map_or((source.text.as_str(), None), |(k, v)| (k, Some(v)));
        let Some(rest) = path.strip_prefix(key.trim()).filter(|_| covers(key.trim())) else { continue };
        let value = text.and_then(|text| override_value(text, file, 0).ok());
        let value = match rest.strip_prefix('.') {
            Some(rest) => value.and_then(|v| v.at(rest).map(ConfigValue::to_json)),
            None => value.map(|v| v.to_json()),
        };
        if value.is_some() || text.is_none() {
            let in_force = in_force.is_some_and(|origin| origin.file == file);
            set_by.push(SetBy { place: format!("{} {}", source.name, source.text), value, in_force });
        }
    }
    let schema = schema.as_ref();
    Ok(Explanation {
        path: path.to_owned(),
        value: node.map(ConfigValue::to_json),
        about: schema.and_then(|s| s.get("description")?.as_str()).map(|text| text.replace('\n', " ")),
        expected: schema.and_then(expected),
        default: schema.and_then(|s| s.get("default").filter(|d| !d.is_null()).cloned()),
        example: schema.and_then(|s| s.get("examples")?.get(0).cloned()),
        set_by,
    })
}

/// The type and range, or the choices, in words.
fn expected(schema: &Json) -> Option<String> {
    let choices = |list: &Vec<Json>| {
        let one = |v: &Json| {
            let name = v.get("const").or_else(|| v.get("enum")?.get(0)).unwrap_or(v).as_str()?.to_owned();
            let about = v.get("description").and_then(Json::as_str);
            Some(about.map_or_else(|| format!("{name:?}"), |a| format!("{name:?}: {}", a.replace('\n', " "))))
        };
        let all: Vec<String> = list.iter().filter_map(one).collect();
        (!all.is_empty()).then(|| format!("one of {}", all.join("; ")))
    };
    for key in ["oneOf", "anyOf", "enum"] {
        if let Some(found) = schema.get(key).and_then(Json::as_array).and_then(choices) {
            return Some(found);
        }
    }
    let kind = match schema.get("type")? {
        Json::Array(list) => list.iter().filter_map(Json::as_str).find(|t| *t != "null")?.to_owned(),
        other => other.as_str()?.to_owned(),
    };
    let word = match kind.as_str() {
        "object" => "a table".to_owned(),
        "array" => "an array".to_owned(),
        "integer" => "an integer".to_owned(),
        other => format!("a {other}"),
    };
    let range = range_text(schema);
    Some(if range == "a finite number" { word } else { format!("{word}, {range}") })
}

/// Whether the value at a dotted path is a path of the file system.
pub fn is_path(recipe: &Recipe, path: &str) -> bool {
    schema_at(recipe, path).is_some_and(|schema| is_path_format(&schema))
}

/// The schema of the value at a path: of the engine's keys, or of the component that the table names.
fn schema_at(recipe: &Recipe, path: &str) -> Option<Json> {
    let keys: Vec<&str> = path.split('.').collect();
    let (section, rest) = keys.split_first()?;
    let named = ["data", "model", "graph", "loss", "phase", "evaluate", "hook"].contains(section);
    if named && recipe.root.at(&keys[..keys.len().min(2)].join(".")).is_none() {
        return None;
    }
    let own = |registration: &Registration| component_schema(registration, &[], &[]);
    let component = |kind: ComponentKind, node: Option<&ConfigValue>| {
        recipe.registry.find(kind, node?.get("component")?.str()?).map(own)
    };
    let within = |slot: Json, component: Option<Json>, rest: &[&str]| {
        descend(&slot, rest).or_else(|| descend(&component?, rest))
    };
    match (*section, rest) {
        ("run", rest) => descend(&schema_of::<Run>(), rest),
        ("ema", rest) => descend(&schema_of::<Ema>(), rest),
        ("sweep", rest) => descend(&schema_of::<SweepSection>(), rest),
        ("model", [name, rest @ ..]) => {
            within(schema_of::<ModelSlot>(), recipe.model.get(*name).map(|m| own(m.slot.registration)), rest)
        }
        ("data", [name, "sampler", rest @ ..]) => within(
            schema_of::<Named>(),
            component(ComponentKind::Sampler, recipe.root.at(&format!("data.{name}.sampler"))),
            rest,
        ),
        ("data" | "evaluate", [name, "source", rest @ ..]) => within(
            schema_of::<Named>(),
            component(ComponentKind::Source, recipe.root.at(&format!("{section}.{name}.source"))),
            rest,
        ),
        ("data", [name, rest @ ..]) => {
            within(schema_of::<DataSlot>(), recipe.data.get(*name).map(|d| own(d.slot.registration)), rest)
        }
        ("loss", [name, rest @ ..]) => {
            within(schema_of::<LossSlot>(), recipe.loss.get(*name).map(|l| own(l.slot.registration)), rest)
        }
        ("evaluate", [name, rest @ ..]) => {
            within(schema_of::<EvaluateSlot>(), recipe.evaluate.get(*name).map(|e| own(e.slot.registration)), rest)
        }
        ("hook", [name, rest @ ..]) => {
            within(schema_of::<Named>(), recipe.hook.get(*name).map(|h| own(h.registration)), rest)
        }
        ("graph", [name, rest @ ..]) => {
            let apply = recipe.graph.get(*name).and_then(|g| g.common.apply.as_deref());
            let function = apply.and_then(|f| recipe.registry.find(ComponentKind::Function, f)).map(own);
            within(schema_of::<NodeSlot>(), function, rest)
        }
        ("phase", [name, part @ ("optimizer" | "scheduler"), rest @ ..]) => {
            let node = recipe.root.at(&format!("phase.{name}.{part}"));
            let (slot, kind) = match *part {
                "optimizer" => (schema_of::<OptimizerSlot>(), ComponentKind::Optimizer),
                _ => (schema_of::<Named>(), ComponentKind::Scheduler),
            };
            within(slot, component(kind, node), rest)
        }
        ("phase", [_, rest @ ..]) => descend(&schema_of::<Phase>(), rest),
        _ => None,
    }
}

fn descend(root: &Json, keys: &[&str]) -> Option<Json> {
    let mut schema = root;
    let mut about = None;
    for key in keys {
        let table = plain(root, schema);
        let next = table.get("properties").and_then(|p| p.get(*key));
        schema = next.or_else(|| table.get("additionalProperties").filter(|a| a.is_object()))?;
        about = schema.get("description").cloned();
    }
    let mut found = plain(root, schema).clone();
    // The words at the key say more than those at the type.
    if let (Some(about), Some(map)) = (about, found.as_object_mut()) {
        map.insert("description".into(), about);
        for key in ["default", "examples"] {
            if let Some(value) = schema.get(key) {
                map.insert(key.into(), value.clone());
            }
        }
    }
    (!keys.is_empty()).then_some(found)
}

/// The schema behind references, and that of a value that may be left out.
fn plain<'j>(root: &'j Json, schema: &'j Json) -> &'j Json {
    let schema = resolve(root, schema);
    let branches = schema.get("anyOf").and_then(Json::as_array);
    let given = branches.and_then(|b| b.iter().find(|s| s.get("type").and_then(Json::as_str) != Some("null")));
    match (branches.map(Vec::len), given) {
        (Some(2), Some(given)) => resolve(root, given),
        _ => schema,
    }
}
