//! One training step: the instructions of its plan, one after the other.

use super::capture::Captured;
use super::ema::Averages;
use super::graphs::Course;
use super::phase::{PhaseState, has_diverged};
use super::profile::{Begun, Lane, Profile};
use crate::graph::{Op, Plan, Wire};
use crate::memory::told_with_holders;
use crate::model::{Feed, Known, Mode, Model, Values};
use crate::ranks::Whereabouts;
use crate::recipe::{LossScaling, Precision, Ramp, Recipe};
use indexmap::IndexMap;
use mtl_component::Result;
use mtl_component::draw::hash_words;
use mtl_recipe::{Context, Error};
use mtl_torch::ScalarOps;
use mtl_torch::fatal::{self, Place};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The value of a loss in the newest step, still on the device.
#[derive(Debug)]
pub struct LossValue {
    /// The phase that minimizes it.
    pub phase: usize,
    /// The loss.
    pub name: String,
    /// Its factor in the sum.
    pub weight: f64,
    /// The mean over the batches of the step.
    pub value: Tensor,
}

/// Everything that training changes: weights, optimizers, scales, averages.
pub struct Trainer<'r> {
    /// The graph with weights.
    pub model: Model,
    /// Moving averages, if the recipe has them.
    pub averages: Option<Averages>,
    pub(super) phases: Vec<PhaseState<'r>>,
    /// The losses whose weights rise.
    ramps: HashMap<&'r str, Ramp>,
    pub(super) losses: Vec<LossValue>,
    /// Losses without a gradient, which has been told.
    without_gradient: HashSet<String>,
    plans: HashMap<Vec<usize>, Rc<Plan>>,
    capture: Option<Captured>,
    wants_norms: bool,
    seed: u64,
    total: u64,
    /// Where other processes may see that this one is.
    whereabouts: Option<Arc<Whereabouts>>,
    /// Where the time goes, if it is asked for.
    pub(super) profile: Option<Profile>,
    /// What is started as a whole, by the phases that are active.
    pub(super) graphs: Option<HashMap<Vec<usize>, Course>>,
}

/// Numbers of one element each in one copy, after something was done with all of them: each by itself would wait for the
/// device.
pub(super) fn read_together<'t>(
    numbers: impl Iterator<Item = &'t Tensor>,
    with: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Vec<f64>> {
    let _guard = tch::no_grad_guard();
    let all = numbers.map(|n| Ok(n.f_detach()?.f_to_kind(Kind::Double)?.f_view([])?)).collect::<Result<Vec<_>>>()?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    Vec::<f64>::try_from(with(&Tensor::f_stack(&all, 0)?)?).context("reading numbers of the step")
}

impl<'r> Trainer<'r> {
    /// A trainer at its start.
    ///
    /// # Errors
    /// If an optimizer cannot be made.
    pub fn new(recipe: &'r Recipe, model: Model) -> Result<Self> {
        let default = LossScaling::default();
        let scaling = match (&recipe.run.loss_scaling, recipe.run.precision) {
            (Some(scaling), _) => Some(scaling),
            (None, Precision::Fp16) => Some(&default),
            (None, _) => None,
        };
        let phases = recipe.phase.iter().map(|(name, entry)| PhaseState::new(name, entry, &model, scaling));
        let ramps = recipe.loss.iter().filter_map(|(name, l)| Some((name.as_str(), l.slot.common.ramp?)));
        Ok(Self {
            phases: phases.collect::<Result<_>>()?,
            averages: recipe.ema.clone().map(|config| Averages::new(config, &model)).transpose()?,
            model,
            ramps: ramps.collect(),
            losses: Vec::new(),
            without_gradient: HashSet::new(),
            plans: HashMap::new(),
            capture: None,
            wants_norms: false,
            seed: recipe.run.seed as u64,
            total: recipe.run.steps,
            whereabouts: None,
            profile: None,
            graphs: recipe.run.cuda_graphs.then(HashMap::new),
        })
    }

    /// Lets other processes see where this one is.
    pub fn seen_at(&mut self, whereabouts: Arc<Whereabouts>) {
        self.whereabouts = Some(whereabouts);
    }

    /// The instructions of the first step of each phase, in words that processes compare.
    pub fn outline(&self) -> IndexMap<String, String> {
        let phases: Vec<usize> = (0..self.phases.len()).collect();
        let plan = Plan::training(&self.model.graph, &phases);
        let ops = plan.ops.iter().map(|op| self.doing(&plan, op)).collect::<Vec<_>>().join("; ");
        let names = self.phases.iter().map(|phase| (phase.name.to_owned(), phase.outline()));
        names.chain([("all".to_owned(), ops)]).collect()
    }

    /// The phases that run at a step, counted from 1.
    pub fn active(&self, step: u64) -> Vec<usize> {
        (0..self.phases.len()).filter(|phase| self.phases[*phase].active(step)).collect()
    }

    /// How many batches of each stream a step takes.
    pub fn batches(&mut self, step: u64) -> Vec<usize> {
        self.plan(step).batches.clone()
    }

    /// What an instruction does, in words.
    fn doing(&self, plan: &Plan, op: &Op) -> String {
        let graph = &self.model.graph;
        match op {
            Op::Evaluate(at) => format!("in the node `{}`", graph.nodes()[plan.instances[*at].node].label()),
            Op::Backward { phase, .. } => {
                format!("in the backward pass of the phase `{}`", graph.phases()[*phase].name)
            }
            Op::Update(phase) => format!("in the update of the phase `{}`", graph.phases()[*phase].name),
            Op::Free(_) => "between two nodes".into(),
        }
    }

    fn plan(&mut self, step: u64) -> Rc<Plan> {
        let active = self.active(step);
        let graph = &self.model.graph;
        self.plans.entry(active).or_insert_with_key(|active| Rc::new(Plan::training(graph, active))).clone()
    }

    /// Trains one step, counted from 1, on its batches.
    ///
    /// # Errors
    /// If a component fails; the error names the node.
    pub fn step(&mut self, feed: &Feed, step: u64) -> Result<()> {
        let plan = self.plan(step);
        mtl_torch::seed(hash_words(&[self.seed, self.model.context().world.rank(), step]))?;
        self.losses.clear();
        for phase in &mut self.phases {
            phase.set_lr(step, self.total)?;
        }
        match self.course(feed, step)? {
            Some(course) => self.by_graphs(course, &plan, feed, step)?,
            None => self.directly(&plan, feed, step)?,
        }
        if let Some(averages) = &self.averages {
            averages.update(&self.model, step)?;
        }
        Ok(())
    }

    /// One instruction after the other.
    fn directly(&mut self, plan: &Plan, feed: &Feed, step: u64) -> Result<()> {
        let mut values: Values = plan.instances.iter().map(|_| None).collect();
        for (stage, op) in plan.ops.iter().enumerate() {
            if let Some(whereabouts) = &self.whereabouts {
                whereabouts.stage(stage as u64 + 1, || self.doing(plan, op));
            }
            let begun = self.begin()?;
            match op {
                Op::Update(phase) => self.update(*phase, step)?,
                other => self.compute(plan, other, feed, &mut values, step)?,
            }
            self.end(begun, plan, op)?;
        }
        Ok(())
    }

    /// Begins a span of the profile, if there is one.
    pub(super) fn begin(&self) -> Result<Option<Begun>> {
        self.profile.as_ref().map_or(Ok(None), Profile::begin)
    }

    /// Ends a span of another name.
    pub(super) fn end_as(&mut self, begun: Option<Begun>, name: impl FnOnce() -> String) -> Result<()> {
        match (begun, &mut self.profile) {
            (Some(begun), Some(profile)) => profile.end(begun, "step", name),
            _ => Ok(()),
        }
    }

    /// Before a step, for the profile.
    pub(super) fn enter(&mut self, step: u64) -> Result<()> {
        let Some(profile) = &mut self.profile else { return Ok(()) };
        profile.enter(step)?;
        // From now on they are timed.
        self.phases.iter().for_each(|phase| drop(phase.bucket_times()));
        Ok(())
    }

    /// After a step, for the profile.
    pub(super) fn leave(&mut self, step: u64) -> Result<()> {
        if let Some(path) = self.profile.as_mut().map_or(Ok(None), |profile| profile.leave(step))? {
            tracing::info!("the profile is in {}: open it in ui.perfetto.dev or chrome://tracing", path.display());
            self.profile = None;
        }
        Ok(())
    }

    /// Ends the span of an instruction.
    fn end(&mut self, begun: Option<Begun>, plan: &Plan, op: &Op) -> Result<()> {
        let (Some(begun), Some(profile)) = (begun, &mut self.profile) else { return Ok(()) };
        let phase = |phase: usize| &self.model.graph.phases()[phase].name;
        match op {
            Op::Evaluate(at) => {
                let node = &self.model.graph.nodes()[plan.instances[*at].node];
                profile.end(begun, "node", || format!("{} ({})", node.label(), node.component))?;
            }
            Op::Backward { phase: of, last, .. } => {
                profile.end(begun, "phase", || format!("{}: backward", phase(*of)))?;
                if *last {
                    for (k, (start, there)) in self.phases[*of].bucket_times().into_iter().enumerate() {
                        let took = there.saturating_duration_since(start);
                        profile.push(Lane::Buckets, "bucket", format!("{}: bucket {k}", phase(*of)), start, took);
                    }
                }
            }
            Op::Update(of) => profile.end(begun, "phase", || format!("{}: update", phase(*of)))?,
            Op::Free(_) => {}
        }
        Ok(())
    }

    /// Forward passes, the backward pass of a phase, and what they forget.
    pub(super) fn compute(&mut self, plan: &Plan, op: &Op, feed: &Feed, values: &mut Values, step: u64) -> Result<()> {
        match op {
            Op::Evaluate(at) => {
                let everything = self.capture.as_ref().is_some_and(|c| c.everything);
                let mode = Mode { step: (step, self.total), train: None, everything };
                let outputs = self.model.evaluate(plan, *at, &Known { feed, given: &[] }, values, mode)?;
                self.keep(plan.instances[*at].node, &outputs)?;
                values[*at] = Some(outputs);
            }
            Op::Backward { phase, losses, keep_graph, last } => {
                self.backward(plan, *phase, losses, values, (*keep_graph, *last), step)?;
            }
            Op::Free(at) => values[*at] = None,
            Op::Update(_) => {}
        }
        Ok(())
    }

    /// Lets the optimizer of a phase step.
    pub(super) fn update(&mut self, phase: usize, step: u64) -> Result<()> {
        let name = self.phases[phase].name;
        fatal::note(Place::Part, &format!(", in the update of the phase `{name}`"));
        let updated = self.phases[phase].update(self.wants_norms, self.capture.as_mut());
        if self.diverged()
            && let Some((loss, value)) = self.not_finite()?
        {
            let what = format!("`loss/{loss}` is {value} at step {step}, and the update is not applied");
            return Err(has_diverged(&what));
        }
        updated.with_context(|| format!("in the update of the phase `{name}`"))
    }

    /// The share of its weight that a loss has at a step.
    pub(super) fn share(&self, loss: &str, step: u64) -> f64 {
        self.ramps.get(loss).map_or(1.0, |ramp| ramp.share(step))
    }

    /// Adds the gradients of a phase's losses for one batch.
    fn backward(
        &mut self,
        plan: &Plan,
        phase: usize,
        losses: &[(usize, f64)],
        values: &Values,
        (keep_graph, last): (bool, bool),
        step: u64,
    ) -> Result<()> {
        let graph = &self.model.graph;
        let mut named = Vec::with_capacity(losses.len());
        for (at, weight) in losses {
            let node = &graph.nodes()[plan.instances[*at].node];
            let value = values[*at].as_ref().and_then(|v| v.first()?.as_ref());
            let value = value.with_context(|| format!("`{}` has no value", node.label()))?;
            named.push((&node.name, weight * self.share(&node.name, step), value));
        }
        for (module, updated) in self.model.modules.iter().zip(&graph.phases()[phase].updates) {
            if *updated {
                module.record(true)?;
            }
        }
        let state = &self.phases[phase];
        let share = state.share();
        if let Some(capture) = self.capture.as_mut().filter(|c| c.per_loss) {
            for (name, _, value) in &named {
                let grads = mtl_torch::gradients(value, &state.leaves(), true)?;
                let defined = state.names().cloned().zip(grads).filter(|(_, g)| g.defined());
                capture.alone.entry((*name).clone()).or_default().extend(defined);
            }
        }
        let mut total: Option<Tensor> = None;
        for (name, weight, value) in named {
            let part = if weight == 1.0 { value.shallow_clone() } else { value.try_mul_scalar(weight)? };
            total = Some(match total {
                Some(sum) => sum.f_add(&part)?,
                None => part,
            });
            if !value.requires_grad() && self.without_gradient.insert(name.clone()) {
                tracing::warn!(
                    "`loss.{name}` has no gradient, so that it trains nothing: its component or one before it has detached it, \
                     or computes in whole numbers"
                );
            }
            let value = value.f_detach()?;
            let value = if share == 1.0 { value } else { value.try_mul_scalar(share)? };
            match self.losses.iter_mut().find(|l| l.phase == phase && l.name == *name) {
                Some(known) => known.value = known.value.f_add(&value)?,
                None => self.losses.push(LossValue { phase, name: name.clone(), weight, value }),
            }
        }
        let mut total = total.context("the phase minimizes nothing")?;
        if state.factor() != 1.0 {
            total = total.try_mul_scalar(state.factor())?;
        }
        if let Some(scaler) = &state.scaler {
            total = scaler.scale(&total)?;
        }
        fatal::note(Place::Part, &format!(", in the backward pass of the phase `{}`", state.name));
        let passed = state.backward(&total, keep_graph, last);
        passed.with_context(|| format!("in the backward pass of the phase `{}`", state.name))
    }

    /// A loss of the newest step that is not finite, with its value, if there is one. Reading it waits for the device.
    ///
    /// # Errors
    /// If a value cannot be read.
    pub fn not_finite(&self) -> Result<Option<(&str, f64)>> {
        let values = read_together(self.losses.iter().map(|loss| &loss.value), |all| Ok(all.shallow_clone()))?;
        let found = self.losses.iter().zip(values).find(|(_, value)| !value.is_finite());
        Ok(found.map(|(loss, value)| (loss.name.as_str(), value)))
    }

    /// Keeps the outputs of a node for a trace.
    fn keep(&mut self, node: usize, outputs: &[Option<Tensor>]) -> Result<()> {
        let Some(capture) = self.capture.as_mut().filter(|c| c.everything) else { return Ok(()) };
        let node = &self.model.graph.nodes()[node];
        for (port, output) in node.ports.outputs.iter().zip(outputs) {
            if let Some(t) = output {
                let kept = tch::no_grad(|| t.f_detach_copy())?;
                capture.outputs.entry(format!("{}.{}", node.label(), port.name)).or_insert(kept);
            }
        }
        Ok(())
    }

    /// Asks for gradient norms in the coming step.
    pub fn want_norms(&mut self, on: bool) {
        self.wants_norms = on;
    }

    /// Whether the newest step ended since gradients were not finite.
    pub fn diverged(&self) -> bool {
        self.phases.iter().any(|phase| phase.diverged)
    }

    /// Whether the losses are scaled.
    pub fn scales(&self) -> bool {
        self.phases.iter().any(|phase| phase.scaler.is_some())
    }

    /// The losses of the phases that ran at a step, with the present weights in evaluation mode.
    ///
    /// # Errors
    /// If a component fails.
    pub fn evaluated_losses(&self, feed: &Feed, step: u64) -> Result<Vec<(String, f64)>> {
        let graph = &self.model.graph;
        let mut nodes: Vec<usize> = Vec::new();
        for phase in self.active(step) {
            nodes.extend(graph.phases()[phase].losses.iter().map(|(node, _)| *node));
        }
        let wires: Vec<Wire> = nodes.iter().map(|node| Wire::Node { node: *node, port: 0 }).collect();
        let values = self.model.infer(feed, &wires, &[])?;
        let named = nodes.iter().zip(values);
        named.map(|(node, value)| Ok((graph.nodes()[*node].name.clone(), value.f_double_value(&[])?))).collect()
    }

    /// The losses of the newest step.
    pub fn losses(&self) -> &[LossValue] {
        &self.losses
    }

    /// Learning rate and, where known, gradient norm and loss scale of every phase in the newest step.
    ///
    /// # Errors
    /// If a number cannot be read from the device.
    pub fn phase_numbers(&self) -> Result<Vec<(String, f64)>> {
        let tensors = self.phases.iter().flat_map(PhaseState::on_the_device).filter_map(|(_, tensor)| tensor);
        let mut values = read_together(tensors, |all| Ok(all.shallow_clone()))?.into_iter();
        let mut out = Vec::new();
        for phase in &self.phases {
            out.push((format!("lr/{}", phase.name), phase.lr));
            for (kind, tensor) in phase.on_the_device() {
                let value = tensor.and_then(|_| values.next());
                out.extend(value.map(|value| (format!("{kind}/{}", phase.name), value)));
            }
        }
        Ok(out)
    }

    /// Records what a trace wants of the coming steps.
    pub fn capture(&mut self, capture: Captured) {
        self.capture = Some(capture);
    }

    /// What has been recorded.
    pub fn captured(&mut self) -> Option<&mut Captured> {
        self.capture.as_mut()
    }

    /// Optimizer and scaler state as `phase/slot/…`.
    ///
    /// # Errors
    /// If an optimizer cannot give it.
    pub fn state(&self) -> Result<Vec<(String, &Tensor)>> {
        let states = self.phases.iter().map(PhaseState::state).collect::<Result<Vec<_>>>()?;
        Ok(states.into_iter().flatten().collect())
    }

    /// The same error; if it is of missing memory, with what holds it.
    pub fn with_holders(&self, error: Error, feed: &Feed) -> Error {
        let bytes = |tensors: &mut dyn Iterator<Item = &Tensor>| -> u64 {
            let size = |t: &Tensor| (t.numel() * t.kind().elt_size_in_bytes()) as u64;
            tensors.filter(|t| t.defined()).map(size).sum()
        };
        let averages = self.averages.iter().flat_map(Averages::state).collect::<Vec<_>>();
        let gradients: Vec<Tensor> =
            self.phases.iter().flat_map(PhaseState::leaves).filter_map(|t| t.f_grad().ok()).collect();
        let holders = [
            ("weights and buffers", bytes(&mut self.model.tensors().iter().map(|(_, t)| *t))),
            ("gradients", bytes(&mut gradients.iter())),
            ("state of the optimizers", bytes(&mut self.state().iter().flatten().map(|(_, t)| *t))),
            ("moving averages", bytes(&mut averages.iter().map(|(_, t)| *t))),
            ("the batches of the step", bytes(&mut feed.iter().flatten().flat_map(|batch| &batch.tensors))),
        ];
        told_with_holders(error, &holders)
    }

    /// Takes the state that was saved after so many steps, but for some phases that start without theirs.
    ///
    /// # Errors
    /// If it is not that of the optimizers.
    pub fn load_state(&mut self, tensors: &IndexMap<String, Tensor>, steps: u64, fresh: &[String]) -> Result<()> {
        let device = self.model.context().device;
        let kept = self.phases.iter_mut().filter(|phase| !fresh.iter().any(|name| name == phase.name));
        kept.into_iter().try_for_each(|phase| phase.load(tensors, device, steps))
    }
}
