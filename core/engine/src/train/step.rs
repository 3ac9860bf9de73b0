//! One training step: evaluate, go backward, update, for each active phase.

use super::{Averages, Optimizer, Scaler, Scheduler, Update};
use crate::component::Role;
use crate::data::draw::hash_words;
use crate::graph::{Feed, Model, Plan, StepHooks};
use crate::recipe::{Decay, LossScaling, PhaseEntry, Precision, Ramp, Recipe, ScaledDecay};
use anyhow::{Context, Result};
use indexmap::IndexMap;
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// The value of a loss in the newest step, still on the device.
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

/// Numbers that a trace wants of a step, by parameter name.
#[derive(Default)]
pub struct Captured {
    /// Also the gradient of each loss alone.
    pub per_loss: bool,
    /// Gradients before decay and clipping, by phase.
    pub grad: IndexMap<String, IndexMap<String, Tensor>>,
    /// Gradients with coupled decay added, by phase.
    pub decayed: IndexMap<String, IndexMap<String, Tensor>>,
    /// Gradients of single losses.
    pub alone: IndexMap<String, IndexMap<String, Tensor>>,
    /// Outputs of the nodes.
    pub outputs: IndexMap<String, Tensor>,
    /// Every output is computed, also those that nothing reads.
    pub everything: bool,
}

struct Group {
    names: Vec<String>,
    params: Vec<Tensor>,
    lr_scale: f64,
    weight_decay: f64,
}

struct PhaseState {
    name: String,
    optimizer: Box<dyn Optimizer>,
    scheduler: Option<Box<dyn Scheduler>>,
    base_lr: f64,
    groups: Vec<Group>,
    clip: Option<f64>,
    accumulate: usize,
    every: u64,
    from: u64,
    until: Option<u64>,
    scaled_decay: ScaledDecay,
    scaler: Option<Scaler>,
    lr: f64,
    norm: Option<Tensor>,
}

impl PhaseState {
    fn new(name: &str, entry: PhaseEntry, model: &Model, scaling: Option<&LossScaling>) -> Result<Self> {
        let common = &entry.optimizer.common;
        let mut groups: Vec<Group> = Vec::new();
        for module in model.modules.iter().filter(|m| entry.common.update.contains(&m.name)) {
            let own = common.groups.iter().find(|g| g.modules.contains(&module.name));
            let lr_scale = own.map_or(1.0, |g| g.lr_scale);
            let decay = own.and_then(|g| g.weight_decay).unwrap_or(common.weight_decay);
            for (param, e) in &module.store {
                let Some(role) = e.role else { continue };
                let decays = common.decay == Decay::All || role == Role::Weight;
                let weight_decay = if decays { decay } else { 0.0 };
                let name = format!("{}.{param}", module.name);
                let same = |g: &&mut Group| g.lr_scale == lr_scale && g.weight_decay == weight_decay;
                match groups.iter_mut().find(same) {
                    Some(group) => {
                        group.names.push(name);
                        group.params.push(e.tensor.shallow_clone());
                    }
                    None => groups.push(Group {
                        names: vec![name],
                        params: vec![e.tensor.shallow_clone()],
                        lr_scale,
                        weight_decay,
                    }),
                }
            }
        }
        let scaler = scaling.map(|s| Scaler::new(s.clone(), model.placement().device)).transpose()?;
        Ok(Self {
            name: name.to_owned(),
            optimizer: entry.optimizer.config.create(),
            scheduler: entry.scheduler,
            base_lr: common.lr,
            groups,
            clip: entry.common.clip_norm,
            accumulate: entry.common.accumulate as usize,
            every: entry.common.every,
            from: entry.common.from,
            until: entry.common.until,
            scaled_decay: entry.common.scaled_decay,
            scaler,
            lr: 0.0,
            norm: None,
        })
    }

    /// Whether it runs at this step, counted from 1.
    fn active(&self, step: u64) -> bool {
        let index = step - 1;
        index >= self.from && self.until.is_none_or(|u| index < u) && (index - self.from).is_multiple_of(self.every)
    }
}

/// Everything that a run changes: weights, optimizers, scales, averages.
pub struct Trainer {
    /// The graph with weights.
    pub model: Model,
    /// Moving averages, if the recipe has them.
    pub averages: Option<Averages>,
    inner: Inner,
    plans: HashMap<Vec<usize>, Plan>,
    seed: u64,
    total: u64,
}

struct Inner {
    phases: Vec<PhaseState>,
    losses: Vec<LossValue>,
    /// The losses whose weights change, and the present step.
    ramps: HashMap<String, Ramp>,
    step: u64,
    capture: Option<Captured>,
    want_norm: bool,
}

impl Trainer {
    /// A trainer at its start. Takes optimizers and schedulers out of the recipe.
    pub fn new(recipe: &mut Recipe, model: Model) -> Result<Self> {
        let default = LossScaling::default();
        let scaling = match (&recipe.run.loss_scaling, recipe.run.precision) {
            (Some(s), _) => Some(s),
            (None, Precision::Fp16) => Some(&default),
            _ => None,
        };
        let mut phases = Vec::new();
        for (name, entry) in std::mem::take(&mut recipe.phase) {
            phases.push(PhaseState::new(&name, entry, &model, scaling)?);
        }
        let averages = recipe.ema.clone().map(|c| Averages::new(c, &model)).transpose()?;
        let ramps = recipe.loss.iter().filter_map(|(n, l)| Some((n.clone(), l.slot.common.ramp?))).collect();
        let inner = Inner { phases, losses: Vec::new(), ramps, step: 0, capture: None, want_norm: false };
        let (seed, total) = (recipe.run.seed as u64, recipe.run.steps);
        Ok(Self { model, averages, inner, plans: HashMap::new(), seed, total })
    }

    /// The phases that run at a step, counted from 1.
    pub fn active(&self, step: u64) -> Vec<usize> {
        (0..self.inner.phases.len()).filter(|p| self.inner.phases[*p].active(step)).collect()
    }

    /// How many batches of each stream a step takes.
    pub fn batches(&mut self, step: u64) -> Vec<usize> {
        self.plan(step).batches.clone()
    }

    fn plan(&mut self, step: u64) -> &Plan {
        let active = self.active(step);
        let graph = &self.model.graph;
        self.plans.entry(active.clone()).or_insert_with(|| Plan::training(graph, &active))
    }

    /// Trains one step, counted from 1.
    pub fn step(&mut self, feed: &Feed, step: u64) -> Result<()> {
        let active = self.active(step);
        self.plan(step);
        mtl_torch::seed(hash_words(&[self.seed, 0, step]))?;
        self.inner.losses.clear();
        self.inner.step = step;
        for phase in &mut self.inner.phases {
            phase.lr = phase.scheduler.as_ref().map_or(phase.base_lr, |s| s.lr(phase.base_lr, step, self.total));
        }
        let plan = &self.plans[&active];
        self.model.train(plan, feed, step, self.total, &mut self.inner)?;
        if let Some(averages) = &self.averages {
            averages.update(&self.model, step)?;
        }
        Ok(())
    }

    /// Asks for gradient norms in the coming step.
    pub fn want_norms(&mut self, on: bool) {
        self.inner.want_norm = on;
    }

    /// The losses of the newest step.
    pub fn losses(&self) -> &[LossValue] {
        &self.inner.losses
    }

    /// Learning rate and, where known, gradient norm and loss scale of every phase in the newest step.
    pub fn phase_numbers(&self) -> Result<Vec<(String, f64)>> {
        let mut out = Vec::new();
        for phase in &self.inner.phases {
            out.push((format!("lr/{}", phase.name), phase.lr));
            if let Some(norm) = &phase.norm {
                out.push((format!("grad_norm/{}", phase.name), norm.f_double_value(&[])?));
            }
            if let Some(scaler) = &phase.scaler {
                out.push((format!("loss_scale/{}", phase.name), scaler.value()?));
            }
        }
        Ok(out)
    }

    /// Records what a trace wants of the coming steps.
    pub fn capture(&mut self, capture: Captured) {
        self.inner.capture = Some(capture);
    }

    /// What has been recorded.
    pub fn captured(&mut self) -> Option<&mut Captured> {
        self.inner.capture.as_mut()
    }

    /// Optimizer and scaler state as `phase/slot/…`.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        let mut out = Vec::new();
        for phase in &self.inner.phases {
            out.extend(phase.optimizer.state().into_iter().map(|(k, t)| (format!("{}/optimizer/{k}", phase.name), t)));
            if let Some(scaler) = &phase.scaler {
                out.extend(scaler.state().into_iter().map(|(k, t)| (format!("{}/scaler/{k}", phase.name), t)));
            }
        }
        out
    }

    /// Takes saved state.
    pub fn load_state(&mut self, tensors: &IndexMap<String, Tensor>) -> Result<()> {
        let device = self.model.placement().device;
        for phase in &mut self.inner.phases {
            let mut optimizer = HashMap::new();
            for (name, tensor) in tensors {
                let Some(rest) = name.strip_prefix(&format!("{}/", phase.name)) else { continue };
                if let Some(key) = rest.strip_prefix("optimizer/") {
                    optimizer.insert(key.to_owned(), tensor.f_to_device(device)?);
                } else if let (Some(key), Some(scaler)) = (rest.strip_prefix("scaler/"), &mut phase.scaler) {
                    scaler.load(key, tensor)?;
                }
            }
            // The kernels need the state in the memory layout of its parameter.
            let params: HashMap<&str, &Tensor> =
                phase.groups.iter().flat_map(|g| g.names.iter().map(String::as_str).zip(&g.params)).collect();
            for (key, tensor) in &mut optimizer {
                let param = key.split_once('/').and_then(|(_, name)| params.get(name));
                if let Some(param) = param.filter(|p| p.dim() > 0 && p.size() == tensor.size()) {
                    let like = tch::no_grad(|| param.f_zeros_like())?;
                    like.shallow_clone().f_copy_(tensor)?;
                    *tensor = like;
                }
            }
            phase.optimizer.load(optimizer)?;
        }
        Ok(())
    }
}

impl StepHooks for Inner {
    fn backward(
        &mut self,
        model: &Model,
        phase: usize,
        losses: &[(String, f64, Tensor)],
        keep_graph: bool,
    ) -> Result<()> {
        let state = &mut self.phases[phase];
        let share = 1.0 / state.accumulate as f64;
        let leaves: Vec<&Tensor> = state.groups.iter().flat_map(|g| &g.params).collect();
        if let Some(capture) = self.capture.as_mut().filter(|c| c.per_loss) {
            for (name, _, value) in losses {
                let grads = mtl_torch::gradients(value, &leaves, true)?;
                let names = state.groups.iter().flat_map(|g| g.names.iter().cloned());
                let defined = names.zip(grads).filter(|(_, g)| g.defined());
                capture.alone.entry(name.clone()).or_default().extend(defined);
            }
        }
        let mut total: Option<Tensor> = None;
        for (name, weight, value) in losses {
            let weight = weight * self.ramps.get(name).map_or(1.0, |r| r.share(self.step));
            let part = if weight == 1.0 { value.shallow_clone() } else { value.f_mul_scalar(weight)? };
            total = Some(match total {
                Some(sum) => sum.f_add(&part)?,
                None => part,
            });
            let value = value.f_detach()?;
            let value = if share == 1.0 { value } else { value.f_mul_scalar(share)? };
            match self.losses.iter_mut().find(|l| l.phase == phase && l.name == *name) {
                Some(known) => known.value = known.value.f_add(&value)?,
                None => self.losses.push(LossValue { phase, name: name.clone(), weight, value }),
            }
        }
        let mut total = total.context("the phase minimizes nothing")?;
        if share != 1.0 {
            total = total.f_mul_scalar(share)?;
        }
        if let Some(scaler) = &state.scaler {
            total = scaler.scale(&total)?;
        }
        let _ = model;
        mtl_torch::backward(&total, &leaves, keep_graph)
    }

    fn update(&mut self, _model: &Model, phase: usize) -> Result<()> {
        let state = &mut self.phases[phase];
        let grads: Vec<Vec<Tensor>> = state
            .groups
            .iter()
            .map(|g| g.params.iter().map(mtl_torch::take_grad).collect::<Result<_>>())
            .collect::<Result<_>>()?;
        // Parameters that no loss reached this time keep their values and their state.
        struct Live<'a> {
            names: Vec<&'a str>,
            params: Vec<&'a Tensor>,
            grads: Vec<&'a Tensor>,
            lr_scale: f64,
            weight_decay: f64,
        }
        let mut live: Vec<Live<'_>> = state
            .groups
            .iter()
            .zip(&grads)
            .map(|(group, grads)| {
                let mut l = Live {
                    names: Vec::new(),
                    params: Vec::new(),
                    grads: Vec::new(),
                    lr_scale: group.lr_scale,
                    weight_decay: group.weight_decay,
                };
                for ((name, param), grad) in group.names.iter().zip(&group.params).zip(grads) {
                    if grad.defined() {
                        l.names.push(name);
                        l.params.push(param);
                        l.grads.push(grad);
                    }
                }
                l
            })
            .collect();
        let scaled = state.scaled_decay == ScaledDecay::BeforeUnscaling && state.optimizer.coupled();
        if state.scaler.is_some() && scaled {
            for l in live.iter_mut().filter(|l| l.weight_decay != 0.0) {
                mtl_torch::add_decay(&l.grads, &l.params, l.weight_decay)?;
                l.weight_decay = 0.0;
            }
        }
        let all: Vec<&Tensor> = live.iter().flat_map(|l| l.grads.iter().copied()).collect();
        let found_inf = match &mut state.scaler {
            Some(scaler) => Some(scaler.unscale(&all)?.shallow_clone()),
            None => None,
        };
        if let Some(capture) = &mut self.capture {
            let (mut raw, mut decayed) = (IndexMap::new(), IndexMap::new());
            for l in &live {
                for ((name, param), grad) in l.names.iter().zip(&l.params).zip(&l.grads) {
                    let coupled = if state.optimizer.coupled() { l.weight_decay } else { 0.0 };
                    let with = tch::no_grad(|| grad.f_add(&param.f_mul_scalar(coupled)?))?;
                    raw.insert((*name).to_owned(), tch::no_grad(|| grad.f_detach_copy())?);
                    decayed.insert((*name).to_owned(), with.detach());
                }
            }
            capture.grad.insert(state.name.clone(), raw);
            capture.decayed.insert(state.name.clone(), decayed);
        }
        state.norm = None;
        if !all.is_empty() && (state.clip.is_some() || self.want_norm) {
            let norm = mtl_torch::total_norm(&all)?;
            if let Some(max) = state.clip {
                mtl_torch::clip(&all, &norm, max)?;
            }
            state.norm = Some(norm);
        }
        for l in live.iter().filter(|l| !l.params.is_empty()) {
            state.optimizer.step(&Update {
                names: &l.names,
                params: &l.params,
                grads: &l.grads,
                lr: state.lr * l.lr_scale,
                weight_decay: l.weight_decay,
                found_inf: found_inf.as_ref(),
            })?;
        }
        if let Some(scaler) = &mut state.scaler {
            scaler.update()?;
        }
        Ok(())
    }

    fn evaluated(&mut self, model: &Model, node: usize, outputs: &[Option<Tensor>]) -> Result<()> {
        if let Some(capture) = self.capture.as_mut().filter(|c| c.everything) {
            let n = &model.graph.nodes[node];
            for (port, output) in n.ports.outputs.iter().zip(outputs) {
                if let Some(t) = output {
                    let kept = tch::no_grad(|| t.f_detach_copy())?;
                    capture.outputs.entry(format!("{}.{}", n.name, port.name)).or_insert(kept);
                }
            }
        }
        Ok(())
    }

    fn wants_everything(&self) -> bool {
        self.capture.as_ref().is_some_and(|c| c.everything)
    }
}

/// The kind of the weights.
pub fn weight_kind(precision: Precision) -> Kind {
    match precision {
        Precision::Float64 => Kind::Double,
        _ => Kind::Float,
    }
}
