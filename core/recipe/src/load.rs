//! Reading a recipe file with what it extends, and the overrides of the command line.

use crate::diagnostic::{Diagnostic, Diagnostics, Id, Severity};
use crate::files;
use crate::ids;
use crate::references;
use crate::schema::normalise;
use crate::suggestion::nearest;
use crate::toml_version::Flaw;
use crate::value::{ConfigValue, Entry, Origin, Source, Sources, Table, Value, parse, parse_value};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Longest chain of `extends`.
const MAX_EXTENDS: usize = 16;
/// Most files that one recipe reads; one that is extended twice is read twice.
const MAX_FILES: usize = 256;
/// Most keys of a path in an override.
const MAX_KEYS: usize = 64;
/// Largest recipe file in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What the merge has to know of components: it happens before any table is checked.
pub trait Catalog {
    /// Whether a key of the table at a path belongs to the table's place in the recipe, so that it stays when another
    /// component is named there. The path holds the keys from the root to the table.
    fn stays(&self, path: &[String], key: &str) -> bool;

    /// Whether the table at that path may name that component.
    fn knows(&self, path: &[String], component: &str) -> bool;

    /// The defaults of the keys of the component that a table at that path names, by key.
    fn defaults(&self, path: &[String], component: &str) -> Vec<(String, String)>;
}

/// A catalog without components: only `component`, `apply` and `call` themselves stay.
impl Catalog for () {
    fn stays(&self, _: &[String], key: &str) -> bool {
        key == "component"
    }

    fn knows(&self, _: &[String], _: &str) -> bool {
        true
    }

    fn defaults(&self, _: &[String], _: &str) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// One change from the command line.
#[derive(Debug, Clone)]
pub enum Override {
    /// `--set path=value`.
    Set(String),
    /// `--unset path`.
    Unset(String),
}

/// A recipe merged from its files and overrides, not yet checked against any schema.
#[derive(Debug)]
pub struct Merged {
    /// All texts.
    pub sources: Sources,
    /// The root table, without `extends`, `remove` and `plugins`.
    pub root: ConfigValue,
    /// Warnings and errors met on the way.
    pub found: Vec<Diagnostic>,
    /// The files in the order in which they were read.
    pub files: Vec<PathBuf>,
    /// The texts of the files, each after those that it extends.
    pub order: Vec<usize>,
    /// The places whose references lead nowhere, which has been reported.
    pub failed: HashSet<Origin>,
}

/// A recipe file and those that it extends, read and not merged yet: which components there are may depend on what the
/// files say.
#[derive(Debug)]
pub struct Parsed {
    /// All texts.
    pub sources: Sources,
    /// What `plugins` names in all files, those of the extended ones first, each with its place.
    pub plugins: Vec<(String, Origin)>,
    found: Vec<Diagnostic>,
    files: Vec<PathBuf>,
    order: Vec<usize>,
    root: Option<File>,
}

/// What becomes of a reference to an environment variable that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// It is an error.
    Refused,
    /// It stays as it is: the recipe is the record of a run.
    Stays,
}

/// A file without `extends`, `remove` and `plugins`.
#[derive(Debug)]
struct File {
    own: ConfigValue,
    extends: Vec<File>,
    remove: Vec<(String, Origin)>,
    /// All files that it extends could be read.
    complete: bool,
}

impl Parsed {
    /// Reads a recipe and everything it extends.
    pub fn read(path: &Path) -> Self {
        let mut reader = Reader::default();
        let root = reader.file(path, None);
        let Reader { sources, found, files, order, plugins, .. } = reader;
        Self { sources, plugins, found, files, order, root }
    }

    /// Whether nothing is wrong so far.
    pub fn is_sound(&self) -> bool {
        self.root.is_some() && self.found.iter().all(|d| d.severity != Severity::Error)
    }

    /// The same, if nothing is wrong so far.
    ///
    /// # Errors
    /// [`Diagnostics`] with what is.
    pub fn sound(self) -> Result<Self, Diagnostics> {
        if self.is_sound() { Ok(self) } else { Err(Diagnostics { list: self.found, sources: self.sources }) }
    }

    /// Merges the files, applies the overrides in order, and puts values in the place of references. `sections` are the
    /// tables that a reference may lead to.
    ///
    /// # Errors
    /// A [`Diagnostics`] with all findings, when a file could not be read or parsed, the files extend in a circle, or an
    /// override cannot be applied.
    pub fn merge(
        self,
        overrides: &[Override],
        catalog: &dyn Catalog,
        sections: &[&str],
        unset: Unset,
    ) -> Result<Merged, Diagnostics> {
        let Self { mut sources, mut found, files, order, root, .. } = self;
        let root = root.and_then(|root| root.merged(catalog, &mut found));
        let Some(mut root) = root else { return Err(Diagnostics { list: found, sources }) };
        for change in overrides {
            apply(&mut root, change, catalog, &mut sources, &mut found);
        }
        if found.iter().any(|d| d.severity == Severity::Error) {
            return Err(Diagnostics { list: found, sources });
        }
        let stays = unset == Unset::Stays;
        let failed = references::resolve(&mut root, &mut sources, sections, &mut found, stays);
        Ok(Merged { sources, root, found, files, order, failed })
    }
}

impl File {
    /// What it extends with itself laid over; none if a file is missing.
    fn merged(self, catalog: &dyn Catalog, found: &mut Vec<Diagnostic>) -> Option<ConfigValue> {
        let lay = |base: &mut ConfigValue, over: ConfigValue, found: &mut Vec<Diagnostic>| {
            Merge { catalog, sort: Over::File, path: Vec::new(), found }.lay(base, over);
        };
        let mut base = ConfigValue::empty(self.own.origin.clone());
        let mut complete = self.complete;
        for file in self.extends {
            match file.merged(catalog, found) {
                Some(node) => lay(&mut base, node, found),
                None => complete = false,
            }
        }
        for (name, origin) in &self.remove {
            if name == "plugins" {
                found.push(plugins_decide(origin));
                continue;
            }
            // What a file has that could not be read is not known.
            if !base.remove(name) && complete {
                found.push(
                    Diagnostic::error(&ids::NOTHING_TO_REMOVE, format!("there is no `{name}` to remove"))
                        .at(origin, "not in what this recipe extends")
                        .help(base.missing(name)),
                );
            }
        }
        lay(&mut base, self.own, found);
        complete.then_some(base)
    }
}

#[derive(Default)]
struct Reader {
    sources: Sources,
    found: Vec<Diagnostic>,
    files: Vec<PathBuf>,
    stack: Vec<PathBuf>,
    order: Vec<usize>,
    plugins: Vec<(String, Origin)>,
    /// More files were asked for than are read, which has been reported.
    full: bool,
}

impl Reader {
    fn file(&mut self, path: &Path, asked: Option<&Origin>) -> Option<File> {
        let fail = |reader: &mut Self, id: &'static Id, message: String, help: &str| {
            let mut d = Diagnostic::error(id, message);
            if let Some(origin) = asked {
                d = d.at(origin, "extended here");
            }
            reader.found.push(if help.is_empty() { d } else { d.help(help) });
        };
        let canonical = match std::fs::canonicalize(path) {
            Ok(p) => p,
            Err(e) => {
                fail(self, &ids::UNREADABLE, format!("cannot read the recipe {}: {e}", path.display()), &near(path));
                return None;
            }
        };
        if self.stack.len() >= MAX_EXTENDS && !self.stack.contains(&canonical) {
            fail(
                self,
                &ids::TOO_MANY_FILES,
                format!("recipes extend each other over more than {MAX_EXTENDS} files"),
                "extend the last of them directly",
            );
            return None;
        }
        if self.stack.contains(&canonical) {
            let chain: Vec<String> = self.stack.iter().map(|p| p.display().to_string()).collect();
            fail(
                self,
                &ids::CIRCULAR_EXTENDS,
                format!("recipes extend each other in a circle: {} -> {}", chain.join(" -> "), path.display()),
                "remove one of these `extends`",
            );
            return None;
        }
        let read = self.sources.iter().count();
        if read >= MAX_FILES {
            if !self.full {
                let message = format!("the recipe extends more than {MAX_FILES} files");
                fail(self, &ids::TOO_MANY_FILES, message, "extend each of them once");
            }
            self.full = true;
            return None;
        }
        let text = match read_text(&canonical) {
            Ok(text) => text,
            Err(reason) => {
                fail(self, &ids::UNREADABLE, format!("cannot read the recipe {}: {reason}", path.display()), "");
                return None;
            }
        };
        let folder = canonical.parent().map(Path::to_path_buf).unwrap_or_default();
        let file =
            self.sources.add(Source { name: shown(path), folder: folder.clone(), path: Some(canonical.clone()), text });
        if !self.files.contains(&canonical) {
            self.files.push(canonical.clone());
        }
        let mut own = match parse(&self.sources.get(file).text, file) {
            Ok(node) => node,
            Err(flaws) => {
                for (message, span) in flaws {
                    self.found.push(
                        Diagnostic::error(&ids::SYNTAX, format!("{} is not a valid recipe: {message}", path.display()))
                            .at(&Origin { file, span }, "here"),
                    );
                }
                return None;
            }
        };
        let table = own.table_mut()?;
        let extends = table.shift_remove("extends");
        let remove = table.shift_remove("remove");
        let plugins = table.shift_remove("plugins");
        self.stack.push(canonical);
        let (mut base, mut complete) = (Vec::new(), true);
        for (name, origin) in strings(extends.as_ref(), "extends", &mut self.found) {
            match self.file(&normalise(&folder.join(name)), Some(&origin)) {
                Some(file) => base.push(file),
                None => complete = false,
            }
        }
        self.stack.pop();
        let remove = strings(remove.as_ref(), "remove", &mut self.found);
        self.plugins.extend(strings(plugins.as_ref(), "plugins", &mut self.found));
        self.order.push(file);
        Some(File { own, extends: base, remove, complete })
    }
}

/// A path as the user would write it: relative to the working directory where it is below it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// The recipe beside a path that is not there whose name is nearest.
fn near(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entries = folder.read_dir().into_iter().flatten().flatten().take(MAX_FILES);
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    match nearest(&wanted, names.iter().map(String::as_str)).first() {
        Some(name) => format!("did you mean {}?", folder.join(name).display()),
        None => "check the path".to_owned(),
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if size.is_dir() {
        return Err("it is a folder, expected a TOML file".into());
    }
    if size.len() > MAX_BYTES {
        return Err(format!("{} bytes are more than the {MAX_BYTES} of a recipe", size.len()));
    }
    files::read_text(path, MAX_BYTES).map_err(|e| e.to_string())
}

fn strings(entry: Option<&Entry>, key: &str, found: &mut Vec<Diagnostic>) -> Vec<(String, Origin)> {
    let Some(entry) = entry else { return Vec::new() };
    let Value::Array(items) = &entry.node.value else {
        found.push(
            Diagnostic::error(
                &ids::BAD_EXTENDS,
                format!("`{key}` must be an array of strings, found {}", entry.node.value.type_name()),
            )
            .at(&entry.node.origin, "write it in [ ]"),
        );
        return Vec::new();
    };
    let mut out = Vec::new();
    for item in items {
        match item.str() {
            Some(text) => out.push((text.to_owned(), item.origin.clone())),
            None => found.push(
                Diagnostic::error(
                    &ids::BAD_EXTENDS,
                    format!("`{key}` must hold strings, found {}", item.value.type_name()),
                )
                .at(&item.origin, item.value.short()),
            ),
        }
    }
    out
}

/// What a merge lays over a recipe.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    /// A file: its tables are where the recipe's are from now on.
    File,
    /// An override: the tables keep the place where they were written, only the value is from elsewhere.
    Value,
}

/// A merge under way.
struct Merge<'m> {
    catalog: &'m dyn Catalog,
    sort: Over,
    path: Vec<String>,
    found: &'m mut Vec<Diagnostic>,
}

impl Merge<'_> {
    /// Lays `over` on `base`: tables merge by key, everything else is replaced.
    fn lay(&mut self, base: &mut ConfigValue, over: ConfigValue) {
        let (Value::Table(old), Value::Table(_)) = (&mut base.value, &over.value) else {
            *base = over;
            return;
        };
        let Value::Table(new) = over.value else { return };
        self.swap_component(old, &new);
        for (key, entry) in new {
            match old.get_mut(&key) {
                Some(existing) => {
                    if self.sort == Over::File || entry.node.table().is_none() {
                        existing.key = entry.key;
                    }
                    self.path.push(key);
                    self.lay(&mut existing.node, entry.node);
                    self.path.pop();
                }
                None => {
                    old.insert(key, entry);
                }
            }
        }
        if self.sort == Over::File {
            base.origin = over.origin;
        }
    }

    /// Drops the old component's own keys when `new` names another one.
    fn swap_component(&mut self, old: &mut Table, new: &Table) {
        let named = |t: &Table| NAMING.iter().find_map(|key| t.get(*key)?.node.str().map(str::to_owned));
        let (Some(was), Some(is)) = (named(old), named(new)) else { return };
        if was == is {
            return;
        }
        let stays = |key: &str| self.catalog.stays(&self.path, key);
        let mut dropped: Vec<String> = old.keys().filter(|key| !stays(key)).cloned().collect();
        for key in &dropped {
            old.shift_remove(key);
        }
        // What names a node's target is replaced and not lost.
        dropped.retain(|key| !NAMING.contains(&key.as_str()));
        // A component that does not exist is a finding of its own.
        if dropped.is_empty() || !self.catalog.knows(&self.path, &is) {
            return;
        }
        let mut d = Diagnostic::warning(
            &ids::DROPPED_KEYS,
            format!(
                "`{}` is now `{is}`: the keys of `{was}` were dropped: {}",
                self.path.join("."),
                dropped.join(", ")
            ),
        );
        // The same word may mean another thing there, and another value be right.
        let again = self.catalog.defaults(&self.path, &is).into_iter();
        let again = again.filter(|(key, _)| dropped.contains(key) && !new.contains_key(key));
        let again: Vec<String> = again.map(|(key, default)| format!("{key} = {default}")).collect();
        if !again.is_empty() {
            d = d.help(format!("`{is}` has keys of these names too, and takes its defaults: {}", again.join(", ")));
        }
        let at = NAMING.iter().find_map(|key| new.get(*key));
        self.found.push(match at {
            Some(entry) => d.at(&entry.node.origin, "replaces it here"),
            None => d,
        });
    }
}

/// The keys that name the component of a table.
const NAMING: [&str; 3] = ["component", "apply", "call"];

fn apply(
    root: &mut ConfigValue,
    change: &Override,
    catalog: &dyn Catalog,
    sources: &mut Sources,
    found: &mut Vec<Diagnostic>,
) {
    let (flag, text) = match change {
        Override::Set(text) => ("--set", text),
        Override::Unset(text) => ("--unset", text),
    };
    let file = sources.add(Source {
        name: flag.to_owned(),
        folder: std::env::current_dir().unwrap_or_default(),
        path: None,
        text: text.clone(),
    });
    let whole = Origin { file, span: 0..text.len() };
    if text.split(['=', '.', '[']).next().is_some_and(|key| key.trim() == "plugins") {
        found.push(plugins_decide(&whole));
        return;
    }
    if let Override::Unset(path) = change {
        if !root.remove(path) {
            let d = Diagnostic::error(&ids::NOTHING_TO_REMOVE, format!("there is no `{path}` to unset"))
                .at(&whole, "not in this recipe");
            found.push(d.help(root.missing(path)));
        }
        return;
    }
    let Some((path, value)) = text.split_once('=') else {
        found.push(Diagnostic::error(&ids::BAD_OVERRIDE, "an override is path=value").at(&whole, "there is no `=`"));
        return;
    };
    let (path, offset) = (path.trim(), path.len() + 1);
    let keys: Vec<&str> = path.split('.').collect();
    if keys.len() > MAX_KEYS {
        let message = format!("a path of {} keys is longer than the {MAX_KEYS} that are allowed", keys.len());
        found.push(Diagnostic::error(&ids::BAD_OVERRIDE, message).at(&Origin { file, span: 0..0 }, "too long"));
        return;
    }
    if keys.iter().any(|k| k.is_empty()) {
        found.push(
            Diagnostic::error(&ids::BAD_OVERRIDE, format!("`{path}` is not a path of keys")).at(&whole, "an empty key"),
        );
        return;
    }
    let value = match override_value(value, file, offset) {
        Ok(node) => node,
        Err((message, span)) => {
            found.push(
                Diagnostic::error(&ids::BAD_OVERRIDE, format!("the value of `{path}` is not a TOML value: {message}"))
                    .at(&Origin { file, span }, "here"),
            );
            return;
        }
    };
    let key_origin = Origin { file, span: 0..path.len() };
    let mut over = value;
    for key in keys.iter().rev() {
        let mut table = Table::new();
        table.insert((*key).to_owned(), Entry { key: key_origin.clone(), node: over });
        over = ConfigValue { value: Value::Table(table), origin: key_origin.clone() };
    }
    if let Some(blocked) = blocked(root, &keys) {
        found.push(
            Diagnostic::error(&ids::BAD_OVERRIDE, format!("`{path}` cannot be set: `{blocked}` is not a table"))
                .at(&whole, "set here"),
        );
        return;
    }
    Merge { catalog, sort: Over::Value, path: Vec::new(), found }.lay(root, over);
}

/// Plugins are known before anything is merged.
fn plugins_decide(place: &Origin) -> Diagnostic {
    let message = "plugins can be neither set nor removed: they decide which components there are";
    let d = Diagnostic::error(&ids::BAD_OVERRIDE, message).at(place, "here");
    d.help("name them in the recipe, or with --plugin NAME")
}

/// The value of an override, at `offset` in its source. A bare word is meant as a string; what looks like another TOML
/// value and is broken is an error.
pub fn override_value(text: &str, file: usize, offset: usize) -> Result<ConfigValue, Flaw> {
    let word = text.trim();
    let offset = offset + text.len() - text.trim_start().len();
    match parse_value(word, file, offset) {
        Ok(node) => Ok(node),
        Err(flaw) if word.is_empty() || word.starts_with(['[', '{', '"', '\'']) => Err(flaw),
        Err((_, span)) => Ok(ConfigValue { value: Value::String(word.to_owned()), origin: Origin { file, span } }),
    }
}

fn blocked(root: &ConfigValue, keys: &[&str]) -> Option<String> {
    let mut node = root;
    for (i, key) in keys.iter().enumerate() {
        match node.table() {
            None => return Some(keys[..i].join(".")),
            Some(table) => match table.get(*key) {
                Some(entry) => node = &entry.node,
                None => return None,
            },
        }
    }
    None
}
