//! Recipes: reading, merging, checking and decoding.

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

pub use decode::{DecodeError, decode};
pub use emit::{difference, kind_schema, recipe_schema, table_schema, to_toml};
pub use explain::{Explanation, SetBy, explain, is_path};
pub use load::{Merged, Override, load};
pub use rules::Rule;
pub(crate) use rules::broken;
pub use schema::{RecipePath, Walk, schema_of};
pub use sections::*;
pub use value::{Entry, Node, Origin, Source, Sources, Table, Value, Whence};

use crate::component::{Block, Factory, Kind, Registration, find, of_kind};
use crate::data::{DatasetConfig, SamplerConfig, TransformConfig};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, nearest, suggestion};
use crate::evaluate::Evaluator;
use crate::train::{OptimizerConfig, Scheduler};
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
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
        let Merged { mut sources, mut root, mut found, .. } = merged;
        let loaded = found.clone();
        let mut resolved = references::resolve(&mut root, &mut sources, known, Vec::new(), &mut found);
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
            if let Some(slot) = cx.slot::<LossSlot, dyn Block>(&[Kind::Loss], node, &what, block, &["in"]) {
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
            loaded,
            late,
            stand_ins,
        };
        recipe.order_phases()?;
        Ok(recipe)
    }

    fn order_phases(&mut self) -> Result<(), Diagnostics> {
        let Some(order) = self.run.phases.clone() else { return Ok(()) };
        let place = self.root.at("run.phases").map(|n| n.origin.clone());
        let mut bad = Vec::new();
        if order.is_empty() {
            let d = Diagnostic::error("`run.phases` names no phase: nothing would be trained");
            let d = d.help(format!("name some of: {}", self.phase.keys().cloned().collect::<Vec<_>>().join(", ")));
            bad.push(place.as_ref().map_or(d.clone(), |o| d.at(o, "it is empty")));
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
                    bad.push(place.as_ref().map_or(d.clone(), |o| d.at(o, "here")));
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

struct Checker<'a> {
    sources: &'a Sources,
    out: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn top_level(&mut self, root: &Node) {
        let Some(table) = root.table() else { return };
        for (key, entry) in table {
            if !SECTIONS.contains(&key.as_str()) {
                let mut valid = SECTIONS.to_vec();
                valid.extend(["extends", "remove"]);
                self.out.push(
                    Diagnostic::error(format!("a recipe has no section `{key}`"))
                        .at(&entry.key, "unknown section")
                        .help(suggestion(key, valid)),
                );
            }
        }
        if root.get("run").is_none() {
            self.out.push(
                Diagnostic::error("the recipe lacks the section [run]")
                    .at(&Origin { file: root.origin.file, span: 0..0 }, "add it")
                    .help("at least: [run] and in it steps = 1000"),
            );
        }
    }

    fn section<T: DeserializeOwned + schemars::JsonSchema>(&mut self, root: &mut Node, name: &str) -> Option<T> {
        let entry = root.table_mut()?.get_mut(name)?;
        self.typed(&mut entry.node, name)
    }

    /// Walks and decodes a closed table.
    fn typed<T: DeserializeOwned + schemars::JsonSchema>(&mut self, node: &mut Node, what: &str) -> Option<T> {
        let before = self.errors();
        Walk { sources: self.sources, out: &mut self.out, beside: &[] }.check(&schema_of::<T>(), node, what);
        if self.errors() > before {
            return None;
        }
        match decode(node) {
            Ok(value) => Some(value),
            Err(e) => {
                self.out.push(self.undecodable(e, node, what));
                None
            }
        }
    }

    fn undecodable(&self, e: DecodeError, node: &Node, what: &str) -> Diagnostic {
        Diagnostic::error(format!("`{what}`: {}", e.message)).at(&e.origin.unwrap_or_else(|| node.origin.clone()), "")
    }

    fn errors(&self) -> usize {
        self.out.iter().filter(|d| d.severity == Severity::Error).count()
    }

    fn each(&mut self, root: &mut Node, section: &str, mut f: impl FnMut(&mut Self, &str, &mut Node)) {
        let Some(entry) = root.table_mut().and_then(|t| t.get_mut(section)) else { return };
        let origin = entry.node.origin.clone();
        let Some(table) = entry.node.table_mut() else {
            self.out.push(Diagnostic::error(format!("`{section}` must be a table of tables")).at(&origin, ""));
            return;
        };
        let names: Vec<String> = table.keys().cloned().collect();
        for (name, entry) in table.iter_mut() {
            if name.contains('.') || name.is_empty() {
                self.out.push(
                    Diagnostic::error(format!("`{name}` cannot be a name in [{section}]"))
                        .at(&entry.key, "names have no point: it separates node and port"),
                );
                continue;
            }
            if entry.node.table().is_none() {
                let d = Diagnostic::error(format!(
                    "`{section}.{name}` must be a table, found {}",
                    entry.node.value.type_name()
                ));
                self.out.push(d.at(&entry.node.origin, entry.node.value.short()));
                continue;
            }
            let before = self.out.len();
            f(self, name, &mut entry.node);
            // A table that lacks what it must have may be a slip in the name of another; among very many names nobody
            // looks for it.
            let lacks = |d: &&mut Diagnostic| d.message.contains(" lacks ") || d.message.contains(" names no ");
            if names.len() < 200
                && let Some(d) = self.out[before..].iter_mut().find(lacks)
                && let Some(near) =
                    nearest(name, names.iter().map(String::as_str).filter(|other| other != name)).first()
            {
                d.help.push(format!("is [{section}.{near}] meant? this is another, [{section}.{name}]"));
            }
        }
    }

    /// The component that a table names, or a finding.
    fn component(&mut self, kinds: &[Kind], node: &Node, what: &str) -> Option<&'static Registration> {
        let kind_names = || match kinds {
            [one] => one.name().to_owned(),
            _ => "module".to_owned(),
        };
        if node.table().is_none() {
            self.out.push(
                Diagnostic::error(format!("`{what}` must be a table, found {}", node.value.type_name()))
                    .at(&node.origin, format!("expected {{ component = \"…\" }}, a {}", kind_names())),
            );
            return None;
        }
        let Some(named) = node.get("component") else {
            self.out.push(
                Diagnostic::error(format!("`{what}` names no component"))
                    .at(&node.origin, format!("expected component = \"…\", a {}", kind_names())),
            );
            return None;
        };
        let Some(name) = named.str() else {
            self.out.push(
                Diagnostic::error(format!("`{what}.component` must be a string, found {}", named.value.type_name()))
                    .at(&named.origin, named.value.short()),
            );
            return None;
        };
        if let Some(found) = find(kinds, name) {
            return Some(found);
        }
        let valid: Vec<&str> = kinds.iter().flat_map(|k| of_kind(*k)).map(|r| r.name).collect();
        let mut d = Diagnostic::error(format!("there is no {} `{name}`", kind_names()))
            .at(&named.origin, "unknown component")
            .help(suggestion(name, valid));
        if let Some(other) = find(&Kind::ALL, name) {
            d = d.help(format!("`{name}` is a {}, which cannot stand here", other.kind));
        } else {
            d = d.help("a component of your own must be linked into the program: see `mtlrun list`");
        }
        self.out.push(d);
        None
    }

    /// Splits a component's table into the engine's keys and the component's, checks and decodes both.
    /// Keys in `engine` belong to the engine although its slot type does not list them.
    fn slot<C: DeserializeOwned + schemars::JsonSchema, O: ?Sized>(
        &mut self,
        kinds: &[Kind],
        node: &mut Node,
        what: &str,
        make: Maker<O>,
        engine: &[&str],
    ) -> Option<Slot<C, O>> {
        let registration = self.component(kinds, node, what)?;
        let schema = schema_of::<C>();
        let slot_keys: Vec<String> = schema
            .get("properties")
            .and_then(|p| p.as_object())
            .map(|p| p.keys().cloned().collect())
            .unwrap_or_default();
        let origin = node.origin.clone();
        let table = node.table_mut()?;
        let (mut common, mut own) = (Node::empty(origin.clone()), Node::empty(origin.clone()));
        let mut held = Table::new();
        for (key, entry) in table.drain(..) {
            let target = if slot_keys.contains(&key) {
                common.table_mut()
            } else if engine.contains(&key.as_str()) {
                Some(&mut held)
            } else {
                own.table_mut()
            };
            target?.insert(key, entry);
        }
        let before = self.errors();
        let others = engine.iter().map(|k| (*k).to_owned()).filter(|k| !slot_keys.contains(k));
        let beside: Vec<String> = slot_keys.iter().cloned().chain(others).collect();
        let mut walk = Walk { sources: self.sources, out: &mut self.out, beside: &beside };
        walk.check(&schema, &mut common, what);
        let component_schema = component_schema(registration, &slot_keys, engine);
        walk.check(&component_schema, &mut own, &format!("{what} ({})", registration.name));
        let failed = self.errors() > before;
        let decoded = if failed {
            None
        } else {
            let own_config = make(registration, &own);
            match (decode::<C>(&common), own_config) {
                (Ok(common), Some(Ok(config))) => Some((common, config)),
                (Err(e), _) => {
                    self.out.push(self.undecodable(e, &common, what));
                    None
                }
                (_, Some(Err(e))) => {
                    self.out.push(self.undecodable(e, &own, what));
                    None
                }
                (_, None) => None,
            }
        };
        let table = node.table_mut()?;
        for part in [common, own] {
            if let Value::Table(t) = part.value {
                table.extend(t);
            }
        }
        table.extend(held);
        let (common, config) = decoded?;
        Some(Slot { common, registration, config, origin })
    }

    /// Tells what a component has to say of its table; while a number in it only stands in, it is not asked.
    fn problems(&mut self, problems: impl FnOnce() -> Vec<String>, node: &Node, what: &str) {
        if node.waits() {
            return;
        }
        for problem in problems() {
            self.out.push(Diagnostic::error(format!("`{what}`: {problem}")).at(&node.origin, ""));
        }
    }

    /// The names of the sizes that late paths mean, in their order; a path that no data stream tells is a finding.
    fn late(&mut self, late: &IndexMap<String, Origin>, data: &IndexMap<String, Data>, root: &Node) -> Vec<String> {
        for (path, origin) in late {
            let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
            let stream = above.strip_prefix("data.");
            // What is wrong with the stream itself is told elsewhere.
            let broken = stream.is_some_and(|s| !data.contains_key(s) && root.at(above).is_some());
            if broken || late_size(path, data).is_some() {
                continue;
            }
            let own = root.at(above).and_then(Node::table);
            let mut valid: Vec<&str> = own.into_iter().flat_map(|t| t.keys().map(String::as_str)).collect();
            let streams = data.iter().filter(|(s, d)| stream.map_or(d.slot.common.declares, |stream| stream == *s));
            valid.extend(streams.flat_map(|(_, d)| d.slot.config.declares()));
            valid.sort_unstable();
            valid.dedup();
            if let Some(stream) = stream {
                if root.at(above).is_none() {
                    self.out.push(
                        Diagnostic::error(format!("`${{{path}}}`: there is no data stream `{stream}`"))
                            .at(origin, "refers to nothing")
                            .help(suggestion(stream, data.keys().map(String::as_str))),
                    );
                    continue;
                }
                valid.push(references::SAMPLES);
            }
            self.out.push(
                Diagnostic::error(format!("`${{{path}}}`: neither the recipe nor its data gives `{name}`"))
                    .at(origin, "refers to nothing")
                    .help(suggestion(name, valid)),
            );
        }
        late.keys().map(|path| late_size(path, data).unwrap_or_else(|| path.clone())).collect()
    }

    fn data(&mut self, name: &str, node: &mut Node) -> Option<Data> {
        let what = format!("data.{name}");
        let nested = &["sampler", "transforms"];
        let slot = self.slot::<DataSlot, dyn DatasetConfig>(&[Kind::Dataset], node, &what, dataset, nested)?;
        self.problems(|| slot.config.problems(), node, &what);
        let table = node.table_mut()?;
        if !table.contains_key("sampler") {
            let origin = slot.origin.clone();
            let mut sampler = Table::new();
            let name = Node { value: Value::String("shuffle".into()), origin: origin.clone() };
            sampler.insert("component".into(), Entry { key: origin.clone(), node: name });
            let node = Node { value: Value::Table(sampler), origin: origin.clone() };
            table.insert("sampler".into(), Entry { key: origin, node });
        }
        let sampler = table.get_mut("sampler").and_then(|entry| {
            self.slot::<Named, dyn SamplerConfig>(
                &[Kind::Sampler],
                &mut entry.node,
                &format!("{what}.sampler"),
                sampler,
                &[],
            )
        });
        let mut transforms = Vec::new();
        let mut complete = true;
        if let Some(entry) = table.get_mut("transforms") {
            let Value::Array(items) = &mut entry.node.value else {
                self.out.push(
                    Diagnostic::error(format!("`{what}.transforms` must be an array of tables"))
                        .at(&entry.node.origin, entry.node.value.short()),
                );
                return None;
            };
            for (i, item) in items.iter_mut().enumerate() {
                let what = format!("{what}.transforms[{i}]");
                let made = self.slot::<Named, dyn TransformConfig>(&[Kind::Transform], item, &what, transform, &[]);
                match made {
                    Some(t) => transforms.push(t.config),
                    None => complete = false,
                }
            }
        }
        Some(Data { slot, sampler: sampler?.config, transforms }).filter(|_| complete)
    }

    fn node(&mut self, name: &str, node: &mut Node) -> Option<GraphEntry> {
        let what = format!("graph.{name}");
        let origin = node.origin.clone();
        let wires = wire_origins(node);
        let schema = schema_of::<GraphNode>();
        let table = node.table_mut()?;
        let engine: Vec<String> = ["call", "apply", "in", "mode"].map(str::to_owned).to_vec();
        let (mut common, mut own) = (Node::empty(origin.clone()), Node::empty(origin.clone()));
        for (key, entry) in table.drain(..) {
            if engine.contains(&key) { common.table_mut() } else { own.table_mut() }?.insert(key, entry);
        }
        let before = self.errors();
        Walk { sources: self.sources, out: &mut self.out, beside: &[] }.check(&schema, &mut common, &what);
        let decoded: Option<GraphNode> = if self.errors() > before { None } else { decode(&common).ok() };
        let result = decoded.and_then(|decoded| self.node_target(decoded, &mut own, &what, &origin, wires));
        let table = node.table_mut()?;
        for part in [common, own] {
            if let Value::Table(t) = part.value {
                table.extend(t);
            }
        }
        result
    }

    fn node_target(
        &mut self,
        common: GraphNode,
        own: &mut Node,
        what: &str,
        origin: &Origin,
        wires: IndexMap<String, Origin>,
    ) -> Option<GraphEntry> {
        let function = match (&common.call, &common.apply) {
            (Some(_), None) => {
                let keys: Vec<(String, Origin)> =
                    own.table()?.iter().map(|(k, e)| (k.clone(), e.key.clone())).collect();
                for (key, place) in &keys {
                    self.out.push(
                        Diagnostic::error(format!("`{what}` has no key `{key}`"))
                            .at(place, "unknown key")
                            .help(suggestion(key, ["call", "apply", "in", "mode"]))
                            .help("settings of a module stand in its [model.NAME]"),
                    );
                }
                None
            }
            (None, Some(apply)) => {
                let Some(found) = find(&[Kind::Function], apply) else {
                    let valid: Vec<&str> = of_kind(Kind::Function).into_iter().map(|r| r.name).collect();
                    self.out.push(
                        Diagnostic::error(format!("`{what}` applies the unknown function `{apply}`"))
                            .at(origin, "here")
                            .help(suggestion(apply, valid)),
                    );
                    return None;
                };
                let before = self.errors();
                let schema = component_schema(found, &[], &[]);
                Walk { sources: self.sources, out: &mut self.out, beside: &[] }.check(
                    &schema,
                    own,
                    &format!("{what} ({apply})"),
                );
                if self.errors() > before {
                    return None;
                }
                match block(found, own)? {
                    Ok(block) => {
                        self.problems(|| block.problems(), own, what);
                        Some(block)
                    }
                    Err(e) => {
                        let d = self.undecodable(e, own, what);
                        self.out.push(d);
                        return None;
                    }
                }
            }
            _ => {
                let mut d =
                    Diagnostic::error(format!("`{what}` must say either `call` (a module) or `apply` (a function)"))
                        .at(origin, "here");
                for key in own.table()?.keys() {
                    if let Some(near) = nearest(key, ["call", "apply", "in", "mode"]).first() {
                        d = d.help(format!("is `{near}` meant by `{key}`?"));
                    }
                }
                self.out.push(d);
                return None;
            }
        };
        Some(GraphEntry { common, function, origin: origin.clone(), wires })
    }

    fn phase(&mut self, name: &str, node: &mut Node) -> Option<PhaseEntry> {
        let what = format!("phase.{name}");
        let common: Option<Phase> = self.typed(node, &what);
        let origin = node.origin.clone();
        let table = node.table_mut()?;
        let optimizer = table.get_mut("optimizer").and_then(|entry| {
            self.slot::<OptimizerSlot, dyn OptimizerConfig>(
                &[Kind::Optimizer],
                &mut entry.node,
                &format!("{what}.optimizer"),
                optimizer,
                &[],
            )
        });
        let scheduler = match table.get_mut("scheduler") {
            None => None,
            Some(entry) => {
                let what = format!("{what}.scheduler");
                let made =
                    self.slot::<Named, dyn Scheduler>(&[Kind::Scheduler], &mut entry.node, &what, scheduler, &[]);
                Some(made?.config)
            }
        };
        if let (Some(slot), Some(entry)) = (&optimizer, table.get("optimizer")) {
            self.problems(|| slot.config.problems(), &entry.node, &format!("{what}.optimizer"));
        }
        Some(PhaseEntry { common: common?, optimizer: optimizer?, scheduler, origin })
    }
}

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
                false => (name == references::SAMPLES).then(|| path.to_owned()),
            }
        }
        _ => None,
    }
}

/// The key every component table has.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
struct Named {
    /// The component.
    #[allow(dead_code)]
    component: String,
}

/// A component's schema, closed, without the keys that belong to the slot.
fn component_schema(registration: &Registration, slot: &[String], engine: &[&str]) -> serde_json::Value {
    let mut schema = (registration.schema)();
    if let Some(map) = schema.as_object_mut() {
        map.entry("properties").or_insert_with(|| serde_json::json!({}));
        map.insert("type".into(), "object".into());
        map.insert("additionalProperties".into(), false.into());
        if let Some(properties) = map.get_mut("properties").and_then(|p| p.as_object_mut()) {
            properties.retain(|k, _| !slot.contains(k) && !engine.contains(&k.as_str()));
        }
    }
    schema
}

fn wire_origins(node: &Node) -> IndexMap<String, Origin> {
    node.get("in")
        .and_then(Node::table)
        .map(|t| t.iter().map(|(k, e)| (k.clone(), e.node.origin.clone())).collect())
        .unwrap_or_default()
}

/// Makes a component's configuration, if its factory is of the right sort.
type Maker<O> = fn(&Registration, &Node) -> Option<Result<Box<O>, DecodeError>>;

macro_rules! makers {
    ($($name:ident $variant:ident $object:path;)*) => {
        $(fn $name(r: &Registration, node: &Node) -> Option<Result<Box<dyn $object>, DecodeError>> {
            match &r.factory {
                Factory::$variant(make) => Some(make(node)),
                _ => None,
            }
        })*
    };
}

makers! {
    block Block Block;
    dataset Dataset DatasetConfig;
    sampler Sampler SamplerConfig;
    transform Transform TransformConfig;
    optimizer Optimizer OptimizerConfig;
    scheduler Scheduler Scheduler;
    evaluator Evaluator Evaluator;
}
