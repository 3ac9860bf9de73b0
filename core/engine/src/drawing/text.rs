//! The drawing for other programs: Graphviz and Mermaid.

use super::{Item, Role, Sketch};
use std::fmt::Write;

/// The drawing as Graphviz text.
pub fn dot(sketch: &Sketch) -> String {
    let mut out = format!("digraph recipe {{\n  label = {:?};\n  node [fontname = \"Helvetica\"];\n", sketch.title);
    for (i, item) in sketch.items.iter().enumerate() {
        let shape = match item.role {
            Role::Data => "box",
            Role::Module => "box, style = rounded",
            Role::Function => "oval",
            Role::Loss => "note",
        };
        let _ = writeln!(out, "  n{i} [shape = {shape}, label = {:?}];", label(sketch, item, "\n"));
    }
    for link in &sketch.links {
        let _ = writeln!(out, "  n{} -> n{} [label = {:?}];", link.from, link.to, link.label);
    }
    out.push_str("}\n");
    out
}

/// The drawing as Mermaid text, which README files show.
pub fn mermaid(sketch: &Sketch) -> String {
    let mut out = String::from("flowchart TD\n");
    for (i, item) in sketch.items.iter().enumerate() {
        let (open, close) = match item.role {
            Role::Data => ("[(", ")]"),
            Role::Module => ("[", "]"),
            Role::Function => ("([", "])"),
            Role::Loss => ("[/", "/]"),
        };
        let text = label(sketch, item, "<br>").replace('"', "&quot;");
        let _ = writeln!(out, "  n{i}{open}\"{text}\"{close}");
    }
    for link in &sketch.links {
        let label = if link.label.is_empty() { String::new() } else { format!("|{}|", link.label) };
        let _ = writeln!(out, "  n{} -->{label} n{}", link.from, link.to);
    }
    out
}

fn label(sketch: &Sketch, item: &Item, newline: &str) -> String {
    let mut lines = vec![item.name.clone()];
    lines.extend(item.lines.clone());
    if item.frozen {
        lines.push("frozen".into());
    }
    if !item.phases.is_empty() {
        let names: Vec<&str> = item.phases.iter().map(|p| sketch.phases[*p].as_str()).collect();
        lines.push(format!("phase {}", names.join(", ")));
    }
    lines.join(newline)
}
