//! Walks and decodes the tables of a merged recipe, and tells everything that is wrong with them.

use super::*;
use crate::component::{Factory, Kind, find, of_kind};
use crate::diagnostic::{Diagnostic, Severity, nearest, suggestion};
use serde::de::DeserializeOwned;

/// Collects findings while tables become configurations.
pub(super) struct Checker<'a> {
    /// The texts, for the folders of relative paths.
    pub(super) sources: &'a Sources,
    /// The findings.
    pub(super) out: Vec<Diagnostic>,
}

impl Checker<'_> {
    pub(super) fn top_level(&mut self, root: &Node) {
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

    pub(super) fn section<T: DeserializeOwned + schemars::JsonSchema>(
        &mut self,
        root: &mut Node,
        name: &str,
    ) -> Option<T> {
        let entry = root.table_mut()?.get_mut(name)?;
        self.typed(&mut entry.node, name)
    }

    /// Walks and decodes a closed table.
    fn typed<T: DeserializeOwned + schemars::JsonSchema>(&mut self, node: &mut Node, what: &str) -> Option<T> {
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

    fn undecodable(&self, e: DecodeError, node: &Node, what: &str) -> Diagnostic {
        Diagnostic::error(format!("`{what}`: {}", e.message)).at(&e.origin.unwrap_or_else(|| node.origin.clone()), "")
    }

    /// Whether there is an error among the findings from that place on.
    fn failed_since(&self, before: usize) -> bool {
        self.out[before..].iter().any(|d| d.severity == Severity::Error)
    }

    pub(super) fn each(&mut self, root: &mut Node, section: &str, mut f: impl FnMut(&mut Self, &str, &mut Node)) {
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
                        .at(&entry.key, "names are not empty and have no point, which separates node and port"),
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
            if names.len() < 200
                && let Some(d) = self.out[before..].iter_mut().find(|d| d.incomplete)
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
                    .at(&node.origin, format!("expected {{ component = \"…\" }}, the name of its {}", kind_names())),
            );
            return None;
        }
        let Some(named) = node.get("component") else {
            self.out.push(
                Diagnostic::error(format!("`{what}` names no component"))
                    .incomplete()
                    .at(&node.origin, format!("expected component = \"…\", the name of its {}", kind_names())),
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
    pub(super) fn slot<C: DeserializeOwned + schemars::JsonSchema, O: ?Sized>(
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
        join(node, [common, own, held]);
        let (common, config) = decoded?;
        Some(Slot { common, registration, config, origin })
    }

    /// Tells what a component has to say of its table; while a number in it only stands in, it is not asked.
    pub(super) fn problems(&mut self, problems: impl FnOnce() -> Vec<String>, node: &Node, what: &str) {
        if node.waits() {
            return;
        }
        for problem in problems() {
            self.out.push(Diagnostic::error(format!("`{what}`: {problem}")).at(&node.origin, ""));
        }
    }

    /// The names of the sizes that late paths mean, in their order; a path that no data stream tells is a finding.
    pub(super) fn late(
        &mut self,
        late: &IndexMap<String, Origin>,
        data: &IndexMap<String, Data>,
        root: &Node,
    ) -> Vec<String> {
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
                valid.push(SAMPLES);
            }
            self.out.push(
                Diagnostic::error(format!("`${{{path}}}`: neither the recipe nor its data gives `{name}`"))
                    .at(origin, "refers to nothing")
                    .help(suggestion(name, valid)),
            );
        }
        late.keys().map(|path| late_size(path, data).unwrap_or_else(|| path.clone())).collect()
    }

    pub(super) fn data(&mut self, name: &str, node: &mut Node) -> Option<Data> {
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

    pub(super) fn node(&mut self, name: &str, node: &mut Node) -> Option<GraphEntry> {
        let what = format!("graph.{name}");
        let origin = node.origin.clone();
        let wires = wire_origins(node);
        let schema = schema_of::<GraphNode>();
        let (mut common, mut own) = split(node, |key| NODE_KEYS.contains(&key))?;
        let before = self.out.len();
        Walk { sources: self.sources, out: &mut self.out, beside: &[] }.check(&schema, &mut common, &what);
        let decoded = match decode::<GraphNode>(&common) {
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
                            .help(suggestion(key, NODE_KEYS))
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

    pub(super) fn phase(&mut self, name: &str, node: &mut Node) -> Option<PhaseEntry> {
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

/// The engine's keys of a node of the graph.
const NODE_KEYS: [&str; 4] = ["call", "apply", "in", "mode"];

/// Takes the entries out of a table: those of the keys that belong to one side, and the others.
fn split(node: &mut Node, first: impl Fn(&str) -> bool) -> Option<(Node, Node)> {
    let origin = node.origin.clone();
    let (own, others): (Table, Table) = node.table_mut()?.drain(..).partition(|(key, _)| first(key));
    let table = |t: Table| Node { value: Value::Table(t), origin: origin.clone() };
    Some((table(own), table(others)))
}

/// Puts back what [`split`] has taken out.
fn join<const N: usize>(node: &mut Node, parts: [Node; N]) {
    let Some(table) = node.table_mut() else { return };
    for part in parts {
        if let Value::Table(t) = part.value {
            table.extend(t);
        }
    }
}

/// The key every component table has.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
pub(super) struct Named {
    /// The component.
    #[allow(dead_code)]
    component: String,
}

/// A component's schema, closed, without the keys that belong to the slot.
pub(super) fn component_schema(registration: &Registration, slot: &[String], engine: &[&str]) -> serde_json::Value {
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

pub(super) fn wire_origins(node: &Node) -> IndexMap<String, Origin> {
    node.get("in")
        .and_then(Node::table)
        .map(|t| t.iter().map(|(k, e)| (k.clone(), e.node.origin.clone())).collect())
        .unwrap_or_default()
}

/// Makes a component's configuration, if its factory is of the right sort.
pub(super) type Maker<O> = fn(&Registration, &Node) -> Option<Result<Box<O>, DecodeError>>;

macro_rules! makers {
    ($($name:ident $variant:ident $object:path;)*) => {
        $(pub(super) fn $name(r: &Registration, node: &Node) -> Option<Result<Box<dyn $object>, DecodeError>> {
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
