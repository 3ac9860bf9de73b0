//! Walks a value against the JSON schema of a configuration type.
//!
//! serde stops at the first error of a table. The walk finds them all, names the nearest valid key, makes
//! paths absolute and fills in defaults, so that decoding afterwards is a formality.

use crate::diagnostic::Diagnostic;
use crate::ids;
use crate::suggestion::suggestion;
use crate::value::{ConfigValue, Entry, Origin, Provenance, Sources, Table, Value, float_text, parse_value};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value as Json, json};
use std::path::{Component, Path, PathBuf};

/// The schema of a configuration type, draft-07, as plain JSON.
pub fn schema_of<T: JsonSchema>() -> Json {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>().to_value();
    exact(&mut schema);
    schema
}

/// Writes out the ranges that a format only implies, so that validators know them, and removes null, which TOML lacks.
fn exact(schema: &mut Json) {
    match schema {
        Json::Array(list) => list.iter_mut().for_each(exact),
        Json::Object(map) => {
            let range = match map.get("format").and_then(Json::as_str) {
                Some("uint8") => Some((0, i64::from(u8::MAX))),
                Some("uint16") => Some((0, i64::from(u16::MAX))),
                Some("uint32") => Some((0, i64::from(u32::MAX))),
                Some("uint64" | "uint") => Some((0, WHOLE)),
                Some("int64" | "int") => Some((-WHOLE, WHOLE)),
                _ => None,
            };
            if let Some((least, most)) = range {
                map.entry("minimum").or_insert_with(|| least.into());
                map.entry("maximum").or_insert_with(|| most.into());
            }
            if let Some(Json::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Json::Array(branches)) = map.get_mut("anyOf") {
                branches.retain(|b| b.get("type").and_then(Json::as_str) != Some("null"));
                if let [only] = branches.as_slice() {
                    // Beside a reference draft-07 reads nothing else, but beside an `allOf` of it.
                    let only = only.clone();
                    map.shift_remove("anyOf");
                    map.insert("allOf".into(), json!([only]));
                }
            }
            if map.get("default").is_some_and(Json::is_null) {
                map.shift_remove("default");
            }
            map.values_mut().for_each(exact);
        }
        _ => {}
    }
}

/// A path in a recipe. Relative ones start from the folder of the file that says them; one given by `--set`
/// starts from the working directory, and `~/` is the user's home.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(transparent)]
pub struct RecipePath(pub PathBuf);

impl JsonSchema for RecipePath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Path".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": PATH, "minLength": 1 })
    }
}

impl std::ops::Deref for RecipePath {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

/// A registered name, or a path: what contains a `/` or ends in `.toml` is a path, which starts from the folder of the
/// file that holds it, as a [`RecipePath`] does.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(transparent)]
pub struct NameOrPath(pub String);

impl NameOrPath {
    /// Whether a text is meant as a path.
    pub fn is_path(text: &str) -> bool {
        text.contains('/') || text.ends_with(".toml")
    }
}

impl JsonSchema for NameOrPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NameOrPath".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": NAME_OR_PATH, "minLength": 1 })
    }
}

const PATH: &str = "path";
const NAME_OR_PATH: &str = "name-or-path";

/// Whether a text that a schema describes is, or may be, a path of the file system.
pub fn is_path_format(schema: &Json) -> bool {
    matches!(schema.get("format").and_then(Json::as_str), Some(PATH | NAME_OR_PATH))
}

/// Whole numbers up to this are exact as floats; `1e5` may stand where an integer is wanted, as in JSON Schema.
pub const WHOLE: i64 = 1 << 53;

/// What the walk needs besides the schema.
pub struct Walk<'a> {
    /// The texts, for the folders of relative paths.
    pub sources: &'a Sources,
    /// Where findings go.
    pub out: &'a mut Vec<Diagnostic>,
    /// Keys that the table has besides those of the schema, to be suggested for a wrong one.
    pub beside: &'a [String],
}

impl Walk<'_> {
    /// Checks `node` against `schema`; `what` names the table for messages, such as `model.backbone (ir50)`.
    pub fn check(&mut self, schema: &Json, node: &mut ConfigValue, what: &str) {
        self.value(schema, schema, node, what);
    }

    fn value(&mut self, root: &Json, schema: &Json, node: &mut ConfigValue, what: &str) {
        let schema = resolve(root, schema);
        if let Some(Provenance::Environment { .. }) = self.sources.provenance(&node.origin) {
            read_as_wanted(root, schema, node);
        }
        if let Some(branches) = ["anyOf", "oneOf"].iter().find_map(|k| schema.get(k)).and_then(Json::as_array) {
            return self.union(root, branches, node, what);
        }
        if let Some(valid) = schema.get("enum").and_then(Json::as_array) {
            return self.choice(valid.iter(), node, what);
        }
        if let Value::Float(v) = node.value
            && v.fract() == 0.0
            && v.abs() <= WHOLE as f64
            && types(schema).contains(&"integer")
        {
            node.value = Value::Integer(v as i64);
        }
        // One number has one spelling, so that equal recipes are equal.
        if let Value::Integer(v) = node.value
            && v.unsigned_abs() <= WHOLE.unsigned_abs()
            && types(schema).contains(&"number")
            && !types(schema).contains(&"integer")
        {
            node.value = Value::Float(v as f64);
        }
        if !self.type_fits(schema, node, what) {
            return;
        }
        self.range(schema, node, what);
        match schema.get("format").and_then(Json::as_str) {
            Some(PATH) => self.absolute(node),
            Some(NAME_OR_PATH) if node.str().is_some_and(NameOrPath::is_path) => self.absolute(node),
            _ => {}
        }
        if let Some(items) = schema.get("items")
            && let Value::Array(list) = &mut node.value
        {
            for (i, item) in list.iter_mut().enumerate() {
                self.value(root, items, item, &format!("{what}[{i}]"));
            }
        }
        if node.table().is_some()
            && (schema.get("properties").is_some() || schema.get("additionalProperties").is_some())
        {
            self.object(root, schema, node, what);
        }
    }

    /// A union is decided by the type of the value, so that the errors are those of the branch that was meant.
    fn union(&mut self, root: &Json, branches: &[Json], node: &mut ConfigValue, what: &str) {
        let branches: Vec<&Json> = branches.iter().map(|b| resolve(root, b)).collect();
        let takes = |kind: &str| branches.iter().any(|b| types(b).contains(&kind));
        if let Value::Float(v) = node.value
            && v.fract() == 0.0
            && v.abs() <= WHOLE as f64
            && takes("integer")
            && !takes("number")
        {
            node.value = Value::Integer(v as i64);
        }
        let consts: Vec<&Json> = branches.iter().flat_map(|b| names(b)).collect();
        let only_names = branches.iter().all(|b| !names(b).is_empty());
        if !consts.is_empty() && (node.str().is_some() || only_names) {
            let open_string = branches.iter().any(|b| names(b).is_empty() && type_matches(b, node));
            if !open_string {
                return self.choice(consts.into_iter(), node, what);
            }
        }
        if let Some(branch) = branches.iter().find(|b| type_matches(b, node)) {
            return self.value(root, branch, node, what);
        }
        let expected: Vec<String> = branches.iter().filter_map(|b| expected(b)).collect();
        self.out.push(
            Diagnostic::error(
                &ids::WRONG_TYPE,
                format!("`{what}` must be {}, found {}", expected.join(" or "), node.value.type_name()),
            )
            .at(&node.origin, node.value.short()),
        );
    }

    fn choice<'j>(&mut self, valid: impl Iterator<Item = &'j Json>, node: &ConfigValue, what: &str) {
        let valid: Vec<&str> = valid.filter_map(Json::as_str).collect();
        if node.str().is_some_and(|s| valid.contains(&s)) {
            return;
        }
        let d = match node.str() {
            Some(found) => Diagnostic::error(&ids::UNKNOWN_CHOICE, format!("`{what}` does not know {found:?}"))
                .at(&node.origin, "no such choice")
                .help(suggestion(found, valid)),
            None => Diagnostic::error(
                &ids::WRONG_TYPE,
                format!("`{what}` must be a name, found {}", node.value.type_name()),
            )
            .at(&node.origin, node.value.short())
            .help(format!("valid: {}", valid.join(", "))),
        };
        self.out.push(d);
    }

    fn type_fits(&mut self, schema: &Json, node: &ConfigValue, what: &str) -> bool {
        if type_matches(schema, node) {
            return true;
        }
        let wanted = expected(schema).unwrap_or_else(|| "something else".into());
        let d =
            Diagnostic::error(&ids::WRONG_TYPE, format!("`{what}` must be {wanted}, found {}", node.value.type_name()))
                .at(&node.origin, node.value.short());
        self.out.push(d);
        false
    }

    fn range(&mut self, schema: &Json, node: &ConfigValue, what: &str) {
        let number = match &node.value {
            Value::Integer(v) => *v as f64,
            Value::Float(v) => *v,
            Value::Array(items) => {
                return self.length(schema, "minItems", "maxItems", items.len(), "entries", node, what);
            }
            Value::String(text) => {
                let n = text.chars().count();
                return self.length(schema, "minLength", "maxLength", n, "characters", node, what);
            }
            _ => return,
        };
        let limit = |key: &str| schema.get(key).and_then(Json::as_f64);
        // Beyond 2^53 the float above is not the number that was written.
        let exact = |key: &str| schema.get(key).and_then(Json::as_i64);
        let beyond = matches!(node.value, Value::Integer(v)
            if exact("maximum").is_some_and(|m| v > m) || exact("minimum").is_some_and(|m| v < m));
        let bad = beyond
            || !number.is_finite()
            || limit("minimum").is_some_and(|m| number < m)
            || limit("maximum").is_some_and(|m| number > m)
            || limit("exclusiveMinimum").is_some_and(|m| number <= m)
            || limit("exclusiveMaximum").is_some_and(|m| number >= m);
        if bad {
            self.out.push(
                Diagnostic::error(&ids::OUT_OF_RANGE, format!("`{what}` is out of range: {}", node.value.short()))
                    .at(&node.origin, format!("must be {}", range_text(schema))),
            );
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn length(&mut self, schema: &Json, min: &str, max: &str, n: usize, unit: &str, node: &ConfigValue, what: &str) {
        let limit = |key: &str| schema.get(key).and_then(Json::as_u64);
        let (min, max) = (limit(min).unwrap_or(0), limit(max).unwrap_or(u64::MAX));
        if (n as u64) < min || n as u64 > max {
            let wanted = if max == u64::MAX { format!("at least {min}") } else { format!("{min} to {max}") };
            self.out.push(
                Diagnostic::error(&ids::WRONG_LENGTH, format!("`{what}` has {n} {unit}, expected {wanted}"))
                    .at(&node.origin, node.value.short()),
            );
        }
    }

    fn absolute(&mut self, node: &mut ConfigValue) {
        let folder = self.sources.folder(&node.origin).to_owned();
        if let Value::String(text) = &mut node.value {
            *text = resolved(text, &folder).to_string_lossy().into_owned();
        }
    }

    fn object(&mut self, root: &Json, schema: &Json, node: &mut ConfigValue, what: &str) {
        let origin = node.origin.clone();
        let none = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&none);
        let additional = schema.get("additionalProperties");
        let closed = additional == Some(&Json::Bool(false));
        let Some(table) = node.table_mut() else { return };
        for (key, entry) in table.iter_mut() {
            match (properties.get(key), additional) {
                (Some(property), _) => self.value(root, property, &mut entry.node, &join(what, key)),
                (None, Some(rest)) if rest.is_object() => self.value(root, rest, &mut entry.node, &join(what, key)),
                (None, _) if closed => {
                    let beside = if std::ptr::eq(root, schema) { self.beside } else { &[] };
                    let valid = beside.iter().chain(properties.keys()).map(String::as_str);
                    let d = Diagnostic::error(&ids::UNKNOWN_KEY, format!("`{what}` has no key `{key}`"))
                        .at(&entry.key, "unknown key")
                        .help(suggestion(key, valid));
                    self.out.push(d);
                }
                (None, _) => {}
            }
        }
        let required = schema.get("required").and_then(Json::as_array);
        for key in required.into_iter().flatten().filter_map(Json::as_str) {
            if !table.contains_key(key) {
                let about = properties.get(key).and_then(description).map(|d| format!(": {d}")).unwrap_or_default();
                self.out.push(
                    Diagnostic::error(&ids::MISSING_KEY, format!("`{what}` lacks the key `{key}`"))
                        .incomplete()
                        .at(&origin, format!("`{key}` must be given{about}")),
                );
            }
        }
        fill_defaults(properties, table, &origin);
    }
}

/// Text of the environment becomes a number or a boolean where no text is wanted.
fn read_as_wanted(root: &Json, schema: &Json, node: &mut ConfigValue) {
    let branches = ["anyOf", "oneOf"].iter().find_map(|k| schema.get(k)).and_then(Json::as_array);
    let wanted: Vec<&str> = match branches {
        Some(branches) => branches.iter().flat_map(|b| types(resolve(root, b))).collect(),
        None => types(schema),
    };
    if wanted.is_empty() || wanted.contains(&"string") {
        return;
    }
    let read = node.str().and_then(|text| parse_value(text.trim(), node.origin.file, 0).ok()).map(|read| read.value);
    if let Some(value @ (Value::Bool(_) | Value::Integer(_) | Value::Float(_))) = read {
        node.value = value;
    }
}

/// Adds what was left out, where the schema has a default; null stands for "not set" and adds nothing.
fn fill_defaults(properties: &serde_json::Map<String, Json>, table: &mut Table, origin: &Origin) {
    for (key, property) in properties {
        if let Some(default) = property.get("default")
            && !table.contains_key(key)
            && let Some(value) = from_json(default, origin)
        {
            let node = ConfigValue { value, origin: origin.clone() };
            table.insert(key.clone(), Entry { key: origin.clone(), node });
        }
    }
}

fn from_json(json: &Json, origin: &Origin) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(v) => Value::Bool(*v),
        Json::Number(n) => match n.as_i64() {
            Some(v) if !n.is_f64() => Value::Integer(v),
            _ => Value::Float(n.as_f64()?),
        },
        Json::String(v) => Value::String(v.clone()),
        Json::Array(items) => Value::Array(
            items
                .iter()
                .filter_map(|v| from_json(v, origin))
                .map(|value| ConfigValue { value, origin: origin.clone() })
                .collect(),
        ),
        Json::Object(map) => Value::Table(
            map.iter()
                .filter_map(|(k, v)| {
                    let node = ConfigValue { value: from_json(v, origin)?, origin: origin.clone() };
                    Some((k.clone(), Entry { key: origin.clone(), node }))
                })
                .collect(),
        ),
    })
}

fn join(what: &str, key: &str) -> String {
    if what.is_empty() { key.to_owned() } else { format!("{what}.{key}") }
}

/// Follows `$ref` and the one-element `allOf` that draft-07 needs around it.
pub fn resolve<'j>(root: &'j Json, schema: &'j Json) -> &'j Json {
    let mut schema = schema;
    for _ in 0..16 {
        if let Some(pointer) = schema.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix('#')) {
            match root.pointer(pointer) {
                Some(target) => schema = target,
                None => return schema,
            }
        } else if let Some([only]) = schema.get("allOf").and_then(Json::as_array).map(Vec::as_slice) {
            schema = only;
        } else {
            break;
        }
    }
    schema
}

fn names(schema: &Json) -> Vec<&Json> {
    match (schema.get("const"), schema.get("enum").and_then(Json::as_array)) {
        (Some(one), _) if one.is_string() => vec![one],
        (_, Some(list)) => list.iter().collect(),
        _ => Vec::new(),
    }
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(t)) => vec![t.as_str()],
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_str).collect(),
        _ if schema.get("const").is_some_and(Json::is_string) || schema.get("enum").is_some() => vec!["string"],
        _ => Vec::new(),
    }
}

fn type_matches(schema: &Json, node: &ConfigValue) -> bool {
    let types = types(schema);
    types.is_empty()
        || types.iter().any(|t| {
            matches!(
                (*t, &node.value),
                ("boolean", Value::Bool(_))
                    | ("integer", Value::Integer(_))
                    | ("number", Value::Integer(_) | Value::Float(_))
                    | ("string", Value::String(_))
                    | ("array", Value::Array(_))
                    | ("object", Value::Table(_))
            )
        })
}

fn expected(schema: &Json) -> Option<String> {
    let list: Vec<String> = types(schema)
        .into_iter()
        .filter(|t| *t != "null")
        .map(|t| match t {
            "boolean" => "a boolean".into(),
            "integer" => "an integer".into(),
            "number" => "a number".into(),
            "string" => "a string".into(),
            "array" => "an array".into(),
            "object" => "a table".into(),
            other => other.to_owned(),
        })
        .collect();
    (!list.is_empty()).then(|| list.join(" or "))
}

/// The allowed range of a number in words.
pub fn range_text(schema: &Json) -> String {
    let limit = |key: &str| {
        schema.get(key).and_then(Json::as_f64).map(|v| match v {
            v if v.abs() == WHOLE as f64 => format!("{}2^53", if v < 0.0 { "-" } else { "" }),
            v if v.fract() == 0.0 && v.abs() < 1e15 => format!("{v}"),
            v => float_text(v),
        })
    };
    let parts: Vec<String> = [
        limit("minimum").map(|v| format!("at least {v}")),
        limit("exclusiveMinimum").map(|v| format!("above {v}")),
        limit("maximum").map(|v| format!("at most {v}")),
        limit("exclusiveMaximum").map(|v| format!("below {v}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "a finite number".into() } else { parts.join(" and ") }
}

/// The first sentence of a schema's description.
pub fn description(schema: &Json) -> Option<&str> {
    let text = schema.get("description")?.as_str()?;
    Some(text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.'))
}

/// The path that a recipe in that folder means. As in a shell, `~/` is the home of the user.
pub fn resolved(text: &str, folder: &Path) -> PathBuf {
    let home = text.strip_prefix("~/").and_then(|rest| Some(Path::new(&std::env::var_os("HOME")?).join(rest)));
    normalise(&home.unwrap_or_else(|| folder.join(text)))
}

/// Removes `.` and `..` without asking the file system: the file may not exist yet.
pub fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !matches!(out.components().next_back(), Some(Component::Normal(_))) {
                    out.push("..");
                } else {
                    out.pop();
                }
            }
            other => out.push(other),
        }
    }
    out
}
