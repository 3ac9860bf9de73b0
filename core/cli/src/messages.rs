//! What the program writes to stderr: notes, warnings, errors, and the progress of training between them.

use indicatif::ProgressBar;
use mtl_recipe::{Code, Diagnostics, Error};
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Whether notes are left out. Warnings and errors are always shown.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether warnings are left out as well.
static SILENT: AtomicBool = AtomicBool::new(false);

/// The bar that is on the terminal; other lines go above it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Shows what libraries report through `tracing`.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Other libraries have no word in what a user reads.
        if !event.metadata().target().starts_with("mtl") {
            return;
        }
        let prefix = match *event.metadata().level() {
            Level::ERROR => "error",
            _ if SILENT.load(Ordering::Relaxed) => return,
            Level::WARN => "warning",
            Level::INFO if !QUIET.load(Ordering::Relaxed) => "note",
            _ => return,
        };
        let mut message = Message(String::new());
        event.record(&mut message);
        line(&format!("{prefix}: {}", without_frames(&message.0)));
    }
}

/// The text of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

/// Starts showing what libraries report.
pub fn listen() {
    tracing_subscriber::registry().with(Lines).init();
}

/// In one of several processes: only the one that leads shows notes and warnings, which are the same in all.
pub fn be_rank(leads: bool) {
    SILENT.store(!leads, Ordering::Relaxed);
}

/// Leaves out notes from now on.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Puts a bar on the terminal, or takes it away.
pub fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// The text with what a terminal would take for a command made visible. Names come from files, and files from anywhere.
pub fn printable(text: &str) -> Cow<'_, str> {
    let plain = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(plain) {
        return text.into();
    }
    text.chars().map(|c| if plain(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// A line on stderr. That nobody reads it any more is no reason to stop training.
pub fn line(text: &str) {
    raw(&printable(text));
}

/// A line on stdout, which a bar on the terminal makes room for.
pub fn result(text: &str) {
    match &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(bar) => bar.suspend(|| println!("{text}")),
        None => println!("{text}"),
    }
}

fn raw(text: &str) {
    match &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(bar) => bar.println(text),
        None => {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// Shows findings about a recipe with the lines that they are about.
pub fn findings(found: &Diagnostics) {
    // It makes control characters visible itself; its colours are commands to the terminal.
    let text = found.render(std::io::stderr().is_terminal());
    if !text.is_empty() {
        raw(text.trim_end_matches('\n'));
    }
}

/// Shows why the program ends.
pub fn error(error: &Error) {
    if let Some(found) = error.diagnostics() {
        findings(found);
        let n = found.errors();
        line(&format!("{n} error{}", if n == 1 { "" } else { "s" }));
        return;
    }
    let text = without_frames(&format!("{error:#}"));
    match (error.code(), error.site()) {
        (Code::Mistake, _) | (Code::Failure, None) => line(&format!("error: {text}")),
        // Who can mend a failure depends on whose component it was.
        (Code::Failure, Some(site)) => {
            line(&format!("error: {text}"));
            line(&format!("note: {} of {} failed in `{}`", site.component, site.origin, site.method));
        }
        (Code::Panic, Some(site)) if site.plugin => {
            line(&format!("error: {text}"));
            line("note: a panic is a fault in the code of the plugin: a component must return an error instead");
        }
        (Code::Panic, _) => {
            line(&format!("error: mtlrun met a fault of its own: {text}"));
            line("Please report it with the recipe and the command.");
        }
    }
}

/// libtorch adds the frames of its own code, which mean nothing to a user.
fn without_frames(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.starts_with("Exception raised from"));
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}
