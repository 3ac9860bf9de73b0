//! What TensorBoard shows of a run besides curves: the multi-task graph and the values of its recipe.

use super::tensorboard::{DrawnNode, GraphDrawing, HParam};
use crate::graph::{Graph, Target, Wire};
use crate::recipe::Recipe;
use mtl_component::Dim;
use mtl_component::ports::Shape;

/// The multi-task graph for TensorBoard: data, nodes, losses and phases with what flows between them.
pub fn outline(graph: &Graph) -> GraphDrawing {
    let shape = |s: &Shape| s.iter().map(|d| if let Dim::Size(n) = d { *n } else { -1 }).collect::<Vec<i64>>();
    let mut nodes = Vec::new();
    for s in &graph.streams {
        for (port, dims) in s.ports.outputs.iter().zip(&s.shapes) {
            nodes.push(DrawnNode {
                name: format!("data/{}/{}", s.name, port.name),
                op: "data".into(),
                inputs: Vec::new(),
                attributes: vec![("pattern".into(), port.pattern.clone())],
                output_shapes: vec![shape(dims)],
            });
        }
    }
    let node_name = |n: usize| {
        let node = &graph.nodes[n];
        match node.target {
            Target::Loss => format!("loss/{}", node.name),
            _ => format!("graph/{}", node.name),
        }
    };
    for (n, node) in graph.nodes.iter().enumerate() {
        let inputs = node
            .inputs
            .iter()
            .flatten()
            .map(|w| match w {
                Wire::Data { stream, port } => {
                    let s = &graph.streams[*stream];
                    format!("data/{}/{}", s.name, s.ports.outputs[*port].name)
                }
                Wire::Node { node, port: 0 } => node_name(*node),
                Wire::Node { node, port } => format!("{}:{port}", node_name(*node)),
            })
            .collect();
        let mode = if node.train { "train" } else { "eval" };
        nodes.push(DrawnNode {
            name: node_name(n),
            op: node.component.clone(),
            inputs,
            attributes: vec![("mode".into(), mode.into())],
            output_shapes: node.shapes.iter().map(&shape).collect(),
        });
    }
    for phase in &graph.phases {
        let updates: Vec<&str> =
            graph.modules.iter().zip(&phase.updates).filter(|(_, u)| **u).map(|(m, _)| m.name.as_str()).collect();
        nodes.push(DrawnNode {
            name: format!("phase/{}", phase.name),
            op: "phase".into(),
            inputs: phase.losses.iter().map(|(n, _)| node_name(*n)).collect(),
            attributes: vec![("updates".into(), updates.join(", "))],
            output_shapes: Vec::new(),
        });
    }
    GraphDrawing { nodes }
}

/// The numbers and names of the recipe, flat: first what overrides set, then what the recipe itself sets, then what it
/// takes from others and by default, since runs differ most by the first.
pub fn hparams(recipe: &Recipe) -> Vec<(String, HParam)> {
    fn walk(path: &str, value: &serde_json::Value, out: &mut Vec<(String, HParam)>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    walk(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, out);
                }
            }
            serde_json::Value::Number(n) => {
                if let Some(v) = n.as_f64() {
                    out.push((path.to_owned(), HParam::Number(v)));
                }
            }
            serde_json::Value::Bool(b) => out.push((path.to_owned(), HParam::Bool(*b))),
            serde_json::Value::String(s) => out.push((path.to_owned(), HParam::Text(s.clone()))),
            _ => {}
        }
    }
    let mut out = Vec::new();
    let json = recipe.recorded().to_json();
    for section in ["run", "dims", "data", "model", "loss", "phase"] {
        if let Some(value) = json.get(section) {
            walk(section, value, &mut out);
        }
    }
    let text = |path: &str| {
        let origin = recipe.root.place(path);
        let source = recipe.sources.get(origin.file);
        let exact = recipe.root.at(path).is_some();
        match (&source.path, exact) {
            (None, true) => 0,
            (Some(file), true) if *file == recipe.path || file.ends_with(&recipe.path) => 1,
            _ => 2,
        }
    };
    out.sort_by_key(|(path, _)| text(path));
    out
}
