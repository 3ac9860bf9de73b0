//! The graph with weights: building modules and evaluating nodes.

use crate::data::Batch;
use crate::graph::{Graph, Node, Plan, Reference, Target, Wire};
use crate::recipe::{Cut, ModulePrecision, Precision, Recipe};
use crate::weights::Tensors;
use indexmap::IndexMap;
use mtl_component::ports::shape_text;
use mtl_component::{
    Call, Context, DType, Dim, Module as Computation, Parameters, Params, Progress, Result, Shard, World, bail,
};
use mtl_recipe::Context as _;
use mtl_torch::fatal::{self, Place};
use mtl_torch::{Autocast, Group};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A module with its weights.
pub struct Module {
    /// Its name in the recipe.
    pub name: String,
    /// Parameters and buffers by name, in the order of their making.
    pub parameters: Parameters,
    /// Tensors that the configuration fixes, by name.
    pub constants: IndexMap<String, Tensor>,
    computation: Option<Box<dyn Computation>>,
    amp: bool,
    /// Whether its parameters record gradients at present.
    recording: Cell<bool>,
}

impl Module {
    /// The trainable parameters, without buffers.
    pub fn trainable(&self) -> Vec<&Tensor> {
        self.parameters.values().filter(|e| e.role.is_some()).map(|e| &e.tensor).collect()
    }

    /// Starts or stops recording gradients of its parameters.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn record(&self, on: bool) -> Result<()> {
        if self.recording.replace(on) != on {
            mtl_torch::set_requires_grad(&self.trainable(), on)?;
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
    functions: Vec<Option<Box<dyn Computation>>>,
    context: Arc<Context>,
    autocast: Option<Kind>,
    /// A node whose component has asked for the number of the step.
    asks_for_the_step: Cell<Option<usize>>,
}

/// The batches of a step: `[stream][batch]`.
pub type Feed = Vec<Vec<Batch>>;

/// The outputs of evaluations that are still needed.
pub type Values = Vec<Option<Vec<Option<Tensor>>>>;

/// Outputs by wire name.
pub type Outputs = IndexMap<String, Tensor>;

/// What an evaluation starts from: batches, and values of nodes that need not be computed.
pub struct Known<'a> {
    /// The batches of the step.
    pub feed: &'a Feed,
    /// The values of [`Reference::Given`].
    pub given: &'a [Tensor],
}

/// How nodes are evaluated.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mode {
    /// The step, from 1, and the steps of the run; both 0 outside of training.
    pub step: (u64, u64),
    /// Training mode for all nodes, or evaluation mode; without it each node's own.
    pub train: Option<bool>,
    /// Outputs that nothing reads are computed as well.
    pub everything: bool,
}

impl Model {
    /// Makes every called module with starting weights. All sizes of the graph must be known.
    ///
    /// # Errors
    /// If a component cannot be built.
    pub fn build(recipe: &Recipe, graph: Graph, context: Arc<Context>) -> Result<Self> {
        let mut modules = Vec::new();
        for (module, entry) in graph.modules.iter().zip(recipe.model.values()) {
            let mut params = Params::new(&module.name, context.clone());
            if entry.slot.common.shard == Cut::Classes {
                params = params.cutting_classes().sampling_classes(entry.slot.common.sample_rate);
            }
            let computation = match &module.sizes {
                Some(sizes) => {
                    let built = entry.slot.config.build(&params, sizes);
                    Some(built.with_context(|| format!("building the module `{}`", module.name))?)
                }
                None => None,
            };
            modules.push(Module {
                name: module.name.clone(),
                parameters: params.take(),
                constants: params.take_constants(),
                computation,
                amp: entry.slot.common.precision == ModulePrecision::Amp,
                recording: Cell::new(false),
            });
        }
        let mut functions = Vec::new();
        for node in &graph.nodes {
            let config = match node.target {
                Target::Module(_) => None,
                Target::Function | Target::Loss => node.config(recipe),
            };
            functions.push(match config {
                Some((_, config)) => {
                    let label = node.label();
                    let params = Params::new(&label, context.clone());
                    let built = config.build(&params, &node.sizes);
                    let built = built.with_context(|| format!("building `{label}`"))?;
                    if !params.take().is_empty() {
                        bail!("`{label}` ({}) makes parameters, which only modules may", node.component);
                    }
                    Some(built)
                }
                None => None,
            });
        }
        let autocast = match recipe.run.precision {
            Precision::Bf16 => Some(Kind::BFloat16),
            Precision::Fp16 => Some(Kind::Half),
            Precision::Float32 | Precision::Float64 => None,
        };
        Ok(Self { graph, modules, functions, context, autocast, asks_for_the_step: Cell::new(None) })
    }

    /// Shapes of all parameters and buffers without memory; open sizes are replaced by the given one.
    ///
    /// # Errors
    /// If a component cannot be built.
    pub fn shapes(recipe: &Recipe, graph: &Graph, open: i64) -> Result<IndexMap<String, Vec<i64>>> {
        Ok(Self::outline(recipe, graph, open)?.tensors().into_iter().map(|(name, t)| (name, t.size())).collect())
    }

    /// The number of parameters of each module; open sizes count as the given one.
    ///
    /// # Errors
    /// If a component cannot be built.
    pub fn counts(recipe: &Recipe, graph: &Graph, open: i64) -> Result<Vec<i64>> {
        let numbers = |module: &Module| module.trainable().iter().map(|t| t.numel() as i64).sum();
        Ok(Self::outline(recipe, graph, open)?.modules.iter().map(numbers).collect())
    }

    /// The model without memory; open sizes are replaced by the given one. Nothing can be evaluated.
    ///
    /// # Errors
    /// If a component cannot be built.
    pub fn outline(recipe: &Recipe, graph: &Graph, open: i64) -> Result<Self> {
        let named = graph.dims.iter().filter(|(_, d)| matches!(d, Dim::Named(_))).map(|(k, _)| (k.clone(), open));
        let context = Context { shapes_only: true, ..Context::cpu(Kind::Float) };
        Self::build(recipe, graph.resolved(&named.collect()), Arc::new(context))
    }

    /// Where it computes.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A node that has computed with the number of a step of training.
    pub fn depends_on_the_step(&self) -> Option<&Node> {
        self.asks_for_the_step.get().map(|node| &self.graph.nodes[node])
    }

    /// The parameters whose rows are cut over the processes of the run, as `module.name`.
    pub fn shards(&self) -> HashMap<String, Shard> {
        let of_module = |m: &'_ Module| -> Vec<(String, Shard)> {
            let cut = m.parameters.iter().filter_map(|(name, e)| Some((name, e.shard?)));
            cut.map(|(name, shard)| (format!("{}.{name}", m.name), shard)).collect()
        };
        self.modules.iter().flat_map(of_module).collect()
    }

    /// The same tensors, with the rows of this process in the place of whole ones.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn cut(&self, tensors: &Tensors) -> Result<Tensors> {
        let shards = self.shards();
        let cut = |(name, tensor): (&String, &Tensor)| {
            let tensor = match shards.get(name) {
                Some(shard) => own_rows(tensor, *shard, self.context.world)?,
                None => tensor.shallow_clone(),
            };
            Ok((name.clone(), tensor))
        };
        tensors.iter().map(cut).collect()
    }

    /// All parameters and buffers as `module.name`.
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        self.modules
            .iter()
            .flat_map(|m| m.parameters.iter().map(move |(name, e)| (format!("{}.{name}", m.name), &e.tensor)))
            .collect()
    }

    /// Evaluates wires without gradients and in evaluation mode; the values of the wires in `given` are taken as they
    /// are.
    ///
    /// # Errors
    /// If a component fails.
    pub fn infer(&self, feed: &Feed, wires: &[Wire], given: &[(Wire, Tensor)]) -> Result<Vec<Tensor>> {
        let (known, given): (Vec<Wire>, Vec<Tensor>) = given.iter().map(|(w, t)| (*w, t.shallow_clone())).unzip();
        let (plan, found) = Plan::evaluation(&self.graph, wires, &known);
        let mode = Mode { train: Some(false), ..Mode::default() };
        self.run_evaluation(&plan, &found, &Known { feed, given: &given }, mode)
    }

    /// Evaluates every node once, without gradients, and returns all outputs by `node.port`.
    ///
    /// # Errors
    /// If a component fails.
    pub fn infer_all(&self, feed: &Feed, train: Option<bool>) -> Result<Outputs> {
        let wires: Vec<Wire> = self
            .graph
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(node, n)| (0..n.ports.outputs.len()).map(move |port| Wire::Node { node, port }))
            .collect();
        let (plan, found) = Plan::evaluation(&self.graph, &wires, &[]);
        let mode = Mode { train, everything: true, ..Mode::default() };
        let values = self.run_evaluation(&plan, &found, &Known { feed, given: &[] }, mode)?;
        Ok(wires.iter().map(|w| self.graph.wire_name(*w)).zip(values).collect())
    }

    fn run_evaluation(&self, plan: &Plan, found: &[Reference], known: &Known<'_>, mode: Mode) -> Result<Vec<Tensor>> {
        use crate::graph::Op;
        let _guard = tch::no_grad_guard();
        let mut values: Values = plan.instances.iter().map(|_| None).collect();
        for op in &plan.ops {
            match op {
                Op::Evaluate(i) => values[*i] = Some(self.evaluate(plan, *i, known, &values, mode)?),
                Op::Free(i) => values[*i] = None,
                Op::Backward { .. } | Op::Update(_) => {}
            }
        }
        found.iter().map(|r| lookup(*r, known, &values).context("an output was not computed")).collect()
    }

    /// Evaluates one instance of a plan from the values of those before it.
    ///
    /// # Errors
    /// If the component fails; the error names the node and the shapes of its inputs.
    pub fn evaluate(
        &self,
        plan: &Plan,
        at: usize,
        known: &Known<'_>,
        values: &Values,
        mode: Mode,
    ) -> Result<Vec<Option<Tensor>>> {
        let instance = &plan.instances[at];
        let node = &self.graph.nodes[instance.node];
        let inputs: Vec<Option<Tensor>> =
            instance.inputs.iter().map(|r| r.and_then(|r| lookup(r, known, values))).collect();
        let all = vec![true; instance.wanted.len()];
        let progress = Progress::at(mode.step.0, mode.step.1);
        let call = Call {
            inputs,
            ports: &node.ports,
            train: mode.train.unwrap_or(node.train),
            wanted: if mode.everything { &all } else { &instance.wanted },
            progress: &progress,
            context: &self.context,
        };
        fatal::note(Place::Part, &format!(", in the node `{}` ({})", node.label(), node.component));
        let _no_grad = (!instance.record).then(tch::no_grad_guard);
        let outputs = match node.target {
            Target::Module(m) => {
                let module = &self.modules[m];
                module.record(instance.weights)?;
                let built = module.computation.as_ref();
                let built = built.with_context(|| format!("`{}` was not built", module.name))?;
                match self.autocast.filter(|_| module.amp) {
                    Some(kind) => {
                        let outputs = {
                            let _cast = Autocast::new(self.context.device, kind)?;
                            built.forward(&call)
                        };
                        outputs.and_then(|outputs| self.back_to_full(outputs, &call))
                    }
                    None => built.forward(&call),
                }
            }
            Target::Function | Target::Loss => match &self.functions[instance.node] {
                Some(function) => function.forward(&call),
                None => bail!("`{}` was not built", node.label()),
            },
        };
        if progress.was_asked() && mode.step.0 > 0 {
            self.asks_for_the_step.set(Some(instance.node));
        }
        let outputs = outputs.and_then(|outputs| {
            self.fit(node, &outputs, call.wanted)?;
            Ok(outputs)
        });
        outputs.with_context(|| {
            let shapes: Vec<String> = call
                .inputs
                .iter()
                .zip(&node.ports.inputs)
                .filter_map(|(t, p)| t.as_ref().map(|t| format!("{} {:?}", p.name, t.size())))
                .collect();
            format!("in the node `{}` ({}), with {}", node.label(), node.component, shapes.join(", "))
        })
    }

    /// Checks what a component gives against its ports: what does not fit would be met in another node, or nowhere.
    fn fit(&self, node: &Node, outputs: &[Option<Tensor>], wanted: &[bool]) -> Result<()> {
        let ports = &node.ports.outputs;
        if outputs.len() != ports.len() {
            bail!("it gives {} outputs, and has {} output ports", outputs.len(), ports.len());
        }
        for (i, (port, shape)) in ports.iter().zip(&node.shapes).enumerate() {
            let Some(output) = &outputs[i] else {
                if wanted.get(i) == Some(&true) {
                    bail!("it leaves out the output `{}`, which is read", port.name);
                }
                continue;
            };
            let (kind, size, device) = (output.kind(), output.size(), output.device());
            let numbers = match port.dtype {
                DType::Float => matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16),
                DType::Int => kind == Kind::Int64,
            };
            // The number of samples is that of the call.
            let batch = usize::from(port.pattern.starts_with("batch"));
            let sides = shape.iter().zip(&size).skip(batch);
            let sides = sides.fold(true, |fit, (dim, side)| fit && !matches!(dim, Dim::Size(n) if n != side));
            if !numbers || shape.len() != size.len() || !sides || device != self.context.device {
                let kind = format!("{kind:?}").to_lowercase();
                let (there, here) = match device == self.context.device {
                    true => Default::default(),
                    false => (format!(" on {device:?}"), format!(" on {:?}", self.context.device)),
                };
                bail!(
                    "it gives `{}` as {kind} {size:?}{there}, expected {} {}{here}",
                    port.name,
                    port.dtype,
                    shape_text(shape)
                );
            }
        }
        Ok(())
    }

    fn back_to_full(&self, outputs: Vec<Option<Tensor>>, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        outputs
            .into_iter()
            .enumerate()
            .map(|(i, t)| match t {
                Some(t) if call.wanted.get(i) != Some(&false) && matches!(t.kind(), Kind::BFloat16 | Kind::Half) => {
                    Ok(Some(t.f_to_kind(self.context.kind)?))
                }
                other => Ok(other),
            })
            .collect()
    }
}

/// The rows of this process of a whole tensor; another one is left as it is.
pub(crate) fn own_rows(tensor: &Tensor, shard: Shard, world: World) -> Result<Tensor> {
    let own = Shard::rows(shard.total, world);
    match tensor.size().first() {
        Some(rows) if *rows == shard.total => Ok(tensor.f_narrow(0, own.start, own.end - own.start)?),
        _ => Ok(tensor.shallow_clone()),
    }
}

/// The whole of a tensor whose rows are cut, on the CPU; another one is left as it is. All processes take part.
pub(crate) fn all_rows(tensor: &Tensor, shard: Shard, world: World) -> Result<Tensor> {
    let own = Shard::rows(shard.total, world);
    let Some(group) = world.group()?.filter(|_| tensor.size().first() == Some(&(own.end - own.start))) else {
        return Ok(tensor.shallow_clone());
    };
    // Only the last processes have fewer rows than the others.
    let all = gathered(tensor, Shard::each(shard.total, world), group)?;
    Ok(all.f_narrow(0, 0, shard.total)?.f_to_device(Device::Cpu)?)
}

/// The rows of all processes, of which each has as many as the others or fewer: with zeros where rows lack to `most`.
pub(crate) fn gathered(rows: &Tensor, most: i64, group: &Group) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let mut shape = rows.size();
    shape[0] = most - shape[0];
    let padded = Tensor::f_cat(&[&rows.f_detach()?, &rows.f_new_zeros(&shape, (rows.kind(), rows.device()))?], 0)?;
    Ok(group.all_gather(&padded)?)
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
