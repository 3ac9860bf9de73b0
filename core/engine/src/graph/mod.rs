//! The multi-task graph: wiring, checks, the plan of a step and its execution.

pub mod check;
pub mod drawing;
mod model;
mod plan;

pub use model::{Feed, Model, Module, Outputs, StepHooks, Values};
pub use plan::{Op, Plan, Reference};

use crate::component::{Block, Dim, Ports, Sizes, shape::Shape};
use crate::recipe::{Mode, Origin, Recipe};
use indexmap::IndexMap;

/// Where an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// A port of a data stream.
    Data {
        /// The stream.
        stream: usize,
        /// Its port.
        port: usize,
    },
    /// An output of a node.
    Node {
        /// The node.
        node: usize,
        /// Its output.
        port: usize,
    },
}

/// A data stream as the graph sees it.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// What a batch holds.
    pub ports: Ports,
    /// The shapes of the ports.
    pub shapes: Vec<Shape>,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Calls that module.
    Module(usize),
    /// Applies its own function.
    Function,
    /// Computes a loss.
    Loss,
}

/// A call of a module, an application of a function, or a loss.
#[derive(Debug, Clone)]
pub struct GraphNode {
    /// Its name; losses are called `loss.NAME`.
    pub name: String,
    /// What it does.
    pub target: Target,
    /// Inputs and outputs.
    pub ports: Ports,
    /// Where each input comes from.
    pub inputs: Vec<Option<Wire>>,
    /// The shapes of the outputs.
    pub shapes: Vec<Shape>,
    /// The sizes bound by the inputs.
    pub sizes: Sizes,
    /// Training mode.
    pub train: bool,
    /// What the recipe says of the mode.
    pub mode: Option<Mode>,
    /// The component's name.
    pub component: String,
    /// The modules that its value depends on.
    pub upstream: Vec<bool>,
    /// Where it stands in the recipe.
    pub origin: Origin,
}

/// A module as the graph sees it.
#[derive(Debug, Clone)]
pub struct GraphModule {
    /// Its name.
    pub name: String,
    /// The sizes it is built with: those of the first node that calls it.
    pub sizes: Option<Sizes>,
    /// Whether any phase updates it.
    pub trained: bool,
}

/// A phase as the graph sees it.
#[derive(Debug, Clone)]
pub struct GraphPhase {
    /// Its name.
    pub name: String,
    /// The loss nodes with their weights.
    pub losses: Vec<(usize, f64)>,
    /// The modules that it updates.
    pub updates: Vec<bool>,
    /// Batches a step.
    pub accumulate: usize,
}

/// A checked graph.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Data streams.
    pub streams: Vec<Stream>,
    /// Modules.
    pub modules: Vec<GraphModule>,
    /// Nodes in the order of declaration, then losses.
    pub nodes: Vec<GraphNode>,
    /// The order of evaluation: declaration order wherever wiring leaves a choice.
    pub order: Vec<usize>,
    /// Phases in the order of a step.
    pub phases: Vec<GraphPhase>,
    /// The sizes of the recipe; some may only be named yet.
    pub dims: IndexMap<String, Dim>,
}

impl GraphNode {
    /// The component of the node, in the recipe that the graph is of.
    pub fn block<'r>(&self, recipe: &'r Recipe) -> Option<&'r dyn Block> {
        match self.target {
            Target::Module(m) => Some(&*recipe.model.get_index(m)?.1.config),
            Target::Function => recipe.graph.get(&self.name)?.function.as_deref(),
            Target::Loss => Some(&*recipe.loss.get(self.name.strip_prefix("loss.")?)?.slot.config),
        }
    }
}

impl Graph {
    /// The wire of that text: `node`, `node.port` or `data.port`.
    pub fn wire(&self, text: &str) -> Result<Wire, String> {
        check::resolve_wire(&self.streams, &self.nodes, text)
    }

    /// The name of a wire.
    pub fn wire_name(&self, wire: Wire) -> String {
        match wire {
            Wire::Data { stream, port } => {
                let s = &self.streams[stream];
                format!("{}.{}", s.name, s.ports.outputs[port].name)
            }
            Wire::Node { node, port } => {
                let n = &self.nodes[node];
                format!("{}.{}", n.name, n.ports.outputs[port].name)
            }
        }
    }

    /// The shape that a wire carries.
    pub fn shape(&self, wire: Wire) -> &Shape {
        match wire {
            Wire::Data { stream, port } => &self.streams[stream].shapes[port],
            Wire::Node { node, port } => &self.nodes[node].shapes[port],
        }
    }

    /// The nodes that the given ones need, themselves included; `through_stops` also looks behind nodes that
    /// stop gradients.
    pub fn needed(&self, roots: &[usize], through_stops: bool) -> Vec<bool> {
        let open = roots.iter().map(|node| Wire::Node { node: *node, port: 0 }).collect();
        self.reached(open, &[], through_stops)
    }

    /// The nodes that the given wires need when the values of others are known already.
    pub fn needed_beyond(&self, wires: &[Wire], known: &[Wire]) -> Vec<bool> {
        self.reached(wires.to_vec(), known, true)
    }

    /// The nodes on the way up from the `open` wires, as far as the known ones and, unless it goes through them, the
    /// nodes that stop gradients.
    fn reached(&self, mut open: Vec<Wire>, known: &[Wire], through_stops: bool) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        while let Some(wire) = open.pop() {
            if let Wire::Node { node, .. } = wire
                && !known.contains(&wire)
                && !std::mem::replace(&mut reached[node], true)
                && (through_stops || !self.nodes[node].ports.stops_gradient)
            {
                open.extend(self.nodes[node].inputs.iter().flatten());
            }
        }
        reached
    }

    /// Puts true sizes in the place of names that were open until the data was opened.
    pub fn resolve(&mut self, known: &IndexMap<String, i64>) {
        let known: IndexMap<String, Dim> = known.iter().map(|(k, v)| (k.clone(), Dim::Size(*v))).collect();
        self.dims.extend(known.clone());
        let fix = |shape: &mut Shape| {
            for dim in shape {
                if let Dim::Named(name) = dim
                    && let Some(size) = known.get(name)
                {
                    *dim = size.clone();
                }
            }
        };
        for stream in &mut self.streams {
            stream.shapes.iter_mut().for_each(fix);
        }
        for node in &mut self.nodes {
            node.shapes.iter_mut().for_each(fix);
            node.sizes.resolve(&known);
        }
        for sizes in self.modules.iter_mut().filter_map(|m| m.sizes.as_mut()) {
            sizes.resolve(&known);
        }
    }
}
