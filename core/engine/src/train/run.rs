//! A whole run: data, steps, evaluation, checkpoints, and the observers around them.

use super::observers::{BestTracker, Ending, Event, Observer, Observers, is_due, open_hooks};
use super::{Signals, Trainer};
use crate::checkpoint::{self, Best, Retention, Saved, Snapshot, State, Writer, copies, shared};
use crate::data::{self, Batch, BatchOrder, Loader, OpenedData};
use crate::device;
use crate::graph::Graph;
use crate::inference::{Evaluators, Judges, ModelInference};
use crate::initial_weights::{load_initial, pin};
use crate::model::{Feed, Model};
use crate::recipe::Recipe;
use crate::runs::{Existing, RunFolder, environment};
use crate::weights::{load_into, write};
use indexmap::IndexMap;
use mtl_component::{Report, Result, RunInfo, bail, mistake};
use mtl_recipe::Context;
use mtl_recipe::files::write_atomically;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tch::Tensor;

/// How a run is started.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The run folder; without it `runs/<name>/<time>`.
    pub out: Option<PathBuf>,
    /// What to do with a folder that is not empty.
    pub existing: Existing,
    /// Resume although the recipe has changed.
    pub allow_recipe_change: bool,
    /// The overrides as given, for the record.
    pub overrides: Vec<String>,
}

/// Trains a recipe, whose checked graph is given; the exit code is 130 or 143 when a signal asked to stop.
///
/// # Errors
/// What the user can mend is found before the first step, where that is possible. An error in a later step leaves the
/// state before it saved.
pub fn train(recipe: Recipe, graph: Graph, options: &TrainOptions, observers: Vec<Box<dyn Observer>>) -> Result<u8> {
    let signals = Signals::listen()?;
    let resume = options.existing == Existing::Resume;
    let recipe = match pin(&recipe) {
        Ok(pinned) => pinned.unwrap_or(recipe),
        // A run that goes on does not need the weights any more that it started from.
        Err(_) if resume => recipe,
        Err(e) => return Err(e),
    };
    let evaluators = Evaluators::open(&recipe)?;
    device::configure(&recipe)?;
    let context = device::context(&recipe)?;
    let data = data::open(&recipe)?;
    let graph = graph.resolved(&data.dims);
    data::labels_fit(&graph, &data)?;
    let orders = data::orders(&recipe, &data, context.world)?;
    let folder = RunFolder::choose(options.out.as_deref(), &recipe.name(), options.existing)?;
    let saved = if resume { resumable(&folder, &recipe, options)? } else { None };
    let model = Model::build(&recipe, graph, context)?;
    if saved.is_none() {
        load_initial(&recipe, &model)?;
    }
    let _lock = folder.prepare(options.existing)?;
    let mut run = Run::start(&recipe, model, evaluators, &orders, &data, folder, saved, options, observers)?;
    let result = run.steps(&signals);
    run.close(result)
}

/// The newest whole checkpoint; none if the run was stopped before its first one, and starts again.
fn resumable(folder: &RunFolder, recipe: &Recipe, options: &TrainOptions) -> Result<Option<Saved>> {
    let changes = folder.allow(recipe, options.allow_recipe_change)?;
    if !changes.is_empty() {
        let lines: Vec<String> = changes.iter().map(|change| format!("  {change}")).collect();
        tracing::info!("changed since the run was started:\n{}", lines.join("\n"));
    }
    if changes.iter().any(|change| change.path == "run.steps") {
        for (name, phase) in &recipe.phase {
            if phase.schedule(recipe.run.steps)?.depends_on_length {
                tracing::warn!("the learning rate of the phase `{name}` depends on run.steps, which has changed");
            }
        }
    }
    let all = checkpoint::list(&folder.checkpoints());
    if all.is_empty() {
        tracing::info!("{} has no checkpoint yet: the run starts again", folder.path().display());
        return Ok(None);
    }
    let mut first = None;
    for (_, path) in all.iter().rev() {
        match checkpoint::read(path) {
            Ok(saved) => {
                saved.state.resumable()?;
                if let Some(e) = &first {
                    tracing::warn!("{e:#}");
                    tracing::warn!("going on from {}", path.display());
                }
                return Ok(Some(saved));
            }
            Err(e) => first = first.or(Some(e)),
        }
    }
    match first {
        Some(e) => Err(e),
        None => Ok(None),
    }
}

/// Writes the record of the run, and what its data keeps beside the weights.
fn record(
    folder: &RunFolder,
    recipe: &Recipe,
    options: &TrainOptions,
    data: &OpenedData,
    resumed: Option<u64>,
) -> Result<()> {
    let mut run = environment(recipe, &options.overrides);
    let previous = folder.record().ok();
    let streams = data.streams.iter();
    run["dims"] = json!(data.dims);
    run["data"] = streams
        .map(|(name, d)| (name.clone(), json!({ "samples": d.len, "fingerprint": d.fingerprint })))
        .collect::<serde_json::Map<_, _>>()
        .into();
    if let (Some(step), Some(mut previous)) = (resumed, previous) {
        let data_then = previous.get("data").cloned();
        if data_then.as_ref() != Some(&run["data"]) && !options.allow_recipe_change {
            mistake!(
                "the data has changed since the run was started ({} then, {} now): undo it, or say \
                 --allow-recipe-change",
                data_then.unwrap_or_default(),
                run["data"]
            );
        }
        run["from_step"] = step.into();
        let mut resumes = previous.get("resumed").and_then(|r| r.as_array().cloned()).unwrap_or_default();
        resumes.push(run);
        previous["resumed"] = resumes.into();
        run = previous;
    }
    folder.write_record(recipe, &run)?;
    for (name, dataset) in &data.streams {
        for (file, value) in &dataset.records {
            let file = if data.streams.len() == 1 { (*file).to_owned() } else { format!("{name}.{file}") };
            write_atomically(&folder.path().join(file), &serde_json::to_vec_pretty(value)?)?;
        }
    }
    Ok(())
}

/// The batch of a stream that a run goes on with.
fn first_batch(name: &str, order: &BatchOrder, state: &State) -> Result<u64> {
    let (samples, batch) = (state.samples.get(name).copied().unwrap_or(0), order.global_batch());
    if !samples.is_multiple_of(batch) {
        mistake!(
            "the run has drawn {samples} samples of `data.{name}`, which are not whole batches of {batch}: go on with \
             a batch size that divides {samples}"
        );
    }
    Ok(samples / batch)
}

/// Puts a saved state into a trainer.
fn restore(trainer: &mut Trainer<'_>, saved: &Saved) -> Result<()> {
    let report = load_into(trainer.model.tensors(), &saved.weights)?;
    if !report.missing.is_empty() {
        mistake!("the checkpoint lacks {} weights, such as `{}`", report.missing.len(), report.missing[0]);
    }
    trainer.load_state(&saved.optimizer)?;
    if let Some(averages) = &mut trainer.averages {
        averages.restart(&trainer.model)?;
        for (name, tensor) in &saved.averages {
            averages.load(name, tensor)?;
        }
    }
    Ok(())
}

/// A run at work.
struct Run<'r> {
    recipe: &'r Recipe,
    trainer: Trainer<'r>,
    evaluators: Evaluators<'r>,
    judges: Judges,
    loaders: Vec<Loader>,
    /// The samples that all processes together draw from each stream for a batch.
    batches: Vec<u64>,
    state: State,
    folder: RunFolder,
    writer: Writer,
    observers: Observers,
    best: Option<BestTracker>,
    saved_at: Option<u64>,
    /// When and at which step the newest numbers were logged.
    logged: (Instant, u64),
}

impl<'r> Run<'r> {
    #[allow(clippy::too_many_arguments)]
    fn start(
        recipe: &'r Recipe,
        model: Model,
        evaluators: Evaluators<'r>,
        orders: &IndexMap<String, Arc<BatchOrder>>,
        data: &OpenedData,
        folder: RunFolder,
        saved: Option<Saved>,
        options: &TrainOptions,
        observers: Vec<Box<dyn Observer>>,
    ) -> Result<Self> {
        let mut trainer = Trainer::new(recipe, model)?;
        let world = trainer.model.context().world;
        let mut state = State::new(data.dims.clone());
        if let Some(saved) = &saved {
            restore(&mut trainer, saved)?;
            state = State { dims: state.dims, ..saved.state.clone() };
        }
        let mut loaders = Vec::new();
        for (name, order) in orders {
            let slot = &recipe.data[name.as_str()].slot.common;
            let first = first_batch(name, order, &state)?;
            loaders.push(Loader::start(order.clone(), slot.workers as usize, slot.prefetch as usize, first)?);
        }
        let batches = orders.values().map(|order| order.global_batch()).collect();
        let (step, total) = (state.step, recipe.run.steps);
        let info = RunInfo { folder: folder.path(), step, total, world };
        let hooks = open_hooks(recipe, &info)?;
        if world.leads() {
            record(&folder, recipe, options, data, saved.as_ref().map(|s| s.state.step))?;
        }
        let c = &recipe.run.checkpoint;
        let retention = Retention { last: c.keep_last as usize, every: c.keep_every };
        let best = saved.as_ref().and_then(|_| checkpoint::best(&folder.checkpoints()));
        let writer = Writer::start(folder.checkpoints(), retention)?;
        let mut run = Self {
            recipe,
            evaluators,
            judges: Judges::default(),
            loaders,
            batches,
            state,
            writer,
            observers: Observers::default(),
            best: BestTracker::new(recipe, best),
            logged: (Instant::now(), step),
            saved_at: saved.map(|s| s.state.step),
            trainer,
            folder,
        };
        // Hooks ask themselves which process they are in; what the others write and show, one process does.
        if world.leads() {
            run.observers = Observers::of_run(recipe, &run.trainer.model.graph, &run.folder, step);
            run.observers.extend(observers);
        }
        run.observers.extend(hooks);
        run.observers.notify(&Event::Started { recipe, folder: &run.folder, step });
        Ok(run)
    }

    fn steps(&mut self, signals: &Signals) -> Result<u8> {
        let total = self.recipe.run.steps;
        while self.state.step < total {
            let step = self.state.step + 1;
            let log = step.is_multiple_of(self.recipe.run.log_every) || step == total || step == 1;
            self.trainer.want_norms(log);
            let feed = self.batches(step);
            let feed = self.saving(feed)?;
            self.trainer.step(&feed, step).with_context(|| format!("in step {step}"))?;
            self.state.step = step;
            self.observers.notify(&Event::Stepped { step, model: &self.trainer.model, feed: &feed });
            drop(feed);
            if log {
                self.log(step)?;
            }
            let evaluated = self.evaluate(step);
            self.saving(evaluated)?;
            let best = self.best.as_mut().and_then(BestTracker::found);
            let stop = signals.asked();
            let last = step == total || stop.is_some();
            if last || best.is_some() || is_due(self.recipe.run.checkpoint.every, step) {
                self.save(best, last)?;
            }
            self.writer.check()?;
            // A signal in the last step finds the run done.
            if let Some(code) = stop.filter(|_| step < total) {
                return Ok(code);
            }
        }
        Ok(0)
    }

    /// Hands on how something around the steps went. The steps so far are sound, whatever is wrong with it: before an
    /// error they are saved.
    fn saving<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() && self.state.step > 0 {
            self.save(None, true)?;
        }
        result
    }

    fn batches(&mut self, step: u64) -> Result<Feed> {
        let wanted = self.trainer.batches(step);
        let context = self.trainer.model.context();
        let mut feed = Vec::new();
        let (mut skipped, mut samples) = (self.state.skipped, self.state.samples.clone());
        for (stream, n) in wanted.into_iter().enumerate() {
            let mut batches: Vec<Batch> = Vec::new();
            for _ in 0..n {
                batches.push(self.loaders[stream].next_batch()?.to(context.kind, context.device)?);
            }
            skipped += batches.iter().map(|b| b.skipped).sum::<u64>();
            let name = &self.trainer.model.graph.streams()[stream].name;
            *samples.entry(name.clone()).or_default() += n as u64 * self.batches[stream];
            feed.push(batches);
        }
        (self.state.skipped, self.state.samples) = (skipped, samples);
        Ok(feed)
    }

    /// Reads the numbers of a step and notifies the observers.
    fn log(&mut self, step: u64) -> Result<()> {
        let world = self.trainer.model.context().world;
        let mut numbers: Vec<(String, f64)> = Vec::new();
        let mut total = 0.0;
        for loss in self.trainer.losses() {
            let value = world.mean(&loss.value)?.f_double_value(&[])?;
            total += loss.weight * value;
            numbers.push((format!("loss/{}", loss.name), value));
        }
        numbers.push(("loss/total".into(), total));
        if let Some((name, value)) = numbers.iter().find(|(_, v)| !v.is_finite()) {
            bail!(
                "`{name}` is {value} at step {step}: training has diverged. The last checkpoint is untouched; a lower \
                 learning rate, clip_norm, or full precision may help"
            );
        }
        // Reading these waits for the device.
        numbers.extend(self.trainer.phase_numbers()?);
        let rises = |name: &str| self.recipe.loss.get(name).is_some_and(|l| l.slot.common.ramp.is_some());
        let rising = self.trainer.losses().iter().filter(|l| rises(&l.name));
        numbers.extend(rising.map(|l| (format!("weight/{}", l.name), l.weight)));
        if self.state.skipped > 0 {
            numbers.push(("data/skipped".into(), self.state.skipped as f64));
        }
        let (since, steps) = (self.logged.0.elapsed().as_secs_f64(), (step - self.logged.1).max(1) as f64);
        self.logged = (Instant::now(), step);
        self.observers.notify(&Event::Logged { step, numbers: &numbers, seconds_per_step: since / steps });
        Ok(())
    }

    /// Measures with the evaluators that are due, and notifies the observers.
    fn evaluate(&mut self, step: u64) -> Result<()> {
        let last = step == self.recipe.run.steps;
        let due = self.evaluators.entries().filter(|(_, entry)| last || is_due(entry.slot.common.every, step));
        let due: Vec<&'r str> = due.map(|(name, _)| name).collect();
        if due.is_empty() {
            return Ok(());
        }
        let averages = self.trainer.averages.as_ref().filter(|a| a.evaluates());
        if let Some(averages) = averages {
            averages.swap(&self.trainer.model)?;
        }
        let measured = self.measure(&due, step);
        if let Some(averages) = averages {
            averages.swap(&self.trainer.model)?;
        }
        for (evaluator, report) in &measured? {
            for (metric, value) in &report.metrics {
                self.state.metrics.insert(format!("{evaluator}.{metric}"), *value);
            }
            let event = Event::Evaluated { step, evaluator, report };
            if let Some(best) = &mut self.best {
                best.on(&event);
            }
            self.observers.notify(&event);
        }
        Ok(())
    }

    fn measure(&self, due: &[&'r str], step: u64) -> Result<Vec<(&'r str, Report)>> {
        let model = ModelInference::new(&self.trainer.model, self.recipe, &self.judges)?;
        let measure = |name: &&'r str| {
            let report = self.evaluators.measure(name, &model);
            Ok((*name, report.with_context(|| format!("in `evaluate.{name}` at step {step}"))?))
        };
        due.iter().map(measure).collect()
    }

    /// Saves the state of this step. The `last` save of a process copies nothing, since no step changes it any more.
    fn save(&mut self, best: Option<Best>, last: bool) -> Result<()> {
        let step = self.state.step;
        if self.saved_at == Some(step) {
            return Ok(());
        }
        for loss in self.trainer.losses() {
            let value = loss.value.f_double_value(&[])?;
            if !value.is_finite() {
                bail!("`loss/{}` is {value} at step {step}: nothing is saved", loss.name);
            }
        }
        self.saved_at = Some(step);
        if self.trainer.model.context().world.leads() {
            let take = |tensors: Vec<(String, &Tensor)>| if last { shared(tensors) } else { copies(tensors) };
            let snapshot = Snapshot {
                state: self.state.clone(),
                weights: take(self.trainer.model.tensors())?,
                optimizer: take(self.trainer.state()?)?,
                averages: match &self.trainer.averages {
                    Some(averages) => take(averages.state())?,
                    None => Vec::new(),
                },
            };
            self.writer.save(snapshot, best)?;
        }
        self.observers.notify(&Event::Saved { step });
        Ok(())
    }

    /// Ends the run: what is under way is finished even after a failure, whose error comes first.
    fn close(mut self, result: Result<u8>) -> Result<u8> {
        let saved = self.writer.finish();
        let written = if matches!(result, Ok(0)) { self.write_weights() } else { Ok(()) };
        let ending = match &result {
            Ok(0) if saved.is_ok() && written.is_ok() => Ending::Finished,
            Ok(code) if *code != 0 && saved.is_ok() => Ending::Stopped,
            _ => Ending::Failed,
        };
        self.observers.notify(&Event::Ended { step: self.state.step, ending });
        let code = result?;
        saved.and(written)?;
        Ok(code)
    }

    fn write_weights(&self) -> Result<()> {
        if !self.trainer.model.context().world.leads() {
            return Ok(());
        }
        write(&self.folder.weights(), &shared(self.trainer.model.tensors())?)?;
        match &self.trainer.averages {
            Some(averages) => write(&self.folder.averages(), &shared(averages.state())?),
            None => Ok(()),
        }
    }
}
