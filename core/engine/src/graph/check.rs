//! From a recipe to a graph, with every mistake of the wiring at once.

use super::{Graph, GraphModule, GraphPhase, Node, Stream, Target, Wire};
use crate::ids;
use crate::ranks::processes;
use crate::recipe::{Cut, Data, Mode, Recipe};
use crate::rules::run_rules;
use indexmap::IndexMap;
use mtl_component::ports::shape_text;
use mtl_component::{Description, Dim, Normalization, Pixels, Ports, Sizes};
use mtl_recipe::{Diagnostic, Diagnostics, Origin, Severity, Value, suggestion};

/// Shapes of data ports that are known better than the recipe says, by `data.port`.
pub type KnownShapes = IndexMap<String, Vec<i64>>;

impl Graph {
    /// Checks the wiring of a recipe and the rules across its tables; no data and no weights are needed.
    ///
    /// # Errors
    /// [`Diagnostics`] with every finding. Warnings are kept with the graph.
    pub fn new(recipe: &Recipe) -> Result<Self, Diagnostics> {
        Self::with_shapes(recipe, &KnownShapes::new())
    }

    /// As [`Graph::new`], with shapes of data ports that replace the recipe's.
    ///
    /// # Errors
    /// As [`Graph::new`].
    pub fn with_shapes(recipe: &Recipe, known: &KnownShapes) -> Result<Self, Diagnostics> {
        let mut checker = Checker { recipe, out: run_rules(recipe) };
        let graph = checker.graph(known);
        let (errors, warnings): (Vec<_>, Vec<_>) = checker.out.into_iter().partition(|d| d.severity == Severity::Error);
        match graph {
            Some(graph) if errors.is_empty() => {
                let warnings = recipe.warnings.iter().cloned().chain(warnings).collect();
                Ok(Graph { warnings, ..graph })
            }
            _ => Err(recipe.diagnostics(errors)),
        }
    }
}

/// The source of a wire is a node whose target is unknown.
const UNKNOWN_TARGET: &str = "what it calls is unknown";

struct Checker<'a> {
    recipe: &'a Recipe,
    out: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn graph(&mut self, known: &KnownShapes) -> Option<Graph> {
        let dims = self.dims();
        let streams = self.streams(&dims, known);
        let mut nodes = self.nodes();
        self.wire(&streams, &mut nodes);
        // What is wired wrongly reaches nothing: that would only be said again in other words.
        let wired = self.out.iter().all(|d| d.severity != Severity::Error);
        let order = self.order(&nodes)?;
        let modules = self.shapes(&streams, &mut nodes, &order, &dims);
        let phases = self.phases(&nodes);
        let mut graph = Graph { streams, modules, nodes, order, phases, dims, warnings: Vec::new() };
        for m in 0..graph.modules.len() {
            graph.modules[m].trained = graph.phases.iter().any(|p| p.updates[m]);
        }
        for n in 0..graph.nodes.len() {
            graph.nodes[n].train = match (graph.nodes[n].mode, graph.nodes[n].target) {
                (Some(mode), _) => mode == Mode::Train,
                (None, Target::Module(m)) => graph.modules[m].trained,
                (None, _) => true,
            };
        }
        self.statistics(&graph);
        self.cut_classes(&graph);
        upstream(&mut graph);
        if wired {
            self.reach(&graph);
        }
        self.evaluators(&graph);
        Some(graph)
    }

    /// Reports nodes that would take statistics of one value.
    fn statistics(&mut self, graph: &Graph) {
        for node in graph.nodes.iter().filter(|node| node.train) {
            let Some(pattern) = &node.ports.statistics else { continue };
            // A node whose inputs do not fit has been reported.
            let Ok(places) = node.sizes.shape(pattern) else { continue };
            if places.iter().all(|size| *size == Dim::Size(1)) {
                let message = format!(
                    "`{}` ({}) takes the statistics of a batch in training, and would find one value for each channel",
                    node.label(),
                    node.component
                );
                let d = Diagnostic::error(&ids::ONE_VALUE, message).at(&node.origin, format!("over [{pattern}]"));
                self.out.push(d.help("raise batch_size of its data, or let the node run with mode = \"eval\""));
            }
        }
    }

    /// Reports readers of what exists only in parts, since its module is cut by classes.
    fn cut_classes(&mut self, graph: &Graph) {
        for (name, entry) in &self.recipe.model {
            let common = &entry.slot.common;
            if common.shard == Cut::Nothing && common.sample_rate < 1.0 {
                let message = format!("`model.{name}` takes a share of its classes in a step, and they are not cut");
                let d = Diagnostic::error(&ids::CUT_CLASSES, message).at(&entry.slot.origin, "sample_rate");
                self.out.push(d.help("say shard = \"classes\" as well, also for a single process"));
            }
        }
        for (m, (name, entry)) in
            self.recipe.model.iter().enumerate().filter(|(_, (_, e))| e.slot.common.shard == Cut::Classes)
        {
            if !entry.description.ports.outputs.iter().any(|port| port.by_class) {
                let message = format!("`model.{name}` ({}) has no classes to cut", entry.slot.registration.name);
                let d = Diagnostic::error(&ids::CUT_CLASSES, message).at(&entry.slot.origin, "shard = \"classes\"");
                self.out.push(d.help("drop shard here: it is for heads that classify"));
            }
            for node in &graph.nodes {
                for (input, wire) in node.ports.inputs.iter().zip(&node.inputs) {
                    let Some(Wire::Node { node: source, port }) = wire else { continue };
                    let source = &graph.nodes[*source];
                    if source.target != Target::Module(m) || !source.ports.outputs[*port].by_class {
                        continue;
                    }
                    let output = &source.ports.outputs[*port].name;
                    let message = format!(
                        "the input `{}` of `{}` reads `{}.{output}`, and logits of a head that is cut by classes exist only \
                         in parts",
                        input.name,
                        node.label(),
                        source.label()
                    );
                    let d = Diagnostic::error(&ids::CUT_CLASSES, message).at(&node.origin, "wired here");
                    let loss = format!("{}.loss", source.label());
                    self.out.push(d.help(format!(
                        "read `{loss}`, such as by component = \"value\", in = {{ value = \"{loss}\" }}"
                    )));
                }
            }
        }
    }

    fn dims(&self) -> IndexMap<String, Dim> {
        let mut dims: IndexMap<String, Dim> =
            self.recipe.dims.iter().map(|(k, v)| (k.clone(), Dim::Size(*v))).collect();
        for data in self.recipe.data.values().filter(|d| d.slot.common.declares) {
            for name in &data.description.declares {
                dims.entry((*name).to_owned()).or_insert_with(|| Dim::Named((*name).to_owned()));
            }
        }
        dims
    }

    fn streams(&mut self, dims: &IndexMap<String, Dim>, known: &KnownShapes) -> Vec<Stream> {
        let mut streams = Vec::new();
        for (name, data) in &self.recipe.data {
            if let Some(node) = self.recipe.graph.get(name) {
                self.out.push(
                    Diagnostic::error(
                        &ids::NAME_CLASH,
                        format!("`{name}` names a data stream and a node of the graph"),
                    )
                    .at(&node.origin, "rename one of them")
                    .also(&data.slot.origin, "the data stream"),
                );
            }
            let ports = normalized(&data.description.ports, data.normalization());
            let mut sizes = Sizes::new(dims);
            match data.slot.common.batch(processes()) {
                Ok(batch) => {
                    let _ = sizes.bind("batch", &[Dim::Size(batch)]);
                }
                Err(e) => self.out.push(
                    Diagnostic::error(&mtl_recipe::ids::MISSING_KEY, format!("`data.{name}`: {e}"))
                        .at(&data.slot.origin, "this data stream"),
                ),
            }
            let shapes: Vec<_> = ports
                .outputs
                .iter()
                .map(|port| match known.get(&format!("{name}.{}", port.name)) {
                    Some(shape) => shape.iter().map(|n| Dim::Size(*n)).collect(),
                    None => sizes.shape(&port.pattern).unwrap_or_else(|e| {
                        self.out.push(
                            Diagnostic::error(&ids::BAD_PORT, format!("the port `{name}.{}`: {e}", port.name))
                                .at(&data.slot.origin, "this data stream"),
                        );
                        Vec::new()
                    }),
                })
                .collect();
            // Shapes that are given are not those of the dataset.
            if !ports.outputs.iter().any(|port| known.contains_key(&format!("{name}.{}", port.name))) {
                self.sizes_agree(name, data, &ports, &shapes);
            }
            streams.push(Stream { name: name.clone(), ports, shapes });
        }
        streams
    }

    /// Pictures that a transform brings to one size and the dataset to another would be blown up, or computed in vain.
    fn sizes_agree(&mut self, name: &str, data: &Data, ports: &Ports, shapes: &[Vec<Dim>]) {
        let Some((transform, (width, height))) = data.resized() else { return };
        for (port, shape) in ports.outputs.iter().zip(shapes).filter(|(port, _)| port.pixels != Pixels::None) {
            let [.., Dim::Size(tall), Dim::Size(wide)] = shape[..] else { continue };
            if (wide, tall) == (width, height) {
                continue;
            }
            let component = transform.registration.name;
            self.out.push(
                Diagnostic::error(
                    &ids::PICTURE_SIZE,
                    format!(
                        "`{component}` brings the pictures of `data.{name}` to {width}x{height}, and `{name}.{}` has \
                         {wide}x{tall}: they would be resized twice",
                        port.name
                    ),
                )
                .at(&transform.origin, format!("{width}x{height} here"))
                .also(&data.slot.origin, format!("{wide}x{tall} here"))
                .help(format!("give `{component}` the size of the data, as by size = \"${{data.{name}.size}}\"")),
            );
        }
    }

    fn nodes(&mut self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (name, entry) in &self.recipe.graph {
            let (target, description, component) = match (&entry.common.call, &entry.function) {
                (Some(module), _) => match self.recipe.model.get_index_of(module.as_str()) {
                    Some(index) => {
                        let entry = &self.recipe.model[index];
                        let component = entry.slot.registration.name;
                        (Target::Module(index), entry.description.clone(), component.to_owned())
                    }
                    None => {
                        let valid = self.recipe.model.keys().map(String::as_str);
                        let message = format!("the node `{name}` calls `{module}`, which is not a module");
                        self.out.push(
                            Diagnostic::error(&ids::UNKNOWN_MODULE, message)
                                .at(&entry.origin, "this node")
                                .help(suggestion(module, valid))
                                .help(format!("modules stand in [model.NAME]: add [model.{module}]")),
                        );
                        (Target::Function, Description::default(), module.clone())
                    }
                },
                (None, Some(function)) => {
                    (Target::Function, function.description.clone(), function.registration.name.to_owned())
                }
                (None, None) => continue,
            };
            nodes.push(Node::new(name, target, description, component, entry.common.mode, &entry.origin));
        }
        for (name, entry) in &self.recipe.loss {
            let component = entry.slot.registration.name.to_owned();
            let origin = &entry.slot.origin;
            nodes.push(Node::new(name, Target::Loss, entry.description.clone(), component, None, origin));
        }
        nodes
    }

    fn wire(&mut self, streams: &[Stream], nodes: &mut [Node]) {
        let resolved: Vec<Node> = nodes.to_vec();
        for node in nodes.iter_mut() {
            let (wires, places) = match node.target {
                Target::Loss => {
                    let entry = &self.recipe.loss[node.name.as_str()];
                    (&entry.slot.common.inputs, &entry.wires)
                }
                Target::Module(_) | Target::Function => {
                    let entry = &self.recipe.graph[node.name.as_str()];
                    (&entry.common.inputs, &entry.wires)
                }
            };
            let known = !matches!(&node.target, Target::Function if node.ports.outputs.is_empty());
            for (input, text) in wires {
                let place = places.get(input).unwrap_or(&node.origin);
                let Some(at) = node.ports.inputs.iter().position(|p| p.name == *input) else {
                    // Of a node whose target is unknown the wires are looked at all the same.
                    if !known
                        && let Err(reason) = resolve_wire(streams, &resolved, text)
                        && reason != UNKNOWN_TARGET
                    {
                        let message = format!("the input `{input}` of `{}`: {reason}", node.label());
                        self.out.push(Diagnostic::error(&ids::UNKNOWN_WIRE, message).at(place, "wired here"));
                    }
                    if known {
                        let valid = node.ports.inputs.iter().map(|p| p.name.as_str());
                        self.out.push(
                            Diagnostic::error(
                                &ids::UNKNOWN_PORT,
                                format!("`{}` ({}) has no input port `{input}`", node.label(), node.component),
                            )
                            .at(place, "wired here")
                            .help(suggestion(input, valid)),
                        );
                    }
                    continue;
                };
                match resolve_wire(streams, &resolved, text) {
                    Ok(wire) => node.inputs[at] = Some(wire),
                    // That its source calls something unknown has been said there.
                    Err(reason) if reason == UNKNOWN_TARGET => {}
                    Err(reason) => self.out.push(
                        Diagnostic::error(
                            &ids::UNKNOWN_WIRE,
                            format!("the input `{input}` of `{}`: {reason}", node.label()),
                        )
                        .at(place, "wired here"),
                    ),
                }
            }
            let wired: Vec<&str> = wires.keys().map(String::as_str).collect();
            for problem in node.one_of.iter().filter_map(|one| one.problem(&wired)) {
                self.out.push(
                    Diagnostic::error(
                        &ids::ALTERNATIVE_INPUTS,
                        format!("`{}` ({}): {problem}", node.label(), node.component),
                    )
                    .at(&node.origin, "this node"),
                );
            }
            for port in &node.ports.inputs {
                if !port.optional && !wires.contains_key(&port.name) {
                    self.out.push(
                        Diagnostic::error(
                            &ids::UNWIRED_INPUT,
                            format!(
                                "the input port `{}` of `{}` ({}) is not wired",
                                port.name,
                                node.label(),
                                node.component
                            ),
                        )
                        .at(&node.origin, format!("add in = {{ {} = \"…\" }}", port.name))
                        .help(format!("it takes {} [{}]", port.dtype, port.pattern)),
                    );
                }
            }
        }
    }

    /// Topological order that takes the first declared of the ready nodes.
    fn order(&mut self, nodes: &[Node]) -> Option<Vec<usize>> {
        let mut order = Vec::with_capacity(nodes.len());
        let mut done = vec![false; nodes.len()];
        while order.len() < nodes.len() {
            let ready = (0..nodes.len()).find(|n| {
                !done[*n]
                    && nodes[*n].inputs.iter().flatten().all(|w| match w {
                        Wire::Node { node, .. } => done[*node],
                        Wire::Data { .. } => true,
                    })
            });
            match ready {
                Some(n) => {
                    done[n] = true;
                    order.push(n);
                }
                None => {
                    self.cycle(nodes, &done);
                    return None;
                }
            }
        }
        Some(order)
    }

    fn cycle(&mut self, nodes: &[Node], done: &[bool]) {
        let next = |n: usize| {
            nodes[n].inputs.iter().flatten().find_map(|w| match w {
                Wire::Node { node, .. } if !done[*node] => Some(*node),
                _ => None,
            })
        };
        let mut path: Vec<usize> = Vec::new();
        let mut at = (0..nodes.len()).find(|n| !done[*n]);
        while let Some(n) = at {
            if let Some(start) = path.iter().position(|p| *p == n) {
                path.drain(..start);
                break;
            }
            path.push(n);
            at = next(n);
        }
        let names: Vec<String> = path.iter().rev().map(|n| nodes[*n].label()).collect();
        let message = format!("the graph has a cycle: {} -> {}", names.join(" -> "), names[0]);
        let mut d = Diagnostic::error(&ids::CYCLE, message);
        if let Some(first) = path.first() {
            d = d.at(&nodes[*first].origin, "part of the cycle");
        }
        self.out.push(d.help("a node cannot need its own value: remove one of these wires"));
    }

    fn shapes(
        &mut self,
        streams: &[Stream],
        nodes: &mut [Node],
        order: &[usize],
        dims: &IndexMap<String, Dim>,
    ) -> Vec<GraphModule> {
        let mut modules: Vec<GraphModule> = self
            .recipe
            .model
            .keys()
            .map(|name| GraphModule { name: name.clone(), sizes: None, trained: false })
            .collect();
        let mut sound = vec![false; nodes.len()];
        for &n in order {
            let mut sizes = Sizes::new(dims);
            let mut good = !nodes[n].ports.outputs.is_empty();
            for (port, wire) in nodes[n].ports.inputs.iter().zip(&nodes[n].inputs) {
                let Some(wire) = wire else {
                    good &= port.optional;
                    continue;
                };
                let (shape, dtype, from) = match wire {
                    Wire::Data { stream, port } => {
                        let s = &streams[*stream];
                        let p = &s.ports.outputs[*port];
                        (&s.shapes[*port], p.dtype, format!("{}.{}", s.name, p.name))
                    }
                    Wire::Node { node, port } if sound[*node] => {
                        let source = &nodes[*node];
                        let p = &source.ports.outputs[*port];
                        (&source.shapes[*port], p.dtype, format!("{}.{}", source.label(), p.name))
                    }
                    Wire::Node { .. } => {
                        good = false;
                        continue;
                    }
                };
                let problem = if dtype != port.dtype {
                    Some(format!("expected {} numbers, found {dtype}", port.dtype))
                } else {
                    sizes.bind(&port.pattern, shape).err().map(|e| e.to_string())
                };
                if let Some(problem) = problem {
                    good = false;
                    let node = &nodes[n];
                    self.out.push(
                        Diagnostic::error(
                            &ids::SHAPE_MISMATCH,
                            format!(
                                "the input `{}` of `{}` ({}) does not fit `{from}`: {problem}",
                                port.name,
                                node.label(),
                                node.component
                            ),
                        )
                        .at(&self.wire_place(node, &port.name), format!("`{from}` is {}", shape_text(shape)))
                        .help(format!("`{}` takes {} [{}]", port.name, port.dtype, port.pattern)),
                    );
                }
            }
            if !good {
                continue;
            }
            let outputs: Result<Vec<_>, _> = nodes[n].ports.outputs.iter().map(|p| sizes.shape(&p.pattern)).collect();
            match outputs {
                Ok(shapes) => {
                    nodes[n].shapes = shapes;
                    sound[n] = true;
                }
                Err(e) => self.out.push(
                    Diagnostic::error(&ids::BAD_PORT, format!("`{}` ({}): {e}", nodes[n].label(), nodes[n].component))
                        .at(&nodes[n].origin, "this node"),
                ),
            }
            if let Target::Module(m) = nodes[n].target {
                self.agree(&mut modules[m], &sizes, &nodes[n]);
            }
            nodes[n].sizes = sizes;
        }
        modules
    }

    /// Every node that calls a module must give it inputs of one size; the batch may differ.
    fn agree(&mut self, module: &mut GraphModule, sizes: &Sizes, node: &Node) {
        let Some(first) = &module.sizes else {
            module.sizes = Some(sizes.clone());
            return;
        };
        for (name, dim) in sizes.bound() {
            if let Some(before) = first.bound().get(name)
                && before != dim
                && name != "batch"
            {
                self.out.push(
                    Diagnostic::error(
                        &ids::SHAPE_MISMATCH,
                        format!(
                            "the module `{}` is called with `{name}` = {before} and, by `{}`, with {dim}",
                            module.name,
                            node.label()
                        ),
                    )
                    .at(&node.origin, "this node"),
                );
            }
        }
    }

    fn wire_place(&self, node: &Node, input: &str) -> Origin {
        let places = match node.target {
            Target::Loss => self.recipe.loss.get(&node.name).map(|l| &l.wires),
            Target::Module(_) | Target::Function => self.recipe.graph.get(&node.name).map(|g| &g.wires),
        };
        places.and_then(|p| p.get(input)).unwrap_or(&node.origin).clone()
    }

    fn phases(&mut self, nodes: &[Node]) -> Vec<GraphPhase> {
        let mut phases = Vec::new();
        for (name, entry) in &self.recipe.phase {
            let mut losses = Vec::new();
            for loss in &entry.common.minimize {
                match nodes.iter().position(|n| n.target == Target::Loss && n.name == *loss) {
                    Some(at) => losses.push((at, self.recipe.loss[loss.as_str()].slot.common.weight)),
                    None => {
                        let valid = self.recipe.loss.keys().map(String::as_str);
                        self.out.push(
                            Diagnostic::error(
                                &ids::UNKNOWN_LOSS,
                                format!("the phase `{name}` minimizes `{loss}`, which is not a loss"),
                            )
                            .at(&self.named(&format!("phase.{name}.minimize"), loss), "no such loss")
                            .help(suggestion(loss, valid)),
                        );
                    }
                }
            }
            let mut updates = vec![false; self.recipe.model.len()];
            for module in self.known_modules(&entry.common.update, name, "updates", "update") {
                updates[module] = true;
            }
            for group in &entry.optimizer.common.groups {
                self.known_modules(&group.modules, name, "has a group for", "optimizer");
            }
            phases.push(GraphPhase {
                name: name.clone(),
                losses,
                updates,
                accumulate: entry.common.accumulate as usize,
            });
        }
        phases
    }

    /// Where a name stands in a list of the recipe.
    fn named(&self, path: &str, name: &str) -> Origin {
        let item = match self.recipe.root.at(path).map(|n| &n.value) {
            Some(Value::Array(items)) => items.iter().find(|item| item.str() == Some(name)),
            _ => None,
        };
        item.map_or_else(|| self.recipe.place(path), |item| item.origin.clone())
    }

    /// The indices of modules that a phase names; an unknown one is a finding.
    fn known_modules(&mut self, names: &[String], phase: &str, what: &str, key: &str) -> Vec<usize> {
        let recipe = self.recipe;
        let mut found = Vec::new();
        for module in names {
            match recipe.model.get_index_of(module.as_str()) {
                Some(index) => found.push(index),
                None => self.out.push(
                    Diagnostic::error(
                        &ids::UNKNOWN_MODULE,
                        format!("the phase `{phase}` {what} `{module}`, which is not a module"),
                    )
                    .at(&self.named(&format!("phase.{phase}.{key}"), module), "no such module")
                    .help(suggestion(module, recipe.model.keys().map(String::as_str))),
                ),
            }
        }
        found
    }

    fn reach(&mut self, graph: &Graph) {
        let mut used = vec![false; graph.nodes.len()];
        for (phase, entry) in graph.phases.iter().zip(self.recipe.phase.values()) {
            for (loss, _) in &phase.losses {
                let needed = graph.needed(&[*loss], false);
                let reached = needed
                    .iter()
                    .zip(&graph.nodes)
                    .any(|(needed, node)| matches!(node.target, Target::Module(m) if *needed && phase.updates[m]));
                if !reached {
                    self.out.push(
                        Diagnostic::error(
                            &ids::UNREACHED_LOSS,
                            format!(
                                "`{}` reaches no module that the phase `{}` updates",
                                graph.nodes[*loss].label(),
                                phase.name
                            ),
                        )
                        .at(&graph.nodes[*loss].origin, "no gradient of it would be used")
                        .also(&entry.origin, "the phase"),
                    );
                }
            }
            let roots: Vec<usize> = phase.losses.iter().map(|(n, _)| *n).collect();
            let needed = graph.needed(&roots, false);
            for (m, module) in graph.modules.iter().enumerate().filter(|(m, _)| phase.updates[*m]) {
                let called =
                    graph.nodes.iter().zip(&needed).any(|(n, needed)| *needed && n.target == Target::Module(m));
                if !called {
                    self.out.push(
                        Diagnostic::error(
                            &ids::UNREACHED_MODULE,
                            format!(
                                "the phase `{}` updates `{}`, which none of its losses reaches",
                                phase.name, module.name
                            ),
                        )
                        .at(&entry.origin, "it would never change")
                        .help(format!("remove `{}` from `update`, or minimize a loss that depends on it", module.name)),
                    );
                }
            }
            for (n, needed) in graph.needed(&roots, true).into_iter().enumerate() {
                used[n] |= needed;
            }
        }
        if self.recipe.phase.is_empty() {
            self.out.push(
                Diagnostic::error(&ids::NO_PHASE, "the recipe has no phase: nothing would be trained")
                    .help("add [phase.NAME] with minimize = [\"…\"], update = [\"…\"] and an optimizer"),
            );
        }
        let mut wanted: Vec<usize> = Vec::new();
        for entry in self.recipe.evaluate.values() {
            for (_, text) in &entry.description.wires {
                if let Ok(Wire::Node { node, .. }) = graph.wire(text) {
                    wanted.push(node);
                }
            }
        }
        for (n, needed) in graph.needed(&wanted, true).into_iter().enumerate() {
            used[n] |= needed;
        }
        for (node, used) in graph.nodes.iter().zip(used) {
            if !used {
                self.out.push(
                    Diagnostic::warning(
                        &ids::UNUSED_NODE,
                        format!("nothing uses `{}`: it is never computed", node.label()),
                    )
                    .at(&node.origin, "not needed by any phase or evaluator"),
                );
            }
        }
        for (m, module) in graph.modules.iter().enumerate() {
            let slot = &self.recipe.model[m].slot;
            let called = graph.nodes.iter().any(|n| n.target == Target::Module(m));
            if !called {
                self.out.push(
                    Diagnostic::warning(&ids::UNUSED_MODULE, format!("no node calls the module `{}`", module.name))
                        .at(&slot.origin, "it is never made"),
                );
            } else if !module.trained && slot.common.weights.is_none() && !slot.common.random {
                self.out.push(
                    Diagnostic::error(
                        &ids::UNTRAINED_MODULE,
                        format!("nothing trains `{}` and nothing loads its weights", module.name),
                    )
                    .at(&slot.origin, "its weights would stay random")
                    .help(format!(
                        "give it weights = {{ run = \"../runs/…\" }} or {{ file = \"….safetensors\" }}, update it in a \
                             phase, or say random = true in [model.{}]",
                        module.name
                    )),
                );
            }
        }
    }

    fn evaluators(&mut self, graph: &Graph) {
        for (name, entry) in &self.recipe.evaluate {
            for (key, text) in &entry.description.wires {
                if let Err(reason) = graph.wire(text)
                    && reason != UNKNOWN_TARGET
                {
                    let node = self.recipe.root.at(&format!("evaluate.{name}.{key}"));
                    let place = node.map_or(&entry.slot.origin, |n| &n.origin);
                    let message = format!("`evaluate.{name}.{key}`: {reason}");
                    self.out.push(Diagnostic::error(&ids::UNKNOWN_WIRE, message).at(place, "wired here"));
                }
            }
        }
    }
}

/// The ports of a data stream, whose pictures have the normalisation that the last transform sets.
fn normalized(ports: &Ports, set: Option<Normalization>) -> Ports {
    let mut ports = ports.clone();
    if let Some(normalization) = set {
        for port in ports.outputs.iter_mut().filter(|port| port.pixels != Pixels::None) {
            port.pixels = Pixels::Normalized(normalization);
        }
    }
    ports
}

fn upstream(graph: &mut Graph) {
    let order = graph.order.clone();
    for n in order {
        let mut up = vec![false; graph.modules.len()];
        if let Target::Module(m) = graph.nodes[n].target {
            up[m] = true;
        }
        for wire in graph.nodes[n].inputs.iter().flatten() {
            if let Wire::Node { node, .. } = wire {
                for (m, v) in graph.nodes[*node].upstream.iter().enumerate() {
                    up[m] |= *v;
                }
            }
        }
        graph.nodes[n].upstream = up;
    }
}

pub(super) fn resolve_wire(streams: &[Stream], nodes: &[Node], text: &str) -> Result<Wire, String> {
    let (head, port) = text.split_once('.').map_or((text, None), |(h, p)| (h, Some(p)));
    let graph_nodes = || nodes.iter().filter(|n| n.target != Target::Loss);
    let pick = |ports: &Ports, what: &str| match port {
        Some(port) => ports.outputs.iter().position(|p| p.name == port).ok_or_else(|| {
            let valid = ports.outputs.iter().map(|p| p.name.as_str());
            format!("`{head}` has no output port `{port}`: {}", suggestion(port, valid))
        }),
        None => {
            let main: Vec<usize> = (0..ports.outputs.len()).filter(|i| !ports.outputs[*i].aside).collect();
            if let [one] = main[..] {
                return Ok(one);
            }
            let names: Vec<&str> = ports.outputs.iter().map(|p| p.name.as_str()).collect();
            Err(format!(
                "{what} `{head}` has several ports: say which, as {head}.{}",
                names.join(&format!(" or {head}."))
            ))
        }
    };
    if let Some(stream) = streams.iter().position(|s| s.name == head) {
        return Ok(Wire::Data { stream, port: pick(&streams[stream].ports, "the data stream")? });
    }
    if let Some(node) = nodes.iter().position(|n| n.target != Target::Loss && n.name == head) {
        if nodes[node].ports.outputs.is_empty() {
            return Err(UNKNOWN_TARGET.to_owned());
        }
        return Ok(Wire::Node { node, port: pick(&nodes[node].ports, "the node")? });
    }
    let valid: Vec<&str> =
        streams.iter().map(|s| s.name.as_str()).chain(graph_nodes().map(|n| n.name.as_str())).collect();
    Err(format!("there is no node or data stream `{head}`: {}", suggestion(head, valid)))
}
