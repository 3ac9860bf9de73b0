//! A whole run: data, steps, evaluation, logs and checkpoints.

use super::{Signals, Trainer};
use crate::checkpoint::{self, Best, Retention, Snapshot, State, Writer, copies, shared};
use crate::data::{Batch, Dataset, Loader, Plan};
use crate::evaluate::Measure;
use crate::files::write_atomically;
use crate::graph::drawing::draw;
use crate::graph::{Feed, Graph, Model};
use crate::log::pictures::{drawing, hparams, sheet};
use crate::log::tensorboard::TensorBoard;
use crate::log::{MetricsFile, Progress};
use crate::mistake;
use crate::recipe::{EvaluateSlot, Recipe, Slot};
use crate::runs::{self, Existing};
use crate::session;
use crate::weights::{load_declared, load_into};
use crate::{evaluate::Evaluator, recipe::to_toml};
use anyhow::{Context, Result, bail};
use indexmap::IndexMap;
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
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
    /// No progress.
    pub quiet: bool,
    /// The overrides as given, for the record.
    pub overrides: Vec<String>,
}

/// Trains a recipe; the exit code is 130 or 143 when a signal asked to stop.
pub fn train(mut recipe: Recipe, options: &TrainOptions) -> Result<u8> {
    let signals = Signals::listen()?;
    let mut graph = Graph::new(&mut recipe)?;
    // A run that goes on does not need them any more.
    let pinned = session::pin_weights(&mut recipe);
    if options.existing != Existing::Resume {
        pinned?;
    }
    let opened = if recipe.waiting() > 0 { Some(session::open(&mut recipe, &mut graph)?) } else { None };
    let declared: Vec<_> =
        recipe.model.iter().filter_map(|(name, slot)| slot.common.weights.clone().map(|w| (name.clone(), w))).collect();
    let warnings = std::mem::take(&mut recipe.warnings);
    if !options.quiet && !warnings.is_empty() {
        eprint!("{}", recipe.diagnostics(warnings).render(std::io::stderr().is_terminal()));
    }
    let evaluators = session::evaluators(&mut recipe)?;
    session::configure(&recipe)?;
    let placement = session::placement(&recipe)?;
    let (data, dims) = match opened {
        Some(opened) => opened,
        None => session::open(&mut recipe, &mut graph)?,
    };
    let plans = session::plans(&recipe, &data)?;
    let resume = options.existing == Existing::Resume;
    let folder = runs::folder(options.out.as_deref(), &recipe.name(), options.existing)?;
    let saved = if resume { resumable(&folder, &recipe, options)? } else { None };
    let model = Model::build(&recipe, graph, placement)?;
    if saved.is_none() {
        load_declared(&model, &declared, &mut |line| {
            if !options.quiet {
                eprintln!("{line}");
            }
        })?;
    }
    let _lock = runs::prepare(&folder, options.existing)?;
    let mut run = Run::start(recipe, model, evaluators, plans, &data, dims, folder, saved, options)?;
    let result = run.steps(&signals);
    run.close(result)
}

/// The newest whole checkpoint; none if the run was stopped before its first one, and starts again.
fn resumable(folder: &Path, recipe: &Recipe, options: &TrainOptions) -> Result<Option<checkpoint::Saved>> {
    let changes = runs::compare(folder, recipe, options.allow_recipe_change)?;
    if !changes.is_empty() && !options.quiet {
        eprintln!("note: changed since the run was started:\n{}", changes.join("\n"));
    }
    if changes.iter().any(|c| c.trim_start().starts_with("run.steps")) {
        for (name, phase) in &recipe.phase {
            if phase.scheduler.as_ref().is_some_and(|s| s.depends_on_length()) {
                eprintln!("warning: the learning rate of the phase `{name}` depends on run.steps, which has changed");
            }
        }
    }
    let all = checkpoint::list(&folder.join("checkpoints"));
    if all.is_empty() {
        if !options.quiet {
            eprintln!("note: {} has no checkpoint yet: the run starts again", folder.display());
        }
        return Ok(None);
    }
    let mut first = None;
    for (_, path) in all.iter().rev() {
        match checkpoint::read(path) {
            Ok(saved) => {
                if let Some(e) = &first {
                    eprintln!("warning: {e:#}\nwarning: going on from {}", path.display());
                }
                return Ok(Some(saved));
            }
            Err(e) => first = first.or(Some(e)),
        }
    }
    Err(first.unwrap_or_else(|| anyhow::anyhow!("no checkpoint")))
}

fn record(
    folder: &Path,
    recipe: &Recipe,
    options: &TrainOptions,
    data: &IndexMap<String, Arc<dyn Dataset>>,
    dims: &IndexMap<String, i64>,
    resumed: Option<u64>,
) -> Result<()> {
    let mut run = runs::environment(recipe, &options.overrides);
    let previous: Option<serde_json::Value> =
        std::fs::read(folder.join("run.json")).ok().and_then(|t| serde_json::from_slice(&t).ok());
    run["dims"] = json!(dims);
    run["data"] = data
        .iter()
        .map(|(name, d)| (name.clone(), json!({ "samples": d.len(), "fingerprint": d.fingerprint() })))
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
    runs::record(folder, recipe, &run)?;
    for (name, dataset) in data {
        for (file, value) in dataset.records() {
            let file = if data.len() == 1 { file.to_owned() } else { format!("{name}.{file}") };
            write_atomically(&folder.join(file), &serde_json::to_vec_pretty(&value)?)?;
        }
    }
    Ok(())
}

struct Run {
    recipe: Recipe,
    trainer: Trainer,
    evaluators: IndexMap<String, Slot<EvaluateSlot, dyn Evaluator>>,
    loaders: Vec<Loader>,
    state: State,
    folder: PathBuf,
    writer: Writer,
    metrics: MetricsFile,
    board: TensorBoard,
    progress: Progress,
    best: Option<Best>,
    saved_at: Option<u64>,
    /// When and at which step the newest numbers were logged.
    logged: (Instant, u64),
}

impl Run {
    #[allow(clippy::too_many_arguments)]
    fn start(
        mut recipe: Recipe,
        model: Model,
        evaluators: IndexMap<String, Slot<EvaluateSlot, dyn Evaluator>>,
        plans: IndexMap<String, Arc<Plan>>,
        data: &IndexMap<String, Arc<dyn Dataset>>,
        dims: IndexMap<String, i64>,
        folder: PathBuf,
        saved: Option<checkpoint::Saved>,
        options: &TrainOptions,
    ) -> Result<Self> {
        let mut trainer = Trainer::new(&mut recipe, model)?;
        let mut state = State { dims, ..State::default() };
        if let Some(saved) = &saved {
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
            state = State { dims: state.dims, ..saved.state.clone() };
        }
        record(&folder, &recipe, options, data, &state.dims, saved.as_ref().map(|s| s.state.step))?;
        let mut loaders = Vec::new();
        for (name, plan) in &plans {
            let slot = &recipe.data[name.as_str()].slot.common;
            let first = state.batches.get(name).copied().unwrap_or(0);
            loaders.push(Loader::start(plan.clone(), slot.workers as usize, slot.prefetch as usize, first)?);
        }
        let c = &recipe.run.checkpoint;
        let retention = Retention { last: c.keep_last as usize, every: c.keep_every };
        let checkpoints = folder.join("checkpoints");
        let best = saved.as_ref().and_then(|_| checkpoint::best(&checkpoints));
        let best = best.filter(|b| Some(&b.metric) == c.best.as_ref());
        let writer = Writer::start(checkpoints, retention)?;
        let metrics = MetricsFile::open(&folder.join("metrics.jsonl"), state.step)?;
        let board = TensorBoard::create(&folder.join("tb"), saved.as_ref().map(|s| s.state.step as i64 + 1))?;
        if saved.is_none() {
            board.text("recipe", &format!("```toml\n{}```", to_toml(&recipe.root)?), 0)?;
            board.graph(&drawing(&trainer.model.graph))?;
            let path = folder.join("graph.svg");
            write_atomically(&path, draw(&recipe, &trainer.model.graph, &path)?.as_bytes())?;
            let watched: Vec<String> =
                recipe.run.checkpoint.best.iter().map(|m| format!("eval/{}", m.replace('.', "/"))).collect();
            board.hparams(&hparams(&recipe), &watched)?;
        }
        let first_step = state.step;
        let progress = Progress::new(recipe.run.steps, state.step, options.quiet);
        progress.line(&format!(
            "run folder {}   look at it: tensorboard --logdir {}",
            folder.display(),
            folder.join("tb").display()
        ));
        Ok(Self {
            recipe,
            trainer,
            evaluators,
            loaders,
            state,
            folder,
            writer,
            metrics,
            board,
            progress,
            best,
            logged: (Instant::now(), first_step),
            saved_at: saved.map(|s| s.state.step),
        })
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
            self.images(&feed, step)?;
            drop(feed);
            self.state.step = step;
            self.progress.step(step);
            if log {
                self.log(step)?;
            }
            self.histograms(step)?;
            let due: Vec<String> = self
                .evaluators
                .iter()
                .filter(|(_, e)| step == total || (e.common.every > 0 && step.is_multiple_of(e.common.every)))
                .map(|(name, _)| name.clone())
                .collect();
            if !due.is_empty() {
                let evaluated = self.evaluate(&due, step);
                self.saving(evaluated)?;
            }
            let every = self.recipe.run.checkpoint.every;
            let stop = signals.asked();
            let better = self.improved(&due, step);
            if step == total || stop.is_some() || better.is_some() || (every > 0 && step.is_multiple_of(every)) {
                self.save(better, step == total || stop.is_some())?;
            }
            self.writer.check()?;
            // A signal in the last step finds the run done.
            if let Some(code) = stop.filter(|_| step < total) {
                self.progress
                    .line(&format!("stopped by a signal at step {step}: the state is saved; go on with --resume"));
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
        let placement = self.trainer.model.placement();
        let mut feed = Vec::new();
        let (mut skipped, mut read) = (self.state.skipped, self.state.batches.clone());
        for (stream, n) in wanted.into_iter().enumerate() {
            let mut batches: Vec<Batch> = Vec::new();
            for _ in 0..n {
                batches.push(self.loaders[stream].next_batch()?.to(placement.kind, placement.device)?);
            }
            skipped += batches.iter().map(|b| b.skipped).sum::<u64>();
            let name = &self.trainer.model.graph.streams[stream].name;
            *read.entry(name.clone()).or_default() += n as u64;
            feed.push(batches);
        }
        (self.state.skipped, self.state.batches) = (skipped, read);
        Ok(feed)
    }

    fn log(&mut self, step: u64) -> Result<()> {
        let mut numbers: Vec<(String, f64)> = Vec::new();
        let mut total = 0.0;
        for loss in self.trainer.losses() {
            let value = loss.value.f_double_value(&[])?;
            total += loss.weight * value;
            numbers.push((format!("loss/{}", loss.name), value));
        }
        let moving = |name: &str| self.recipe.loss.get(name).is_some_and(|l| l.slot.common.ramp.is_some());
        let weights: Vec<(String, f64)> = self
            .trainer
            .losses()
            .iter()
            .filter(|l| moving(&l.name))
            .map(|l| (format!("weight/{}", l.name), l.weight))
            .collect();
        numbers.push(("loss/total".into(), total));
        if let Some((name, value)) = numbers.iter().find(|(_, v)| !v.is_finite()) {
            bail!(
                "`{name}` is {value} at step {step}: training has diverged. The last checkpoint is untouched; a lower \
                 learning rate, clip_norm, or full precision may help"
            );
        }
        // Reading these waits for the device.
        let phases = self.trainer.phase_numbers()?;
        let rates = phases.iter().filter(|(n, _)| n.starts_with("lr/")).cloned();
        let shown: Vec<(String, f64)> = numbers
            .iter()
            .map(|(n, v)| (n.trim_start_matches("loss/").to_owned(), *v))
            .chain(rates.map(|(n, v)| {
                (if self.recipe.run.phases.as_ref().is_none_or(|p| p.len() < 2) { "lr".to_owned() } else { n }, v)
            }))
            .collect();
        numbers.extend(phases);
        numbers.extend(weights);
        if self.state.skipped > 0 {
            numbers.push(("data/skipped".into(), self.state.skipped as f64));
        }
        self.metrics.write(step, "train", &numbers)?;
        let (since, steps) = (self.logged.0.elapsed().as_secs_f64(), (step - self.logged.1).max(1) as f64);
        self.logged = (Instant::now(), step);
        numbers.push(("time/seconds_per_step".into(), since / steps));
        self.metrics.write(step, "time", &numbers[numbers.len() - 1..])?;
        for (name, value) in &numbers {
            self.board.scalar(name, *value, step as i64)?;
        }
        self.progress.numbers(step, &shown);
        Ok(())
    }

    fn images(&self, feed: &Feed, step: u64) -> Result<()> {
        let every = self.recipe.run.images_every;
        let due = step == 1 || (every > 0 && step.is_multiple_of(every));
        if !due {
            return Ok(());
        }
        for (stream, batches) in self.trainer.model.graph.streams.iter().zip(feed) {
            for (port, tensor) in stream.ports.outputs.iter().zip(batches.iter().flat_map(|b| &b.tensors)) {
                if tensor.dim() == 4 && tensor.size()[1] == 3 {
                    self.board.image(
                        &format!("{}/{}", stream.name, port.name),
                        &sheet(&tensor.f_narrow(0, 0, tensor.size()[0].min(16))?, 8)?,
                        step as i64,
                    )?;
                }
            }
        }
        Ok(())
    }

    fn histograms(&self, step: u64) -> Result<()> {
        let every = self.recipe.run.histogram_every;
        if every == 0 || !step.is_multiple_of(every) {
            return Ok(());
        }
        for (name, tensor) in self.trainer.model.tensors() {
            if tensor.dim() > 0 && tensor.kind() != tch::Kind::Int64 {
                let flat =
                    tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(tch::Kind::Float)?.f_reshape([-1])?;
                self.board.histogram(&name, &Vec::<f32>::try_from(&flat)?, step as i64)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, due: &[String], step: u64) -> Result<()> {
        let averages = self.trainer.averages.as_ref().filter(|a| a.evaluates());
        if let Some(averages) = averages {
            averages.swap(&self.trainer.model)?;
        }
        let measured = self.measure(due, step);
        if let Some(averages) = averages {
            averages.swap(&self.trainer.model)?;
        }
        for (name, report) in measured? {
            for (picture, image) in &report.pictures {
                self.board.image(&format!("eval/{name}/{picture}"), image, step as i64)?;
            }
            for path in report.write(&self.folder, &name, step)? {
                self.progress.line(&format!("step {step}  {name}: {}", path.display()));
            }
            if report.metrics.is_empty() {
                continue;
            }
            let numbers: Vec<(String, f64)> =
                report.metrics.iter().map(|(m, v)| (format!("eval/{name}/{m}"), *v)).collect();
            self.metrics.write(step, "eval", &numbers)?;
            for (tag, value) in &numbers {
                self.board.scalar(tag, *value, step as i64)?;
            }
            let text: Vec<String> = report.metrics.iter().map(|(m, v)| format!("{m} {v:.4}")).collect();
            self.progress.line(&format!("step {step}  {name}: {}", text.join("  ")));
            for (metric, value) in &report.metrics {
                self.state.metrics.insert(format!("{name}.{metric}"), *value);
            }
        }
        Ok(())
    }

    fn measure(&self, due: &[String], step: u64) -> Result<Vec<(String, crate::evaluate::Report)>> {
        let measure = Measure::new(&self.trainer.model, &self.recipe, session::threads(&self.recipe))?;
        due.iter()
            .map(|name| {
                let report = self.evaluators[name.as_str()]
                    .config
                    .evaluate(&measure)
                    .with_context(|| format!("in `evaluate.{name}` at step {step}"))?;
                Ok((name.clone(), report))
            })
            .collect()
    }

    /// The new best, if the metric that decides was measured in this step and is better than before.
    fn improved(&self, due: &[String], step: u64) -> Option<Best> {
        let metric = self.recipe.run.checkpoint.best.as_ref()?;
        let (evaluator, _) = metric.split_once('.')?;
        if !due.iter().any(|d| d == evaluator) {
            return None;
        }
        let value = *self.state.metrics.get(metric).filter(|v| v.is_finite())?;
        let better = self
            .best
            .as_ref()
            .is_none_or(|b| if self.recipe.run.checkpoint.best_is_max { value > b.value } else { value < b.value });
        better.then(|| Best { step, metric: metric.clone(), value })
    }

    /// Saves the state of this step. The `last` save of a process copies nothing, since no step changes it any more.
    fn save(&mut self, best: Option<Best>, last: bool) -> Result<()> {
        if self.saved_at == Some(self.state.step) {
            return Ok(());
        }
        for loss in self.trainer.losses() {
            let value = loss.value.f_double_value(&[])?;
            if !value.is_finite() {
                bail!("`loss/{}` is {value} at step {}: nothing is saved", loss.name, self.state.step);
            }
        }
        let take = |tensors: Vec<(String, &Tensor)>| if last { shared(tensors) } else { copies(tensors) };
        let snapshot = Snapshot {
            state: self.state.clone(),
            weights: take(self.trainer.model.tensors())?,
            optimizer: take(self.trainer.state())?,
            averages: match &self.trainer.averages {
                Some(averages) => take(averages.state())?,
                None => Vec::new(),
            },
        };
        if best.is_some() {
            self.best = best.clone();
        }
        self.saved_at = Some(self.state.step);
        self.writer.save(snapshot, best)
    }

    /// Ends the run: what is under way is finished even after a failure, whose error comes first.
    fn close(mut self, result: Result<u8>) -> Result<u8> {
        self.progress.finish();
        let saved = self.writer.finish();
        let logged = (|| {
            if matches!(result, Ok(0)) {
                let tensors = shared(self.trainer.model.tensors())?;
                crate::weights::write(&self.folder.join("weights.safetensors"), &tensors)?;
                if let Some(averages) = &self.trainer.averages {
                    crate::weights::write(&self.folder.join("averages.safetensors"), &shared(averages.state())?)?;
                }
                self.board.session_end(true)?;
            }
            self.board.finish()
        })();
        let code = result?;
        saved?;
        logged?;
        if code == 0 {
            self.progress.line(&format!(
                "done: {} steps, weights in {}",
                self.state.step,
                self.folder.join("weights.safetensors").display()
            ));
        }
        Ok(code)
    }
}
