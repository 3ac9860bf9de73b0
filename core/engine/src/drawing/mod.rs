//! The multi-task graph as a drawing: what is computed from what, by which modules, for which losses and phases.

mod layout;
mod svg;
mod text;

use crate::graph::{Graph, Target, Wire};
use crate::model::Model;
use crate::recipe::Recipe;
use mtl_component::Ports;
use mtl_component::ports::shape_text;
use mtl_recipe::{Result, mistake};
use std::path::Path;

/// What a box stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Data,
    Module,
    Function,
    Loss,
}

/// A box of the drawing.
#[derive(Debug, Clone)]
struct Item {
    name: String,
    role: Role,
    /// Lines under the name.
    lines: Vec<String>,
    /// What a pointer on it is told.
    about: String,
    /// The phases that update the module, or minimize the loss.
    phases: Vec<usize>,
    /// A module that nothing updates.
    frozen: bool,
    /// No gradient passes.
    stops: bool,
}

/// A wire from one box to another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    from: usize,
    to: usize,
    label: String,
}

/// A drawing without places.
#[derive(Debug, Clone)]
struct Sketch {
    title: String,
    phases: Vec<String>,
    items: Vec<Item>,
    links: Vec<Link>,
}

/// The formats that a drawing is written in, by the ending of its file.
const ENDINGS: &str = ".svg, .dot or .mmd";

/// The drawing as the text of a file of that name: SVG, Graphviz (`.dot`) or Mermaid (`.mmd`).
///
/// # Errors
/// A mistake for another ending.
pub fn draw(recipe: &Recipe, graph: &Graph, path: &Path) -> Result<String> {
    let sketch = sketch(recipe, graph)?;
    Ok(match path.extension().and_then(|e| e.to_str()) {
        Some("svg") => svg::write(&sketch),
        Some("dot" | "gv") => text::dot(&sketch),
        Some("mmd") => text::mermaid(&sketch),
        _ => mistake!("a drawing ends in {ENDINGS}, found {}", path.display()),
    })
}

/// A count in three digits: 47.0 M.
pub fn short(count: i64) -> String {
    match count as f64 {
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => n.to_string(),
    }
}

/// The outputs with their symbolic shapes.
fn patterns(ports: &Ports) -> String {
    let each = ports.outputs.iter().map(|p| format!("{} [{}]", p.name, p.pattern));
    each.collect::<Vec<_>>().join(", ")
}

fn sketch(recipe: &Recipe, graph: &Graph) -> Result<Sketch> {
    let counts = Model::counts(recipe, graph, 1)?;
    let mut items: Vec<Item> = Vec::new();
    // A box a stream, for what is drawn as a wire; labels stand in the boxes that use them.
    let pictures = |stream: usize, port: usize| graph.streams[stream].shapes[port].len() > 1;
    for (s, stream) in graph.streams.iter().enumerate() {
        let slot = &recipe.data[s].slot;
        let ports = stream.ports.outputs.iter().zip(&stream.shapes).enumerate();
        let lines =
            ports.filter(|(p, _)| pictures(s, *p)).map(|(_, (p, shape))| format!("{} {}", p.name, shape_text(shape)));
        items.push(Item {
            name: stream.name.clone(),
            role: Role::Data,
            lines: std::iter::once(slot.registration.name.to_owned()).chain(lines).collect(),
            about: patterns(&stream.ports),
            phases: Vec::new(),
            frozen: false,
            stops: false,
        });
    }
    let used = |node: usize, port: usize| {
        let wire = Wire::Node { node, port };
        graph.nodes.iter().any(|n| n.inputs.contains(&Some(wire)))
    };
    let first = items.len();
    let mut links = Vec::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        let mut lines = Vec::new();
        let mut item = Item {
            name: node.name.clone(),
            role: Role::Function,
            lines: Vec::new(),
            about: patterns(&node.ports),
            phases: Vec::new(),
            frozen: false,
            stops: node.ports.stops_gradient,
        };
        let phases = |of: &dyn Fn(&crate::graph::GraphPhase) -> bool| -> Vec<usize> {
            (0..graph.phases.len()).filter(|p| of(&graph.phases[*p])).collect()
        };
        match node.target {
            Target::Module(m) => {
                let module = &graph.modules[m];
                item.role = Role::Module;
                item.phases = phases(&|p| p.updates[m]);
                item.frozen = !module.trained;
                lines.push(format!("{} · {} · {}", module.name, node.component, short(counts[m])));
                if module.trained && !node.train {
                    lines.push("evaluation mode".into());
                }
            }
            Target::Function => lines.push(node.component.clone()),
            Target::Loss => {
                item.role = Role::Loss;
                item.phases = phases(&|p| p.losses.iter().any(|(l, _)| *l == n));
                let slot = &recipe.loss[item.name.as_str()].slot.common;
                let ramp = slot.ramp.map(|r| format!(", rising to step {}", r.until)).unwrap_or_default();
                lines.push(format!("{} · weight {}{ramp}", node.component, slot.weight));
            }
        }
        for (port, wire) in node.ports.inputs.iter().zip(&node.inputs) {
            match wire {
                Some(wire @ Wire::Data { stream, port: p }) if !pictures(*stream, *p) => {
                    lines.push(format!("{} ← {}", port.name, graph.wire_name(*wire)));
                }
                Some(Wire::Data { stream, port: p }) => {
                    let label = graph.streams[*stream].ports.outputs[*p].name.clone();
                    links.push(Link { from: *stream, to: first + n, label });
                }
                Some(Wire::Node { node: source, port: p }) => {
                    let outputs = &graph.nodes[*source].ports.outputs;
                    let label = if outputs.len() > 1 { outputs[*p].name.clone() } else { String::new() };
                    links.push(Link { from: first + source, to: first + n, label });
                }
                None => {}
            }
        }
        if node.target != Target::Loss {
            let several = node.ports.outputs.len() > 1;
            let outputs = node.ports.outputs.iter().zip(&node.shapes).enumerate();
            for (_, (port, shape)) in outputs.filter(|(p, _)| used(n, *p)) {
                lines.push(format!("{} {}", if several { &port.name } else { "→" }, shape_text(shape)));
            }
        }
        item.lines = lines;
        items.push(item);
    }
    // Several ports between two boxes are one wire.
    let mut joined: Vec<Link> = Vec::new();
    for link in links {
        match joined.iter_mut().find(|l| (l.from, l.to) == (link.from, link.to)) {
            Some(known) if !link.label.is_empty() => known.label = format!("{}, {}", known.label, link.label),
            Some(_) => {}
            None => joined.push(link),
        }
    }
    // As it is recorded: drawings are shown around.
    let recorded = recipe.recorded().at("run.name").and_then(|name| name.str().map(str::to_owned));
    let name = recorded.unwrap_or_else(|| recipe.name());
    let title = format!("{name} · {} parameters", short(counts.iter().sum()));
    Ok(Sketch { title, phases: graph.phases.iter().map(|p| p.name.clone()).collect(), items, links: joined })
}
