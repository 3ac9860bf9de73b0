//! Errors that teach: what was expected, what was found, where, and what to do.
//!
//! A [`Diagnostic`] points into a recipe and has an id that stays the same when its words change; [`Diagnostics`]
//! collects all findings of one check.

use crate::code::Code;
use crate::value::{Origin, Provenance, Sources};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// A kind of finding. Its name stays the same when the words of its messages change.
#[derive(Debug, PartialEq, Eq)]
pub struct Id {
    /// The name, such as `unknown-key`.
    pub name: &'static str,
    /// What is wrong, in one or two sentences for the list of all ids.
    pub about: &'static str,
}

/// Defines the ids of a crate, and `ALL` of them in order: `ids! { UNKNOWN_KEY "unknown-key" "A table has …" }`.
#[macro_export]
macro_rules! ids {
    ($($constant:ident $name:literal $about:literal)*) => {
        $(
            #[doc = $about]
            pub static $constant: $crate::diagnostic::Id = $crate::diagnostic::Id { name: $name, about: $about };
        )*
        /// All ids that are defined here.
        pub static ALL: &[&$crate::diagnostic::Id] = &[$(&$constant),*];
    };
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The recipe cannot be used.
    Error,
    /// The recipe is valid, but probably not what was meant.
    Warning,
}

/// One finding about a recipe.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding it is.
    pub id: &'static Id,
    /// The finding in one sentence.
    pub message: String,
    /// Where, if a place in a source is to blame.
    pub origin: Option<Origin>,
    /// What stands at that place, in a few words.
    pub label: String,
    /// Other places that belong to it.
    pub related: Vec<(Origin, String)>,
    /// What to do.
    pub help: Vec<String>,
    /// A required value is missing.
    pub incomplete: bool,
    /// Who can mend it: the user, but where a component has failed.
    pub code: Code,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(id: &'static Id, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            id,
            message: message.into(),
            origin: None,
            label: String::new(),
            related: Vec::new(),
            help: Vec::new(),
            incomplete: false,
            code: Code::Mistake,
        }
    }

    /// A warning without a place.
    pub fn warning(id: &'static Id, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(id, message) }
    }

    /// Points at a place.
    pub fn at(mut self, origin: &Origin, label: impl Into<String>) -> Self {
        self.origin = Some(origin.clone());
        self.label = label.into();
        self
    }

    /// Points at another place.
    pub fn also(mut self, origin: &Origin, label: impl Into<String>) -> Self {
        self.related.push((origin.clone(), label.into()));
        self
    }

    /// Marks a finding about a required value that is missing.
    pub fn incomplete(mut self) -> Self {
        self.incomplete = true;
        self
    }

    /// Says who can mend it.
    pub fn of(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Says what to do.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }
}

/// Findings together with the sources that they point into.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// The findings in the order in which they were made.
    pub list: Vec<Diagnostic>,
    /// The texts that they point into.
    pub sources: Sources,
}

/// Most findings that are shown.
const MAX_SHOWN_FINDINGS: usize = 100;
/// Most findings that are handed to other programs.
const MAX_GIVEN: usize = 1000;
/// Most bytes of a text that are shown with a finding; of a longer text only the place is named.
const MAX_SHOWN: usize = 1 << 15;

/// The whole lines that hold all spans.
fn lines<'s>(text: &str, spans: impl Iterator<Item = &'s Range<usize>>) -> Range<usize> {
    let (mut first, mut last) = (text.len(), 0);
    for span in spans {
        first = first.min(span.start);
        last = last.max(span.end.min(text.len()));
    }
    let bytes = text.as_bytes();
    let start = bytes[..first].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let last = last.max(start);
    let end = bytes[last..].iter().position(|b| *b == b'\n').map_or(text.len(), |at| last + at);
    start..end
}

/// The label of a place that a reference leads to.
const COMES_FROM: &str = "where the value comes from";

/// The note on a value that comes from the environment.
fn environment(name: &str) -> String {
    format!("the value comes from the environment variable `{name}`, or from its default")
}

impl Diagnostics {
    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// The text for a terminal, coloured or plain.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for d in self.list.iter().take(MAX_SHOWN_FINDINGS) {
            let level = match d.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let mut group: Group<'_> = Group::with_title(level.primary_title(d.message.as_str()));
            let mut places: Vec<(&Origin, &str, AnnotationKind)> = Vec::new();
            if let Some(origin) = &d.origin {
                places.push((origin, d.label.as_str(), AnnotationKind::Primary));
            }
            places.extend(d.related.iter().map(|(o, l)| (o, l.as_str(), AnnotationKind::Context)));
            let provenance = d.origin.as_ref().and_then(|origin| self.sources.provenance(origin));
            if let Some(Provenance::Place(there)) = provenance
                && !places.iter().any(|(origin, ..)| *origin == there)
            {
                places.push((there, COMES_FROM, AnnotationKind::Context));
            }
            let mut files: Vec<usize> = Vec::new();
            for (origin, ..) in &places {
                if !files.contains(&origin.file) {
                    files.push(origin.file);
                }
            }
            for file in files {
                let source = self.sources.get(file);
                let here: Vec<_> = places.iter().filter(|(o, ..)| o.file == file).collect();
                let window = lines(&source.text, here.iter().map(|(o, ..)| &o.span));
                let line = source.line(window.start);
                if window.len() > MAX_SHOWN {
                    group = group.element(annotate_snippets::Origin::path(source.name.as_str()).line(line));
                    continue;
                }
                let shown = &source.text[window.clone()];
                let mut snippet = Snippet::source(shown).line_start(line).path(source.name.as_str());
                for (origin, label, kind) in here {
                    let end = source.text.floor_char_boundary(origin.span.end.min(window.end));
                    let start = source.text.floor_char_boundary(origin.span.start.min(end));
                    let annotation = kind.span(start - window.start..end - window.start);
                    snippet = snippet.annotation(if label.is_empty() { annotation } else { annotation.label(*label) });
                }
                group = group.element(snippet);
            }
            for help in &d.help {
                group = group.element(Level::HELP.message(help.as_str()));
            }
            if let Some(Provenance::Environment { name, .. }) = provenance {
                group = group.element(Level::NOTE.message(environment(name)));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        if self.list.len() > MAX_SHOWN_FINDINGS {
            out.push_str(&format!("and {} more\n\n", self.list.len() - MAX_SHOWN_FINDINGS));
        }
        out
    }

    /// The findings for other programs: severity, message, help, and places as file, line and column from 1, the
    /// column in characters.
    pub fn to_json(&self) -> serde_json::Value {
        // Where the lines of each text begin.
        let starts: Vec<Vec<usize>> = self
            .sources
            .iter()
            .map(|source| std::iter::once(0).chain(source.text.match_indices('\n').map(|(at, _)| at + 1)).collect())
            .collect();
        let place = |origin: &Origin, label: &str| {
            let source = self.sources.get(origin.file);
            let at = |byte: usize| {
                let byte = source.text.floor_char_boundary(byte);
                let line = starts[origin.file].partition_point(|start| *start <= byte);
                let start = starts[origin.file][line - 1];
                // In a line longer than anybody writes, bytes are counted.
                let within = &source.text[start..byte];
                let column = if within.len() > MAX_SHOWN { within.len() } else { within.chars().count() };
                (line, column + 1)
            };
            let ((line, column), (end_line, end_column)) = (at(origin.span.start), at(origin.span.end));
            serde_json::json!({
                "file": source.path.as_ref().map_or_else(|| source.name.clone(), |p| p.display().to_string()),
                "line": line, "column": column, "end_line": end_line, "end_column": end_column, "label": label,
            })
        };
        let more = self.list.len().saturating_sub(MAX_GIVEN);
        let rest = (more > 0)
            .then(|| serde_json::json!({ "severity": "error", "id": "more", "message": format!("and {more} more") }));
        self.list
            .iter()
            .take(MAX_GIVEN)
            .map(|d| {
                let provenance = d.origin.as_ref().and_then(|origin| self.sources.provenance(origin));
                let (from, variable) = match provenance {
                    Some(Provenance::Place(there)) => (Some(place(there, COMES_FROM)), None),
                    Some(Provenance::Environment { name, .. }) => (None, Some(environment(name))),
                    None => (None, None),
                };
                let related = d.related.iter().map(|(o, label)| place(o, label)).chain(from);
                let help = d.help.iter().cloned().chain(variable);
                serde_json::json!({
                    "severity": if d.severity == Severity::Error { "error" } else { "warning" },
                    "id": d.id.name,
                    "message": d.message,
                    "place": d.origin.as_ref().map(|o| place(o, &d.label)),
                    "related": related.collect::<Vec<_>>(),
                    "help": help.collect::<Vec<_>>(),
                })
            })
            .chain(rest)
            .collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}
