//! Finds syntax that later versions of TOML than 1.0 allow. Recipes do not, since validators in editors know no later
//! version.

use std::ops::Range;
use toml_parser::decoder::Encoding;
use toml_parser::parser::{Event, EventKind, parse_document};
use toml_parser::{ErrorSink, ParseError, Source};

/// A parse error: what, and where in the text.
pub type Flaw = (String, Range<usize>);

/// The places in a valid text that are not TOML 1.0: line breaks, comments and a last comma in inline tables, and the
/// escapes `\e` and `\xHH`.
pub(crate) fn newer_syntax(text: &str) -> Vec<Flaw> {
    let tokens = Source::new(text).lex().into_vec();
    let mut scan = Scan { text, open: Vec::new(), comma: None, flaws: Vec::new() };
    parse_document(&tokens, &mut |event: Event| scan.event(&event), &mut Silent);
    scan.flaws
}

/// The text is known to be valid: its errors are reported elsewhere.
struct Silent;

impl ErrorSink for Silent {
    fn report_error(&mut self, _: ParseError) {}
}

/// A bracket that is open.
enum Open {
    Array,
    /// An inline table, and whether its line break has been told.
    Table {
        broken: bool,
    },
}

struct Scan<'t> {
    text: &'t str,
    /// The brackets that are open, from the outermost.
    open: Vec<Open>,
    /// The comma that nothing but space has followed yet.
    comma: Option<Range<usize>>,
    flaws: Vec<Flaw>,
}

impl Scan<'_> {
    fn event(&mut self, event: &Event) {
        let span = event.span().start()..event.span().end();
        // A line break within an array within an inline table is the array's.
        let within = matches!(self.open.last(), Some(Open::Table { .. }));
        match event.kind() {
            EventKind::InlineTableOpen => self.open.push(Open::Table { broken: false }),
            EventKind::ArrayOpen => self.open.push(Open::Array),
            EventKind::ArrayClose => {
                self.open.pop();
            }
            EventKind::InlineTableClose => {
                self.open.pop();
                if let Some(comma) = self.comma.take() {
                    self.flaw("a comma after the last key of an inline table: remove it", comma);
                }
            }
            // A comment ends in a line break, which is told.
            // One finding a table, at the end of its first line.
            EventKind::Newline if within => {
                if let Some(Open::Table { broken }) = self.open.last_mut()
                    && std::mem::replace(broken, true)
                {
                    return;
                }
                let what = "a line break in an inline table: write { … } in one line, or a [table] of its own";
                self.flaw(what, span.start..span.start);
            }
            EventKind::SimpleKey | EventKind::Scalar => self.escapes(event.encoding(), span),
            _ => {}
        }
        match event.kind() {
            EventKind::ValueSep if within => self.comma = Some(event.span().start()..event.span().end()),
            EventKind::Whitespace | EventKind::Newline | EventKind::Comment => {}
            _ => self.comma = None,
        }
    }

    fn escapes(&mut self, encoding: Option<Encoding>, span: Range<usize>) {
        if !matches!(encoding, Some(Encoding::BasicString | Encoding::MlBasicString)) {
            return;
        }
        let bytes = self.text[span.clone()].as_bytes();
        let mut at = 0;
        while at + 1 < bytes.len() {
            if bytes[at] != b'\\' {
                at += 1;
                continue;
            }
            let place = span.start + at..span.start + at + 2;
            match bytes[at + 1] {
                b'e' => self.flaw("the escape \\e: write \\u001B", place),
                b'x' => self.flaw("the escape \\x: write \\u00 and its two digits", place),
                _ => {}
            }
            at += 2;
        }
    }

    fn flaw(&mut self, what: &str, span: Range<usize>) {
        self.flaws.push((format!("recipes are TOML 1.0, as editors read it, which does not know {what}"), span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_toml_1_0_is_found_with_its_place() {
        for (text, place) in [
            ("a = { b = 1,\n c = 2,\n d = 3 }", 12..12),
            ("a = { b = 1, }", 11..12),
            ("a = { b = 1 # why\n }", 17..17),
            ("a = \"\\e\"", 5..7),
            ("\"\\x41\" = 1", 1..3),
            ("a = \"\"\"\n\\\\\\x41\"\"\"", 10..12),
        ] {
            assert!(toml::from_str::<toml::Table>(text).is_ok(), "{text}");
            let found = newer_syntax(text);
            assert_eq!(found.iter().map(|(_, span)| span.clone()).collect::<Vec<_>>(), [place], "{text}: {found:?}");
        }
    }

    #[test]
    fn toml_1_0_is_left_alone() {
        let text = "a = { b = [1,\n 2,\n], c = {} } # no\nd = '\\e\\x'\ne = \"\\\\e \\\\x41 \\u0041\"\nf = [\n { g = 1 },\n]\n[h]\ni = { }";
        assert!(toml::from_str::<toml::Table>(text).is_ok());
        assert_eq!(newer_syntax(text), []);
    }
}
