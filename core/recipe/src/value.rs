//! Values that remember where they were written.

use crate::suggestion::suggestion;
use crate::toml_version::{Flaw, newer_syntax};
use indexmap::IndexMap;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A byte range of one source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Index into [`Sources`].
    pub file: usize,
    /// Bytes of its text.
    pub span: Range<usize>,
}

/// One text that values come from: a file, or a command-line override.
#[derive(Debug)]
pub struct Source {
    /// The name for messages.
    pub name: String,
    /// The folder that relative paths in it start from.
    pub folder: PathBuf,
    /// The file, unless it is an override.
    pub path: Option<PathBuf>,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// The line, from 1, that a byte of the text is in.
    pub fn line(&self, byte: usize) -> usize {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        before.iter().filter(|b| **b == b'\n').count() + 1
    }
}

/// Where the value of a reference comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// Another place of the recipe.
    Place(Origin),
    /// An environment variable, or the default in its place.
    Environment {
        /// The variable.
        name: String,
        /// Where it is asked for.
        place: Origin,
    },
}

/// All texts of one recipe, and where references in them lead.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    texts: Arc<Vec<Arc<Source>>>,
    references: Arc<HashMap<Origin, Provenance>>,
    /// The environment variables in the value at a place, with what they held.
    variables: Arc<HashMap<Origin, Vec<(String, String)>>>,
}

impl Sources {
    /// Adds a text and returns its index.
    pub fn add(&mut self, source: Source) -> usize {
        let list = Arc::make_mut(&mut self.texts);
        list.push(Arc::new(source));
        list.len() - 1
    }

    /// Records where the value at a place comes from.
    pub(crate) fn refer(&mut self, place: Origin, to: Provenance) {
        Arc::make_mut(&mut self.references).insert(place, to);
    }

    /// Records which environment variables the value at a place was made of.
    pub(crate) fn hold(&mut self, place: Origin, variables: Vec<(String, String)>) {
        Arc::make_mut(&mut self.variables).insert(place, variables);
    }

    /// The environment variables in the value at a place, each with what it held.
    pub fn variables_at(&self, place: &Origin) -> &[(String, String)] {
        self.variables.get(place).map_or(&[], Vec::as_slice)
    }

    /// All environment variables that values are made of, with what they held.
    pub fn variables(&self) -> BTreeMap<String, String> {
        self.variables.values().flatten().cloned().collect()
    }

    /// Where the value at a place comes from, if that place holds a reference.
    pub fn provenance(&self, place: &Origin) -> Option<&Provenance> {
        self.references.get(place)
    }

    /// The text of that index.
    pub fn get(&self, file: usize) -> &Source {
        &self.texts[file]
    }

    /// All texts in the order in which they were read.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.texts.iter().map(Arc::as_ref)
    }

    /// `file:line` of a place.
    pub fn locate(&self, origin: &Origin) -> String {
        let source = self.get(origin.file);
        format!("{}:{}", source.name, source.line(origin.span.start))
    }

    /// The folder that a relative path written there starts from. For a reference it is the folder of the place that
    /// the reference leads to.
    pub fn folder(&self, origin: &Origin) -> &Path {
        let file = match self.provenance(origin) {
            Some(Provenance::Place(there) | Provenance::Environment { place: there, .. }) => there.file,
            None => origin.file,
        };
        &self.get(file).folder
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigValue {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub origin: Origin,
}

/// A TOML value. Recipes have no use for dates, which are refused when a file is read.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    Array(Vec<ConfigValue>),
    /// A table.
    Table(Table),
}

/// A table in the order of declaration.
pub type Table = IndexMap<String, Entry>;

/// A value of a table and where its key stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the key stands.
    pub key: Origin,
    /// The value.
    pub node: ConfigValue,
}

impl Value {
    /// What it is, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of the text, if it is one.
    pub(crate) fn bytes(&self) -> usize {
        self.text().map_or(0, str::len)
    }

    /// The text as it would be written in TOML, shortened for messages.
    pub fn short(&self) -> String {
        match self {
            Self::Bool(v) => v.to_string(),
            Self::Integer(v) => v.to_string(),
            Self::Float(v) => float_text(*v),
            Self::String(v) if v.chars().count() > 60 => format!("{:?}…", v.chars().take(60).collect::<String>()),
            Self::String(v) => format!("{v:?}"),
            Self::Array(v) => format!("an array of {}", v.len()),
            Self::Table(_) => "a table".into(),
        }
    }
}

/// A float as TOML writes it: always with a point, an exponent, or as inf and nan.
pub fn float_text(v: f64) -> String {
    toml::Value::Float(v).to_string()
}

impl ConfigValue {
    /// The table, if it is one.
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(t) => Some(t),
            _ => None,
        }
    }

    /// The table for change, if it is one.
    pub fn table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(t) => Some(t),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn str(&self) -> Option<&str> {
        self.value.text()
    }

    /// The value under a key, if this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&ConfigValue> {
        self.table()?.get(key).map(|e| &e.node)
    }

    /// The value under a dotted path.
    pub fn at(&self, path: &str) -> Option<&ConfigValue> {
        path.split('.').try_fold(self, |node, key| node.get(key))
    }

    /// The entry of a dotted path.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        let (above, key) = path.rsplit_once('.').map_or((None, path), |(above, key)| (Some(above), key));
        above.map_or(Some(self), |above| self.at(above))?.table()?.get(key)
    }

    /// How far a dotted path leads that does not exist: the path so far, the key that is missing, and the keys that
    /// exist in its place.
    pub fn dead_end<'p>(&self, path: &'p str) -> (String, &'p str, Vec<&str>) {
        let (mut node, mut so_far) = (self, String::new());
        let mut missing = path;
        for key in path.split('.') {
            missing = key;
            let Some(next) = node.get(key) else { break };
            so_far = if so_far.is_empty() { key.to_owned() } else { format!("{so_far}.{key}") };
            node = next;
        }
        (so_far, missing, node.table().map(|t| t.keys().map(String::as_str).collect()).unwrap_or_default())
    }

    /// Says where a dotted path that does not exist ends, and which keys exist there.
    pub fn missing(&self, path: &str) -> String {
        let (so_far, missing, valid) = self.dead_end(path);
        let there = if so_far.is_empty() { "the recipe".to_owned() } else { format!("`{so_far}`") };
        format!("{there} has no `{missing}`: {}", suggestion(missing, valid))
    }

    /// Replaces the value under an existing dotted path; its place stays.
    pub fn replace(&mut self, path: &str, value: Value) {
        let mut node = self;
        for key in path.split('.') {
            match node.table_mut().and_then(|t| t.get_mut(key)) {
                Some(entry) => node = &mut entry.node,
                None => return,
            }
        }
        node.value = value;
    }

    /// Where the value at a dotted path stands, or else the innermost table around it.
    pub fn place(&self, path: &str) -> Origin {
        let mut node = self;
        for key in path.split('.') {
            match node.get(key) {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node.origin.clone()
    }

    /// Removes the value under a dotted path; says whether there was one.
    pub fn remove(&mut self, path: &str) -> bool {
        let mut keys: Vec<&str> = path.split('.').collect();
        let Some(last) = keys.pop() else { return false };
        let mut node = self;
        for key in keys {
            match node.table_mut().and_then(|t| t.get_mut(key)) {
                Some(entry) => node = &mut entry.node,
                None => return false,
            }
        }
        node.table_mut().is_some_and(|t| t.shift_remove(last).is_some())
    }

    /// An empty table.
    pub fn empty(origin: Origin) -> Self {
        Self { value: Value::Table(Table::new()), origin }
    }

    /// The plain TOML value.
    pub fn to_toml(&self) -> toml::Value {
        match &self.value {
            Value::Bool(v) => toml::Value::Boolean(*v),
            Value::Integer(v) => toml::Value::Integer(*v),
            Value::Float(v) => toml::Value::Float(*v),
            Value::String(v) => toml::Value::String(v.clone()),
            Value::Array(v) => toml::Value::Array(v.iter().map(ConfigValue::to_toml).collect()),
            Value::Table(t) => toml::Value::Table(t.iter().map(|(k, e)| (k.clone(), e.node.to_toml())).collect()),
        }
    }

    /// The plain JSON value; used to record and to compare.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self.to_toml()).unwrap_or(serde_json::Value::Null)
    }
}

/// Deepest nesting of arrays and tables.
const MAX_DEPTH: usize = 64;

/// Reads a whole TOML text.
pub fn parse(text: &str, file: usize) -> Result<ConfigValue, Vec<Flaw>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .into_iter()
            .map(|e| (e.message().to_owned(), e.span().unwrap_or(0..text.len().min(1))))
            .collect());
    }
    let span = table.span();
    let mut flaws = newer_syntax(text);
    let table = convert_table(table.into_inner(), file, 0, &mut flaws);
    if flaws.is_empty() {
        Ok(ConfigValue { value: Value::Table(table), origin: Origin { file, span } })
    } else {
        Err(flaws)
    }
}

/// Reads one TOML value, such as the right side of an override; `offset` is its place in the source.
pub fn parse_value(text: &str, file: usize, offset: usize) -> Result<ConfigValue, Flaw> {
    let value = DeValue::parse(text).map_err(|e| (e.message().to_owned(), offset..offset + text.len()))?;
    let mut flaws = Vec::new();
    let mut node = convert(value, file, 0, &mut flaws);
    if let Some((message, _)) = flaws.pop() {
        return Err((message, offset..offset + text.len()));
    }
    node.origin = Origin { file, span: 0..text.len() };
    shift(&mut node, offset);
    Ok(node)
}

/// Moves the places of a value and of everything in it.
fn shift(node: &mut ConfigValue, by: usize) {
    let moved = |origin: &mut Origin| origin.span = origin.span.start + by..origin.span.end + by;
    moved(&mut node.origin);
    match &mut node.value {
        Value::Table(table) => {
            for entry in table.values_mut() {
                moved(&mut entry.key);
                shift(&mut entry.node, by);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shift(item, by)),
        _ => {}
    }
}

fn convert_table(table: DeTable<'_>, file: usize, depth: usize, flaws: &mut Vec<Flaw>) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let origin = Origin { file, span: key.span() };
            (key.into_inner().into_owned(), Entry { key: origin, node: convert(value, file, depth + 1, flaws) })
        })
        .collect()
}

fn convert(value: Spanned<DeValue<'_>>, file: usize, depth: usize, flaws: &mut Vec<Flaw>) -> ConfigValue {
    let span = value.span();
    let mut flaw = |message: String| {
        flaws.push((message, span.clone()));
        Value::Bool(false)
    };
    let value = match value.into_inner() {
        _ if depth > MAX_DEPTH => flaw(format!("nested deeper than {MAX_DEPTH} levels")),
        DeValue::Boolean(v) => Value::Bool(v),
        DeValue::String(v) => Value::String(v.into_owned()),
        DeValue::Integer(v) => match i64::from_str_radix(&v.as_str().replace('_', ""), v.radix()) {
            Ok(v) => Value::Integer(v),
            Err(_) => flaw(format!("{} does not fit 64 bits", v.as_str())),
        },
        DeValue::Float(v) => match v.as_str().replace('_', "").parse() {
            Ok(v) => Value::Float(v),
            Err(_) => flaw(format!("{} is not a number", v.as_str())),
        },
        DeValue::Datetime(v) => flaw(format!("{v} is a date; a recipe has no use for dates: write a string")),
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| convert(item, file, depth + 1, flaws)).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(table, file, depth, flaws)),
    };
    ConfigValue { value, origin: Origin { file, span } }
}
