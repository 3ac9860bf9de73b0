//! Recipes as text again, and the differences of two recipes.

use crate::error::Result;
use crate::value::{ConfigValue, Sources, Value};
use serde_json::Value as Json;

/// The TOML text of a merged recipe; reading it gives the same recipe.
pub fn to_toml(root: &ConfigValue) -> Result<String> {
    Ok(toml::to_string_pretty(&root.to_toml())?)
}

/// A merged recipe as it is recorded: what environment variables held, which may be secret, is replaced by references to
/// them.
pub fn recorded(root: &ConfigValue, sources: &Sources) -> ConfigValue {
    let mut out = root.clone();
    refer(&mut out, sources);
    out
}

fn refer(node: &mut ConfigValue, sources: &Sources) {
    match &mut node.value {
        Value::Table(table) => table.values_mut().for_each(|entry| refer(&mut entry.node, sources)),
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, sources)),
        value => {
            let variables = sources.variables_at(&node.origin);
            let [(first, _), ..] = variables else { return };
            let mut text = match value {
                Value::String(text) => text.clone(),
                // A number or a flag is all that the variable held.
                _ => String::new(),
            };
            let mut longest: Vec<&(String, String)> = variables.iter().filter(|(_, held)| !held.is_empty()).collect();
            longest.sort_by_key(|(_, held)| std::cmp::Reverse(held.len()));
            for (name, held) in longest {
                text = text.replace(held, &format!("${{env:{name}}}"));
            }
            if !text.contains("${env:") {
                text = format!("${{env:{first}}}");
            }
            *value = Value::String(text);
        }
    }
}

/// A value in which two recipes differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its dotted path.
    pub path: String,
    /// The value in the first recipe, if it has one.
    pub old: Option<Json>,
    /// The value in the second recipe, if it has one.
    pub new: Option<Json>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |v: &Option<Json>| v.as_ref().map_or_else(|| "(not set)".to_owned(), Json::to_string);
        write!(f, "{}: {} -> {}", self.path, text(&self.old), text(&self.new))
    }
}

/// The values in which two recipes differ, in the order of the first.
pub fn difference(old: &Json, new: &Json) -> Vec<Change> {
    let mut out = Vec::new();
    walk("", Some(old), Some(new), &mut out);
    out
}

fn walk(path: &str, old: Option<&Json>, new: Option<&Json>, out: &mut Vec<Change>) {
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
    out.push(Change { path: path.to_owned(), old: old.cloned(), new: new.cloned() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_told_by_path_with_both_values() {
        let changes = difference(&json!({ "a": { "x": 1, "y": 2 } }), &json!({ "a": { "x": 3, "z": "new" } }));
        let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["a.x: 1 -> 3", "a.y: 2 -> (not set)", "a.z: (not set) -> \"new\""]);
        assert!(difference(&json!({ "a": 1 }), &json!({ "a": 1 })).is_empty());
    }
}
