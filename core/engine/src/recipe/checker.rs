//! Walks and decodes the tables of a merged recipe, and reports everything that is wrong with them.

use super::sections::*;
use super::{
    Data, EvaluateEntry, Function, GraphEntry, HookEntry, LossEntry, ModuleEntry, NAMES, PLUGINS, PhaseEntry, SECTIONS,
    Slot, SourceEntry, is_name,
};
use crate::ids;
use indexmap::IndexMap;
use mtl_component::{
    ComponentKind, DType, Description, EvaluatorConfig, HookConfig, Made, MetricConfig, ModuleConfig,
    PictureSourceConfig, Registration, Registry, SamplerConfig, Scheduler, SourceUse, TransformConfig,
};
use mtl_recipe::ids as language;
use mtl_recipe::{
    ConfigValue, DecodeError, Diagnostic, Entry, Origin, Result, Severity, Sources, Table, Value, Walk, decode,
    nearest, schema_of, suggestion,
};
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Most tables of a section: the checks and the plan of a step look at each pair of nodes.
const MOST_TABLES: usize = 1000;

/// Collects findings while tables become configurations.
pub(super) struct Checker<'a> {
    /// The components.
    pub(super) registry: &'a Registry,
    /// The texts, for the folders of relative paths.
    pub(super) sources: &'a Sources,
    /// The findings.
    pub(super) out: Vec<Diagnostic>,
}

impl Checker<'_> {
    pub(super) fn top_level(&mut self, root: &ConfigValue) {
        let Some(table) = root.table() else { return };
        for (key, entry) in table {
            if key != PLUGINS && !SECTIONS.contains(&key.as_str()) {
                let mut valid = SECTIONS.to_vec();
                valid.extend(["extends", "remove", PLUGINS]);
                self.out.push(
                    Diagnostic::error(&ids::UNKNOWN_SECTION, format!("a recipe has no section `{key}`"))
                        .at(&entry.key, "unknown section")
                        .help(suggestion(key, valid)),
                );
            }
        }
        if root.get("run").is_none() {
            self.out.push(
                Diagnostic::error(&ids::MISSING_SECTION, "the recipe lacks the section [run]")
                    .at(&Origin { file: root.origin.file, span: 0..0 }, "add it")
                    .help("at least: [run] and in it steps = 1000")
                    .help("a file that others extend is no recipe by itself: check those that extend it"),
            );
        }
    }

    pub(super) fn section<T: DeserializeOwned + schemars::JsonSchema>(
        &mut self,
        root: &mut ConfigValue,
        name: &str,
    ) -> Option<T> {
        let entry = root.table_mut()?.get_mut(name)?;
        self.typed(&mut entry.node, name)
    }

    /// Walks and decodes a closed table.
    fn typed<T: DeserializeOwned + schemars::JsonSchema>(&mut self, node: &mut ConfigValue, what: &str) -> Option<T> {
        let before = self.out.len();
        Walk { sources: self.sources, out: &mut self.out, beside: &[] }.check(&schema_of::<T>(), node, what);
        if self.failed_since(before) {
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

    fn undecodable(&self, e: DecodeError, node: &ConfigValue, what: &str) -> Diagnostic {
        let place = e.origin.unwrap_or_else(|| node.origin.clone());
        Diagnostic::error(&language::INVALID_VALUE, format!("`{what}`: {}", e.message)).at(&place, "").of(e.code)
    }

    /// Whether there is an error among the findings from that place on.
    fn failed_since(&self, before: usize) -> bool {
        self.out[before..].iter().any(|d| d.severity == Severity::Error)
    }

    /// Makes something of every table of a section; a table of which nothing can be made is a finding.
    pub(super) fn each<T>(
        &mut self,
        root: &mut ConfigValue,
        section: &str,
        make: impl Fn(&mut Self, &str, &mut ConfigValue) -> Option<T>,
    ) -> IndexMap<String, T> {
        let mut out = IndexMap::new();
        let Some(entry) = root.table_mut().and_then(|t| t.get_mut(section)) else { return out };
        let origin = entry.node.origin.clone();
        let Some(table) = entry.node.table_mut() else {
            let message = format!("`{section}` must be a table of tables");
            self.out.push(Diagnostic::error(&language::WRONG_TYPE, message).at(&origin, ""));
            return out;
        };
        if table.len() > MOST_TABLES {
            let message = format!("[{section}] has {} tables, and more than {MOST_TABLES} are not read", table.len());
            self.out.push(Diagnostic::error(&language::WRONG_LENGTH, message).at(&origin, "too many"));
            return out;
        }
        let names: Vec<String> = table.keys().cloned().collect();
        for (name, entry) in table.iter_mut() {
            if !is_name(name) {
                let message = format!("`{name}` cannot be a name in [{section}]");
                self.out.push(Diagnostic::error(&ids::BAD_NAME, message).at(&entry.key, NAMES));
                continue;
            }
            if entry.node.table().is_none() {
                let message = format!("`{section}.{name}` must be a table, found {}", entry.node.value.type_name());
                let d = Diagnostic::error(&language::WRONG_TYPE, message);
                self.out.push(d.at(&entry.node.origin, entry.node.value.short()));
                continue;
            }
            let before = self.out.len();
            if let Some(made) = make(self, name, &mut entry.node) {
                out.insert(name.clone(), made);
            }
            // A table that lacks what it must have may be a slip in the name of another; among very many names nobody
            // looks for it.
            if names.len() < 200
                && let Some(d) = self.out[before..].iter_mut().find(|d| d.incomplete)
                && let Some(near) =
                    nearest(name, names.iter().map(String::as_str).filter(|other| other != name)).first()
            {
                d.help.push(format!("is [{section}.{near}] meant? this is another, [{section}.{name}]"));
            }
        }
        out
    }

    /// The component that a table names, or a finding.
    fn component(&mut self, kind: ComponentKind, node: &ConfigValue, what: &str) -> Option<&'static Registration> {
        if node.table().is_none() {
            self.out.push(
                Diagnostic::error(
                    &language::WRONG_TYPE,
                    format!("`{what}` must be a table, found {}", node.value.type_name()),
                )
                .at(&node.origin, format!("expected {{ component = \"…\" }}, the name of its {kind}")),
            );
            return None;
        }
        let Some(named) = node.get("component") else {
            self.out.push(
                Diagnostic::error(&ids::MISSING_COMPONENT, format!("`{what}` names no component"))
                    .incomplete()
                    .at(&node.origin, format!("expected component = \"…\", the name of its {kind}")),
            );
            return None;
        };
        let Some(name) = named.str() else {
            self.out.push(
                Diagnostic::error(
                    &language::WRONG_TYPE,
                    format!("`{what}.component` must be a string, found {}", named.value.type_name()),
                )
                .at(&named.origin, named.value.short()),
            );
            return None;
        };
        if let Some(found) = self.registry.find(kind, name) {
            return Some(found);
        }
        let valid = self.registry.of_kind(kind);
        let mut d = Diagnostic::error(&ids::UNKNOWN_COMPONENT, format!("there is no {kind} `{name}`"))
            .at(&named.origin, "unknown component")
            .help(suggestion(name, valid.iter().map(|r| r.name)));
        if let Some(other) = self.registry.find_any(name) {
            d = d.help(format!("`{name}` is a {}, which cannot stand here", other.family));
        } else if !self.registry.plugins().is_empty() {
            for plugin in self.registry.plugins() {
                let all = plugin.given.components.iter().map(|r| format!("{}/{}", r.family, r.name));
                let all: Vec<String> = all.collect();
                let all = if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
                d = d.help(format!("the plugin {} ({}) registers {all}", plugin.name, plugin.path.display()));
            }
        } else {
            d = d.help("to use a component of your own, name its plugin in the recipe: plugins = [\"…\"]");
        }
        self.out.push(d);
        None
    }

    /// Splits a component's table into the engine's keys and the component's, checks and decodes both.
    /// Keys in `engine` belong to the engine although its slot type does not list them.
    fn slot<C: DeserializeOwned + schemars::JsonSchema, O: ?Sized + Made>(
        &mut self,
        kind: ComponentKind,
        node: &mut ConfigValue,
        what: &str,
        engine: &[&str],
    ) -> Option<Slot<C, O>> {
        let registration = self.component(kind, node, what)?;
        let schema = schema_of::<C>();
        let slot_keys: Vec<String> = schema
            .get("properties")
            .and_then(|p| p.as_object())
            .map(|p| p.keys().cloned().collect())
            .unwrap_or_default();
        let origin = node.origin.clone();
        let (mut common, mut own) = split(node, |key| slot_keys.iter().any(|k| k == key))?;
        let (held, rest) = split(&mut own, |key| engine.contains(&key))?;
        own = rest;
        let before = self.out.len();
        let others = engine.iter().map(|k| (*k).to_owned()).filter(|k| !slot_keys.contains(k));
        let beside: Vec<String> = slot_keys.iter().cloned().chain(others).collect();
        let mut walk = Walk { sources: self.sources, out: &mut self.out, beside: &beside };
        walk.check(&schema, &mut common, what);
        let component_schema = component_schema(registration, &slot_keys, engine);
        walk.check(&component_schema, &mut own, &format!("{what} ({})", registration.name));
        let failed = self.failed_since(before);
        let decoded = if failed {
            None
        } else {
            let own_config = O::made(registration, &own);
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
        join(node, [common, own, held]);
        let (common, config) = decoded?;
        Some(Slot { common, registration, config, origin })
    }

    /// What a component says of itself; what it reports as wrong is a finding about its table.
    fn described<T>(
        &mut self,
        registration: &Registration,
        description: Result<T>,
        problems: impl FnOnce(&T) -> &[String],
        origin: &Origin,
        what: &str,
    ) -> Option<T> {
        match description {
            Ok(description) => {
                for problem in problems(&description) {
                    let d = Diagnostic::error(&ids::COMPONENT_PROBLEM, format!("`{what}`: {problem}"));
                    self.out.push(d.at(origin, ""));
                }
                Some(description)
            }
            Err(error) => {
                let message = format!("`{what}` ({}): {error:#}", registration.name);
                self.out.push(Diagnostic::error(&ids::COMPONENT_PROBLEM, message).at(origin, "").of(error.code()));
                None
            }
        }
    }

    /// A module, function or loss describes itself.
    fn ports(&mut self, r: &Registration, config: &dyn ModuleConfig, at: &Origin, what: &str) -> Option<Description> {
        self.described(r, config.describe(), |d: &Description| &d.problems, at, what)
    }

    pub(super) fn module(&mut self, name: &str, node: &mut ConfigValue) -> Option<ModuleEntry> {
        let what = format!("model.{name}");
        let slot = self.slot::<ModelSlot, dyn ModuleConfig>(ComponentKind::Module, node, &what, &[])?;
        let description = self.ports(slot.registration, &*slot.config, &node.origin, &what)?;
        Some(ModuleEntry { slot, description })
    }

    pub(super) fn loss(&mut self, name: &str, node: &mut ConfigValue) -> Option<LossEntry> {
        let what = format!("loss.{name}");
        let wires = wire_origins(node);
        let slot = self.slot::<LossSlot, dyn ModuleConfig>(ComponentKind::Loss, node, &what, &[])?;
        let description = self.ports(slot.registration, &*slot.config, &node.origin, &what)?;
        Some(LossEntry { slot, description, wires })
    }

    pub(super) fn evaluator(&mut self, name: &str, node: &mut ConfigValue) -> Option<EvaluateEntry> {
        let what = format!("evaluate.{name}");
        let nested = &["source", "metrics"];
        let slot = self.slot::<EvaluateSlot, dyn EvaluatorConfig>(ComponentKind::Evaluator, node, &what, nested)?;
        let description = slot.config.describe();
        let mut description = self.described(slot.registration, description, |d| &d.problems, &node.origin, &what)?;
        let source = self.source(node, description.source, &what);
        let metrics = self.list::<dyn MetricConfig>(ComponentKind::Metric, node, "metrics", &what)?;
        // What is wrong with the metrics is told as well.
        let (source, files) = source?;
        description.files.extend(files);
        let mut described = Vec::new();
        for (i, metric) in metrics.iter().enumerate() {
            let what = format!("{what}.metrics[{i}]");
            let own = self.described(metric.registration, metric.config.describe(), |_| &[], &metric.origin, &what)?;
            let known = description.metrics.iter().chain(&described);
            if known.into_iter().any(|other: &mtl_component::Metric| other.name == own.name) {
                let message = format!("`{what}`: there is another metric `{}` already", own.name);
                self.out.push(Diagnostic::error(&ids::COMPONENT_PROBLEM, message).at(&metric.origin, ""));
                return None;
            }
            described.push(own);
        }
        let metrics = metrics.into_iter().zip(described).collect();
        Some(EvaluateEntry { slot, description, source, metrics })
    }

    pub(super) fn hook(&mut self, name: &str, node: &mut ConfigValue) -> Option<HookEntry> {
        let what = format!("hook.{name}");
        let slot = self.slot::<Named, dyn HookConfig>(ComponentKind::Hook, node, &what, &[])?;
        self.described(slot.registration, slot.config.problems(), |problems| problems, &node.origin, &what)?;
        Some(slot)
    }

    /// An array of tables that name components; none if one of them cannot be made.
    fn list<O: ?Sized + Made>(
        &mut self,
        kind: ComponentKind,
        node: &mut ConfigValue,
        key: &str,
        what: &str,
    ) -> Option<Vec<Slot<Named, O>>> {
        let Some(entry) = node.table_mut()?.get_mut(key) else { return Some(Vec::new()) };
        let Value::Array(items) = &mut entry.node.value else {
            self.out.push(
                Diagnostic::error(&language::WRONG_TYPE, format!("`{what}.{key}` must be an array of tables"))
                    .at(&entry.node.origin, entry.node.value.short()),
            );
            return None;
        };
        let made: Vec<Option<Slot<Named, O>>> = items
            .iter_mut()
            .enumerate()
            .map(|(i, item)| self.slot::<Named, O>(kind, item, &format!("{what}.{key}[{i}]"), &[]))
            .collect();
        made.into_iter().collect()
    }

    /// The source of pictures that a table names, and the files that it needs; none if it cannot be made, or stands where
    /// none belongs.
    fn source(
        &mut self,
        node: &mut ConfigValue,
        wanted: SourceUse,
        what: &str,
    ) -> Option<(Option<SourceEntry>, Vec<PathBuf>)> {
        let origin = node.origin.clone();
        let Some(entry) = node.table_mut()?.get_mut("source") else {
            if let Some(problem) = wanted.problem(false) {
                let d = Diagnostic::error(&ids::COMPONENT_PROBLEM, format!("`{what}`: {problem}"));
                self.out.push(d.incomplete().at(&origin, ""));
                return None;
            }
            return Some((None, Vec::new()));
        };
        let (key, inner) = (entry.key.clone(), format!("{what}.source"));
        let slot = self.slot::<Named, dyn PictureSourceConfig>(ComponentKind::Source, &mut entry.node, &inner, &[])?;
        if let Some(problem) = wanted.problem(true) {
            let d = Diagnostic::error(&ids::COMPONENT_PROBLEM, format!("`{what}`: {problem}"));
            self.out.push(d.at(&key, ""));
            return None;
        }
        let description = slot.config.describe();
        let description = self.described(slot.registration, description, |d| &d.problems, &slot.origin, &inner)?;
        Some((Some(slot), description.files))
    }

    pub(super) fn data(&mut self, name: &str, node: &mut ConfigValue) -> Option<Data> {
        let what = format!("data.{name}");
        let nested = &["source", "sampler", "transforms"];
        let slot =
            self.slot::<DataSlot, dyn mtl_component::DatasetConfig>(ComponentKind::Dataset, node, &what, nested)?;
        let Slot { ref common, ref config, registration, .. } = slot;
        let description = mtl_component::DatasetConfig::describe(&**config);
        let mut description =
            self.described(registration, description, |d: &Description| &d.problems, &node.origin, &what)?;
        if common.pairs_with.is_some() {
            if description.ports.outputs.iter().any(|port| port.name == PAIRED) {
                let message = format!("`{what}` pairs with another stream, and has an output `{PAIRED}` of its own");
                self.out.push(Diagnostic::error(&ids::BAD_PAIR, message).at(&node.origin, "this data stream"));
                return None;
            }
            description.ports = description.ports.output(PAIRED, DType::Float, "batch").aside();
        }
        let source = self.source(node, description.source, &what);
        let table = node.table_mut()?;
        if !table.contains_key("sampler") {
            let origin = slot.origin.clone();
            let mut sampler = Table::new();
            let name = if common.pairs_with.is_some() { "partner" } else { "shuffle" };
            let name = ConfigValue { value: Value::String(name.into()), origin: origin.clone() };
            sampler.insert("component".into(), Entry { key: origin.clone(), node: name });
            let node = ConfigValue { value: Value::Table(sampler), origin: origin.clone() };
            table.insert("sampler".into(), Entry { key: origin, node });
        }
        let sampler = table.get_mut("sampler").and_then(|entry| {
            let what = format!("{what}.sampler");
            self.slot::<Named, dyn SamplerConfig>(ComponentKind::Sampler, &mut entry.node, &what, &[])
        });
        let transforms = self.list::<dyn TransformConfig>(ComponentKind::Transform, node, "transforms", &what)?;
        let mut described = Vec::new();
        for (i, t) in transforms.iter().enumerate() {
            let what = format!("{what}.transforms[{i}]");
            described.push(self.described(t.registration, t.config.describe(), |_| &[], &t.origin, &what)?);
        }
        let transforms = transforms.into_iter().zip(described).collect();
        // What is wrong with the others is told as well.
        let (source, _) = source?;
        Some(Data { slot, description, source, sampler: sampler?, transforms })
    }

    /// Whether the streams that follow others can.
    pub(super) fn pairs(&mut self, root: &ConfigValue, streams: &IndexMap<String, Data>) {
        for (name, data) in streams {
            let Some(leader) = &data.slot.common.pairs_with else { continue };
            let place = root.place(&format!("data.{name}.pairs_with"));
            let refuse = |message: String| Diagnostic::error(&ids::BAD_PAIR, message).at(&place, "here");
            let found = streams.get(leader).map(|leader| &leader.slot.common);
            let Some(other) = found.filter(|_| leader != name) else {
                // A table that is itself at fault has been told of.
                if leader == name || root.get("data").and_then(|data| data.get(leader)).is_none() {
                    let others = streams.keys().map(String::as_str).filter(|other| other != name);
                    let d = refuse(format!("`data.{name}` pairs with `{leader}`, which is no other data stream"));
                    self.out.push(d.help(suggestion(leader, others)));
                }
                continue;
            };
            if let Some(further) = &other.pairs_with {
                let d = refuse(format!("`data.{name}` pairs with `{leader}`, which follows `{further}` itself"));
                self.out.push(d.help(format!("pairs_with = \"{further}\"")));
            }
            let own = &data.slot.common;
            if (own.batch_size, own.global_batch_size) != (other.batch_size, other.global_batch_size) {
                let message = format!("`data.{name}` pairs with `{leader}`, whose batches have another size");
                self.out.push(refuse(message).help("give both the same `batch_size` or `global_batch_size`"));
            }
        }
    }

    pub(super) fn node(&mut self, name: &str, node: &mut ConfigValue) -> Option<GraphEntry> {
        let what = format!("graph.{name}");
        let origin = node.origin.clone();
        let wires = wire_origins(node);
        let schema = schema_of::<NodeSlot>();
        let (mut common, mut own) = split(node, |key| NODE_KEYS.contains(&key))?;
        let before = self.out.len();
        Walk { sources: self.sources, out: &mut self.out, beside: &[] }.check(&schema, &mut common, &what);
        let decoded = match decode::<NodeSlot>(&common) {
            _ if self.failed_since(before) => None,
            Ok(decoded) => Some(decoded),
            Err(e) => {
                self.out.push(self.undecodable(e, &common, &what));
                None
            }
        };
        let result = decoded.and_then(|decoded| self.node_target(decoded, &mut own, &what, &origin, wires));
        join(node, [common, own]);
        result
    }

    fn node_target(
        &mut self,
        common: NodeSlot,
        own: &mut ConfigValue,
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
                        Diagnostic::error(&language::UNKNOWN_KEY, format!("`{what}` has no key `{key}`"))
                            .at(place, "unknown key")
                            .help(suggestion(key, NODE_KEYS))
                            .help("settings of a module stand in its [model.NAME]"),
                    );
                }
                None
            }
            (None, Some(apply)) => {
                let Some(found) = self.registry.find(ComponentKind::Function, apply) else {
                    let valid = self.registry.of_kind(ComponentKind::Function);
                    self.out.push(
                        Diagnostic::error(
                            &ids::UNKNOWN_COMPONENT,
                            format!("`{what}` applies the unknown function `{apply}`"),
                        )
                        .at(origin, "here")
                        .help(suggestion(apply, valid.iter().map(|r| r.name))),
                    );
                    return None;
                };
                let before = self.out.len();
                let schema = component_schema(found, &[], &[]);
                Walk { sources: self.sources, out: &mut self.out, beside: &[] }.check(
                    &schema,
                    own,
                    &format!("{what} ({apply})"),
                );
                if self.failed_since(before) {
                    return None;
                }
                match <dyn ModuleConfig>::made(found, own)? {
                    Ok(config) => {
                        let description = self.ports(found, &*config, &own.origin, what)?;
                        Some(Function { registration: found, config, description })
                    }
                    Err(e) => {
                        let d = self.undecodable(e, own, what);
                        self.out.push(d);
                        return None;
                    }
                }
            }
            _ => {
                let message = format!("`{what}` must say either `call` (a module) or `apply` (a function)");
                let mut d = Diagnostic::error(&ids::NODE_TARGET, message).at(origin, "here");
                for key in own.table()?.keys() {
                    if let Some(near) = nearest(key, NODE_KEYS).first() {
                        d = d.help(format!("is `{near}` meant by `{key}`?"));
                    }
                }
                self.out.push(d);
                return None;
            }
        };
        Some(GraphEntry { common, function, origin: origin.clone(), wires })
    }

    pub(super) fn phase(&mut self, name: &str, node: &mut ConfigValue) -> Option<PhaseEntry> {
        let what = format!("phase.{name}");
        let common: Option<Phase> = self.typed(node, &what);
        let origin = node.origin.clone();
        let table = node.table_mut()?;
        let optimizer = table.get_mut("optimizer").and_then(|entry| {
            let what = format!("{what}.optimizer");
            let slot = self.slot(ComponentKind::Optimizer, &mut entry.node, &what, &[])?;
            let Slot { ref config, registration, .. } = slot;
            let description = mtl_component::OptimizerConfig::describe(&**config);
            let description = self.described(registration, description, |d| &d.problems, &entry.node.origin, &what)?;
            Some((slot, description))
        });
        let scheduler = match table.get_mut("scheduler") {
            None => None,
            Some(entry) => {
                let what = format!("{what}.scheduler");
                Some(self.slot::<Named, dyn Scheduler>(ComponentKind::Scheduler, &mut entry.node, &what, &[])?)
            }
        };
        let (optimizer, description) = optimizer?;
        Some(PhaseEntry { common: common?, optimizer, description, scheduler, origin })
    }
}

/// The engine's keys of a node of the graph.
const NODE_KEYS: [&str; 4] = ["call", "apply", "in", "mode"];

/// Takes the entries out of a table: those of the keys that belong to one side, and the others.
fn split(node: &mut ConfigValue, first: impl Fn(&str) -> bool) -> Option<(ConfigValue, ConfigValue)> {
    let origin = node.origin.clone();
    let (own, others): (Table, Table) = node.table_mut()?.drain(..).partition(|(key, _)| first(key));
    let table = |t: Table| ConfigValue { value: Value::Table(t), origin: origin.clone() };
    Some((table(own), table(others)))
}

/// Puts back what [`split`] has taken out.
fn join<const N: usize>(node: &mut ConfigValue, parts: [ConfigValue; N]) {
    let Some(table) = node.table_mut() else { return };
    for part in parts {
        if let Value::Table(t) = part.value {
            table.extend(t);
        }
    }
}

/// The key every component table has.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
pub struct Named {
    /// The component.
    pub component: String,
}

/// A component's schema, closed, without the keys that belong to the slot.
pub(super) fn component_schema(registration: &Registration, slot: &[String], engine: &[&str]) -> serde_json::Value {
    let mut schema = registration.schema();
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

pub(super) fn wire_origins(node: &ConfigValue) -> IndexMap<String, Origin> {
    node.get("in")
        .and_then(ConfigValue::table)
        .map(|t| t.iter().map(|(k, e)| (k.clone(), e.node.origin.clone())).collect())
        .unwrap_or_default()
}
