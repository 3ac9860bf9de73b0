//! Recipes as typed values: every table decoded into the engine's keys and the configuration of its component.
//!
//! A [`Recipe`] never changes: [`Recipe::with`] makes another one. What only the opened data decides, such as the number
//! of identities, is not in it; see [`crate::data::open`].

mod checker;
mod explain;
mod schema;
mod sections;

pub use checker::Named;
pub use explain::{Explanation, SetBy, explain, is_path};
pub use schema::{family_schema, recipe_schema, table_schema};
pub use sections::*;

use crate::ids;
use checker::Checker;
use indexmap::IndexMap;
use mtl_component::{
    DatasetConfig, Description, EvaluatorConfig, EvaluatorDescription, HookConfig, Metric, MetricConfig, ModuleConfig,
    Normalization, OptimizerConfig, OptimizerDescription, PictureSourceConfig, Placed, RecipeView, Registration,
    Registry, SamplerConfig, Scheduler, SchedulerDescription, TransformConfig, TransformDescription,
};
use mtl_recipe::{
    ConfigValue, Diagnostic, Diagnostics, Entry, Merged, Origin, Override, Parsed, Severity, Sources, Unset, Value,
    recorded, suggestion,
};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A table of the recipe that names a component.
pub struct Slot<C, O: ?Sized> {
    /// The keys that the engine reads.
    pub common: C,
    /// The component.
    pub registration: &'static Registration,
    /// Its decoded configuration.
    pub config: Box<O>,
    /// Where the table stands.
    pub origin: Origin,
}

/// A data stream.
pub struct Data {
    /// The dataset.
    pub slot: Slot<DataSlot, dyn DatasetConfig>,
    /// What the dataset says of itself.
    pub description: Description,
    /// The order of samples.
    pub sampler: Slot<Named, dyn SamplerConfig>,
    /// The pictures that it reads, where they are named beside it.
    pub source: Option<SourceEntry>,
    /// What is done to each picture, in order.
    pub transforms: Vec<(TransformEntry, TransformDescription)>,
}

/// A module.
pub struct ModuleEntry {
    /// The module.
    pub slot: Slot<ModelSlot, dyn ModuleConfig>,
    /// What it says of itself.
    pub description: Description,
}

/// A function that a node applies.
pub struct Function {
    /// The component.
    pub registration: &'static Registration,
    /// Its decoded configuration.
    pub config: Box<dyn ModuleConfig>,
    /// What it says of itself.
    pub description: Description,
}

/// A node of the graph.
pub struct GraphEntry {
    /// The engine's keys.
    pub common: NodeSlot,
    /// For `apply`: the function.
    pub function: Option<Function>,
    /// Where it stands.
    pub origin: Origin,
    /// Where each wire stands.
    pub wires: IndexMap<String, Origin>,
}

/// A loss with the places of its wires.
pub struct LossEntry {
    /// The loss.
    pub slot: Slot<LossSlot, dyn ModuleConfig>,
    /// What it says of itself.
    pub description: Description,
    /// Where each wire stands.
    pub wires: IndexMap<String, Origin>,
}

/// A phase with its optimizer and scheduler.
pub struct PhaseEntry {
    /// The engine's keys.
    pub common: Phase,
    /// The optimizer.
    pub optimizer: Slot<OptimizerSlot, dyn OptimizerConfig>,
    /// What the optimizer says of itself.
    pub description: OptimizerDescription,
    /// The course of the learning rate.
    pub scheduler: Option<Slot<Named, dyn Scheduler>>,
    /// Where it stands.
    pub origin: Origin,
}

/// An evaluator with further metrics.
pub struct EvaluateEntry {
    /// The evaluator.
    pub slot: Slot<EvaluateSlot, dyn EvaluatorConfig>,
    /// What it says of itself.
    pub description: EvaluatorDescription,
    /// The pictures that it reads, where they are named beside it.
    pub source: Option<SourceEntry>,
    /// Metrics that are computed from its cases.
    pub metrics: Vec<(Slot<Named, dyn MetricConfig>, Metric)>,
}

/// A source of pictures.
pub type SourceEntry = Slot<Named, dyn PictureSourceConfig>;

/// A transform of a data stream.
pub type TransformEntry = Slot<Named, dyn TransformConfig>;

/// An observer of the run.
pub type HookEntry = Slot<Named, dyn HookConfig>;

impl Data {
    /// The normalisation that the transforms set, if they set one.
    pub fn normalization(&self) -> Option<Normalization> {
        self.transforms.iter().filter_map(|(_, t)| t.normalization).next_back()
    }

    /// The last transform that brings pictures to a size, and that size.
    pub fn resized(&self) -> Option<(&TransformEntry, (i64, i64))> {
        self.transforms.iter().filter_map(|(slot, t)| Some((slot, t.size?))).next_back()
    }
}

impl PhaseEntry {
    /// What the scheduler says of itself for a run of that many steps; a constant rate has nothing to say.
    ///
    /// # Errors
    /// If it cannot be described.
    pub fn schedule(&self, steps: u64) -> mtl_recipe::Result<SchedulerDescription> {
        match &self.scheduler {
            Some(slot) => slot.config.describe(steps),
            None => Ok(SchedulerDescription::default()),
        }
    }
}

impl EvaluateEntry {
    /// Every metric that is known beforehand: the evaluator's and those computed from its cases.
    pub fn metrics(&self) -> impl Iterator<Item = &Metric> {
        self.description.metrics.iter().chain(self.metrics.iter().map(|(_, metric)| metric))
    }
}

/// A recipe whose every key is known and of the right type. Its wiring is checked by
/// [`Graph::new`](crate::graph::Graph::new).
pub struct Recipe {
    /// The file.
    pub path: PathBuf,
    /// All texts.
    pub sources: Sources,
    /// The merged values with absolute paths and defaults.
    pub root: ConfigValue,
    /// Settings of the run.
    pub run: Run,
    /// Sizes shared by components.
    pub dims: IndexMap<String, i64>,
    /// Data streams.
    pub data: IndexMap<String, Data>,
    /// Modules.
    pub model: IndexMap<String, ModuleEntry>,
    /// Nodes.
    pub graph: IndexMap<String, GraphEntry>,
    /// Losses.
    pub loss: IndexMap<String, LossEntry>,
    /// Phases in the order of a step.
    pub phase: IndexMap<String, PhaseEntry>,
    /// Evaluators.
    pub evaluate: IndexMap<String, EvaluateEntry>,
    /// Observers of the run.
    pub hook: IndexMap<String, HookEntry>,
    /// Moving averages.
    pub ema: Option<Ema>,
    /// Points of a sweep.
    pub sweep: Option<SweepSection>,
    /// What is valid but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// The components that it may name.
    pub registry: Arc<Registry>,
    /// The texts of the files, each after those that it extends.
    order: Vec<usize>,
    /// What was found while the files were merged.
    loaded: Vec<Diagnostic>,
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Diagnostics`] with every finding.
    pub fn read(registry: &Arc<Registry>, path: &Path, overrides: &[Override]) -> Result<Self, Diagnostics> {
        let parsed = Parsed::read(path);
        let registry = with_plugins(registry, &parsed)?;
        let merged = parsed.merge(overrides, &*registry, SECTIONS, Unset::Refused)?;
        Self::decode(&registry, path, merged)
    }

    /// The recipe as it is recorded: environment variables are named, and not what they held.
    pub fn recorded(&self) -> ConfigValue {
        recorded(&self.root, &self.sources)
    }

    /// As [`read`](Self::read), for the record of a recipe: with the values at some dotted paths dropped, which are keys
    /// that an earlier version of the program wrote, and with references to variables that are not set here left.
    ///
    /// # Errors
    /// [`Diagnostics`] with every finding.
    pub fn read_record(
        registry: &Arc<Registry>,
        path: &Path,
        overrides: &[Override],
        retired: &[&str],
    ) -> Result<Self, Diagnostics> {
        let mut parsed = Parsed::read(path);
        recorded_plugins(registry, path, &mut parsed)?;
        let registry = with_plugins(registry, &parsed)?;
        let mut merged = parsed.merge(overrides, &*registry, SECTIONS, Unset::Stays)?;
        for key in retired {
            merged.root.remove(key);
        }
        Self::decode(&registry, path, merged)
    }

    /// The same recipe with other values at some dotted paths, or without them, checked anew.
    ///
    /// # Errors
    /// [`Diagnostics`] if the values do not fit.
    pub fn with(&self, changes: &[(&str, Option<Value>)]) -> Result<Self, Diagnostics> {
        let mut root = self.root.clone();
        for (path, value) in changes {
            match value {
                Some(value) => root.replace(path, value.clone()),
                None => {
                    root.remove(path);
                }
            }
        }
        let merged = Merged {
            sources: self.sources.clone(),
            root,
            found: self.loaded.clone(),
            files: Vec::new(),
            order: self.order.clone(),
            failed: HashSet::new(),
        };
        Self::decode(&self.registry, &self.path, merged)
    }

    /// The name of the run: that of the recipe's file, unless it says another.
    pub fn name(&self) -> String {
        self.run.name.clone().unwrap_or_else(|| {
            let stem = self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            let plain = |c: char| if is_name(c.encode_utf8(&mut [0; 4])) { c } else { '_' };
            let name: String = stem.chars().take(64).map(plain).collect();
            if name.is_empty() { "run".into() } else { name }
        })
    }

    /// The diagnostics of this recipe's texts.
    pub fn diagnostics(&self, list: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics { list, sources: self.sources.clone() }
    }

    /// Where the value of a dotted path stands, or else the table around it.
    pub fn place(&self, path: &str) -> Origin {
        self.root.place(path)
    }

    /// What rules see of it.
    pub fn view(&self) -> RecipeView<'_> {
        let mut components = Vec::new();
        let data = self.data.iter().map(|(name, d)| {
            let (slot, ports) = (&d.slot, Some(&d.description.ports));
            Placed { section: "data", name, registration: slot.registration, ports, origin: &slot.origin }
        });
        components.extend(data);
        let model = self.model.iter().map(|(name, m)| {
            let (slot, ports) = (&m.slot, Some(&m.description.ports));
            Placed { section: "model", name, registration: slot.registration, ports, origin: &slot.origin }
        });
        components.extend(model);
        let functions = self.graph.iter().filter_map(|(name, g)| {
            let function = g.function.as_ref()?;
            let (registration, ports) = (function.registration, Some(&function.description.ports));
            Some(Placed { section: "graph", name, registration, ports, origin: &g.origin })
        });
        components.extend(functions);
        let losses = self.loss.iter().map(|(name, l)| {
            let (slot, ports) = (&l.slot, Some(&l.description.ports));
            Placed { section: "loss", name, registration: slot.registration, ports, origin: &slot.origin }
        });
        components.extend(losses);
        let evaluators = self.evaluate.iter().map(|(name, e)| {
            let slot = &e.slot;
            Placed { section: "evaluate", name, registration: slot.registration, ports: None, origin: &slot.origin }
        });
        components.extend(evaluators);
        RecipeView { root: &self.root, components }
    }

    fn decode(registry: &Arc<Registry>, path: &Path, merged: Merged) -> Result<Self, Diagnostics> {
        let Merged { sources, mut root, found, order, failed, .. } = merged;
        let loaded = found.clone();
        let reported = found.len();
        let keys = keys(&root.to_json());
        let mut cx = Checker { registry, sources: &sources, out: found };
        record_plugins(registry, &mut root);
        cx.top_level(&root);
        let run = cx.section::<Run>(&mut root, "run");
        let dims = cx.section::<IndexMap<String, i64>>(&mut root, "dims").unwrap_or_default();
        for (name, size) in &dims {
            if *size < 1 {
                let place = root.place(&format!("dims.{name}"));
                let message = format!("`dims.{name}` must be at least 1, found {size}");
                cx.out.push(Diagnostic::error(&mtl_recipe::ids::OUT_OF_RANGE, message).at(&place, "a size"));
            }
        }
        if let Some(name) = run.as_ref().and_then(|run| run.name.as_ref()).filter(|name| !is_name(name)) {
            let message = format!("`run.name` must be a name of 1 to 64 letters, digits, `_` and `-`, found `{name}`");
            cx.out.push(Diagnostic::error(&ids::BAD_NAME, message).at(&root.place("run.name"), NAMES));
        }
        let data = cx.each(&mut root, "data", Checker::data);
        cx.pairs(&root, &data);
        let model = cx.each(&mut root, "model", Checker::module);
        let graph = cx.each(&mut root, "graph", Checker::node);
        let loss = cx.each(&mut root, "loss", Checker::loss);
        let phase = cx.each(&mut root, "phase", Checker::phase);
        let evaluate = cx.each(&mut root, "evaluate", Checker::evaluator);
        let hook = cx.each(&mut root, "hook", Checker::hook);
        let ema = root.get("ema").is_some().then(|| cx.section::<Ema>(&mut root, "ema")).flatten();
        let sweep = root.get("sweep").is_some().then(|| cx.section::<SweepSection>(&mut root, "sweep")).flatten();
        let Checker { out, .. } = cx;
        // A reference that leads nowhere is reported once, whatever else its text is not.
        let twice = |(i, d): &(usize, Diagnostic)| {
            *i >= reported && d.origin.as_ref().is_some_and(|origin| failed.contains(origin))
        };
        let out = out.into_iter().enumerate().filter(|d| !twice(d)).map(|(_, d)| elsewhere(d, &keys));
        let out: Vec<Diagnostic> = out.collect();
        let failed = out.iter().any(|d| d.severity == Severity::Error);
        let Some(run) = run.filter(|_| !failed) else { return Err(Diagnostics { list: out, sources }) };
        let mut recipe = Self {
            path: path.to_owned(),
            sources,
            root,
            run,
            dims,
            data,
            model,
            graph,
            loss,
            phase,
            evaluate,
            hook,
            ema,
            sweep,
            warnings: out,
            registry: registry.clone(),
            order,
            loaded,
        };
        recipe.order_phases()?;
        Ok(recipe)
    }

    fn order_phases(&mut self) -> Result<(), Diagnostics> {
        let Some(order) = self.run.phases.clone() else { return Ok(()) };
        let place = self.place("run.phases");
        let mut bad = Vec::new();
        if order.is_empty() {
            let d = Diagnostic::error(&ids::NO_PHASE, "`run.phases` names no phase: nothing would be trained");
            let d = d.help(format!("name some of: {}", self.phase.keys().cloned().collect::<Vec<_>>().join(", ")));
            bad.push(d.at(&place, "it is empty"));
        }
        let mut sorted = IndexMap::new();
        for name in &order {
            match self.phase.shift_remove(name) {
                Some(entry) => {
                    sorted.insert(name.clone(), entry);
                }
                None => {
                    let message = format!("`run.phases` names `{name}`, which is not a phase (or is named twice)");
                    let d = Diagnostic::error(&ids::UNKNOWN_PHASE, message);
                    let d = d.help(suggestion(name, self.phase.keys().map(String::as_str)));
                    bad.push(d.at(&place, "here"));
                }
            }
        }
        for (name, entry) in self.phase.iter().filter(|_| bad.is_empty()) {
            let message = format!("the phase `{name}` never runs: `run.phases` does not name it");
            self.warnings.push(Diagnostic::warning(&ids::UNUSED_PHASE, message).at(&entry.origin, "this phase"));
        }
        self.phase = sorted;
        if bad.is_empty() { Ok(()) } else { Err(self.diagnostics(bad)) }
    }
}

/// The registry with the plugins that a recipe and the files that it extends name as well, whatever else they say.
///
/// # Errors
/// [`Diagnostics`] if a file cannot be read, or a plugin cannot be loaded.
pub fn plugins_of(registry: &Arc<Registry>, path: &Path) -> Result<Arc<Registry>, Diagnostics> {
    let parsed = Parsed::read(path).sound()?;
    with_plugins(registry, &parsed)
}

/// The registry with the plugins that a recipe names as well.
fn with_plugins(registry: &Arc<Registry>, parsed: &Parsed) -> Result<Arc<Registry>, Diagnostics> {
    let mut all = registry.clone();
    if !parsed.is_sound() {
        return Ok(all);
    }
    let mut bad = Vec::new();
    for (name, origin) in &parsed.plugins {
        if registry.has_plugin(name) {
            tracing::info!("the plugin {name} is the one that the command line names");
            continue;
        }
        match all.with_plugin(name, &parsed.sources.get(origin.file).folder) {
            Ok(more) => all = Arc::new(more),
            Err(error) => {
                let d = Diagnostic::error(&ids::BAD_PLUGIN, format!("{error:#}"));
                bad.push(d.at(origin, "named here").of(error.code()));
            }
        }
    }
    if bad.is_empty() { Ok(all) } else { Err(Diagnostics { list: bad, sources: parsed.sources.clone() }) }
}

/// Looks at the plugins that a record names, which may come from anywhere: what lies in its folder is not run. Where a
/// plugin of that file name is loaded, it is the one that is meant: the files of plugins may be moved.
fn recorded_plugins(registry: &Registry, record: &Path, parsed: &mut Parsed) -> Result<(), Diagnostics> {
    let folder = record.parent().and_then(|folder| folder.canonicalize().ok()).unwrap_or_default();
    let loaded = |file: &Path| registry.plugins().iter().any(|plugin| plugin.path.file_name() == file.file_name());
    parsed.plugins.retain(|(name, _)| !loaded(Path::new(name)));
    for (name, origin) in &parsed.plugins {
        let file = Path::new(name);
        let inside = file.canonicalize().is_ok_and(|file| file.starts_with(&folder));
        if !file.is_absolute() || inside {
            let message = format!(
                "the record of a run names the plugin {name}, and not the absolute path of a file outside of its folder, of \
                 which nothing is run"
            );
            let d = Diagnostic::error(&ids::BAD_PLUGIN, message).at(origin, "named here");
            return Err(Diagnostics { list: vec![d], sources: parsed.sources.clone() });
        }
    }
    Ok(())
}

/// Puts the files of all plugins into a recipe, so that its record names them.
fn record_plugins(registry: &Registry, root: &mut ConfigValue) {
    let origin = root.origin.clone();
    let Some(table) = root.table_mut().filter(|_| !registry.plugins().is_empty()) else { return };
    let file =
        |path: &Path| ConfigValue { value: Value::String(path.to_string_lossy().into_owned()), origin: origin.clone() };
    let files = registry.plugins().iter().map(|plugin| file(&plugin.path)).collect();
    let node = ConfigValue { value: Value::Array(files), origin: origin.clone() };
    table.shift_insert(0, PLUGINS.to_owned(), Entry { key: origin, node });
}

/// The key of a recipe that names its plugins.
pub(crate) const PLUGINS: &str = "plugins";

/// The dotted paths of a recipe by their last key.
fn keys(root: &serde_json::Value) -> HashMap<String, Vec<String>> {
    fn walk(path: &str, value: &serde_json::Value, out: &mut HashMap<String, Vec<String>>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            walk(&path, value, out);
            out.entry(key.clone()).or_default().push(path);
        }
    }
    let mut out = HashMap::new();
    walk("", root, &mut out);
    out
}

/// Adds to the finding of a key that does not exist where else the recipe has one of that name.
fn elsewhere(found: Diagnostic, keys: &HashMap<String, Vec<String>>) -> Diagnostic {
    const SHOWN: usize = 3;
    if *found.id != mtl_recipe::ids::UNKNOWN_KEY {
        return found;
    }
    let mut quoted = found.message.split('`').skip(1).step_by(2);
    let (Some(table), Some(key)) = (quoted.next(), quoted.next()) else { return found };
    // `evaluate.v (verification).made` is the table `evaluate.v.made`.
    let table = match (table.find(" ("), table.find(')')) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &table[..from], &table[to + 1..]),
        _ => table.to_owned(),
    };
    let own = format!("{table}.{key}");
    let others = keys.get(key).into_iter().flatten().filter(|path| **path != own);
    let others: Vec<String> = others.take(SHOWN).map(|path| format!("`{path}`")).collect();
    if others.is_empty() { found } else { found.help(format!("the recipe has {}", others.join(", "))) }
}

/// What a name is that may become part of a path: that of a run, a table, a variant of a sweep.
pub const NAMES: &str = "a name is 1 to 64 letters, digits, `_` and `-`";

/// Whether a text is such a name.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The sections of a recipe.
pub const SECTIONS: &[&str] =
    &["run", "dims", "data", "model", "graph", "loss", "phase", "evaluate", "hook", "ema", "sweep"];

#[cfg(test)]
mod tests {
    use mtl_component::ComponentKind;
    use mtl_recipe::schema_of;

    /// The table of kinds has to name the keys of the engine's slots, since a key that it lacks would be dropped when a
    /// derived recipe names another component.
    #[test]
    fn the_table_of_kinds_names_the_keys_of_every_slot() {
        use super::*;
        let keys = |schema: serde_json::Value, nested: &[&str]| {
            let own = schema["properties"].as_object().unwrap().keys().map(String::as_str);
            let mut all: Vec<String> = own.chain(nested.iter().copied()).map(str::to_owned).collect();
            all.sort();
            all
        };
        for kind in ComponentKind::ALL {
            let slot = match kind {
                ComponentKind::Dataset => keys(schema_of::<DataSlot>(), &["source", "sampler", "transforms"]),
                ComponentKind::Module => keys(schema_of::<ModelSlot>(), &[]),
                ComponentKind::Function => keys(schema_of::<NodeSlot>(), &[]),
                ComponentKind::Loss => keys(schema_of::<LossSlot>(), &[]),
                ComponentKind::Optimizer => keys(schema_of::<OptimizerSlot>(), &[]),
                ComponentKind::Evaluator => keys(schema_of::<EvaluateSlot>(), &["source", "metrics"]),
                _ => keys(schema_of::<Named>(), &[]),
            };
            let mut table: Vec<&str> = kind.slot_keys().to_vec();
            table.sort_unstable();
            assert_eq!(table, slot, "{kind}");
        }
    }
}
