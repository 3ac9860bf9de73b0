//! A whole run: data, steps, evaluation, checkpoints, and the observers around them.

use super::observers::{BestTracker, Ending, Event, Observer, Observers, is_due, open_hooks};
use super::phase::has_diverged;
use super::profile::Profile;
use super::step::read_together;
use super::{Signals, Trainer};
use crate::checkpoint::{self, Retention, Saved, Snapshot, State, Verdict, Writer, copies, shared};
use crate::data::{self, Batch, BatchOrder, Files, Loader, OpenedData, Tables};
use crate::device;
use crate::graph::Graph;
use crate::inference::{Comparing, Evaluators, Judges, ModelInference, warn_of_trained_pictures};
use crate::initial_weights::{load_initial, pin};
use crate::memory;
use crate::model::{Feed, Model, all_rows};
use crate::ranks::{Decisions, Intent, Ranks};
use crate::recipe::Recipe;
use crate::runs::{Existing, Lock, Overwritten, RunFolder, environment};
use crate::weights::{load_into, not_finite, write};
use indexmap::{IndexMap, IndexSet};
use mtl_component::{Report, Result, RunInfo, mistake};
use mtl_recipe::files::write_atomically;
use mtl_recipe::{Change, Context, Error};
use mtl_torch::{LOST, fatal};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

/// How a run is started.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The run folder; without it `runs/<name>/<time>`.
    pub out: Option<PathBuf>,
    /// What to do with a folder that is not empty.
    pub existing: Existing,
    /// Resume although the recipe has changed.
    pub allow_recipe_change: bool,
    /// Resume although a plugin has changed.
    pub allow_plugin_change: bool,
    /// Resume from the checkpoint of this step; without it from the newest sound one.
    pub checkpoint: Option<u64>,
    /// Stop after this step, on the course of the whole run.
    pub until: Option<u64>,
    /// Read the files of the data whole, to record and compare their bytes.
    pub deep: bool,
    /// The overrides as given, for the record.
    pub overrides: Vec<String>,
    /// Write where the time of so many steps goes.
    pub profile: Option<u64>,
}

/// Trains a recipe, whose checked graph is given; the exit code is 128 and the number of a signal that asked to stop.
///
/// # Errors
/// What the user can mend is found before the first step, where that is possible. An error in a later step leaves the
/// state before it saved.
pub fn train(
    recipe: Recipe,
    graph: Graph,
    options: &TrainOptions,
    ranks: &Ranks,
    observers: Vec<Box<dyn Observer>>,
) -> Result<u8> {
    let signals = Signals::listen()?;
    fatal::note(fatal::Place::Doing, " before the first step");
    let options = &again(options, ranks)?;
    let resume = options.existing == Existing::Resume;
    let (folder, lock) = take_folder(&recipe, options, ranks)?;
    let recipe = match pin(&recipe) {
        Ok(pinned) => pinned.unwrap_or(recipe),
        // A run that goes on does not need the weights any more that it started from.
        Err(_) if resume => recipe,
        Err(e) => return Err(e),
    };
    let evaluators = Evaluators::open(&recipe)?;
    device::configure(&recipe)?;
    ranks.whereabouts.solo("connecting to the others");
    let context = device::context(&recipe, ranks.connect(device::device(&recipe.run.device)?)?)?;
    device::prepare_graphs(&recipe, &context)?;
    ranks.whereabouts.solo("opening its data");
    let data = data::open(&recipe)?;
    for (name, stream) in data.streams.iter().filter(|(_, stream)| !stream.summary.is_empty()) {
        tracing::info!("data.{name}: {}", stream.summary);
    }
    let graph = graph.resolved(&data.dims);
    data::labels_fit(&graph, &data)?;
    data::labels_are_known(&graph, &data)?;
    warn_of_trained_pictures(&data, &evaluators, Comparing::Soon)?;
    memory::fits(&recipe, &graph)?;
    let orders = data::orders(&recipe, &data, context.world)?;
    let (saved, fresh) = if resume { resumed(&folder, &recipe, options, ranks)? } else { (None, Vec::new()) };
    let model = Model::build(&recipe, graph, context)?;
    let judges = Judges::default();
    evaluators.check(&ModelInference::new(&model, &recipe, &judges)?)?;
    if saved.is_none() {
        load_initial(&recipe, &model, &data)?;
    }
    let old = match options.existing {
        Existing::Overwrite if ranks.leads() => {
            folder.reads_nothing_of(&recipe)?;
            Some(folder.overwrite()?)
        }
        _ => None,
    };
    let place = Place { folder, lock, old, judges, fresh };
    let mut run = Run::start(&recipe, model, evaluators, &orders, &data, place, saved, options, ranks, observers)?;
    let result = run.steps(&signals);
    run.close(result)
}

/// The options of processes that a launcher has started again: they go on with the run that they have begun.
fn again(options: &TrainOptions, ranks: &Ranks) -> Result<TrainOptions> {
    let Some(folder) = ranks.begun()? else { return Ok(options.clone()) };
    let existing = if RunFolder::at(&folder).has_started() { Existing::Resume } else { options.existing };
    Ok(TrainOptions { out: Some(folder.into()), existing, checkpoint: None, ..options.clone() })
}

/// The run folder, which one process takes for all.
fn take_folder(recipe: &Recipe, options: &TrainOptions, ranks: &Ranks) -> Result<(RunFolder, Option<Lock>)> {
    let mut lock = None;
    let path = ranks.share("folder", || {
        let (folder, held) = RunFolder::take(options.out.as_deref(), &recipe.name(), options.existing)?;
        lock = Some(held);
        let Some(path) = folder.path().to_str() else {
            // Only the names of other processes' folders have to be text.
            if ranks.are_several() {
                mistake!("{} is no text: several ranks cannot be told of it", folder.path().display());
            }
            return Ok(folder.path().to_string_lossy().into_owned());
        };
        ranks.tell_folder(path)?;
        Ok(path.to_owned())
    })?;
    let folder = match &lock {
        Some(lock) => RunFolder::at(lock.folder()),
        None => RunFolder::at(path),
    };
    Ok((folder, lock))
}

/// What a run goes on from. One process decides, and the others read the same.
fn resumed(
    folder: &RunFolder,
    recipe: &Recipe,
    options: &TrainOptions,
    ranks: &Ranks,
) -> Result<(Option<Saved>, Vec<String>)> {
    let mut own = None;
    let (step, fresh) = ranks.share("resumed", || {
        let (saved, fresh) = resumable(folder, recipe, options)?;
        let step = saved.as_ref().map(|saved| saved.state.step);
        own = saved;
        Ok((step, fresh))
    })?;
    let saved = match (own, step) {
        (None, Some(step)) => Some(checkpoint::read(&checkpoint::of_step(&folder.checkpoints(), step))?),
        (own, _) => own,
    };
    Ok((saved, fresh))
}

/// Where a run writes.
struct Place {
    folder: RunFolder,
    /// Held by the process that leads.
    lock: Option<Lock>,
    /// The run that it replaces, until its first checkpoint.
    old: Option<Overwritten>,
    /// The runs that evaluators have opened.
    judges: Judges,
    /// Phases whose optimizer starts without a state, since it is another one.
    fresh: Vec<String>,
}

/// The newest whole and sound checkpoint, or the one that was asked for; none if the run was stopped before its first
/// one, and starts again.
///
/// Also the phases whose optimizer is another one now.
fn resumable(folder: &RunFolder, recipe: &Recipe, options: &TrainOptions) -> Result<(Option<Saved>, Vec<String>)> {
    let changes = folder.allow(recipe, options.allow_recipe_change)?;
    folder.allow_plugins(recipe, options.allow_plugin_change)?;
    let fresh = other_optimizers(&changes);
    for phase in &fresh {
        tracing::warn!("the phase `{phase}` has another optimizer now, which starts without the state of the old one");
    }
    Ok((saved_state(folder, recipe, options, &changes)?, fresh))
}

fn saved_state(
    folder: &RunFolder,
    recipe: &Recipe,
    options: &TrainOptions,
    changes: &[Change],
) -> Result<Option<Saved>> {
    if !changes.is_empty() {
        let lines: Vec<String> = changes.iter().map(|change| format!("  {change}")).collect();
        tracing::info!("changed since the run was started:\n{}", lines.join("\n"));
    }
    let done = checkpoint::list(&folder.checkpoints()).last().map_or(0, |(step, _)| *step);
    if changes.iter().any(|change| change.path == "run.steps") && done <= recipe.run.steps {
        for (name, phase) in &recipe.phase {
            if phase.schedule(recipe.run.steps)?.depends_on_length {
                tracing::warn!("the learning rate of the phase `{name}` depends on run.steps, which has changed");
            }
        }
    }
    let all = checkpoint::list(&folder.checkpoints());
    if let Some(step) = options.checkpoint {
        let Some((_, path)) = all.iter().find(|(s, _)| *s == step) else {
            let steps: Vec<String> = all.iter().map(|(s, _)| s.to_string()).collect();
            mistake!(
                "{} has no checkpoint of step {step}; it has those of the steps: {}",
                folder.path().display(),
                steps.join(", ")
            );
        };
        let saved = checkpoint::read(path)?;
        saved.state.resumable()?;
        let later = checkpoint::set_aside(&folder.checkpoints(), step)?;
        if !later.is_empty() {
            let later: Vec<String> = later.iter().map(u64::to_string).collect();
            tracing::info!("going on from step {step}; the later checkpoints are dropped: {}", later.join(", "));
        }
        return Ok(Some(saved));
    }
    if all.is_empty() {
        tracing::info!("{} has no checkpoint yet: the run starts again", folder.path().display());
        return Ok(None);
    }
    let mut first = None;
    for (step, path) in all.iter().rev() {
        if checkpoint::verdict(path) == Some(Verdict::Unsound) {
            first.get_or_insert_with(|| {
                Error::mistake(format!(
                    "the weights of the checkpoint {} gave a loss that is not finite: it is left out",
                    path.display()
                ))
            });
            continue;
        }
        if *step > recipe.run.steps {
            mistake!(
                "{} has done {step} steps, and the recipe asks for {}: raise run.steps, or go on from an earlier \
                 checkpoint with --checkpoint",
                folder.path().display(),
                recipe.run.steps
            );
        }
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
    evaluators: &Evaluators<'_>,
    resumed: Option<u64>,
) -> Result<()> {
    let mut run = environment(recipe, &options.overrides);
    let previous = folder.record();
    let streams = data.streams.iter();
    run["dims"] = json!(data.dims);
    run["data"] = streams
        .map(|(name, d)| {
            let files = Files::of(&d.samples.files()?, options.deep);
            Ok((name.clone(), json!({ "samples": d.len, "fingerprint": d.fingerprint, "files": files })))
        })
        .collect::<Result<serde_json::Map<_, _>>>()?
        .into();
    let tested = evaluators
        .files()?
        .into_iter()
        .map(|(name, files)| (name.to_owned(), json!({ "files": Files::of(&files, options.deep) })));
    run["evaluate"] = tested.collect::<serde_json::Map<_, _>>().into();
    let kept = |(name, dataset): (&String, &mtl_component::OpenDataset)| {
        let name = |file: &str| if data.streams.len() == 1 { file.to_owned() } else { format!("{name}.{file}") };
        dataset.records.iter().map(|(file, value)| (name(file), value.clone())).collect::<Vec<_>>()
    };
    let kept: Vec<(String, Value)> = data.streams.iter().flat_map(kept).collect();
    // What every run makes is known; a run that is replaced leaves these as well.
    let mut made: Vec<String> = kept.iter().map(|(file, _)| file.clone()).collect();
    for slot in recipe.hook.values() {
        made.extend(slot.config.files()?);
    }
    run["made"] = json!(made);
    if let Some(step) = resumed {
        let mut previous = match previous {
            Ok(previous) if previous.is_object() => previous,
            other => {
                let reason = other.err().map_or("it is no JSON object".to_owned(), |e| e.to_string());
                mistake!(
                    "the record of the run that is resumed cannot be used, so that nobody can say whether its data is \
                     the same: {reason}. Its weights can start a new run: weights = {{ run = \"…\" }}"
                )
            }
        };
        let Compared { changed, doubts } = compared(&previous, &run);
        if !changed.is_empty() && !options.allow_recipe_change {
            mistake!(
                "the data has changed since the run was started: {}. Undo it, or say --allow-recipe-change",
                changed.join("; ")
            );
        }
        for doubt in doubts {
            tracing::warn!("{doubt}");
        }
        run["from_step"] = step.into();
        let mut resumes = previous.get("resumed").and_then(|r| r.as_array().cloned()).unwrap_or_default();
        resumes.push(run);
        previous["resumed"] = resumes.into();
        run = previous;
    }
    folder.write_record(recipe, &run)?;
    for (file, value) in kept {
        write_atomically(&folder.path().join(file), &serde_json::to_vec_pretty(&value)?)?;
    }
    Ok(())
}

/// How the data of a run compares with that of a record.
#[derive(Debug, Default)]
pub struct Compared {
    /// What lists are another text, or have another length.
    pub changed: Vec<String>,
    /// Which files were replaced, or may have been.
    pub doubts: Vec<String>,
}

/// Compares what the records of two runs say of the data that they train and measure on.
pub fn compared(then: &Value, now: &Value) -> Compared {
    let mut out = Compared::default();
    for section in ["data", "evaluate"] {
        compare_section(section, &then[section], &now[section], &mut out);
    }
    out
}

fn compare_section(section: &str, then: &Value, now: &Value, out: &mut Compared) {
    let names = [then, now].into_iter().filter_map(Value::as_object).flat_map(|streams| streams.keys());
    for name in names.collect::<IndexSet<_>>() {
        let of = |record: &Value, key: &str| record[name.as_str()].get(key).cloned().unwrap_or_default();
        let (samples_then, samples_now) = (of(then, "samples"), of(now, "samples"));
        if samples_then != samples_now {
            out.changed.push(format!("`{section}.{name}` had {samples_then} samples then, and has {samples_now} now"));
        } else if of(then, "fingerprint") != of(now, "fingerprint") {
            out.changed.push(format!("what `{section}.{name}` lists is another text"));
        }
        let files = |record: &Value| serde_json::from_value::<Files>(of(record, "files")).ok();
        let Some((then, now)) = files(then).zip(files(now)) else { continue };
        if let Some(reason) = now.replaced_since(&then) {
            out.doubts.push(format!("the files of `{section}.{name}` are not those of the record: {reason}"));
        } else if let Some(doubt) = now.doubt(&then) {
            out.doubts
                .push(format!("whether the files of `{section}.{name}` are those of the record is not known: {doubt}"));
        }
    }
}

/// More samples than a run draws.
const MOST_SAMPLES: u64 = 1 << 53;

/// The batch of a stream that a run goes on with.
fn first_batch(name: &str, order: &BatchOrder, state: &State) -> Result<u64> {
    let (samples, batch) = (state.samples.get(name).copied().unwrap_or(0), order.global_batch());
    if samples > MOST_SAMPLES {
        mistake!("the state says that {samples} samples of `data.{name}` were drawn, which no run can: it is damaged");
    }
    if !samples.is_multiple_of(batch) {
        mistake!(
            "the run has drawn {samples} samples of `data.{name}`, which are not whole batches of {batch}: go on with \
             a batch size that divides {samples}"
        );
    }
    Ok(samples / batch)
}

/// The phases whose optimizer is another one than that of the run which is resumed.
fn other_optimizers(changes: &[Change]) -> Vec<String> {
    let phase = |path: &str| Some(path.strip_prefix("phase.")?.strip_suffix(".optimizer.component")?.to_owned());
    changes.iter().filter_map(|change| phase(&change.path)).collect()
}

/// Puts a saved state into a trainer; the optimizers of some phases start without theirs.
fn restore(trainer: &mut Trainer<'_>, saved: &Saved, fresh: &[String]) -> Result<()> {
    let report = load_into(trainer.model.tensors(), &trainer.model.cut(&saved.weights)?)?;
    if !report.missing.is_empty() {
        mistake!("the checkpoint lacks {} weights, such as `{}`", report.missing.len(), report.missing[0]);
    }
    trainer.load_state(&saved.optimizer, saved.state.step, fresh)?;
    if let Some(averages) = &mut trainer.averages {
        averages.restart(&trainer.model)?;
        for (name, tensor) in &trainer.model.cut(&saved.averages)? {
            averages.load(name, tensor)?;
        }
    }
    Ok(())
}

/// What this process is about to do, for the others to compare.
fn intent(recipe: &Recipe, data: &OpenedData, trainer: &Trainer<'_>) -> Result<Intent> {
    let mut program = IndexMap::new();
    program.insert("the version of mtlrun".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    program.insert("the version of libtorch".to_owned(), mtl_torch::version()?);
    for plugin in recipe.registry.plugins() {
        program.insert(format!("the plugin {}", plugin.name), format!("the file with SHA-256 {}", plugin.sha256));
    }
    let streams = data.streams.iter();
    let data = streams.map(|(name, d)| (name.clone(), format!("{} samples ({})", d.len, d.fingerprint))).collect();
    let _guard = tch::no_grad_guard();
    let shards = trainer.model.shards();
    let parameter = |(name, t): (String, &Tensor)| -> Result<(String, String)> {
        if let Some(shard) = shards.get(&name) {
            return Ok((name, format!("{} rows, cut over the ranks, of {:?}", shard.total, t.kind())));
        }
        // The values count as well: ranks that start from others would never be alike.
        let sum = t.f_to_kind(Kind::Double)?.f_sum(None::<Kind>)?.f_double_value(&[])?;
        Ok((name, format!("{:?} of {:?} with the sum {sum}", t.size(), t.kind())))
    };
    let parameters = trainer.model.tensors().into_iter().map(parameter).collect::<Result<_>>()?;
    Ok(Intent { program, recipe: recipe.root.to_json(), data, parameters, plan: trainer.outline() })
}

/// A run at work.
struct Run<'r> {
    recipe: &'r Recipe,
    trainer: Trainer<'r>,
    evaluators: Evaluators<'r>,
    judges: Judges,
    loaders: Vec<Loader>,
    /// What the bytes of pictures become.
    tables: Tables,
    /// The samples that all processes together draw from each stream for a batch.
    batches: Vec<u64>,
    state: State,
    folder: RunFolder,
    /// Put back before the lock is given up.
    old: Option<Overwritten>,
    lock: Option<Lock>,
    ranks: &'r Ranks,
    decisions: Decisions,
    writer: Writer,
    observers: Observers,
    best: Option<BestTracker>,
    saved_at: Option<u64>,
    /// The samples that this process could not read, each once.
    skipped: IndexSet<String>,
    /// How many samples stood in the place of one of them.
    replaced: u64,
    /// The step after which it stops.
    until: u64,
    /// Checkpoints of which no later loss is known yet.
    unproven: Vec<u64>,
    /// The next losses are to say whether they are sound.
    proving: bool,
    /// The newest checkpoint that is proven.
    proven: Option<u64>,
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
        place: Place,
        saved: Option<Saved>,
        options: &TrainOptions,
        ranks: &'r Ranks,
        observers: Vec<Box<dyn Observer>>,
    ) -> Result<Self> {
        let Place { folder, lock, old, judges, fresh } = place;
        let mut trainer = Trainer::new(recipe, model)?;
        let world = trainer.model.context().world;
        let mut state = State::new(data.dims.clone());
        if let Some(saved) = &saved {
            restore(&mut trainer, saved, &fresh)?;
            state = State { dims: state.dims, ..saved.state.clone() };
        }
        if let Some(steps) = options.profile {
            let last = options.until.map_or(recipe.run.steps, |until| until.min(recipe.run.steps));
            let name = if world.leads() { "profile.json".into() } else { format!("profile-rank{}.json", world.rank()) };
            let course = (state.step, steps, last);
            let device = trainer.model.context().device;
            trainer.profile = Some(Profile::new(folder.path().join(name), world.rank(), device, course));
        }
        if ranks.are_several() {
            trainer.seen_at(ranks.whereabouts.clone());
            ranks.agree(&intent(recipe, data, &trainer)?)?;
        }
        let decisions = ranks.decisions()?;
        let mut loaders = Vec::new();
        for (name, order) in orders {
            let slot = &recipe.data[name.as_str()].slot.common;
            let first = first_batch(name, order, &state)?;
            let device = trainer.model.context().device;
            let (workers, prefetch) = (slot.workers as usize, slot.prefetch as usize);
            loaders.push(Loader::start(order.clone(), workers, prefetch, first, device)?);
        }
        let batches = orders.values().map(|order| order.global_batch()).collect();
        let (step, total) = (state.step, recipe.run.steps);
        let info = RunInfo { folder: folder.path(), step, total, world };
        let hooks = open_hooks(recipe, &info)?;
        if world.leads() {
            record(&folder, recipe, options, data, &evaluators, saved.as_ref().map(|s| s.state.step))?;
        }
        let c = &recipe.run.checkpoint;
        let retention = Retention { last: c.keep_last as usize, every: c.keep_every };
        // States from before they kept it leave it to a file.
        let older = || checkpoint::best(&folder.checkpoints()).filter(|best| best.step <= step);
        let best = saved.as_ref().and_then(|saved| saved.state.best.clone().or_else(older));
        state.best = best.clone();
        let proven = checkpoint::newest_proven(&folder.checkpoints(), step);
        let mut writer = Writer::start(folder.checkpoints(), retention)?;
        if saved.is_some() && world.leads() {
            writer.settle(step, best.clone())?;
        }
        let mut run = Self {
            recipe,
            evaluators,
            judges,
            loaders,
            tables: Tables::default(),
            batches,
            state,
            writer,
            observers: Observers::default(),
            best: BestTracker::new(recipe, best),
            logged: (Instant::now(), step),
            proving: saved.as_ref().is_some_and(|s| Some(s.state.step) != proven),
            unproven: saved.iter().map(|s| s.state.step).filter(|step| Some(*step) != proven).collect(),
            proven,
            saved_at: saved.map(|s| s.state.step),
            skipped: IndexSet::new(),
            replaced: 0,
            until: options.until.map_or(total, |until| until.min(total)),
            trainer,
            folder,
            lock,
            old,
            ranks,
            decisions,
        };
        // Hooks ask themselves which process they are in; what the others write and show, one process does.
        if world.leads() {
            run.observers = Observers::of_run(recipe, &run.trainer.model.graph, &run.folder, step);
            run.observers.extend(observers);
        }
        run.observers.extend(hooks);
        run.observers.notify(&Event::Started { recipe, folder: &run.folder, step, until: run.until });
        run.advise();
        Ok(run)
    }

    /// Writes down what a crash in native code would have to say.
    fn advise(&self) {
        let run = self.folder.path().display();
        let advice = match self.proven {
            Some(step) => {
                format!("The newest proven checkpoint is {run}/checkpoints/step-{step}: go on from it with --resume.\n")
            }
            None => format!("No checkpoint of {run} is proven yet.\n"),
        };
        fatal::note(fatal::Place::Advice, &advice);
    }

    fn steps(&mut self, signals: &Signals) -> Result<u8> {
        let total = self.recipe.run.steps;
        self.make_up()?;
        while self.state.step < self.until {
            let step = self.state.step + 1;
            fatal::note(fatal::Place::Doing, &format!(" in step {step}"));
            self.ranks.whereabouts.step(step);
            let log = step.is_multiple_of(self.recipe.run.log_every) || step == self.until || step == 1;
            self.trainer.want_norms(log);
            self.trainer.enter(step)?;
            let whole = self.trainer.begin()?;
            let begun = self.trainer.begin()?;
            let feed = self.batches(step);
            let feed = self.saving(feed)?;
            self.trainer.end_as(begun, || "batches".into())?;
            let stepped = self.trainer.step(&feed, step).with_context(|| format!("in step {step}"));
            let stepped = stepped.map_err(|error| self.trainer.with_holders(error, &feed));
            if self.trainer.diverged() {
                let stepped = self.blamed_elsewhere(stepped)?;
                let stepped = self.blaming(stepped, &feed);
                self.sound(stepped)?
            } else {
                stepped?
            }
            self.state.step = step;
            if log || self.proving {
                self.prove(step, &feed)?;
            }
            let begun = self.trainer.begin()?;
            self.observers.notify(&Event::Stepped { step, model: &self.trainer.model, feed: &feed });
            if log {
                self.log(step)?;
            }
            let evaluated = self.evaluate(step);
            let evaluated = self.saving(evaluated)?;
            let better = self.best.as_mut().and_then(BestTracker::found);
            // Processors may differ in the last bit of a figure, and the processes must not in what they do.
            let found = evaluated && self.decisions.any(better.is_some())?;
            self.state.best = better.or(self.state.best.take());
            let asked = self.decisions.exchange(signals.take())?;
            let last = step == self.until || asked.stop.is_some();
            if last || found || asked.save || is_due(self.recipe.run.checkpoint.every, step) {
                self.save(last)?;
            }
            self.written()?;
            self.trainer.end_as(begun, || "log, evaluate, save".into())?;
            self.trainer.end_as(whole, || format!("step {step}"))?;
            self.trainer.leave(step)?;
            if step == self.until {
                self.prove_last(&feed)?;
            }
            // A signal in the last step finds the run done.
            if let Some(code) = asked.stop.filter(|_| step < total) {
                return Ok(code);
            }
        }
        Ok(0)
    }

    /// Looks at how saving goes. A save that has failed, such as for a disk that was full for a moment, is tried again at
    /// once with the present state.
    fn written(&mut self) -> Result<()> {
        if let Err(error) = self.writer.check() {
            tracing::warn!("{error:#}: trying again at step {}", self.state.step);
            if self.ranks.are_several() {
                // What all have checked together before this save holds for the present state as well.
                self.hand_over(true)?;
            } else {
                self.saved_at = None;
                self.save(true)?;
            }
            self.writer.wait()?;
        }
        if self.writer.has_saved()
            && let Some(mut old) = self.old.take()
        {
            old.remove()?;
        }
        Ok(())
    }

    /// Measures what was due at the step that the run goes on from, and could not be measured then.
    fn make_up(&mut self) -> Result<()> {
        let wanted = std::mem::take(&mut self.state.due);
        let due: Vec<&'r str> =
            self.evaluators.entries().map(|(name, _)| name).filter(|name| wanted.iter().any(|w| w == name)).collect();
        if due.is_empty() {
            return Ok(());
        }
        let step = self.state.step;
        tracing::info!("measuring what could not be measured at step {step}: {}", due.join(", "));
        self.measure_due(&due, step)?;
        self.saved_at = None;
        self.state.best = self.best.as_mut().and_then(BestTracker::found).or(self.state.best.take());
        self.save(step == self.recipe.run.steps)
    }

    /// Judges the checkpoints before this step by its losses.
    fn prove(&mut self, step: u64, feed: &Feed) -> Result<()> {
        match self.not_finite_anywhere(step)? {
            None => self.judge(Verdict::Proven),
            // With loss scaling a step whose numbers overflow is skipped, and says nothing of the weights.
            Some(_) if self.trainer.scales() && !step.is_multiple_of(self.recipe.run.log_every) => Ok(()),
            Some(error) => {
                let diverged = self.blaming(Err(error), feed);
                self.sound(diverged)
            }
        }
    }

    /// The first error of all processes' steps: this process's own, or that another has one.
    fn of_any(&self, own: Option<Error>) -> Result<Option<Error>> {
        let anywhere = self.decisions.any(own.is_some())?;
        Ok(own.or_else(|| anywhere.then(|| Error::failure(format!("{LOST}another rank has diverged")))))
    }

    /// That a loss of the newest step is not finite, in this process or in another.
    fn not_finite_anywhere(&self, step: u64) -> Result<Option<Error>> {
        let own = self.trainer.not_finite()?;
        self.of_any(own.map(|(name, value)| has_diverged(&format!("`loss/{name}` is {value} at step {step}"))))
    }

    /// Of an update that all processes have refused, since its gradients are not finite in any of them, those whose own
    /// losses are finite are not the ones to tell.
    fn blamed_elsewhere(&self, stepped: Result<()>) -> Result<Result<()>> {
        let own = self.trainer.not_finite()?.is_some();
        let elsewhere = self.decisions.any(own)? && !own;
        Ok(if elsewhere { stepped.context(format!("{LOST}another rank has diverged")) } else { stepped })
    }

    /// Adds to the error of a training that has diverged whether its inputs or its weights were not finite.
    fn blaming<T>(&self, result: Result<T>, feed: &Feed) -> Result<T> {
        result.map_err(|error| match self.not_finite(feed) {
            Ok(Some(cause)) => error.adding(&cause),
            _ => error,
        })
    }

    /// The first of the inputs and then of the weights that holds a number which is not finite, in words.
    fn not_finite(&self, feed: &Feed) -> Result<Option<String>> {
        for (stream, batches) in self.trainer.model.graph.streams().iter().zip(feed) {
            for (port, tensor) in batches.iter().flat_map(|batch| stream.ports.outputs.iter().zip(&batch.tensors)) {
                if let Some(what) = not_finite(tensor)? {
                    return Ok(Some(format!("The input `{}.{}` of this step holds {what}", stream.name, port.name)));
                }
            }
        }
        for (name, tensor) in self.trainer.model.tensors() {
            if let Some(what) = not_finite(tensor)? {
                return Ok(Some(format!("The weights `{name}` hold {what}")));
            }
        }
        Ok(None)
    }

    /// Evaluates the losses once more after the last step, whose weights no later step proves.
    fn prove_last(&mut self, feed: &Feed) -> Result<()> {
        let step = self.state.step;
        fatal::note(fatal::Place::Doing, " after the last step");
        for (name, tensor) in self.trainer.model.tensors() {
            if let Some(what) = not_finite(tensor)? {
                let bad = Error::failure(format!("`{name}` holds {what} after step {step}"));
                return self.sound(Err(bad));
            }
        }
        let losses = match self.trainer.evaluated_losses(feed, step) {
            Ok(losses) => losses,
            Err(e) => {
                tracing::warn!("the weights of the last step cannot be proven: {e:#}");
                return Ok(());
            }
        };
        let bad = losses.into_iter().find(|(_, value)| !value.is_finite());
        let bad = bad.map(|(name, value)| {
            has_diverged(&format!("`loss/{name}` is {value} with the weights of the last step, {step}"))
        });
        match self.of_any(bad)? {
            None => self.judge(Verdict::Proven),
            Some(error) => self.sound(Err(error)),
        }
    }

    fn judge(&mut self, verdict: Verdict) -> Result<()> {
        self.proving = false;
        for step in std::mem::take(&mut self.unproven) {
            if verdict == Verdict::Proven {
                self.proven = Some(step);
            }
            if self.trainer.model.context().world.leads() {
                self.writer.judge(step, verdict)?;
            }
        }
        self.advise();
        Ok(())
    }

    /// Hands on whether training has diverged. The message then says which checkpoint is sound; those that no later loss
    /// has proven are not.
    fn sound<T>(&mut self, result: Result<T>) -> Result<T> {
        let Err(error) = result else { return result };
        let refuted: Vec<String> = self.unproven.iter().map(u64::to_string).collect();
        self.judge(Verdict::Unsound)?;
        let left = match refuted.last() {
            Some(step) => format!("The checkpoint of step {step} is not sound, and is left out from now on. "),
            None => String::new(),
        };
        Err(error.adding(&match self.proven {
            Some(step) => format!("{left}The newest proven checkpoint is that of step {step}: --resume goes on there"),
            None => format!("{left}No checkpoint is proven: start again"),
        }))
    }

    /// Hands on how something around the steps went. The steps so far are sound, whatever is wrong with it: before an
    /// error they are saved.
    fn saving<T>(&mut self, result: Result<T>) -> Result<T> {
        // Several processes save together, which they cannot when one has failed: they go on from the newest checkpoint.
        if result.is_err() && self.state.step > 0 && !self.ranks.are_several() {
            self.save(true)?;
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
                batches.push(self.loaders[stream].next_batch()?.to(context.kind, context.device, &mut self.tables)?);
            }
            self.replaced += batches.iter().map(|batch| batch.replaced).sum::<u64>();
            for place in batches.iter_mut().flat_map(|batch| batch.skipped.drain(..)) {
                if self.skipped.is_empty() {
                    tracing::info!("skipped: {place}");
                }
                skipped += 1;
                self.skipped.insert(place);
            }
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
        // All together: each value by itself would wait for the device and for the other processes.
        let values = read_together(self.trainer.losses().iter().map(|loss| &loss.value), |all| world.mean(all))?;
        for (loss, value) in self.trainer.losses().iter().zip(values) {
            total += loss.weight * value;
            numbers.push((format!("loss/{}", loss.name), value));
        }
        numbers.push(("loss/total".into(), total));
        // Reading these waits for the device.
        let phases = self.trainer.phase_numbers()?;
        // On the CPU such an update was refused; on other devices it changed nothing, which shows only now.
        let norm = phases.iter().find(|(name, value)| name.starts_with("grad_norm/") && !value.is_finite());
        if let Some((name, value)) = norm.filter(|_| !self.trainer.scales()) {
            let what = format!("`{name}` is {value} at step {step}");
            return self.sound(Err(has_diverged(&what)));
        }
        numbers.extend(phases);
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

    /// Measures with the evaluators that are due, and notifies the observers; whether there were any.
    fn evaluate(&mut self, step: u64) -> Result<bool> {
        let last = step == self.recipe.run.steps;
        let due = self.evaluators.entries().filter(|(_, entry)| last || is_due(entry.slot.common.every, step));
        let due: Vec<&'r str> = due.map(|(name, _)| name).collect();
        self.measure_due(&due, step)?;
        Ok(!due.is_empty())
    }

    fn measure_due(&mut self, due: &[&'r str], step: u64) -> Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        fatal::note(fatal::Place::Doing, &format!(" in the evaluation after step {step}"));
        self.ranks.whereabouts.solo("evaluating");
        self.alike()?;
        self.state.due = due.iter().map(|name| (*name).to_owned()).collect();
        let averages = self.trainer.averages.as_ref().filter(|a| a.evaluates());
        if let Some(averages) = averages {
            averages.swap(&self.trainer.model)?;
        }
        let measured = self.measure(due, step);
        if let Some(averages) = averages {
            averages.swap(&self.trainer.model)?;
        }
        for (evaluator, report) in &measured? {
            for (metric, value) in &report.metrics {
                let name = format!("{evaluator}.{metric}");
                // What is not finite has not been measured, and what was measured before is out of date.
                if value.is_finite() {
                    self.state.metrics.insert(name, *value);
                } else {
                    self.state.metrics.shift_remove(&name);
                }
            }
            let event = Event::Evaluated { step, evaluator, report };
            if let Some(best) = &mut self.best {
                best.on(&event);
            }
            self.observers.notify(&event);
        }
        self.state.due.clear();
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

    /// Lets all processes have the buffers of the first. Running statistics of each differ where they are not taken
    /// together.
    fn alike(&self) -> Result<()> {
        let context = self.trainer.model.context();
        let Some(group) = context.world.group()?.filter(|_| !context.sync_batch_norm) else { return Ok(()) };
        let entries = self.trainer.model.modules.iter().flat_map(|module| module.parameters.values());
        let buffers: Vec<&Tensor> = entries.filter(|entry| entry.role.is_none()).map(|entry| &entry.tensor).collect();
        Ok(tch::no_grad(|| group.broadcast(&buffers, 0))?)
    }

    fn holds_the_folder(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), Lock::check)
    }

    /// Saves the state of this step. The `last` save of a process copies nothing, since no step changes it any more.
    fn save(&mut self, last: bool) -> Result<()> {
        let step = self.state.step;
        if self.saved_at == Some(step) {
            return Ok(());
        }
        self.ranks.whereabouts.solo("saving");
        self.alike()?;
        if let Some(error) = self.not_finite_anywhere(step)? {
            return self.sound(Err(error.adding("Nothing is saved")));
        }
        self.saved_at = Some(step);
        self.proving = true;
        self.unproven.push(step);
        self.hand_over(last)?;
        self.observers.notify(&Event::Saved { step });
        Ok(())
    }

    /// Gives the state of this step to the thread that writes it.
    fn hand_over(&mut self, last: bool) -> Result<()> {
        self.holds_the_folder()?;
        let weights = self.taken(self.trainer.model.tensors(), last)?;
        let optimizer = self.taken(self.trainer.state()?, last)?;
        let averages = match &self.trainer.averages {
            Some(averages) => self.taken(averages.state(), last)?,
            None => Vec::new(),
        };
        if self.trainer.model.context().world.leads() {
            self.writer.save(Snapshot { state: self.state.clone(), weights, optimizer, averages })?;
        }
        Ok(())
    }

    /// Tensors by name on the CPU, those whose rows are cut over the processes as one: of the process that leads. The
    /// `last` ones are not copied. All processes take part.
    fn taken(&self, tensors: Vec<(String, &Tensor)>, last: bool) -> Result<Vec<(String, Tensor)>> {
        let (shards, world) = (self.trainer.model.shards(), self.trainer.model.context().world);
        let (mut names, mut whole, mut gathered) = (Vec::new(), Vec::new(), HashMap::new());
        for (name, tensor) in tensors {
            // The state of an optimizer ends with the name of its parameter.
            match shards.get(name.rsplit('/').next().unwrap_or_default()) {
                Some(shard) => {
                    let all = all_rows(tensor, *shard, world)?;
                    if world.leads() {
                        gathered.insert(name.clone(), all);
                    }
                }
                None => whole.push((name.clone(), tensor)),
            }
            names.push(name);
        }
        if !world.leads() {
            return Ok(Vec::new());
        }
        let whole = if last { shared(whole)? } else { copies(whole)? };
        let mut all: HashMap<String, Tensor> = whole.into_iter().chain(gathered).collect();
        Ok(names.into_iter().filter_map(|name| all.remove_entry(&name)).collect())
    }

    /// Ends the run: what is under way is finished even after a failure, whose error comes first.
    fn close(mut self, result: Result<u8>) -> Result<u8> {
        fatal::note(fatal::Place::Doing, " at the end of the run");
        self.ranks.whereabouts.solo("at the end of the run");
        let mut saved = self.writer.finish();
        if saved.is_ok()
            && self.writer.has_saved()
            && let Some(mut old) = self.old.take()
        {
            saved = old.remove();
        }
        let done = self.state.step == self.recipe.run.steps;
        let written = if done && matches!(result, Ok(0)) { self.write_weights() } else { Ok(()) };
        let ending = match &result {
            Ok(0) if saved.is_ok() && written.is_ok() => {
                if done {
                    Ending::Finished
                } else {
                    Ending::Reached
                }
            }
            Ok(code) if *code != 0 && saved.is_ok() => Ending::Stopped,
            _ => Ending::Failed,
        };
        self.tell_skipped();
        self.observers.notify(&Event::Ended { step: self.state.step, ending });
        let code = result?;
        saved.and(written)?;
        Ok(code)
    }

    /// Says what could not be read; loudly where it was more than a hundredth of what was drawn.
    fn tell_skipped(&self) {
        const NAMED: usize = 5;
        let drawn: u64 = self.state.samples.values().sum();
        if self.skipped.is_empty() {
            return;
        }
        let named: Vec<String> = self.skipped.iter().take(NAMED).map(|place| format!("  {place}")).collect();
        let text = format!(
            "{} pictures or other samples cannot be read; {} of {drawn} samples drawn were replaced by the next readable \
             one:\n{}{}",
            self.skipped.len(),
            self.replaced,
            named.join("\n"),
            if self.skipped.len() > NAMED {
                format!("\n  … and {} more", self.skipped.len() - NAMED)
            } else {
                String::new()
            }
        );
        if self.replaced.saturating_mul(100) > drawn {
            tracing::warn!("{text}");
        } else {
            tracing::info!("{text}");
        }
    }

    fn write_weights(&self) -> Result<()> {
        let weights = self.taken(self.trainer.model.tensors(), true)?;
        let averages = self.trainer.averages.as_ref().map(|averages| self.taken(averages.state(), true)).transpose()?;
        if !self.trainer.model.context().world.leads() {
            return Ok(());
        }
        self.holds_the_folder()?;
        write(&self.folder.weights(), &weights)?;
        averages.map_or(Ok(()), |averages| write(&self.folder.averages(), &averages))
    }
}
