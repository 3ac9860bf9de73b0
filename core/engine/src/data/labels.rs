//! Labels of the data against the sizes of what reads them.

use super::OpenedData;
use crate::graph::{Graph, Stream, Target, Wire};
use mtl_component::{OpenDataset, Port};
use mtl_recipe::{Result, mistake};
use std::collections::HashSet;

/// Checks that the labels of opened data are below the sizes that nodes expect of them. All sizes of the graph are
/// known. Labels that reach a node through others are checked by the node, when it computes.
///
/// # Errors
/// A mistake that names the sample, its label, and the node with its size.
pub fn labels_fit(graph: &Graph, data: &OpenedData) -> Result<()> {
    for node in graph.nodes() {
        for (input, wire) in node.ports.inputs.iter().zip(&node.inputs) {
            let Some(size) = &input.below else { continue };
            let Some((stream, port, opened)) = source(graph, data, wire.as_ref()) else { continue };
            let fixed = size.parse::<i64>().ok();
            let named = || node.sizes.get(size).or_else(|_| node.sizes.global(size)).ok();
            let Some(classes) = fixed.or_else(named) else { continue };
            let Some(column) = opened.samples.column(&port.name)? else { continue };
            let largest = column.labels.iter().enumerate().max_by_key(|(index, label)| (**label, usize::MAX - index));
            let Some((index, label)) = largest.filter(|(_, label)| **label >= classes) else { continue };
            let beyond = column.labels.iter().filter(|label| **label >= classes).count();
            let place = opened.samples.place(index)?;
            let whose = format!("`data.{}.{}`", stream.name, port.name);
            let (reader, most) = (format!("`{}` ({})", node.label(), node.component), classes - 1);
            let all = column.labels.len();
            if fixed.is_some() {
                mistake!(
                    "{whose} is {label} at {place}, and {reader} takes 0 to {most}: {beyond} of {all} samples lie beyond. \
                     Correct them, or mark them as not known (`-` in a list)"
                );
            }
            let remedy = match node.sizes.global(size).is_ok() {
                true => format!("Raise `dims.{size}` to {}", label + 1),
                false => format!("Let it have {} {size}", label + 1),
            };
            mistake!(
                "{whose} has labels up to {label}, such as at {place}, but {reader} has {classes} {size}: its labels are 0 to \
                 {most}, and {beyond} of {all} samples lie beyond. {remedy}, or name the data that it was made for"
            );
        }
    }
    Ok(())
}

/// Warns of labels that are not known of any sample, where a loss reads them: it learns nothing.
pub fn labels_are_known(graph: &Graph, data: &OpenedData) -> Result<()> {
    let mut told = HashSet::new();
    for node in graph.nodes().iter().filter(|node| node.target == Target::Loss) {
        for wire in &node.inputs {
            let Some((stream, port, opened)) = source(graph, data, wire.as_ref()) else { continue };
            let Some(column) = opened.samples.column(&port.name)? else { continue };
            if column.labels.iter().all(|label| *label < 0) && told.insert((node.name.clone(), port.name.clone())) {
                tracing::warn!(
                    "`{}` learns nothing: `data.{}.{}` is not known of any of the {} samples. Add the labels, or drop that loss",
                    node.label(),
                    stream.name,
                    port.name,
                    column.labels.len()
                );
            }
        }
    }
    Ok(())
}

/// The stream, its port and the opened data that a wire brings, if it comes from data.
fn source<'a>(
    graph: &'a Graph,
    data: &'a OpenedData,
    wire: Option<&Wire>,
) -> Option<(&'a Stream, &'a Port, &'a OpenDataset)> {
    let Some(Wire::Data { stream, port }) = wire else { return None };
    let stream = &graph.streams()[*stream];
    Some((stream, stream.ports.outputs.get(*port)?, data.streams.get(&stream.name)?))
}
