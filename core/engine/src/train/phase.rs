//! A phase at work: its parameters, its optimizer, and the update at the end of its batches.

use super::capture::Captured;
use super::scaler::Scaler;
use crate::model::{Model, own_rows};
use crate::recipe::{Decay, LossScaling, PhaseEntry, ScaledDecay};
use indexmap::IndexMap;
use mtl_component::{Optimizer, Result, Role, Sample, Sampled, Shard, Update, World, bail, mistake};
use mtl_recipe::{Context, Error};
use mtl_torch::{Buckets, ScalarOps};
use std::collections::HashMap;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// The error of a training whose numbers are no longer finite.
pub(super) fn has_diverged(what: &str) -> Error {
    Error::failure(format!(
        "{what}: training has diverged. A lower learning rate, clip_norm, or full precision may help"
    ))
}

/// Parameters of one learning rate and one weight decay.
struct Group {
    names: Vec<String>,
    params: Vec<Tensor>,
    /// Where the rows of a parameter are left that take part in a step, if not all do.
    sampled: Vec<Option<Sampled>>,
    lr_scale: f64,
    weight_decay: f64,
}

/// Parameters that have a gradient this time. The others keep their values and their state.
struct Live<'a> {
    names: Vec<&'a str>,
    params: Vec<&'a Tensor>,
    /// What the gradients belong to: the parameters, or the rows of one.
    values: Vec<&'a Tensor>,
    grads: Vec<&'a Tensor>,
    rows: Option<&'a Tensor>,
    lr_scale: f64,
    weight_decay: f64,
}

/// The gradient of a parameter, or of some of its rows.
struct Taken {
    grad: Tensor,
    sample: Option<Sample>,
}

impl Group {
    /// Takes the gradients out of the parameters, and out of the rows that were drawn.
    fn take(&self) -> Result<Vec<Taken>> {
        let taken = |(param, sampled): (&Tensor, &Option<Sampled>)| {
            let sample = sampled.as_ref().and_then(|sampled| sampled.borrow_mut().take());
            Ok(Taken { grad: mtl_torch::take_grad(sample.as_ref().map_or(param, |s| &s.leaf))?, sample })
        };
        self.params.iter().zip(&self.sampled).map(taken).collect()
    }
}

impl<'a> Live<'a> {
    /// Those of a group, and those of which only some rows have a gradient, each by itself.
    fn of(group: &'a Group, taken: &'a [Taken]) -> Vec<Self> {
        let none = || Self {
            names: Vec::new(),
            params: Vec::new(),
            values: Vec::new(),
            grads: Vec::new(),
            rows: None,
            lr_scale: group.lr_scale,
            weight_decay: group.weight_decay,
        };
        let (mut whole, mut drawn) = (none(), Vec::new());
        for ((name, param), taken) in group.names.iter().zip(&group.params).zip(taken) {
            if !taken.grad.defined() {
                continue;
            }
            match &taken.sample {
                Some(sample) => {
                    let mut one = Self { rows: Some(&sample.rows), ..none() };
                    one.push(name, param, &sample.leaf, &taken.grad);
                    drawn.push(one);
                }
                None => whole.push(name, param, param, &taken.grad),
            }
        }
        std::iter::once(whole).chain(drawn).collect()
    }

    fn push(&mut self, name: &'a str, param: &'a Tensor, value: &'a Tensor, grad: &'a Tensor) {
        self.names.push(name);
        self.params.push(param);
        self.values.push(value);
        self.grads.push(grad);
    }
}

pub(super) struct PhaseState<'r> {
    pub name: &'r str,
    entry: &'r PhaseEntry,
    optimizer: Box<dyn Optimizer>,
    groups: Vec<Group>,
    /// What sums its gradients over the processes of the run, if there are several.
    buckets: Option<Buckets>,
    /// The parameters of the buckets, in their order.
    in_buckets: Vec<String>,
    /// The parameters whose rows are cut over the processes, with which rows are here. Their gradients are whole.
    shards: HashMap<String, Shard>,
    world: World,
    pub scaler: Option<Scaler>,
    /// The learning rate of the newest step.
    pub lr: f64,
    /// The gradient norm of the newest update, where it was asked for.
    pub norm: Option<Tensor>,
    /// The gradients of the newest update were not finite, and it was not applied.
    pub diverged: bool,
}

impl<'r> PhaseState<'r> {
    pub fn new(name: &'r str, entry: &'r PhaseEntry, model: &Model, scaling: Option<&LossScaling>) -> Result<Self> {
        let common = &entry.optimizer.common;
        let mut groups: Vec<Group> = Vec::new();
        let mut made: Vec<(String, Tensor)> = Vec::new();
        let mut shards = HashMap::new();
        for module in model.modules.iter().filter(|m| entry.common.update.contains(&m.name)) {
            let own = common.groups.iter().find(|g| g.modules.contains(&module.name));
            let lr_scale = own.map_or(1.0, |g| g.lr_scale);
            let decay = own.and_then(|g| g.weight_decay).unwrap_or(common.weight_decay);
            for (param, e) in &module.parameters {
                let Some(role) = e.role else { continue };
                let decays = common.decay == Decay::All || role == Role::Weight;
                let weight_decay = if decays { decay } else { 0.0 };
                let name = format!("{}.{param}", module.name);
                match e.shard {
                    Some(shard) => drop(shards.insert(name.clone(), shard)),
                    None => made.push((name.clone(), e.tensor.shallow_clone())),
                }
                let same = |g: &&mut Group| g.lr_scale == lr_scale && g.weight_decay == weight_decay;
                match groups.iter_mut().find(same) {
                    Some(group) => {
                        group.names.push(name);
                        group.params.push(e.tensor.shallow_clone());
                        group.sampled.push(e.sampled.clone());
                    }
                    None => groups.push(Group {
                        names: vec![name],
                        params: vec![e.tensor.shallow_clone()],
                        sampled: vec![e.sampled.clone()],
                        lr_scale,
                        weight_decay,
                    }),
                }
            }
        }
        let world = model.context().world;
        let (in_buckets, made): (Vec<String>, Vec<Tensor>) = made.into_iter().unzip();
        let buckets = match world.group()? {
            Some(group) if !made.is_empty() => Some(Buckets::new(group, &made.iter().collect::<Vec<_>>())?),
            _ => None,
        };
        if entry.common.accumulate > 1 && groups.iter().flat_map(|g| &g.sampled).any(Option::is_some) {
            mistake!(
                "the phase `{name}` accumulates {} batches, each of which would draw other classes (sample_rate): take \
                 accumulate = 1 and larger batches",
                entry.common.accumulate
            );
        }
        let slot = &entry.optimizer;
        let optimizer = slot.config.open();
        Ok(Self {
            name,
            entry,
            optimizer: optimizer.with_context(|| format!("the optimizer of the phase `{name}`"))?,
            groups,
            buckets,
            in_buckets,
            shards,
            world,
            scaler: scaling.map(|s| Scaler::new(s.clone(), model.context().device)).transpose()?,
            lr: 0.0,
            norm: None,
            diverged: false,
        })
    }

    /// Which parameters it updates, and in which buckets their gradients travel.
    pub fn outline(&self) -> String {
        let bytes = self.buckets.as_ref().map(Buckets::bytes).unwrap_or_default();
        format!("{} in buckets of {bytes:?} bytes", self.in_buckets.join(", "))
    }

    /// When the sums of its buckets were started in the newest step, and when they were there. Timed from the first call on.
    pub fn bucket_times(&self) -> Vec<(Instant, Instant)> {
        self.buckets.as_ref().map(Buckets::times).unwrap_or_default()
    }

    /// Whether it runs at this step, counted from 1.
    pub fn active(&self, step: u64) -> bool {
        let phase = &self.entry.common;
        let index = step - 1;
        index >= phase.from
            && phase.until.is_none_or(|until| index < until)
            && (index - phase.from).is_multiple_of(phase.every)
    }

    /// Sets the learning rate of a step.
    pub fn set_lr(&mut self, step: u64, total: u64) -> Result<()> {
        let base = self.entry.optimizer.common.lr;
        self.lr = match &self.entry.scheduler {
            Some(slot) => slot.config.lr(base, step, total)?,
            None => base,
        };
        Ok(())
    }

    /// The share of one batch in the gradients of a step.
    pub fn share(&self) -> f64 {
        1.0 / f64::from(self.entry.common.accumulate)
    }

    /// The factor of the losses of one batch, so that the gradients of all batches and processes add up to their mean.
    pub fn factor(&self) -> f64 {
        self.share() / self.world.size() as f64
    }

    /// Adds the gradients of a loss. With the `last` one of a step they are those of all processes.
    ///
    /// # Errors
    /// If the pass fails, a process is gone, or the processes do not reach the same parameters.
    pub fn backward(&self, total: &Tensor, keep_graph: bool, last: bool) -> Result<()> {
        // Of a parameter of which some rows were drawn, those.
        let drawn = |(param, sampled): (&Tensor, &Option<Sampled>)| match sampled.as_ref().map(|s| s.borrow()) {
            Some(sample) => sample.as_ref().map_or_else(|| param.shallow_clone(), |s| s.leaf.shallow_clone()),
            None => param.shallow_clone(),
        };
        let leaves = self.groups.iter().flat_map(|g| g.params.iter().zip(&g.sampled)).map(drawn);
        let leaves: Vec<Tensor> = leaves.collect();
        let leaves: Vec<&Tensor> = leaves.iter().collect();
        let pass = || mtl_torch::backward(total, &leaves, keep_graph);
        let Some(buckets) = self.buckets.as_ref().filter(|_| last) else { return Ok(pass()?) };
        if let Some(unexpected) = buckets.summing(pass)? {
            bail!(
                "`{}` has a gradient now and had none in the first step of the phase, in any rank: which parameters a phase \
                 reaches must not change between steps when there are several ranks",
                self.in_buckets[unexpected]
            );
        }
        Ok(())
    }

    /// What a log tells of the newest update, on the device: its kind and the number, where there is one.
    pub fn on_the_device(&self) -> [(&'static str, Option<&Tensor>); 2] {
        [("grad_norm", self.norm.as_ref()), ("loss_scale", self.scaler.as_ref().map(Scaler::value))]
    }

    /// All parameters.
    pub fn leaves(&self) -> Vec<&Tensor> {
        self.groups.iter().flat_map(|g| &g.params).collect()
    }

    /// The names of all parameters.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().flat_map(|g| &g.names)
    }

    /// Lets the optimizer step by the gradients that have been added up, and forgets them.
    pub fn update(&mut self, wants_norm: bool, capture: Option<&mut Captured>) -> Result<()> {
        let grads: Vec<Vec<Taken>> = self.groups.iter().map(Group::take).collect::<Result<_>>()?;
        let mut live: Vec<Live<'_>> =
            self.groups.iter().zip(&grads).flat_map(|(g, grads)| Live::of(g, grads)).collect();
        let coupled = self.entry.description.coupled;
        let decays_scaled = self.entry.common.scaled_decay == ScaledDecay::BeforeUnscaling && coupled;
        if self.scaler.is_some() && decays_scaled {
            for l in live.iter_mut().filter(|l| l.weight_decay != 0.0) {
                mtl_torch::add_decay(&l.grads, &l.values, l.weight_decay)?;
                l.weight_decay = 0.0;
            }
        }
        let all: Vec<&Tensor> = live.iter().flat_map(|l| l.grads.iter().copied()).collect();
        let found_inf = match &mut self.scaler {
            Some(scaler) => Some(scaler.unscale(&all)?.shallow_clone()),
            None => None,
        };
        // A gradient that is only here is only here not finite.
        if let Some(found_inf) = found_inf.as_ref().filter(|_| !self.shards.is_empty()) {
            let anywhere = self.world.max(found_inf)?;
            tch::no_grad(|| found_inf.shallow_clone().f_copy_(&anywhere))?;
        }
        if let Some(capture) = capture {
            let (mut raw, mut decayed) = (IndexMap::new(), IndexMap::new());
            for l in &live {
                for ((name, param), grad) in l.names.iter().zip(&l.values).zip(&l.grads) {
                    let decay = if coupled { l.weight_decay } else { 0.0 };
                    let with = tch::no_grad(|| -> Result<Tensor> { Ok(grad.f_add(&param.try_mul_scalar(decay)?)?) })?;
                    raw.insert((*name).to_owned(), tch::no_grad(|| grad.f_detach_copy())?);
                    decayed.insert((*name).to_owned(), with.detach());
                }
            }
            capture.grad.insert(self.name.to_owned(), raw);
            capture.decayed.insert(self.name.to_owned(), decayed);
        }
        self.norm = None;
        let clip = self.entry.common.clip_norm;
        let mut found_inf = found_inf;
        // With loss scaling, gradients that are not finite are expected now and then, and their step is skipped.
        let checked = self.scaler.is_none();
        if !all.is_empty() && (clip.is_some() || wants_norm || checked) {
            let norm = self.norm_of(&live)?;
            if checked && norm.device() == Device::Cpu {
                let value = norm.f_double_value(&[])?;
                self.diverged = !value.is_finite();
                if self.diverged {
                    let what = format!("the norm of the gradients is {value}, and the update is not applied");
                    return Err(has_diverged(&what));
                }
            } else if checked {
                // Reading the norm would wait for the device: there the update changes nothing.
                found_inf = Some(norm.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?.f_view([1])?);
            }
            if let Some(max) = clip {
                mtl_torch::clip(&all, &norm, max)?;
            }
            self.norm = Some(norm);
        }
        for l in live.iter().filter(|l| !l.params.is_empty()) {
            let update = Update {
                names: &l.names,
                params: &l.params,
                grads: &l.grads,
                rows: l.rows,
                lr: self.lr * l.lr_scale,
                weight_decay: l.weight_decay,
                found_inf: found_inf.as_ref(),
            };
            self.optimizer.step(&update)?;
        }
        if let Some(scaler) = &mut self.scaler {
            scaler.update()?;
        }
        Ok(())
    }

    /// The norm of all gradients, also of those that other processes hold.
    fn norm_of(&self, live: &[Live<'_>]) -> Result<Tensor> {
        let all = live.iter().flat_map(|l| l.names.iter().zip(l.grads.iter().copied()));
        let (cut, whole): (Vec<_>, Vec<_>) = all.partition(|(name, _)| self.shards.contains_key(**name));
        let [cut, whole] = [cut, whole].map(|of| of.into_iter().map(|(_, grad)| grad).collect::<Vec<&Tensor>>());
        if self.shards.is_empty() {
            return Ok(mtl_torch::total_norm(&whole)?);
        }
        let _guard = tch::no_grad_guard();
        let like = self.leaves()[0];
        let square = |grads: &[&Tensor]| -> Result<Tensor> {
            match grads {
                [] => Ok(Tensor::f_zeros([], (like.kind(), like.device()))?),
                _ => Ok(mtl_torch::total_norm(grads)?.f_square()?),
            }
        };
        Ok(square(&whole)?.f_add(&self.world.sum(&square(&cut)?)?)?.f_sqrt()?)
    }

    /// The state of optimizer and scaler as `phase/slot/…`.
    pub fn state(&self) -> Result<Vec<(String, &Tensor)>> {
        let state = self.optimizer.state()?;
        let mut out: Vec<_> = state.into_iter().map(|(key, t)| (format!("{}/optimizer/{key}", self.name), t)).collect();
        if let Some(scaler) = &self.scaler {
            out.extend(scaler.state().into_iter().map(|(key, t)| (format!("{}/scaler/{key}", self.name), t)));
        }
        Ok(out)
    }

    /// Whether it has run in one of so many steps.
    fn has_run(&self, steps: u64) -> bool {
        let phase = &self.entry.common;
        phase.from < steps && phase.until.is_none_or(|until| until > phase.from)
    }

    /// Takes the state that was saved after so many steps.
    pub fn load(&mut self, tensors: &IndexMap<String, Tensor>, device: tch::Device, steps: u64) -> Result<()> {
        let mut optimizer = HashMap::new();
        for (name, tensor) in tensors {
            let Some(rest) = name.strip_prefix(&format!("{}/", self.name)) else { continue };
            if let Some(key) = rest.strip_prefix("optimizer/") {
                optimizer.insert(key.to_owned(), tensor.f_to_device(device)?);
            } else if let (Some(key), Some(scaler)) = (rest.strip_prefix("scaler/"), &mut self.scaler) {
                scaler.load(key, tensor)?;
            }
        }
        if optimizer.is_empty() && self.entry.description.state_each > 0 && self.has_run(steps) {
            mistake!(
                "the checkpoint of step {steps} holds no state of the optimizer of the phase `{}`: it is not complete. \
                 Its weights can start a new run",
                self.name
            );
        }
        // The kernels need the state in the kind and memory layout of its parameter, and trust its size. What a slot
        // keeps is one number, such as a count of steps, or a number for each of its parameter's.
        let params: HashMap<&str, &Tensor> = self.names().map(String::as_str).zip(self.leaves()).collect();
        for (key, tensor) in &mut optimizer {
            let Some((_, name)) = key.split_once('/') else { continue };
            let Some(param) = params.get(name) else { continue };
            if let Some(shard) = self.shards.get(name) {
                *tensor = own_rows(tensor, *shard, self.world)?;
            }
            if tensor.size() == param.size() && param.dim() > 0 {
                let like = tch::no_grad(|| param.f_zeros_like())?;
                like.shallow_clone().f_copy_(tensor)?;
                *tensor = like;
            } else if tensor.dim() > 0 {
                mistake!(
                    "the state `{}/optimizer/{key}` is {:?} and its parameter {:?}: it is not of this run. Start a new \
                     run from its weights",
                    self.name,
                    tensor.size(),
                    param.size()
                );
            }
        }
        self.optimizer.load(optimizer)
    }
}
