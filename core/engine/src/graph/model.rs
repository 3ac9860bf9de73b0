//! The graph with weights: building modules and running plans.

use super::{Graph, Op, Plan, Reference, Target, Wire};
use crate::component::{Call, Forward, Params, Placement, Sizes, Store};
use crate::data::Batch;
use crate::recipe::{ModulePrecision, Precision, Recipe};
use anyhow::{Context, Result, bail};
use indexmap::IndexMap;
use mtl_torch::Autocast;
use std::cell::Cell;
use tch::{Kind, Tensor};

/// A module with its weights.
pub struct Module {
    /// Its name in the recipe.
    pub name: String,
    /// Parameters and buffers by name, in the order of their making.
    pub store: Store,
    /// Tensors that the configuration fixes, by name.
    pub constants: IndexMap<String, Tensor>,
    forward: Option<Box<dyn Forward>>,
    amp: bool,
    /// Whether its parameters record gradients at present.
    recording: Cell<bool>,
}

impl Module {
    /// The parameters, without buffers.
    pub fn parameters(&self) -> Vec<&Tensor> {
        self.store.values().filter(|e| e.role.is_some()).map(|e| &e.tensor).collect()
    }

    fn record(&self, on: bool) -> Result<()> {
        if self.recording.replace(on) != on {
            mtl_torch::set_requires_grad(&self.parameters(), on)?;
        }
        Ok(())
    }
}

/// A graph with weights, ready to run.
pub struct Model {
    /// The graph.
    pub graph: Graph,
    /// Modules in the order of the recipe; those that no node calls have no weights.
    pub modules: Vec<Module>,
    /// For nodes that apply a function or compute a loss.
    functions: Vec<Option<Box<dyn Forward>>>,
    placement: Placement,
    autocast: Option<Kind>,
}

/// The batches of a step: `[stream][batch]`.
pub type Feed = Vec<Vec<Batch>>;

/// What evaluations have given and nobody has freed yet.
pub type Values = Vec<Option<Vec<Option<Tensor>>>>;

/// Outputs by wire name.
pub type Outputs = IndexMap<String, Tensor>;

/// What happens between the evaluations of a training step.
pub trait StepHooks {
    /// Before the backward pass of a phase for one batch: its losses with weights, unscaled.
    fn backward(
        &mut self,
        model: &Model,
        phase: usize,
        losses: &[(String, f64, Tensor)],
        keep_graph: bool,
    ) -> Result<()>;
    /// After all backward passes of a phase.
    fn update(&mut self, model: &Model, phase: usize) -> Result<()>;
    /// After a node was evaluated.
    fn evaluated(&mut self, model: &Model, node: usize, outputs: &[Option<Tensor>]) -> Result<()> {
        let _ = (model, node, outputs);
        Ok(())
    }
    /// Whether outputs that nothing reads are computed as well.
    fn wants_everything(&self) -> bool {
        false
    }
}

impl Model {
    /// Makes every called module with starting weights. All sizes of the graph must be known.
    pub fn build(recipe: &Recipe, graph: Graph, placement: Placement) -> Result<Self> {
        let mut modules = Vec::new();
        for (module, slot) in graph.modules.iter().zip(recipe.model.values()) {
            let params = Params::new(&module.name, placement);
            let forward = match &module.sizes {
                Some(sizes) => Some(
                    slot.config
                        .build(&params, sizes)
                        .with_context(|| format!("building the module `{}`", module.name))?,
                ),
                None => None,
            };
            modules.push(Module {
                name: module.name.clone(),
                store: params.take(),
                constants: params.take_constants(),
                forward,
                amp: slot.common.precision == ModulePrecision::Amp,
                recording: Cell::new(false),
            });
        }
        let mut functions = Vec::new();
        for node in &graph.nodes {
            let block = match node.target {
                Target::Module(_) => None,
                Target::Function | Target::Loss => node.block(recipe),
            };
            functions.push(match block {
                Some(block) => {
                    let params = Params::new(&node.name, placement);
                    let made =
                        block.build(&params, &node.sizes).with_context(|| format!("building `{}`", node.name))?;
                    if !params.take().is_empty() {
                        bail!("`{}` ({}) makes parameters, which only modules may", node.name, node.component);
                    }
                    Some(made)
                }
                None => None,
            });
        }
        let autocast = match recipe.run.precision {
            Precision::Bf16 => Some(Kind::BFloat16),
            Precision::Fp16 => Some(Kind::Half),
            Precision::Float32 | Precision::Float64 => None,
        };
        Ok(Self { graph, modules, functions, placement, autocast })
    }

    /// Shapes of all parameters and buffers without memory; open sizes are replaced by the given one.
    pub fn shapes(recipe: &Recipe, graph: &Graph, open: i64) -> Result<IndexMap<String, Vec<i64>>> {
        Ok(Self::outline(recipe, graph, open)?.tensors().into_iter().map(|(name, t)| (name, t.size())).collect())
    }

    /// The number of parameters of each module; open sizes count as the given one.
    pub fn counts(recipe: &Recipe, graph: &Graph, open: i64) -> Result<Vec<i64>> {
        let numbers = |module: &Module| module.parameters().iter().map(|t| t.numel() as i64).sum();
        Ok(Self::outline(recipe, graph, open)?.modules.iter().map(numbers).collect())
    }

    /// The model without memory.
    fn outline(recipe: &Recipe, graph: &Graph, open: i64) -> Result<Self> {
        let mut graph = graph.clone();
        let named: IndexMap<String, i64> = graph
            .dims
            .iter()
            .filter(|(_, d)| matches!(d, crate::component::Dim::Named(_)))
            .map(|(k, _)| (k.clone(), open))
            .collect();
        graph.resolve(&named);
        let placement = Placement {
            device: tch::Device::Cpu,
            kind: Kind::Float,
            channels_last: false,
            winograd: false,
            seed: 0,
            shapes_only: true,
        };
        Self::build(recipe, graph, placement)
    }

    /// Where tensors are.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// All parameters and buffers as `module.name`.
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        self.modules
            .iter()
            .flat_map(|m| m.store.iter().map(move |(name, e)| (format!("{}.{name}", m.name), &e.tensor)))
            .collect()
    }

    /// Runs a training plan. `step` counts from 1.
    pub fn train(&self, plan: &Plan, feed: &Feed, step: u64, total: u64, hooks: &mut dyn StepHooks) -> Result<()> {
        let mut values: Values = plan.instances.iter().map(|_| None).collect();
        let known = Known { feed, given: &[] };
        for op in &plan.ops {
            match op {
                Op::Evaluate(i) => {
                    let outputs =
                        self.evaluate(plan, *i, &known, &values, (step, total), None, hooks.wants_everything())?;
                    hooks.evaluated(self, plan.instances[*i].node, &outputs)?;
                    values[*i] = Some(outputs);
                }
                Op::Backward { phase, losses, keep_graph } => {
                    let mut named = Vec::with_capacity(losses.len());
                    for (i, weight) in losses {
                        let name = &self.graph.nodes[plan.instances[*i].node].name;
                        let value = values[*i].as_ref().and_then(|v| v.first()?.as_ref());
                        let value = value.with_context(|| format!("`{name}` has no value"))?.shallow_clone();
                        named.push((name.trim_start_matches("loss.").to_owned(), *weight, value));
                    }
                    for (module, updated) in self.modules.iter().zip(&self.graph.phases[*phase].updates) {
                        if *updated {
                            module.record(true)?;
                        }
                    }
                    hooks.backward(self, *phase, &named, *keep_graph)?;
                }
                Op::Update(phase) => hooks.update(self, *phase)?,
                Op::Free(i) => values[*i] = None,
            }
        }
        Ok(())
    }

    /// Evaluates wires without gradients and in evaluation mode; the values of the wires in `given` are taken as they
    /// are.
    pub fn infer(&self, feed: &Feed, wires: &[Wire], given: &[(Wire, Tensor)]) -> Result<Vec<Tensor>> {
        let (known, given): (Vec<Wire>, Vec<Tensor>) = given.iter().map(|(w, t)| (*w, t.shallow_clone())).unzip();
        let (plan, found) = Plan::evaluation(&self.graph, wires, &known);
        self.run_evaluation(&plan, &found, &Known { feed, given: &given }, Some(false), false)
    }

    /// Evaluates every node once, without gradients, and returns all outputs by `node.port`.
    pub fn infer_all(&self, feed: &Feed, train: Option<bool>) -> Result<Outputs> {
        let wires: Vec<Wire> = self
            .graph
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(node, n)| (0..n.ports.outputs.len()).map(move |port| Wire::Node { node, port }))
            .collect();
        let (plan, found) = Plan::evaluation(&self.graph, &wires, &[]);
        let values = self.run_evaluation(&plan, &found, &Known { feed, given: &[] }, train, true)?;
        Ok(wires.iter().map(|w| self.graph.wire_name(*w)).zip(values).collect())
    }

    fn run_evaluation(
        &self,
        plan: &Plan,
        found: &[Reference],
        known: &Known<'_>,
        train: Option<bool>,
        everything: bool,
    ) -> Result<Vec<Tensor>> {
        let _guard = tch::no_grad_guard();
        let mut values: Values = plan.instances.iter().map(|_| None).collect();
        for op in &plan.ops {
            match op {
                Op::Evaluate(i) => {
                    values[*i] = Some(self.evaluate(plan, *i, known, &values, (0, 0), train, everything)?);
                }
                Op::Free(i) => values[*i] = None,
                Op::Backward { .. } | Op::Update(_) => {}
            }
        }
        found.iter().map(|r| lookup(*r, known, &values).context("an output was not computed")).collect()
    }

    #[allow(clippy::too_many_arguments)]
    fn evaluate(
        &self,
        plan: &Plan,
        at: usize,
        known: &Known<'_>,
        values: &Values,
        (step, total): (u64, u64),
        train: Option<bool>,
        everything: bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let instance = &plan.instances[at];
        let node = &self.graph.nodes[instance.node];
        let inputs: Vec<Option<Tensor>> =
            instance.inputs.iter().map(|r| r.and_then(|r| lookup(r, known, values))).collect();
        let all = vec![true; instance.wanted.len()];
        let call = Call {
            inputs,
            ports: &node.ports,
            train: train.unwrap_or(node.train),
            wanted: if everything { &all } else { &instance.wanted },
            step,
            total,
        };
        let _no_grad = (!instance.record).then(tch::no_grad_guard);
        let outputs = match node.target {
            Target::Module(m) => {
                let module = &self.modules[m];
                module.record(instance.weights)?;
                let forward = module.forward.as_ref().with_context(|| format!("`{}` was not built", module.name))?;
                match self.autocast.filter(|_| module.amp) {
                    Some(kind) => {
                        let outputs = {
                            let _cast = Autocast::new(self.placement.device, kind)?;
                            forward.forward(&call)
                        };
                        outputs.and_then(|outputs| self.back_to_full(outputs, &call))
                    }
                    None => forward.forward(&call),
                }
            }
            Target::Function | Target::Loss => match &self.functions[instance.node] {
                Some(function) => function.forward(&call),
                None => bail!("`{}` was not built", node.name),
            },
        };
        outputs.with_context(|| {
            let shapes: Vec<String> = call
                .inputs
                .iter()
                .zip(&node.ports.inputs)
                .filter_map(|(t, p)| t.as_ref().map(|t| format!("{} {:?}", p.name, t.size())))
                .collect();
            format!("in the node `{}` ({}), with {}", node.name, node.component, shapes.join(", "))
        })
    }

    fn back_to_full(&self, outputs: Vec<Option<Tensor>>, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        outputs
            .into_iter()
            .enumerate()
            .map(|(i, t)| match t {
                Some(t) if call.wanted.get(i) != Some(&false) && matches!(t.kind(), Kind::BFloat16 | Kind::Half) => {
                    Ok(Some(t.f_to_kind(self.placement.kind)?))
                }
                other => Ok(other),
            })
            .collect()
    }

    /// The sizes that the module was built with.
    pub fn sizes(&self, module: usize) -> Option<&Sizes> {
        self.graph.modules[module].sizes.as_ref()
    }
}

/// What an evaluation starts from: batches, and values of nodes that need not be computed.
struct Known<'a> {
    feed: &'a Feed,
    given: &'a [Tensor],
}

fn lookup(r: Reference, known: &Known<'_>, values: &Values) -> Option<Tensor> {
    match r {
        Reference::Given(at) => known.given.get(at).map(Tensor::shallow_clone),
        Reference::Batch { stream, micro, port } => {
            known.feed.get(stream)?.get(micro)?.tensors.get(port).map(Tensor::shallow_clone)
        }
        Reference::Value { instance, port } => {
            values[instance].as_ref()?.get(port)?.as_ref().map(Tensor::shallow_clone)
        }
    }
}
