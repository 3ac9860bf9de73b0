//! Numbers of a recipe on given inputs and weights, to compare with any other implementation.

use crate::data::Batch;
use crate::device;
use crate::graph::{Graph, KnownShapes};
use crate::model::{Feed, Model};
use crate::recipe::Recipe;
use crate::train::{Captured, Trainer};
use crate::weights::{self, Rename, Tensors, load_into};
use indexmap::IndexMap;
use mtl_component::{DType, Dim, Registry, World};
use mtl_recipe::files::write_atomically;
use mtl_recipe::{Context, Result, mistake};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// What a trace does.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// `<step>/<data>.<port>` from step 1.
    pub inputs: PathBuf,
    /// Weights of all modules.
    pub weights: PathBuf,
    /// A change of names.
    pub rename: Option<String>,
    /// Steps to train.
    pub steps: u64,
    /// Double precision.
    pub double: bool,
    /// Where it computes.
    pub device: String,
    /// Only the outputs, in evaluation mode.
    pub eval: bool,
    /// Also gradient norms of each loss alone.
    pub per_loss: bool,
    /// Where the outputs of step 1 go.
    pub out: Option<PathBuf>,
    /// Where the numbers go.
    pub report: Option<PathBuf>,
}

/// A size that no network has, to find where an open size stands in the shapes of weights.
const OPEN: i64 = 999_983;

/// Runs a trace, in one of the processes of `world`.
///
/// # Errors
/// A mistake if the inputs or the weights do not fit the recipe.
pub fn trace(recipe: &Recipe, options: &TraceOptions, world: World) -> Result<Value> {
    let precision = if options.double { "float64" } else { "float32" };
    let steps = i64::try_from(options.steps.max(1))?;
    let recipe = recipe.with(&[
        ("run.precision", Some(mtl_recipe::Value::String(precision.into()))),
        ("run.steps", Some(mtl_recipe::Value::Integer(steps))),
        ("run.device", Some(mtl_recipe::Value::String(options.device.clone()))),
    ])?;
    let inputs = weights::read(&options.inputs)?;
    let mut known = KnownShapes::new();
    for (name, tensor) in &inputs {
        match name.split_once('/') {
            Some(("1", port)) => {
                known.insert(port.to_owned(), tensor.size());
            }
            Some((step, _)) if step.parse::<u64>().is_ok() => {}
            _ => mistake!("{}: expected names `<step>/<data>.<port>`, found `{name}`", options.inputs.display()),
        }
    }
    let graph = Graph::with_shapes(&recipe, &known)?;
    let tensors = renamed(&recipe.registry, weights::read(&options.weights)?, options.rename.as_deref())?;
    let mut dims = recipe.dims.clone();
    infer_sizes(&recipe, &graph, &tensors, &mut dims)?;
    device::configure(&recipe)?;
    let context = device::context(&recipe, world)?;
    let kind = context.kind;
    let model = Model::build(&recipe, graph.resolved(&dims), context)?;
    let loaded = load_into(model.tensors(), &tensors)?;
    let missing = loaded.lacking();
    if !missing.is_empty() {
        mistake!("{} lacks {} weights, such as `{}`", options.weights.display(), missing.len(), missing[0]);
    }
    let mut trainer = Trainer::new(&recipe, model)?;
    let result = run(&mut trainer, &inputs, options, kind, &loaded.unused)?;
    if let Some(path) = &options.report {
        write_atomically(path, &serde_json::to_vec_pretty(&result)?)?;
    }
    Ok(result)
}

fn run(
    trainer: &mut Trainer<'_>,
    inputs: &Tensors,
    options: &TraceOptions,
    kind: Kind,
    unused: &[String],
) -> Result<Value> {
    let feed = |trainer: &Trainer<'_>, step: u64| feed(&trainer.model, inputs, step, kind);
    let mut outputs: IndexMap<String, Tensor> = IndexMap::new();
    let mut steps = Vec::new();
    if options.eval {
        let found = trainer.model.infer_all(&feed(trainer, 1)?, Some(false))?;
        let mut losses = Map::new();
        for (name, value) in &found {
            if let Some(loss) = name.strip_prefix("loss.") {
                losses.insert(loss.trim_end_matches(".loss").to_owned(), json!(value.f_double_value(&[])?));
            }
        }
        steps.push(json!({ "losses": losses }));
        outputs = found;
    } else {
        let start = snapshot(&trainer.model)?;
        for step in 1..=options.steps {
            let first = step == 1;
            let batch = feed(trainer, step)?;
            trainer.capture(Captured { per_loss: options.per_loss && first, everything: first, ..Captured::default() });
            trainer.step(&batch, step)?;
            steps.push(report(trainer, &start)?);
            if first && let Some(captured) = trainer.captured() {
                outputs = std::mem::take(&mut captured.outputs);
            }
        }
    }
    if let Some(path) = &options.out {
        let list: Vec<(String, Tensor)> = outputs
            .iter()
            .filter(|(k, _)| !k.starts_with("loss."))
            .map(|(k, v)| (k.clone(), v.shallow_clone()))
            .collect();
        weights::write(path, &list)?;
    }
    Ok(json!({ "double": options.double, "unused_weights": unused, "steps": steps }))
}

/// The batch of a step.
fn feed(model: &Model, inputs: &Tensors, step: u64, kind: Kind) -> Result<Feed> {
    let mut feed = Feed::new();
    for stream in model.graph.streams() {
        let mut tensors = Vec::new();
        for port in &stream.ports.outputs {
            let name = format!("{step}/{}.{}", stream.name, port.name);
            let Some(tensor) = inputs.get(&name) else {
                mistake!("the inputs lack `{name}`: every port of every data stream is needed for every step");
            };
            let wanted = match port.dtype {
                DType::Float => kind,
                DType::Int => Kind::Int64,
            };
            let tensor = tensor.f_to_kind(wanted)?.f_to_device(model.context().device)?;
            let tensor = if tensor.dim() == 4 && model.context().channels_last {
                mtl_torch::channels_last(&tensor)?
            } else {
                tensor
            };
            tensors.push(tensor);
        }
        feed.push(vec![Batch { pixels: vec![None; tensors.len()], tensors, skipped: Vec::new(), replaced: 0 }]);
    }
    Ok(feed)
}

fn renamed(registry: &Arc<Registry>, tensors: Tensors, rename: Option<&str>) -> Result<Tensors> {
    let Some(rename) = rename else { return Ok(tensors) };
    let rename = Rename::named(registry, rename)?;
    Ok(tensors.into_iter().map(|(k, v)| (rename.apply(&k), v)).collect())
}

/// Finds open sizes, such as the number of identities, in the shapes of the weights.
fn infer_sizes(recipe: &Recipe, graph: &Graph, tensors: &Tensors, dims: &mut IndexMap<String, i64>) -> Result<()> {
    let open: Vec<&String> = graph.dims().iter().filter(|(_, d)| matches!(d, Dim::Named(_))).map(|(k, _)| k).collect();
    if open.len() > 1 {
        mistake!("several sizes are open: {open:?}: set all but one with --set dims.NAME=…");
    }
    let Some(name) = open.first() else { return Ok(()) };
    let mut found: Option<(i64, String)> = None;
    for (param, shape) in Model::shapes(recipe, graph, OPEN)? {
        let Some(tensor) = tensors.get(&param) else { continue };
        for (declared, actual) in shape.iter().zip(tensor.size()) {
            if *declared != OPEN {
                continue;
            }
            match &found {
                Some((n, first)) if *n != actual => {
                    mistake!("`dims.{name}` is {n} by the weights `{first}` and {actual} by `{param}`")
                }
                _ => found = Some((actual, param.clone())),
            }
        }
    }
    match found {
        Some((n, _)) => {
            dims.insert((*name).clone(), n);
        }
        None => mistake!("the size `{name}` is not known from the weights: give it with --set dims.{name}=…"),
    }
    Ok(())
}

fn snapshot(model: &Model) -> Result<IndexMap<String, Tensor>> {
    let _guard = tch::no_grad_guard();
    model.tensors().into_iter().map(|(n, t)| Ok((n, t.f_detach_copy()?))).collect()
}

/// `[norm, first, middle, last]` of a tensor.
fn entry(tensor: &Tensor) -> Result<Value> {
    let _guard = tch::no_grad_guard();
    let flat = tensor.f_detach()?.f_to_kind(Kind::Double)?.f_contiguous()?.f_view([-1])?;
    let n = flat.size()[0];
    let at = |i: i64| flat.f_double_value(&[i]);
    Ok(json!([flat.f_norm()?.f_double_value(&[])?, at(0)?, at(n / 2)?, at(n - 1)?]))
}

fn entries<'a>(list: impl IntoIterator<Item = (&'a String, &'a Tensor)>) -> Result<Value> {
    let map: Map<String, Value> = list.into_iter().map(|(k, t)| Ok((k.clone(), entry(t)?))).collect::<Result<_>>()?;
    Ok(map.into())
}

fn report(trainer: &mut Trainer<'_>, start: &IndexMap<String, Tensor>) -> Result<Value> {
    let mut losses = Map::new();
    for loss in trainer.losses() {
        losses.insert(loss.name.clone(), json!(loss.value.f_double_value(&[])?));
    }
    let (mut param, mut change, mut buffer) = (Map::new(), Map::new(), Map::new());
    for module in &trainer.model.modules {
        for (name, e) in &module.parameters {
            let full = format!("{}.{name}", module.name);
            if e.role.is_none() {
                buffer.insert(full, entry(&e.tensor)?);
                continue;
            }
            let before = start.get(&full).with_context(|| format!("no start of `{full}`"))?;
            let moved = tch::no_grad(|| e.tensor.f_sub(before))?;
            change.insert(full.clone(), entry(&moved)?);
            param.insert(full, entry(&e.tensor)?);
        }
    }
    let mut phases = Map::new();
    let mut alone = Map::new();
    if let Some(captured) = trainer.captured() {
        for (phase, grads) in &captured.grad {
            let decayed = captured.decayed.get(phase).map(entries).transpose()?;
            phases.insert(phase.clone(), json!({ "grad": entries(grads)?, "grad_decayed": decayed }));
        }
        for (loss, grads) in &captured.alone {
            alone.insert(loss.clone(), entries(grads)?);
        }
    }
    let mut out = json!({ "losses": losses, "phases": phases, "param": param, "change": change, "buffer": buffer });
    if !alone.is_empty() {
        out["per_loss"] = alone.into();
    }
    Ok(out)
}
