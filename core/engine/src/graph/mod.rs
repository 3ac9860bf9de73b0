//! The multi-task graph: wiring, checks, and the plan of a step.

mod check;
mod plan;

pub use check::KnownShapes;
pub use plan::{Instance, Op, Plan, Reference};

use crate::recipe::{Mode, Recipe};
use indexmap::IndexMap;
use mtl_component::ports::Shape;
use mtl_component::{Description, Dim, ModuleConfig, Normalization, OneOf, Pixels, Ports, Registration, Sizes};
use mtl_recipe::{Diagnostic, Origin};

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
pub struct Node {
    /// Its name, in the section that its target says.
    pub name: String,
    /// What it does.
    pub target: Target,
    /// Inputs and outputs.
    pub ports: Ports,
    /// Inputs of which exactly one is wired.
    pub one_of: Vec<OneOf>,
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

/// A checked graph. It never changes: [`Graph::resolved`] makes another one.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Data streams.
    pub(crate) streams: Vec<Stream>,
    /// Modules.
    pub(crate) modules: Vec<GraphModule>,
    /// Nodes in the order of declaration, then losses.
    pub(crate) nodes: Vec<Node>,
    /// The order of evaluation: declaration order wherever wiring leaves a choice.
    pub(crate) order: Vec<usize>,
    /// Phases in the order of a step.
    pub(crate) phases: Vec<GraphPhase>,
    /// The sizes of the recipe; some may only be named yet.
    pub(crate) dims: IndexMap<String, Dim>,
    /// What is valid but probably not meant, in the recipe and its wiring.
    pub(crate) warnings: Vec<Diagnostic>,
}

impl Node {
    /// A node that is not wired yet.
    fn new(
        name: &str,
        target: Target,
        description: Description,
        component: String,
        mode: Option<Mode>,
        origin: &Origin,
    ) -> Self {
        Self {
            name: name.to_owned(),
            target,
            inputs: vec![None; description.ports.inputs.len()],
            ports: description.ports,
            one_of: description.one_of,
            shapes: Vec::new(),
            sizes: Sizes::default(),
            train: target == Target::Loss,
            mode,
            component,
            upstream: Vec::new(),
            origin: origin.clone(),
        }
    }

    /// Its name for messages and in files; losses are called `loss.NAME`.
    pub fn label(&self) -> String {
        match self.target {
            Target::Loss => format!("loss.{}", self.name),
            Target::Module(_) | Target::Function => self.name.clone(),
        }
    }

    /// The component of the node with its configuration, in the recipe that the graph is of.
    pub fn config<'r>(&self, recipe: &'r Recipe) -> Option<(&'static Registration, &'r dyn ModuleConfig)> {
        match self.target {
            Target::Module(m) => {
                let slot = &recipe.model.get_index(m)?.1.slot;
                Some((slot.registration, &*slot.config))
            }
            Target::Function => {
                let function = recipe.graph.get(&self.name)?.function.as_ref()?;
                Some((function.registration, &*function.config))
            }
            Target::Loss => {
                let slot = &recipe.loss.get(&self.name)?.slot;
                Some((slot.registration, &*slot.config))
            }
        }
    }
}

impl Graph {
    /// Data streams.
    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// Modules.
    pub fn modules(&self) -> &[GraphModule] {
        &self.modules
    }

    /// Nodes in the order of declaration, then losses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Phases in the order of a step.
    pub fn phases(&self) -> &[GraphPhase] {
        &self.phases
    }

    /// The sizes of the recipe; some may only be named yet.
    pub fn dims(&self) -> &IndexMap<String, Dim> {
        &self.dims
    }

    /// What is valid but probably not meant, in the recipe and its wiring.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// The normalisation of the pictures that a wire carries; none if it carries no pictures.
    pub fn normalization(&self, wire: Wire) -> Option<Normalization> {
        let pixels = match wire {
            Wire::Data { stream, port } => &self.streams[stream].ports.outputs[port].pixels,
            Wire::Node { node, port } => &self.nodes[node].ports.outputs[port].pixels,
        };
        match (pixels, wire) {
            (Pixels::Normalized(normalization), _) => Some(*normalization),
            (Pixels::Like(input), Wire::Node { node, .. }) => {
                let node = &self.nodes[node];
                let at = node.ports.inputs.iter().position(|port| port.name == *input)?;
                self.normalization(node.inputs[at]?)
            }
            (Pixels::None | Pixels::Like(_), _) => None,
        }
    }

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
                format!("{}.{}", n.label(), n.ports.outputs[port].name)
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

    /// The same graph with true sizes in the place of names that were open until the data was opened.
    pub fn resolved(&self, known: &IndexMap<String, i64>) -> Self {
        let mut out = self.clone();
        let known: IndexMap<String, Dim> = known.iter().map(|(k, v)| (k.clone(), Dim::Size(*v))).collect();
        out.dims.extend(known.clone());
        let fix = |shape: &mut Shape| {
            for dim in shape {
                if let Dim::Named(name) = dim
                    && let Some(size) = known.get(name)
                {
                    *dim = size.clone();
                }
            }
        };
        for stream in &mut out.streams {
            stream.shapes.iter_mut().for_each(fix);
        }
        for node in &mut out.nodes {
            node.shapes.iter_mut().for_each(fix);
            node.sizes.resolve(&known);
        }
        for sizes in out.modules.iter_mut().filter_map(|m| m.sizes.as_mut()) {
            sizes.resolve(&known);
        }
        out
    }
}
