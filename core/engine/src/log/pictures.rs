//! What TensorBoard shows of a run besides curves: images, the multi-task graph, hyper-parameters.

use super::tensorboard::{GraphDrawing, GraphNode, HParam, Image};
use crate::component::Dim;
use crate::component::shape::Shape;
use crate::graph::{Graph, Target, Wire};
use crate::recipe::Recipe;
use anyhow::{Result, bail};
use tch::Tensor;

/// The images of a batch `[n, 3, height, width]` in rows of `columns`, mapped back to pixels.
pub fn sheet(batch: &Tensor, columns: i64) -> Result<Image> {
    let size = batch.size();
    let [n, 3, h, w] = size[..] else { bail!("a sheet shows images [n, 3, height, width], found {size:?}") };
    let columns = n.min(columns).max(1);
    let rows = (n + columns - 1) / columns;
    let mut data = vec![0u8; (rows * h * columns * w * 3) as usize];
    for (i, image) in pixels(batch)?.chunks_exact((h * w * 3) as usize).enumerate() {
        let (row, column) = (i as i64 / columns, i as i64 % columns);
        for (y, line) in image.chunks_exact((w * 3) as usize).enumerate() {
            let at = (((row * h + y as i64) * columns + column) * w * 3) as usize;
            data[at..at + line.len()].copy_from_slice(line);
        }
    }
    Ok(Image { width: (columns * w) as u32, height: (rows * h) as u32, channels: 3, data })
}

/// The bytes of images `[n, 3, height, width]` of -1 to 1, image by image, row by row, red, green and blue.
pub fn pixels(batch: &Tensor) -> Result<Vec<u8>> {
    let bytes = batch
        .f_to_device(tch::Device::Cpu)?
        .f_permute([0, 2, 3, 1])?
        .f_to_kind(tch::Kind::Float)?
        .f_mul_scalar(127.5)?
        .f_add_scalar(127.5)?
        .f_clamp(0.0, 255.0)?
        .f_round()?
        .f_to_kind(tch::Kind::Uint8)?
        .f_reshape([-1])?;
    Ok(Vec::<u8>::try_from(&bytes)?)
}

/// The multi-task graph for TensorBoard: data, nodes, losses and phases with what flows between them.
pub fn drawing(graph: &Graph) -> GraphDrawing {
    let shape = |s: &Shape| s.iter().map(|d| if let Dim::Size(n) = d { *n } else { -1 }).collect::<Vec<i64>>();
    let mut nodes = Vec::new();
    for s in &graph.streams {
        for (port, dims) in s.ports.outputs.iter().zip(&s.shapes) {
            nodes.push(GraphNode {
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
            Target::Loss => format!("loss/{}", node.name.trim_start_matches("loss.")),
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
        nodes.push(GraphNode {
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
        nodes.push(GraphNode {
            name: format!("phase/{}", phase.name),
            op: "phase".into(),
            inputs: phase.losses.iter().map(|(n, _)| node_name(*n)).collect(),
            attributes: vec![("updates".into(), updates.join(", "))],
            output_shapes: Vec::new(),
        });
    }
    GraphDrawing { nodes }
}

/// The numbers and names of the recipe, flat.
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
    let json = recipe.root.to_json();
    for section in ["run", "dims", "data", "model", "loss", "phase"] {
        if let Some(value) = json.get(section) {
            walk(section, value, &mut out);
        }
    }
    out
}
