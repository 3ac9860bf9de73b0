//! The audit as a page that stands by itself.

use super::people::Thresholds;
use super::{Finding, Set, short};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mtl_component::Result;
use mtl_faces::facts::Facts;
use mtl_standard::codec;
use std::fmt::Write;

/// Examples with pictures of each finding, and pixels a side of these.
const SHOWN: usize = 24;
const SIDE: usize = 80;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222;\
background:#fff}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ccc}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #eee;\
vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}.examples{display:grid;\
grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:.8rem}.example{border:1px solid #ddd;border-radius:6px;\
padding:.5rem;font-size:13px;overflow-wrap:anywhere}.example img{width:80px;height:80px;object-fit:cover;margin-right:4px;\
border-radius:3px}.code{font-family:ui-monospace,monospace}.advice{color:#555}rect{fill:#4a78b0}text{font-size:11px;fill:#444}\
@media(prefers-color-scheme:dark){body{background:#181a1b;color:#ddd}h2{border-color:#444}td,th{border-color:#333}\
.example{border-color:#444}.advice{color:#aaa}rect{fill:#7ba7dc}text{fill:#bbb}}";

/// The page.
pub fn page(sets: &[Set], facts: &[Facts], findings: &[Finding], thresholds: Option<&Thresholds>) -> Result<String> {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Audit</title><style>{STYLE}</style></head><body>\n<h1>Audit of {}</h1>\n",
        safe(&sets.iter().filter(|set| !set.is_test).map(|set| short(&set.path)).collect::<Vec<_>>().join(", "))
    );
    let _ = write!(out, "<table><tr><th>finding</th><th>count</th><th>what it is</th><th>what is advised</th></tr>");
    for finding in findings {
        let _ = write!(
            out,
            "<tr><td><a class=\"code\" href=\"#{0}\">{0}</a></td><td class=\"n\">{1}</td><td>{2}</td><td \
             class=\"advice\">{3}</td></tr>",
            finding.code,
            finding.count,
            safe(&finding.what),
            safe(finding.advice)
        );
    }
    out.push_str("</table>\n");
    if findings.is_empty() {
        out.push_str("<p>Nothing was found.</p>\n");
    }
    if let Some(t) = thresholds {
        let _ = writeln!(
            out,
            "<p>The run's thresholds, set on this data: centres of people {:.3} ({} pairs of different people), pictures {:.3} \
             ({} pairs).</p>",
            t.people, t.pairs_of_people, t.pictures, t.pairs_of_pictures
        );
    }
    for (set, facts) in sets.iter().zip(facts) {
        let what = if set.is_test { "tested on" } else { "trained on" };
        let _ = writeln!(out, "<h2>{} ({what})</h2>\n<table>", safe(&set.path.display().to_string()));
        for (name, text) in facts.lines() {
            let _ = write!(out, "<tr><td>{name}</td><td>{}</td></tr>", safe(&text));
        }
        out.push_str("</table>\n");
        out.push_str(&histogram(facts));
    }
    for finding in findings {
        let _ = write!(
            out,
            "<h2 id=\"{0}\"><span class=\"code\">{0}</span>: {1}</h2>\n<p>{2} found; <span class=\"advice\">{3}</span>.</p>\n<div \
             class=\"examples\">",
            finding.code,
            safe(&finding.what),
            finding.count,
            safe(finding.advice)
        );
        for example in finding.examples.iter().take(SHOWN) {
            out.push_str("<div class=\"example\">");
            for (s, i) in &example.pictures {
                if let Some(data) = thumbnail(&sets[*s], *i) {
                    let _ = write!(out, "<img alt=\"\" src=\"data:image/jpeg;base64,{data}\">");
                }
            }
            let _ = write!(out, "<div>{}</div></div>", safe(&example.text));
        }
        out.push_str("</div>\n");
        if finding.count > SHOWN {
            let _ = writeln!(
                out,
                "<p>… and {} more; up to a hundred are in audit.json.</p>",
                finding.count - SHOWN.min(finding.examples.len())
            );
        }
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

/// A small JPEG in base 64; none of what cannot be read.
fn thumbnail(set: &Set, index: usize) -> Option<String> {
    let mut picture = set.pictures.source.pictures.picture(index).ok()?;
    picture.resize(SIDE, SIDE).ok()?;
    Some(STANDARD.encode(codec::jpeg(&picture, 85).ok()?))
}

/// Pictures by decade of age as bars.
fn histogram(facts: &Facts) -> String {
    let Some(most) = facts.ages_by_decade.values().max().filter(|most| **most > 0) else { return String::new() };
    let (bar, height) = (56, 110);
    let width = facts.ages_by_decade.len() * bar;
    let mut out =
        format!("<svg width=\"{width}\" height=\"{}\" role=\"img\" aria-label=\"pictures by age\">", height + 36);
    for (n, (decade, count)) in facts.ages_by_decade.iter().enumerate() {
        let tall = (count * height).div_ceil(*most);
        let x = n * bar + 4;
        let _ = write!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"{}\" height=\"{tall}\"/><text x=\"{x}\" y=\"{}\">{count}</text><text \
             x=\"{x}\" y=\"{}\">{decade}</text>",
            height - tall + 14,
            bar - 10,
            height - tall + 10,
            height + 30
        );
    }
    out + "</svg>\n"
}

/// Text for a page.
fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
