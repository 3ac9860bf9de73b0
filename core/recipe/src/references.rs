//! References in the values of a recipe: `${section.path}` to another value and `${env:NAME:default}` to the
//! environment.
//!
//! A string that is one reference becomes the value referred to, with its type; within a longer string a reference
//! becomes text. An environment variable is text, which is read as a number or a boolean where one is wanted. References
//! are resolved before any data is opened: sizes that only the data decides reach components without them.

use crate::diagnostic::{Diagnostic, Id};
use crate::ids;
use crate::suggestion::suggestion;
use crate::value::{ConfigValue, Origin, Provenance, Sources, Value, float_text};
use indexmap::IndexMap;
use std::collections::HashSet;

/// Longest chain of references.
const MAX_DEPTH: usize = 32;
/// Longest text that a reference stands for, or that references are put into, in bytes.
const MAX_TEXT: usize = 1 << 14;
/// Most bytes of text that all references of a recipe make.
const MAX_ALL: usize = 4 << 20;
/// Puts values in the place of references and records in `sources` where they come from. `sections` are the names of the
/// tables that a reference may lead to. Returns the places whose references lead nowhere.
pub(crate) fn resolve(
    root: &mut ConfigValue,
    sources: &mut Sources,
    sections: &[&str],
    found: &mut Vec<Diagnostic>,
    unset_stay: bool,
) -> HashSet<Origin> {
    let mut failed = HashSet::new();
    let mut uses = Vec::new();
    if let Some(table) = root.table() {
        // The values of a sweep are resolved in its points.
        for (key, entry) in table.iter().filter(|(key, _)| key.as_str() != "sweep") {
            collect(&entry.node, &mut vec![Step::Key(key.clone())], &mut uses);
        }
    }
    let mut resolver = Resolver { root, sources, sections, made: IndexMap::new(), found, unset_stay };
    let (mut changes, mut bytes) = (Vec::new(), 0);
    for path in uses {
        let Some(node) = at(resolver.root, &path) else { continue };
        let Some(new) = resolver.used(&path, node) else {
            failed.insert(node.origin.clone());
            continue;
        };
        bytes += new.value.bytes();
        if bytes > MAX_ALL {
            let message = format!("all references together make more than {MAX_ALL} bytes of text");
            resolver
                .found
                .push(Diagnostic::error(&ids::REFERENCE_TOO_LARGE, message).at(&node.origin, "too much here"));
            break;
        }
        changes.push((path, new));
    }
    for (path, new) in changes {
        if let Some(node) = at_mut(root, &path) {
            if let Some(provenance) = new.provenance {
                sources.refer(node.origin.clone(), provenance);
            }
            if !new.variables.is_empty() {
                sources.hold(node.origin.clone(), new.variables);
            }
            node.value = new.value;
        }
    }
    failed
}

/// A way into tables and arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

fn collect(node: &ConfigValue, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
    match &node.value {
        Value::Table(table) => {
            for (key, entry) in table {
                path.push(Step::Key(key.clone()));
                collect(&entry.node, path, out);
                path.pop();
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                path.push(Step::Item(i));
                collect(item, path, out);
                path.pop();
            }
        }
        Value::String(text) if text.contains("${") => out.push(path.clone()),
        _ => {}
    }
}

fn at<'n>(root: &'n ConfigValue, path: &[Step]) -> Option<&'n ConfigValue> {
    path.iter().try_fold(root, |node, step| match (step, &node.value) {
        (Step::Key(key), Value::Table(table)) => table.get(key).map(|e| &e.node),
        (Step::Item(i), Value::Array(items)) => items.get(*i),
        _ => None,
    })
}

fn at_mut<'n>(root: &'n mut ConfigValue, path: &[Step]) -> Option<&'n mut ConfigValue> {
    path.iter().try_fold(root, |node, step| match (step, &mut node.value) {
        (Step::Key(key), Value::Table(table)) => table.get_mut(key).map(|e| &mut e.node),
        (Step::Item(i), Value::Array(items)) => items.get_mut(*i),
        _ => None,
    })
}

fn dotted(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Key(key) if out.is_empty() => out.push_str(key),
            Step::Key(key) => out.push_str(&format!(".{key}")),
            Step::Item(i) => out.push_str(&format!("[{i}]")),
        }
    }
    out
}

/// The key, if the value there is the name of a component.
fn names_component(path: &[Step]) -> Option<&str> {
    match path {
        [Step::Key(section), _, Step::Key(key)] if section == "graph" && key == "apply" => Some(key),
        [.., Step::Key(key)] if key == "component" => Some(key),
        _ => None,
    }
}

/// What a reference, or a text with references, stands for.
#[derive(Debug, Clone)]
struct Made {
    value: Value,
    /// Where the value comes from, if it is that of one reference.
    provenance: Option<Provenance>,
    /// The environment variables that it is made of, with what they held.
    variables: Vec<(String, String)>,
}

struct Resolver<'a> {
    root: &'a ConfigValue,
    sources: &'a Sources,
    sections: &'a [&'a str],
    /// What paths have turned out to be; none where that was a mistake.
    made: IndexMap<String, Option<Made>>,
    found: &'a mut Vec<Diagnostic>,
    /// A variable that is not set stands for its own reference.
    unset_stay: bool,
}

impl Resolver<'_> {
    /// Reports a mistake; there is no value then.
    fn report(&mut self, id: &'static Id, message: String, origin: &Origin, label: &str, help: &str) -> Option<Made> {
        let d = Diagnostic::error(id, message).at(origin, label);
        self.found.push(if help.is_empty() { d } else { d.help(help) });
        None
    }

    /// The value of a place that holds a reference; none, which is reported, where that is a mistake.
    fn used(&mut self, path: &[Step], node: &ConfigValue) -> Option<Made> {
        if let Some(key) = names_component(path) {
            let help = format!("`{key}` decides which keys its table has: write one recipe per component, or --set it");
            let message = format!("`{}` holds a reference", dotted(path));
            let label = "a component is named, not referred to";
            return self.report(&ids::BAD_REFERENCE, message, &node.origin, label, &help);
        }
        self.text(node.value.text()?, &node.origin, &mut Vec::new())
    }

    /// The value that a text stands for; `open` are the references that led here.
    fn text(&mut self, text: &str, origin: &Origin, open: &mut Vec<String>) -> Option<Made> {
        let (mut out, mut variables) = (String::new(), Vec::new());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let Some(end) = rest[start..].find('}') else {
                let message = "a reference does not end: `${` without `}`".to_owned();
                let label = "expected ${section.path} or ${env:NAME:default}";
                return self.report(&ids::BAD_REFERENCE, message, origin, label, "");
            };
            let inner = rest[start + 2..start + end].trim();
            let made = self.reference(inner, origin, open)?;
            if start == 0 && end + 1 == text.len() {
                return Some(made);
            }
            variables.extend(made.variables);
            match &made.value {
                Value::Bool(v) => out.push_str(&v.to_string()),
                Value::Integer(v) => out.push_str(&v.to_string()),
                Value::Float(v) => out.push_str(&float_text(*v)),
                Value::String(v) => out.push_str(v),
                Value::Array(_) | Value::Table(_) => {}
            }
            if out.len() > MAX_TEXT {
                let message = format!("the references of a text make more than {MAX_TEXT} bytes");
                return self.report(&ids::REFERENCE_TOO_LARGE, message, origin, "here", "");
            }
            rest = &rest[start + end + 1..];
        }
        out.push_str(rest);
        Some(Made { value: Value::String(out), provenance: None, variables })
    }

    fn reference(&mut self, inner: &str, origin: &Origin, open: &mut Vec<String>) -> Option<Made> {
        const SORTS: &str = "there are ${section.path} and ${env:NAME:default}, and they do not nest";
        if inner.contains("${") {
            let message = "a reference within a reference".to_owned();
            return self.report(&ids::BAD_REFERENCE, message, origin, "they do not nest", SORTS);
        }
        if let Some(variable) = inner.strip_prefix("env:") {
            return self.environment(variable, origin);
        }
        let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
        if inner.is_empty() || !inner.chars().all(plain) {
            let message = format!("`${{{inner}}}` is not a reference: expected a dotted path, such as dims.age_groups");
            return self.report(&ids::BAD_REFERENCE, message, origin, "nothing is computed here", SORTS);
        }
        if let Some(made) = self.made.get(inner) {
            return made.clone();
        }
        if open.iter().any(|o| o == inner) {
            let chain: Vec<String> = open.iter().map(|o| format!("`{o}`")).collect();
            let message = format!("references go in a circle: {} -> `{inner}`", chain.join(" -> "));
            return self.report(&ids::CIRCULAR_REFERENCE, message, origin, "part of it", "write one of the values");
        }
        if open.len() >= MAX_DEPTH {
            let message = format!("references lead over more than {MAX_DEPTH} others");
            return self.report(&ids::CIRCULAR_REFERENCE, message, origin, "too far", "write one of the values");
        }
        open.push(inner.to_owned());
        let made = self.path(inner, origin, open);
        open.pop();
        self.made.insert(inner.to_owned(), made.clone());
        made
    }

    fn path(&mut self, path: &str, origin: &Origin, open: &mut Vec<String>) -> Option<Made> {
        let root = self.root;
        let Some(node) = root.at(path) else {
            return self.nowhere(path, origin);
        };
        let made = match &node.value {
            Value::Table(_) | Value::Array(_) => {
                let d = Diagnostic::error(&ids::DANGLING_REFERENCE, format!("`${{{path}}}` is a table or an array"));
                let d = d.at(origin, "expected a number, a string or a boolean");
                self.found.push(d.also(&node.origin, "referred to"));
                return None;
            }
            Value::String(text) if text.contains("${") => self.text(text, &node.origin, open)?,
            Value::String(text) if text.len() > MAX_TEXT => {
                let message = format!("`${{{path}}}` is a text of more than {MAX_TEXT} bytes");
                return self.report(&ids::REFERENCE_TOO_LARGE, message, origin, "referred to here", "");
            }
            value => Made {
                value: value.clone(),
                provenance: self.sources.provenance(&node.origin).cloned(),
                variables: self.sources.variables_at(&node.origin).to_vec(),
            },
        };
        // The place where a value is written decides what its relative path starts from.
        let provenance = made.provenance.or_else(|| Some(Provenance::Place(node.origin.clone())));
        Some(Made { provenance, ..made })
    }

    /// A path that leads nowhere: as far as it leads, and what is there.
    fn nowhere(&mut self, path: &str, origin: &Origin) -> Option<Made> {
        let (so_far, missing, mut valid) = self.root.dead_end(path);
        let there = if so_far.is_empty() { "the recipe".to_owned() } else { format!("`{so_far}`") };
        if so_far.is_empty() {
            valid.retain(|key| self.sections.contains(key));
        }
        let mut d = Diagnostic::error(&ids::DANGLING_REFERENCE, format!("`${{{path}}}`: {there} gives no `{missing}`"))
            .at(origin, "refers to nothing")
            .help(suggestion(missing, valid));
        if matches!(path.split('.').collect::<Vec<_>>()[..], ["dims", _] | ["data", _, _]) {
            d = d.help("a size that only the data decides cannot be referred to: components receive it without a key");
        }
        d = if path.contains('.') {
            d.help("only what a recipe or an override writes can be referred to, not defaults")
        } else {
            d.help(format!("a variable of the environment is ${{env:{path}}}"))
        };
        self.found.push(d);
        None
    }

    fn environment(&mut self, variable: &str, origin: &Origin) -> Option<Made> {
        let (name, default) = variable.split_once(':').map_or((variable, None), |(n, d)| (n, Some(d)));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            let message = format!("`{name}` is not the name of an environment variable");
            let label = "expected ${env:NAME} or ${env:NAME:default}";
            return self.report(&ids::BAD_REFERENCE, message, origin, label, "");
        }
        let mut variables = Vec::new();
        let text = match (std::env::var(name), default) {
            (Ok(text), _) => {
                variables.push((name.to_owned(), text.clone()));
                text
            }
            (Err(std::env::VarError::NotUnicode(_)), _) => {
                let message = format!("the environment variable `{name}` is not UTF-8 text");
                return self.report(&ids::ENVIRONMENT, message, origin, "here", "");
            }
            (Err(_), Some(default)) => default.to_owned(),
            (Err(_), None) if self.unset_stay => {
                return Some(Made {
                    value: Value::String(format!("${{env:{name}}}")),
                    provenance: None,
                    variables: Vec::new(),
                });
            }
            (Err(_), None) => {
                let help = format!("set it, or give a default: ${{env:{name}:…}}");
                let message = format!("the environment variable `{name}` is not set");
                return self.report(&ids::ENVIRONMENT, message, origin, "needed here", &help);
            }
        };
        // A recorded recipe is read again, and would refer once more.
        if text.contains("${") || text.len() > MAX_TEXT {
            let message = format!("the environment variable `{name}` holds `${{`, or more than {MAX_TEXT} bytes");
            return self.report(&ids::ENVIRONMENT, message, origin, "needed here", "");
        }
        Some(Made {
            value: Value::String(text),
            provenance: Some(Provenance::Environment { name: name.to_owned(), place: origin.clone() }),
            variables,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::parse;

    fn resolved(text: &str) -> (ConfigValue, Vec<String>) {
        let mut root = parse(text, 0).unwrap();
        let mut found = Vec::new();
        resolve(&mut root, &mut Sources::default(), &["run", "dims", "model"], &mut found, false);
        (root, found.into_iter().map(|d| d.message).collect())
    }

    /// What a value of `[model.a]` resolves to, in a recipe that has some others.
    fn one(value: &str) -> Result<Value, String> {
        let text = format!(
            "[dims]\nage_groups = 7\n[run]\nname = \"faces\"\nseed = 3\n[model.b]\nmargin = 0.5\nflag = true\n\
             size = \"${{dims.age_groups}}\"\nlist = [1]\n[model.a]\nx = {value}\n"
        );
        let (root, mut found) = resolved(&text);
        match found.pop() {
            Some(message) => Err(message),
            None => Ok(root.at("model.a.x").unwrap().value.clone()),
        }
    }

    #[test]
    fn a_reference_alone_keeps_the_type() {
        assert_eq!(one("\"${dims.age_groups}\""), Ok(Value::Integer(7)));
        assert_eq!(one("\"${model.b.margin}\""), Ok(Value::Float(0.5)));
        assert_eq!(one("\"${model.b.flag}\""), Ok(Value::Bool(true)));
        assert_eq!(one("\"${ model.b.size }\""), Ok(Value::Integer(7)), "through another reference");
        assert_eq!(one("\"${env:MTLRUN_NOT_SET:0.25}\""), Ok(Value::String("0.25".into())), "until it is wanted");
        assert_eq!(one("\"${env:MTLRUN_NOT_SET:a:b}\""), Ok(Value::String("a:b".into())));
        assert_eq!(one("\"${env:MTLRUN_NOT_SET:}\""), Ok(Value::String(String::new())));
        assert_eq!(one("\"${env:CARGO_PKG_NAME}\""), Ok(Value::String(env!("CARGO_PKG_NAME").into())));
    }

    #[test]
    fn within_a_text_it_becomes_text() {
        let text = "\"${run.name}_${run.seed}_${model.b.margin}_${model.b.flag}_$5_${env:MTLRUN_NOT_SET:1e5}\"";
        assert_eq!(one(text), Ok(Value::String("faces_3_0.5_true_$5_1e5".into())));
    }

    #[test]
    fn mistakes_name_what_is_wrong() {
        for (value, words) in [
            ("\"${model.b.margn}\"", "`model.b` gives no `margn`"),
            ("\"${modle.b}\"", "the recipe gives no `modle`"),
            ("\"${model.b}\"", "is a table or an array"),
            ("\"${model.b.list}\"", "is a table or an array"),
            ("\"${model.a.x}\"", "in a circle: `model.a.x` -> `model.a.x`"),
            ("\"${dims.age_groups\"", "does not end"),
            ("\"${env:MTLRUN_NOT_SET}\"", "`MTLRUN_NOT_SET` is not set"),
            ("\"${env:A B}\"", "`A B` is not the name"),
            ("\"${eval:1+1}\"", "`${eval:1+1}` is not a reference"),
            ("\"${dims.age_groups * 2}\"", "expected a dotted path"),
            ("\"${}\"", "expected a dotted path"),
            ("\"${env:A:${run.seed}}\"", "a reference within a reference"),
        ] {
            let message = one(value).unwrap_err();
            assert!(message.contains(words), "{value}: {message}");
        }
        let (_, found) = resolved("[model.a]\ncomponent = \"${env:X:ir50}\"");
        assert!(found[0].contains("`model.a.component` holds a reference"), "{found:?}");
        let (_, found) = resolved("[graph.a]\napply = \"${env:X:detach}\"");
        assert!(found[0].contains("`graph.a.apply` holds a reference"), "{found:?}");
    }

    #[test]
    fn what_only_the_data_tells_cannot_be_referred_to() {
        let mut root = parse("[data.faces]\nlist = \"a\"\n[model.a]\nx = \"${data.faces.identities}\"", 0).unwrap();
        let mut found = Vec::new();
        let failed = resolve(&mut root, &mut Sources::default(), &["data", "model"], &mut found, false);
        assert_eq!(failed.len(), 1);
        assert!(found[0].message.contains("`data.faces` gives no `identities`"), "{found:?}");
        assert!(found[0].help.iter().any(|help| help.contains("receive it without a key")), "{found:?}");
    }

    #[test]
    fn a_sweep_keeps_its_references() {
        let (root, _) = resolved("[sweep.grid]\na = [\"${run.seed}\"]");
        assert_eq!(root.to_json()["sweep"]["grid"]["a"][0], "${run.seed}");
    }

    #[test]
    fn references_that_double_or_go_deep_are_stopped() {
        let mut text = "[model.a]\nx0 = \"xxxxxxxxxxxxxxxx\"\n".to_owned();
        for i in 0..24 {
            text.push_str(&format!("x{} = \"${{model.a.x{i}}}${{model.a.x{i}}}\"\n", i + 1));
        }
        let (_, found) = resolved(&text);
        assert!(found.iter().any(|m| m.contains("more than 16384 bytes")), "{found:?}");
        let long = "x".repeat(MAX_TEXT);
        let text = format!("[run]\nname = \"{long}\"\n[ema]\nmodules = [{}]", "\"${run.name}\",".repeat(1000));
        let (_, found) = resolved(&text);
        assert!(found.iter().any(|m| m.contains("all references together make more than")), "{found:?}");
        let (_, found) = resolved(&text.replacen(&long, &format!("{long}x"), 1));
        assert!(found[0].contains("a text of more than 16384 bytes"), "{found:?}");
        let mut text = "[model.a]\nx1000 = 1\n".to_owned();
        for i in (0..1000).rev() {
            text.push_str(&format!("x{i} = \"${{model.a.x{}}}\"\n", i + 1));
        }
        let (root, found) = resolved(&text.replace("x1000 = 1\n", ""));
        assert!(!found.is_empty() && root.at("model.a.x0").is_some());
    }
}
