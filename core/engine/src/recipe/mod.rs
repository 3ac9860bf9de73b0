//! Recipes: reading, merging, checking and decoding.

mod checker;
mod decode;
mod emit;
mod explain;
mod load;
mod references;
mod rules;
mod schema;
mod sections;
mod standard;
mod value;

use checker::{Checker, Named, block, component_schema, evaluator, wire_origins};
pub use decode::{DecodeError, decode};
pub use emit::{difference, kind_schema, recipe_schema, table_schema, to_toml};
pub use explain::{Explanation, SetBy, explain, is_path};
pub use load::{Merged, Override, load};
pub(crate) use references::SAMPLES;
pub use rules::Rule;
pub(crate) use rules::broken;
pub use schema::{RecipePath, Walk, schema_of};
pub use sections::*;
pub use value::{Entry, Node, Origin, Source, Sources, Table, Value, Whence};

use crate::component::{Block, Kind, Registration, find};
use crate::data::{DatasetConfig, SamplerConfig, TransformConfig};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, suggestion};
use crate::evaluate::Evaluator;
use crate::train::{OptimizerConfig, Scheduler};
use indexmap::IndexMap;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

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
    /// The order of samples.
    pub sampler: Box<dyn SamplerConfig>,
    /// What is done to each image, in order.
    pub transforms: Vec<Box<dyn TransformConfig>>,
}

/// A node of the graph.
pub struct GraphEntry {
    /// The engine's keys.
    pub common: GraphNode,
    /// For `apply`: the function.
    pub function: Option<Box<dyn Block>>,
    /// Where it stands.
    pub origin: Origin,
    /// Where each wire stands.
    pub wires: IndexMap<String, Origin>,
}

/// A loss with the places of its wires.
pub struct LossEntry {
    /// The loss.
    pub slot: Slot<LossSlot, dyn Block>,
    /// Where each wire stands.
    pub wires: IndexMap<String, Origin>,
}

/// A phase with its optimizer and scheduler.
pub struct PhaseEntry {
    /// The engine's keys.
    pub common: Phase,
    /// The optimizer.
    pub optimizer: Slot<OptimizerSlot, dyn OptimizerConfig>,
    /// The course of the learning rate.
    pub scheduler: Option<Box<dyn Scheduler>>,
    /// Where it stands.
    pub origin: Origin,
}

/// A recipe whose every key is known and of the right type. Wiring is checked by
/// [`Graph::new`](crate::graph::Graph::new).
pub struct Recipe {
    /// The file.
    pub path: PathBuf,
    /// All texts.
    pub sources: Sources,
    /// The merged values with absolute paths and defaults.
    pub root: Node,
    /// Settings of the run.
    pub run: Run,
    /// Sizes shared by components.
    pub dims: IndexMap<String, i64>,
    /// Data streams.
    pub data: IndexMap<String, Data>,
    /// Modules.
    pub model: IndexMap<String, Slot<ModelSlot, dyn Block>>,
    /// Nodes.
    pub graph: IndexMap<String, GraphEntry>,
    /// Losses.
    pub loss: IndexMap<String, LossEntry>,
    /// Phases in the order of a step.
    pub phase: IndexMap<String, PhaseEntry>,
    /// Evaluators.
    pub evaluate: IndexMap<String, Slot<EvaluateSlot, dyn Evaluator>>,
    /// Moving averages.
    pub ema: Option<Ema>,
    /// Points of a sweep.
    pub sweep: Option<SweepSection>,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
    /// The texts of the files, each after those that it extends.
    order: Vec<usize>,
    /// What was found while the files were merged.
    loaded: Vec<Diagnostic>,
    /// The paths that values refer to and only the opened data tells, each with a place that refers to it.
    late: IndexMap<String, Origin>,
    /// The names of the sizes that the stand-ins in configurations stand for, in the order of `late`.
    pub(crate) stand_ins: Vec<String>,
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Diagnostics`] with every finding.
    pub fn read(path: &Path, overrides: &[Override]) -> Result<Self, Diagnostics> {
        let merged = load(path, overrides)?;
        Self::decode(path, merged, &IndexMap::new())
    }

    /// How many of the paths that values refer to are known only with the data.
    pub fn waiting(&self) -> usize {
        self.late.len()
    }

    /// Puts true numbers in the place of references to what only the opened data tells. The wiring has to be checked
    /// again.
    ///
    /// # Errors
    /// [`Diagnostics`] if a number does not fit its place, or a path is still not known.
    pub fn settle(&mut self, known: &IndexMap<String, i64>) -> Result<(), Diagnostics> {
        if self.late.is_empty() {
            return Ok(());
        }
        let merged = Merged {
            sources: self.sources.clone(),
            root: self.root.clone(),
            found: self.loaded.clone(),
            files: Vec::new(),
            order: self.order.clone(),
        };
        let settled = Self::decode(&self.path, merged, known)?;
        let open = settled.late.iter().map(|(path, origin)| {
            Diagnostic::error(format!("the opened data does not tell `{path}`")).at(origin, "referred to here")
        });
        let open: Vec<Diagnostic> = open.collect();
        if !open.is_empty() {
            return Err(settled.diagnostics(open));
        }
        *self = settled;
        Ok(())
    }

    /// As [`Recipe::settle`], with the sizes of the recipe alone, which a finished run has recorded.
    ///
    /// # Errors
    /// [`Diagnostics`] if something else was referred to.
    pub fn settle_from_sizes(&mut self, dims: &IndexMap<String, i64>) -> Result<(), Diagnostics> {
        let names = self.late.keys().zip(&self.stand_ins);
        self.settle(&names.filter_map(|(path, name)| Some((path.clone(), *dims.get(name)?))).collect())
    }

    /// Puts the least power of two that fits in the place of everything that waits for the data, to lay out a model
    /// without it.
    ///
    /// # Errors
    /// [`Diagnostics`] if none fits.
    pub fn settle_without_data(&mut self) -> Result<(), Diagnostics> {
        let all = |n: i64| self.late.keys().map(|path| (path.clone(), n)).collect::<IndexMap<_, _>>();
        let tries: Vec<_> = (0..20).map(|power| all(1 << power)).collect();
        let mut last = Ok(());
        for known in tries {
            last = self.settle(&known);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// The name of the run.
    pub fn name(&self) -> String {
        self.run.name.clone().unwrap_or_else(|| {
            self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_else(|| "run".into())
        })
    }

    /// The diagnostics of this recipe's texts.
    pub fn diagnostics(&self, list: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics { list, sources: self.sources.clone() }
    }

    fn decode(path: &Path, merged: Merged, known: &IndexMap<String, i64>) -> Result<Self, Diagnostics> {
        let Merged { mut sources, mut root, mut found, order, .. } = merged;
        let loaded = found.clone();
        let mut resolved = references::resolve(&mut root, &mut sources, known, HashSet::new(), &mut found);
        let told = found.len();
        let mut cx = Checker { sources: &sources, out: found };
        cx.top_level(&root);
        let run = cx.section::<Run>(&mut root, "run");
        let dims = cx.section::<IndexMap<String, i64>>(&mut root, "dims").unwrap_or_default();
        for (name, size) in &dims {
            if *size < 1 {
                let place = root.get("dims").and_then(|d| d.get(name)).map(|n| n.origin.clone());
                let d = Diagnostic::error(format!("`dims.{name}` must be at least 1, found {size}"));
                cx.out.push(place.map_or(d.clone(), |o| d.at(&o, "a size")));
            }
        }
        let mut data = IndexMap::new();
        cx.each(&mut root, "data", |cx, name, node| {
            if let Some(entry) = cx.data(name, node) {
                data.insert(name.to_owned(), entry);
            }
        });
        let mut later = Vec::new();
        if !resolved.late.is_empty() {
            // What a stream has of its own may be a size that the recipe gives, and its defaults are known now.
            let mut known = known.clone();
            let given = resolved.late.keys().filter_map(|p| Some((p.clone(), *dims.get(&late_size(p, &data)?)?)));
            known.extend(given);
            let Checker { out, .. } = cx;
            resolved = references::resolve(&mut root, &mut sources, &known, resolved.failed, &mut later);
            cx = Checker { sources: &sources, out };
        }
        let references::Resolved { late, failed } = resolved;
        let stand_ins = cx.late(&late, &data, &root);
        let mut model = IndexMap::new();
        cx.each(&mut root, "model", |cx, name, node| {
            let what = format!("model.{name}");
            if let Some(slot) = cx.slot::<ModelSlot, dyn Block>(&Kind::MODULES, node, &what, block, &[]) {
                cx.problems(|| slot.config.problems(), node, &what);
                model.insert(name.to_owned(), slot);
            }
        });
        let mut graph = IndexMap::new();
        cx.each(&mut root, "graph", |cx, name, node| {
            if let Some(entry) = cx.node(name, node) {
                graph.insert(name.to_owned(), entry);
            }
        });
        let mut loss = IndexMap::new();
        cx.each(&mut root, "loss", |cx, name, node| {
            let what = format!("loss.{name}");
            let wires = wire_origins(node);
            if let Some(slot) = cx.slot::<LossSlot, dyn Block>(&[Kind::Loss], node, &what, block, &[]) {
                cx.problems(|| slot.config.problems(), node, &what);
                loss.insert(name.to_owned(), LossEntry { slot, wires });
            }
        });
        let mut phase = IndexMap::new();
        cx.each(&mut root, "phase", |cx, name, node| {
            if let Some(entry) = cx.phase(name, node) {
                phase.insert(name.to_owned(), entry);
            }
        });
        let mut evaluate = IndexMap::new();
        cx.each(&mut root, "evaluate", |cx, name, node| {
            let what = format!("evaluate.{name}");
            if let Some(slot) = cx.slot::<EvaluateSlot, dyn Evaluator>(&[Kind::Evaluator], node, &what, evaluator, &[])
            {
                cx.problems(|| slot.config.problems(), node, &what);
                evaluate.insert(name.to_owned(), slot);
            }
        });
        let ema = root.get("ema").is_some().then(|| cx.section::<Ema>(&mut root, "ema")).flatten();
        let sweep = root.get("sweep").is_some().then(|| cx.section::<SweepSection>(&mut root, "sweep")).flatten();
        let Checker { out, .. } = cx;
        // A reference that leads nowhere is told once, whatever else its text is not.
        let twice = |(i, d): &(usize, Diagnostic)| {
            *i >= told && d.origin.as_ref().is_some_and(|origin| failed.contains(origin))
        };
        let out = out.into_iter().enumerate().filter(|d| !twice(d)).map(|(_, d)| d);
        let out: Vec<Diagnostic> = out.chain(later).collect();
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
            ema,
            sweep,
            warnings: out,
            order,
            loaded,
            late,
            stand_ins,
        };
        recipe.order_phases()?;
        Ok(recipe)
    }

    fn order_phases(&mut self) -> Result<(), Diagnostics> {
        let Some(order) = self.run.phases.clone() else { return Ok(()) };
        let place = self.place("run.phases");
        let mut bad = Vec::new();
        if order.is_empty() {
            let d = Diagnostic::error("`run.phases` names no phase: nothing would be trained");
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
                    let d =
                        Diagnostic::error(format!("`run.phases` names `{name}`, which is no phase (or named twice)"))
                            .help(suggestion(name, self.phase.keys().map(String::as_str)));
                    bad.push(d.at(&place, "here"));
                }
            }
        }
        for (name, entry) in self.phase.iter().filter(|_| bad.is_empty()) {
            let d = Diagnostic::warning(format!("the phase `{name}` never runs: `run.phases` does not name it"));
            self.warnings.push(d.at(&entry.origin, "this phase"));
        }
        self.phase = sorted;
        if bad.is_empty() { Ok(()) } else { Err(self.diagnostics(bad)) }
    }
}

/// The sections of a recipe.
pub const SECTIONS: &[&str] = &["run", "dims", "data", "model", "graph", "loss", "phase", "evaluate", "ema", "sweep"];

/// The name of the size that a late path means, if a data stream tells it: that of the recipe, if the stream declares it
/// for the recipe, else the path itself.
fn late_size(path: &str, data: &IndexMap<String, Data>) -> Option<String> {
    let tells = |d: &Data, name: &str| d.slot.config.declares().contains(&name);
    match path.split('.').collect::<Vec<_>>()[..] {
        ["dims", name] => data.values().any(|d| d.slot.common.declares && tells(d, name)).then(|| name.to_owned()),
        ["data", stream, name] => {
            let d = data.get(stream)?;
            match tells(d, name) {
                true if d.slot.common.declares => Some(name.to_owned()),
                true => Some(path.to_owned()),
                false => (name == SAMPLES).then(|| path.to_owned()),
            }
        }
        _ => None,
    }
}
