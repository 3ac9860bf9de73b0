//! The plan of a step: which nodes are evaluated when, what is recorded for gradients, what is freed.

use super::{Graph, Target, Wire};
use std::collections::HashMap;

/// Where a value is found while a plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// A port of a batch.
    Batch {
        /// The data stream.
        stream: usize,
        /// Which of the step's batches.
        micro: usize,
        /// The port.
        port: usize,
    },
    /// An output of an evaluation.
    Value {
        /// The evaluation.
        instance: usize,
        /// The output.
        port: usize,
    },
    /// A value that the caller of an evaluation gives in the place of a node's output.
    Given(usize),
}

/// One evaluation of a node: for one batch, at one version of the weights that it depends on.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The node.
    pub node: usize,
    /// Its inputs.
    pub inputs: Vec<Option<Reference>>,
    /// Outputs that anybody reads.
    pub wanted: Vec<bool>,
    /// The graph of gradients is recorded.
    pub record: bool,
    /// The module's own weights need gradients.
    pub weights: bool,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Evaluate.
    Evaluate(usize),
    /// Add the gradients of a phase's losses for one batch.
    Backward {
        /// The phase.
        phase: usize,
        /// Evaluations of its losses, with their weights.
        losses: Vec<(usize, f64)>,
        /// A later phase goes through the same recorded graph.
        keep_graph: bool,
        /// It is the phase's last batch before its update: the gradients are complete.
        last: bool,
    },
    /// Let the phase's optimizer step.
    Update(usize),
    /// Forget an evaluation's outputs.
    Free(usize),
}

/// The instructions of one step, or of one evaluation.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What is evaluated.
    pub instances: Vec<Instance>,
    /// The instructions in order.
    pub ops: Vec<Op>,
    /// How many batches each stream gives.
    pub batches: Vec<usize>,
}

impl Plan {
    /// The plan of a step in which the given phases run, in this order.
    pub fn training(graph: &Graph, active: &[usize]) -> Self {
        let mut plan = Self { batches: vec![0; graph.streams.len()], ..Self::default() };
        let mut current = Current::default();
        let mut backwards: Vec<(usize, Vec<bool>)> = Vec::new();
        for &p in active {
            let phase = &graph.phases[p];
            let roots: Vec<usize> = phase.losses.iter().map(|(n, _)| *n).collect();
            let needed = graph.needed(&roots, true);
            let carries = graph.needed(&roots, false);
            for micro in 0..phase.accumulate {
                plan.evaluate(graph, &needed, micro, &mut current);
                for node in (0..graph.nodes.len()).filter(|n| carries[*n]) {
                    let instance = &mut plan.instances[current.held[&(node, micro)]];
                    if let Target::Module(m) = graph.nodes[node].target {
                        instance.weights |= phase.updates[m];
                    }
                    instance.record |= graph.nodes[node].upstream.iter().zip(&phase.updates).any(|(a, b)| *a && *b);
                }
                let losses = phase.losses.iter().map(|(n, w)| (current.held[&(*n, micro)], *w)).collect();
                let mut path = vec![false; plan.instances.len()];
                for node in (0..graph.nodes.len()).filter(|n| carries[*n]) {
                    path[current.held[&(node, micro)]] = true;
                }
                backwards.push((plan.ops.len(), path));
                let last = micro + 1 == phase.accumulate;
                plan.ops.push(Op::Backward { phase: p, losses, keep_graph: false, last });
            }
            plan.ops.push(Op::Update(p));
            current
                .held
                .retain(|(node, _), _| !graph.nodes[*node].upstream.iter().zip(&phase.updates).any(|(a, b)| *a && *b));
        }
        plan.stop_recording(graph);
        for i in 0..backwards.len() {
            let keep = backwards[i + 1..].iter().any(|(_, later)| {
                backwards[i].1.iter().zip(later).enumerate().any(|(n, (a, b))| *a && *b && plan.instances[n].record)
            });
            if let Op::Backward { keep_graph, .. } = &mut plan.ops[backwards[i].0] {
                *keep_graph = keep;
            }
        }
        plan.free(&[]);
        plan
    }

    /// The instructions between updates, each with the phase that is updated after them.
    pub fn stretches(&self) -> impl Iterator<Item = (&[Op], Option<usize>)> {
        self.ops.split_inclusive(|op| matches!(op, Op::Update(_))).map(|ops| match ops.split_last() {
            Some((Op::Update(phase), before)) => (before, Some(*phase)),
            _ => (ops, None),
        })
    }

    /// The plan that evaluates the given wires without gradients; returns where they are found. The wires in `given`
    /// are not computed: the caller has their values.
    pub fn evaluation(graph: &Graph, wires: &[Wire], given: &[Wire]) -> (Self, Vec<Reference>) {
        let mut plan = Self { batches: vec![1; graph.streams.len()], ..Self::default() };
        let mut current = Current { given: given.to_vec(), ..Current::default() };
        plan.evaluate(graph, &graph.needed_beyond(wires, given), 0, &mut current);
        let found: Vec<Reference> = wires.iter().map(|w| current.reference(*w, 0)).collect();
        for r in &found {
            if let Reference::Value { instance, port } = r {
                plan.instances[*instance].wanted[*port] = true;
            }
        }
        plan.free(&found);
        (plan, found)
    }

    fn evaluate(&mut self, graph: &Graph, needed: &[bool], micro: usize, current: &mut Current) {
        for &n in graph.order.iter().filter(|n| needed[**n]) {
            if current.held.contains_key(&(n, micro)) {
                continue;
            }
            let node = &graph.nodes[n];
            let inputs: Vec<_> = node.inputs.iter().map(|w| w.map(|w| current.reference(w, micro))).collect();
            for input in inputs.iter().flatten() {
                match input {
                    Reference::Batch { stream, micro, .. } => {
                        self.batches[*stream] = self.batches[*stream].max(micro + 1);
                    }
                    Reference::Value { instance, port } => self.instances[*instance].wanted[*port] = true,
                    Reference::Given(_) => {}
                }
            }
            let wanted = vec![node.target == Target::Loss; node.ports.outputs.len()];
            let instance = self.instances.len();
            self.instances.push(Instance { node: n, inputs, wanted, record: false, weights: false });
            current.held.insert((n, micro), instance);
            self.ops.push(Op::Evaluate(instance));
        }
    }

    /// A node behind a stop is recorded only for the phases that reach it another way, which the marks above
    /// already say; what follows a stop has nothing to record unless it has weights of its own to train.
    fn stop_recording(&mut self, graph: &Graph) {
        for i in 0..self.instances.len() {
            let node = &graph.nodes[self.instances[i].node];
            let from_inputs = !node.ports.stops_gradient
                && self.instances[i]
                    .inputs
                    .iter()
                    .flatten()
                    .any(|r| matches!(r, Reference::Value { instance, .. } if self.instances[*instance].record));
            self.instances[i].record &= self.instances[i].weights || from_inputs;
        }
    }

    /// Puts a `Free` after the last use of every evaluation, except those that are `kept`.
    fn free(&mut self, kept: &[Reference]) {
        let mut last = vec![None; self.instances.len()];
        for (at, op) in self.ops.iter().enumerate() {
            match op {
                Op::Evaluate(i) => {
                    last[*i] = Some(at);
                    for input in self.instances[*i].inputs.iter().flatten() {
                        if let Reference::Value { instance, .. } = input {
                            last[*instance] = Some(at);
                        }
                    }
                }
                Op::Backward { losses, .. } => {
                    for (i, _) in losses {
                        last[*i] = Some(at);
                    }
                }
                Op::Update(_) | Op::Free(_) => {}
            }
        }
        let keep = |i: usize| kept.iter().any(|r| matches!(r, Reference::Value { instance, .. } if *instance == i));
        let ops = std::mem::take(&mut self.ops);
        for (at, op) in ops.into_iter().enumerate() {
            self.ops.push(op);
            for (i, l) in last.iter().enumerate() {
                if *l == Some(at) && !keep(i) {
                    self.ops.push(Op::Free(i));
                }
            }
        }
    }
}

/// What is known while a plan is made.
#[derive(Default)]
struct Current {
    /// The evaluation of (node, batch) that still holds for the present weights.
    held: HashMap<(usize, usize), usize>,
    /// Wires whose values the caller has.
    given: Vec<Wire>,
}

impl Current {
    fn reference(&self, wire: Wire, micro: usize) -> Reference {
        if let Some(at) = self.given.iter().position(|g| *g == wire) {
            return Reference::Given(at);
        }
        match wire {
            Wire::Data { stream, port } => Reference::Batch { stream, micro, port },
            Wire::Node { node, port } => Reference::Value { instance: self.held[&(node, micro)], port },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{GraphModule, GraphPhase, Node, Stream};
    use mtl_component::{DType, Ports, Sizes};
    use mtl_recipe::Origin;

    /// A generator and a critic: `made = generate(x)`, `still = detach(made)`, the critic on both, two losses.
    fn gan() -> Graph {
        let node = |name: &str, target, from: Wire, upstream: [bool; 2], stops: bool| {
            let mut ports = Ports::new().input("x", DType::Float, "...").output("y", DType::Float, "...");
            ports.stops_gradient = stops;
            Node {
                name: name.into(),
                target,
                inputs: vec![Some(from)],
                ports,
                one_of: Vec::new(),
                shapes: vec![Vec::new()],
                sizes: Sizes::default(),
                train: true,
                mode: None,
                component: String::new(),
                upstream: upstream.to_vec(),
                origin: Origin { file: 0, span: 0..0 },
            }
        };
        let of = |node| Wire::Node { node, port: 0 };
        let nodes = vec![
            node("made", Target::Module(0), Wire::Data { stream: 0, port: 0 }, [true, false], false),
            node("still", Target::Function, of(0), [true, false], true),
            node("judged_still", Target::Module(1), of(1), [true, true], false),
            node("judged", Target::Module(1), of(0), [true, true], false),
            node("critic", Target::Loss, of(2), [true, true], false),
            node("fool", Target::Loss, of(3), [true, true], false),
        ];
        let module = |name: &str| GraphModule { name: name.into(), sizes: None, trained: true };
        let phase = |name: &str, loss, updates: [bool; 2]| GraphPhase {
            name: name.into(),
            losses: vec![(loss, 1.0)],
            updates: updates.to_vec(),
            accumulate: 1,
        };
        Graph {
            streams: vec![Stream { name: "data".into(), ports: Ports::new(), shapes: Vec::new() }],
            modules: vec![module("generate"), module("critic")],
            order: (0..nodes.len()).collect(),
            nodes,
            phases: vec![phase("critic", 4, [false, true]), phase("generator", 5, [true, false])],
            dims: Default::default(),
            warnings: Vec::new(),
        }
    }

    fn evaluated(plan: &Plan, graph: &Graph) -> Vec<String> {
        plan.ops
            .iter()
            .filter_map(|op| match op {
                Op::Evaluate(i) => Some(graph.nodes[plan.instances[*i].node].label()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_gan_generates_once_and_judges_with_the_updated_critic() {
        let graph = gan();
        let plan = Plan::training(&graph, &[0, 1]);
        assert_eq!(
            evaluated(&plan, &graph),
            ["made", "still", "judged_still", "loss.critic", "judged", "loss.fool"],
            "the generator runs once; its second use needs the critic's new weights only for `judged`"
        );
        let of = |name: &str| plan.instances.iter().find(|i| graph.nodes[i.node].name == name).unwrap();
        // The generator's weights need gradients for the second phase, the critic's only for the first.
        assert!(of("made").record && of("made").weights);
        assert!(!of("still").record);
        assert!(of("judged_still").record && of("judged_still").weights);
        assert!(of("judged").record && !of("judged").weights);
        // The two recorded graphs share nothing, since the first ends at the stop.
        assert!(plan.ops.iter().all(|op| !matches!(op, Op::Backward { keep_graph: true, .. })));
    }

    #[test]
    fn without_the_generator_phase_nothing_is_recorded_for_it() {
        let graph = gan();
        let plan = Plan::training(&graph, &[0]);
        let made = plan.instances.iter().find(|i| graph.nodes[i.node].name == "made").unwrap();
        assert!(!made.record && !made.weights);
    }

    #[test]
    fn values_are_freed_after_their_last_use() {
        let graph = gan();
        let plan = Plan::training(&graph, &[0, 1]);
        let at = |op: &Op| plan.ops.iter().position(|o| o == op).unwrap();
        for i in 0..plan.instances.len() {
            let freed = at(&Op::Free(i));
            for (n, op) in plan.ops.iter().enumerate() {
                let uses = match op {
                    Op::Evaluate(e) => plan.instances[*e]
                        .inputs
                        .iter()
                        .flatten()
                        .any(|r| matches!(r, Reference::Value { instance, .. } if *instance == i)),
                    Op::Backward { losses, .. } => losses.iter().any(|(l, _)| *l == i),
                    _ => false,
                };
                assert!(!uses || n < freed, "instance {i} is used at {n} after {freed}");
            }
        }
    }

    #[test]
    fn phases_that_share_a_graph_keep_it_for_the_second() {
        let mut graph = gan();
        // Both phases now update the generator through the same judgement, of weights that change in between.
        graph.phases[0] = GraphPhase { losses: vec![(5, 1.0)], updates: vec![false, false], ..graph.phases[0].clone() };
        graph.phases[1].losses = vec![(5, 1.0)];
        graph.phases[0].updates = vec![true, false];
        let plan = Plan::training(&graph, &[0, 1]);
        // The first update changes what everything depends on: all is evaluated again and nothing need be kept.
        assert_eq!(evaluated(&plan, &graph), ["made", "judged", "loss.fool", "made", "judged", "loss.fool"]);
        graph.phases[0].updates = vec![false, true];
        let plan = Plan::training(&graph, &[0, 1]);
        // Now only the critic changes: the generator's value, and its recorded graph, serve both.
        assert_eq!(evaluated(&plan, &graph), ["made", "judged", "loss.fool", "judged", "loss.fool"]);
        let kept: Vec<bool> = plan
            .ops
            .iter()
            .filter_map(|op| if let Op::Backward { keep_graph, .. } = op { Some(*keep_graph) } else { None })
            .collect();
        assert_eq!(kept, [true, false]);
    }

    #[test]
    fn accumulation_takes_a_batch_for_every_pass() {
        let mut graph = gan();
        graph.phases[0].accumulate = 3;
        let plan = Plan::training(&graph, &[0, 1]);
        assert_eq!(plan.batches, [3]);
        let updates = plan.ops.iter().filter(|op| matches!(op, Op::Update(0))).count();
        let passes = plan.ops.iter().filter(|op| matches!(op, Op::Backward { phase: 0, .. })).count();
        assert_eq!((passes, updates), (3, 1));
        let last: Vec<bool> = plan
            .ops
            .iter()
            .filter_map(|op| if let Op::Backward { phase: 0, last, .. } = op { Some(*last) } else { None })
            .collect();
        assert_eq!(last, [false, false, true], "the gradients are complete with the third batch");
    }
}
