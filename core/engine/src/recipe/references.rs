//! References in the values of a recipe: `${section.path}` to another value and `${env:NAME:default}` to the
//! environment.
//!
//! A string that is one reference becomes the value referred to, with its type; within a longer string a reference
//! becomes text. What the environment says is text, which is read as a number or a boolean where one is wanted. A size that only the opened data tells, such as `${data.faces.identities}`, stands open until then:
//! see [`Recipe::settle`](super::Recipe::settle).

use super::SECTIONS;
use super::value::{Node, Origin, Sources, Value, Whence, float_text};
use crate::component::shape::FIRST_STAND_IN;
use crate::diagnostic::{Diagnostic, suggestion};
use indexmap::IndexMap;
use std::collections::HashSet;

/// Longest chain of references.
const MAX_DEPTH: usize = 32;
/// Longest text that a reference stands for, or that references are put into, in bytes.
const MAX_TEXT: usize = 1 << 14;
/// Most bytes of text that all references of a recipe make.
const MAX_ALL: usize = 4 << 20;
/// The sections that are read before the data is opened.
const EARLY: &[&str] = &["run", "dims", "data"];
/// Number of samples of a data stream.
pub(crate) const SAMPLES: &str = "samples";

/// What resolving came to.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// The paths that only the opened data tells, each with a place that refers to it.
    pub(super) late: IndexMap<String, Origin>,
    /// The places whose references lead nowhere.
    pub(super) failed: HashSet<Origin>,
}

/// Puts the values in the place of the references and notes in `sources` where they come from. `known` holds, by path,
/// what the data has told already; the places in `failed` have been told.
pub(super) fn resolve(
    root: &mut Node,
    sources: &mut Sources,
    known: &IndexMap<String, i64>,
    mut failed: HashSet<Origin>,
    found: &mut Vec<Diagnostic>,
) -> Resolved {
    let mut uses = Vec::new();
    if let Some(table) = root.table() {
        // The values of a sweep are resolved in its points.
        for (key, entry) in table.iter().filter(|(key, _)| key.as_str() != "sweep") {
            collect(&entry.node, &mut vec![Step::Key(key.clone())], &mut uses);
        }
    }
    let mut resolver = Resolver { root, sources, known, made: IndexMap::new(), late: IndexMap::new(), found };
    let (mut changes, mut bytes) = (Vec::new(), 0);
    for path in uses {
        let Some(node) = at(resolver.root, &path).filter(|node| !failed.contains(&node.origin)) else { continue };
        let Some(new) = resolver.used(&path, node) else {
            failed.insert(node.origin.clone());
            continue;
        };
        bytes += new.value.bytes();
        if bytes > MAX_ALL {
            let d = Diagnostic::error(format!("all references together make more than {MAX_ALL} bytes of text"));
            resolver.found.push(d.at(&node.origin, "here it is too much"));
            break;
        }
        changes.push((path, new));
    }
    let late = resolver.late;
    for (path, new) in changes {
        if let Some(node) = at_mut(root, &path) {
            if let Some(whence) = new.whence {
                sources.refer(node.origin.clone(), whence);
            }
            node.value = new.value;
        }
    }
    Resolved { late, failed }
}

/// A way into tables and arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

fn collect(node: &Node, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
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
        Value::Late { .. } => out.push(path.clone()),
        _ => {}
    }
}

fn at<'n>(root: &'n Node, path: &[Step]) -> Option<&'n Node> {
    path.iter().try_fold(root, |node, step| match (step, &node.value) {
        (Step::Key(key), Value::Table(table)) => table.get(key).map(|e| &e.node),
        (Step::Item(i), Value::Array(items)) => items.get(*i),
        _ => None,
    })
}

fn at_mut<'n>(root: &'n mut Node, path: &[Step]) -> Option<&'n mut Node> {
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
    whence: Option<Whence>,
    /// What it waits for.
    late: Option<String>,
}

struct Resolver<'a> {
    root: &'a Node,
    sources: &'a Sources,
    known: &'a IndexMap<String, i64>,
    /// What paths have turned out to be, and nothing where that was a mistake.
    made: IndexMap<String, Option<Made>>,
    late: IndexMap<String, Origin>,
    found: &'a mut Vec<Diagnostic>,
}

impl Resolver<'_> {
    fn told(&mut self, message: String, origin: &Origin, label: &str, help: &str) -> Option<Made> {
        let d = Diagnostic::error(message).at(origin, label);
        self.found.push(if help.is_empty() { d } else { d.help(help) });
        None
    }

    /// The value of a place that holds a reference; nothing, which is told, where that is a mistake.
    fn used(&mut self, path: &[Step], node: &Node) -> Option<Made> {
        let here = dotted(path);
        if let Some(key) = names_component(path) {
            let help = format!("`{key}` decides which keys its table has: write a recipe a component, or --set it");
            let message = format!("`{here}` holds a reference");
            return self.told(message, &node.origin, "a component is named, not referred to", &help);
        }
        let new = match &node.value {
            Value::Late { path, .. } => self.reference(path, &node.origin, &mut Vec::new())?,
            value => self.text(value.text()?, &node.origin, &mut Vec::new())?,
        };
        let early = matches!(path.first(), Some(Step::Key(section)) if EARLY.contains(&section.as_str()));
        if early && let Some(late) = &new.late {
            let message = format!("`{here}` refers to `{late}`, which is written nowhere");
            let help = "what only the opened data tells is known too late for the sections run, dims and data: write the \
                        number here";
            return self.told(message, &node.origin, "refers to nothing", help);
        }
        Some(new)
    }

    /// The value that a text stands for; `open` are the references that led here.
    fn text(&mut self, text: &str, origin: &Origin, open: &mut Vec<String>) -> Option<Made> {
        let mut out = String::new();
        let (mut rest, mut late) = (text, None);
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let Some(end) = rest[start..].find('}') else {
                let message = "a reference does not end: `${` without `}`".to_owned();
                return self.told(message, origin, "expected ${section.path} or ${env:NAME:default}", "");
            };
            let inner = rest[start + 2..start + end].trim();
            let made = self.reference(inner, origin, open)?;
            if start == 0 && end + 1 == text.len() {
                return Some(made);
            }
            match &made.value {
                Value::Bool(v) => out.push_str(&v.to_string()),
                Value::Integer(v) => out.push_str(&v.to_string()),
                Value::Float(v) => out.push_str(&float_text(*v)),
                Value::String(v) => out.push_str(v),
                Value::Late { .. } | Value::Array(_) | Value::Table(_) => {}
            }
            if out.len() > MAX_TEXT {
                return self.told(
                    format!("the references of a text make more than {MAX_TEXT} bytes"),
                    origin,
                    "here",
                    "",
                );
            }
            late = late.or(made.late);
            rest = &rest[start + end + 1..];
        }
        out.push_str(rest);
        // A text that waits stays as it is written.
        let text = if late.is_some() { text.to_owned() } else { out };
        Some(Made { value: Value::String(text), whence: None, late })
    }

    fn reference(&mut self, inner: &str, origin: &Origin, open: &mut Vec<String>) -> Option<Made> {
        const SORTS: &str = "there are ${section.path} and ${env:NAME:default}, and they do not nest";
        if inner.contains("${") {
            return self.told("a reference within a reference".to_owned(), origin, "they do not nest", SORTS);
        }
        if let Some(variable) = inner.strip_prefix("env:") {
            return self.environment(variable, origin);
        }
        let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
        if inner.is_empty() || !inner.chars().all(plain) {
            let message = format!("`${{{inner}}}` is no reference: expected a dotted path, such as dims.age_groups");
            return self.told(message, origin, "nothing is computed here", SORTS);
        }
        if let Some(made) = self.made.get(inner) {
            return made.clone();
        }
        if open.iter().any(|o| o == inner) {
            let chain: Vec<String> = open.iter().map(|o| format!("`{o}`")).collect();
            let message = format!("references go in a circle: {} -> `{inner}`", chain.join(" -> "));
            return self.told(message, origin, "part of it", "write one of the values");
        }
        if open.len() >= MAX_DEPTH {
            let message = format!("references lead over more than {MAX_DEPTH} others");
            return self.told(message, origin, "too far", "write one of the values");
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
            return if late(path) { Some(self.waiting(path, origin)) } else { self.nowhere(path, origin) };
        };
        let made = match &node.value {
            Value::Table(_) | Value::Array(_) => {
                let d = Diagnostic::error(format!("`${{{path}}}` is a table or an array"));
                let d = d.at(origin, "expected a number, a string or a boolean");
                self.found.push(d.also(&node.origin, "referred to"));
                return None;
            }
            Value::String(text) if text.contains("${") => self.text(text, &node.origin, open)?,
            Value::String(text) if text.len() > MAX_TEXT => {
                let message = format!("`${{{path}}}` is a text of more than {MAX_TEXT} bytes");
                return self.told(message, origin, "referred to here", "");
            }
            value => Made { value: value.clone(), whence: self.sources.whence(&node.origin).cloned(), late: None },
        };
        // The place where a value is written decides what its relative path starts from.
        let whence = made.whence.or_else(|| Some(Whence::Place(node.origin.clone())));
        Some(Made { whence, ..made })
    }

    fn waiting(&mut self, path: &str, origin: &Origin) -> Made {
        if let Some(size) = self.known.get(path) {
            return Made { value: Value::Integer(*size), whence: None, late: None };
        }
        let index = self.late.get_index_of(path).unwrap_or(self.late.len());
        self.late.entry(path.to_owned()).or_insert_with(|| origin.clone());
        let value = Value::Late { path: path.to_owned(), stand_in: FIRST_STAND_IN + index as i64 };
        Made { value, whence: None, late: Some(path.to_owned()) }
    }

    /// A path that leads nowhere: as far as it leads, and what is there.
    fn nowhere(&mut self, path: &str, origin: &Origin) -> Option<Made> {
        let (so_far, missing, mut valid) = self.root.dead_end(path);
        let there = if so_far.is_empty() { "the recipe".to_owned() } else { format!("`{so_far}`") };
        if so_far.is_empty() {
            valid.retain(|key| SECTIONS.contains(key));
        }
        let mut d = Diagnostic::error(format!("`${{{path}}}`: {there} gives no `{missing}`"))
            .at(origin, "refers to nothing")
            .help(suggestion(missing, valid));
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
            let message = format!("`{name}` is no name of an environment variable");
            return self.told(message, origin, "expected ${env:NAME} or ${env:NAME:default}", "");
        }
        let text = match (std::env::var(name), default) {
            (Ok(text), _) => text,
            (Err(std::env::VarError::NotUnicode(_)), _) => {
                return self.told(format!("the environment variable `{name}` holds no UTF-8 text"), origin, "here", "");
            }
            (Err(_), Some(default)) => default.to_owned(),
            (Err(_), None) => {
                let help = format!("set it, or give a default: ${{env:{name}:…}}");
                return self.told(
                    format!("the environment variable `{name}` is not set"),
                    origin,
                    "needed here",
                    &help,
                );
            }
        };
        // A recorded recipe is read again, and would refer once more.
        if text.contains("${") || text.len() > MAX_TEXT {
            let message = format!("the environment variable `{name}` holds `${{`, or more than {MAX_TEXT} bytes");
            return self.told(message, origin, "needed here", "");
        }
        Some(Made {
            value: Value::String(text),
            whence: Some(Whence::Environment { name: name.to_owned(), place: origin.clone() }),
            late: None,
        })
    }
}

/// Whether a path may be one that the data tells.
fn late(path: &str) -> bool {
    let parts: Vec<&str> = path.split('.').collect();
    matches!(parts[..], ["dims", name] | ["data", _, name] if !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::value::parse;

    fn resolved(text: &str, known: &[(&str, i64)]) -> (Node, Vec<String>, Vec<String>) {
        let mut root = parse(text, 0).unwrap();
        let mut found = Vec::new();
        let known = known.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let late = resolve(&mut root, &mut Sources::default(), &known, HashSet::new(), &mut found).late;
        (root, late.into_keys().collect(), found.into_iter().map(|d| d.message).collect())
    }

    /// What a value of `[model.a]` resolves to, in a recipe that has some others.
    fn one(value: &str) -> Result<Value, String> {
        let text = format!(
            "[dims]\nage_groups = 7\n[run]\nname = \"faces\"\nseed = 3\n[model.b]\nmargin = 0.5\nflag = true\n\
             size = \"${{dims.age_groups}}\"\nlist = [1]\n[model.a]\nx = {value}\n"
        );
        let (root, _, mut found) = resolved(&text, &[]);
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
            ("\"${env:A B}\"", "`A B` is no name"),
            ("\"${eval:1+1}\"", "`${eval:1+1}` is no reference"),
            ("\"${dims.age_groups * 2}\"", "expected a dotted path"),
            ("\"${}\"", "expected a dotted path"),
            ("\"${env:A:${run.seed}}\"", "a reference within a reference"),
        ] {
            let message = one(value).unwrap_err();
            assert!(message.contains(words), "{value}: {message}");
        }
        let (.., found) = resolved("[model.a]\ncomponent = \"${env:X:ir50}\"", &[]);
        assert!(found[0].contains("`model.a.component` holds a reference"), "{found:?}");
        let (.., found) = resolved("[graph.a]\napply = \"${env:X:detach}\"", &[]);
        assert!(found[0].contains("`graph.a.apply` holds a reference"), "{found:?}");
    }

    #[test]
    fn what_the_data_tells_stands_open_until_it_is_known() {
        let text = "[model.a]\nx = \"${data.faces.identities}\"\ny = \"of ${data.faces.samples}\"\n";
        let (mut root, late, found) = resolved(text, &[]);
        assert_eq!((late, found), (vec!["data.faces.identities".to_owned(), "data.faces.samples".into()], vec![]));
        assert!(matches!(root.at("model.a.x").unwrap().value, Value::Late { stand_in: FIRST_STAND_IN, .. }));
        assert_eq!(crate::recipe::to_toml(&root).unwrap(), text, "it is shown as it is written");
        let known = [("data.faces.identities".to_owned(), 12), ("data.faces.samples".to_owned(), 90)].into();
        assert!(resolve(&mut root, &mut Sources::default(), &known, HashSet::new(), &mut Vec::new()).late.is_empty());
        assert_eq!(root.at("model.a.x").unwrap().value, Value::Integer(12));
        assert_eq!(root.at("model.a.y").unwrap().str(), Some("of 90"));
        let (.., found) = resolved("[data.faces]\nworkers = \"${data.faces.identities}\"", &[]);
        assert!(found[0].contains("which is written nowhere"), "{found:?}");
    }

    #[test]
    fn a_sweep_keeps_its_references() {
        let (root, ..) = resolved("[sweep.grid]\na = [\"${run.seed}\"]", &[]);
        assert_eq!(root.to_json()["sweep"]["grid"]["a"][0], "${run.seed}");
    }

    #[test]
    fn references_that_double_or_go_deep_are_stopped() {
        let mut text = "[model.a]\nx0 = \"xxxxxxxxxxxxxxxx\"\n".to_owned();
        for i in 0..24 {
            text.push_str(&format!("x{} = \"${{model.a.x{i}}}${{model.a.x{i}}}\"\n", i + 1));
        }
        let (.., found) = resolved(&text, &[]);
        assert!(found.iter().any(|m| m.contains("more than 16384 bytes")), "{found:?}");
        let long = "x".repeat(MAX_TEXT);
        let text = format!("[run]\nname = \"{long}\"\n[ema]\nmodules = [{}]", "\"${run.name}\",".repeat(1000));
        let (.., found) = resolved(&text, &[]);
        assert!(found.iter().any(|m| m.contains("all references together make more than")), "{found:?}");
        let (.., found) = resolved(&text.replacen(&long, &format!("{long}x"), 1), &[]);
        assert!(found[0].contains("a text of more than 16384 bytes"), "{found:?}");
        let mut text = "[model.a]\nx1000 = 1\n".to_owned();
        for i in (0..1000).rev() {
            text.push_str(&format!("x{i} = \"${{model.a.x{}}}\"\n", i + 1));
        }
        let (root, _, found) = resolved(&text.replace("x1000 = 1\n", ""), &[]);
        assert!(!found.is_empty() && root.at("model.a.x0").is_some());
    }
}
