//! The components that a program knows: those that are linked in, and those of loaded libraries.

use crate::plugin::{Plugin, PluginLoader};
use crate::registration::{ComponentKind, Registration};
use crate::rename::RenameTable;
use crate::rule::Rule;
use mtl_recipe::{Catalog, Error, Result, mistake};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A crate that is linked into the program.
    BuiltIn {
        /// The crate.
        krate: String,
    },
    /// A library that a recipe or the command line names.
    Plugin {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// Its file.
        path: PathBuf,
    },
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn { krate } => write!(f, "the crate {krate}"),
            Self::Plugin { name, version, path } => write!(f, "the plugin {name} {version} ({})", path.display()),
        }
    }
}

/// The kind of some components, and for modules their family: what `mtlrun list` groups them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Family {
    /// The kind.
    pub kind: ComponentKind,
    /// The name of the family; that of the kind for all but modules.
    pub name: &'static str,
}

/// The components, rules and tables of names that a program knows.
#[derive(Default, Clone)]
pub struct Registry {
    loader: Option<Arc<dyn PluginLoader>>,
    plugins: Vec<Arc<Plugin>>,
    components: Vec<(&'static Registration, Provider)>,
    by_name: HashMap<(ComponentKind, &'static str), usize>,
    rules: Vec<&'static Rule>,
    renames: Vec<&'static RenameTable>,
}

impl Registry {
    /// Everything that is linked into the program.
    ///
    /// # Errors
    /// If two components of one kind have one name; the error names both crates.
    pub fn built_in() -> Result<Self> {
        let mut registry = Self::default();
        let mut all: Vec<_> = inventory::iter::<Registration>.into_iter().collect();
        all.sort_by_key(|r| (r.kind, r.family, r.name, r.origin));
        for registration in all {
            registry.add(Provider::BuiltIn { krate: registration.origin.to_owned() }, &[registration])?;
        }
        registry.rules.extend(inventory::iter::<Rule>);
        registry.rules.sort_by_key(|rule| rule.name);
        registry.renames.extend(inventory::iter::<RenameTable>);
        registry.renames.sort_by_key(|table| table.name);
        Ok(registry)
    }

    /// Adds components of another provider.
    ///
    /// # Errors
    /// If one of them has the kind and the name of a component that is there already; the error names both providers.
    pub fn add(&mut self, provider: Provider, components: &[&'static Registration]) -> Result<()> {
        for registration in components {
            if let Some(known) = self.by_name.get(&(registration.kind, registration.name)) {
                let kind = registration.kind;
                return Err(Error::mistake(format!(
                    "two components are called {kind} `{}`: one of {} and one of {provider}. Rename one of them",
                    registration.name, self.components[*known].1
                )));
            }
            self.by_name.insert((registration.kind, registration.name), self.components.len());
            self.components.push((registration, provider.clone()));
        }
        Ok(())
    }

    /// The same with somebody to load plugins.
    pub fn loading(self, loader: Arc<dyn PluginLoader>) -> Self {
        Self { loader: Some(loader), ..self }
    }

    /// The same with a plugin, as a recipe in `folder` names it; with the same plugin twice it stays as it is.
    ///
    /// # Errors
    /// If the plugin cannot be loaded, or has the name of a plugin, component, rule or table of names that is there
    /// already; the error names both.
    pub fn with_plugin(&self, name: &str, folder: &Path) -> Result<Self> {
        let Some(loader) = &self.loader else { mistake!("this program loads no plugins: `{name}` is not loaded") };
        let plugin = loader.load(name, folder)?;
        if self.plugins.iter().any(|known| known.path == plugin.path) {
            return Ok(self.clone());
        }
        if let Some(known) = self.plugins.iter().find(|known| known.name == plugin.name) {
            mistake!(
                "two plugins are called {}: {} and {}. Name only one of them",
                plugin.name,
                known.path.display(),
                plugin.path.display()
            );
        }
        let mut registry = self.clone();
        let Plugin { name, version, path, given, .. } = &*plugin;
        let provider = Provider::Plugin { name: name.clone(), version: version.clone(), path: path.clone() };
        registry.add(provider.clone(), &given.components)?;
        for rule in &given.rules {
            if let Some(known) = registry.rules.iter().find(|known| known.name == rule.name) {
                mistake!("two rules are called `{}`: one of {} and one of {provider}", rule.name, known.origin);
            }
            registry.rules.push(rule);
        }
        for table in &given.renames {
            if let Some(known) = registry.renames.iter().find(|known| known.name == table.name) {
                mistake!(
                    "two tables of names are called `{}`: one of {} and one of {provider}",
                    table.name,
                    known.origin
                );
            }
            registry.renames.push(table);
        }
        registry.rules.sort_by_key(|rule| rule.name);
        registry.renames.sort_by_key(|table| table.name);
        registry.plugins.push(plugin);
        Ok(registry)
    }

    /// Whether a plugin of that name is there.
    pub fn has_plugin(&self, name: &str) -> bool {
        self.plugins.iter().any(|known| known.name.replace('-', "_") == name.replace('-', "_"))
    }

    /// The plugins, in the order in which they were named.
    pub fn plugins(&self) -> &[Arc<Plugin>] {
        &self.plugins
    }

    /// All components, by kind, family and name.
    pub fn all(&self) -> Vec<&'static Registration> {
        let mut list: Vec<_> = self.components.iter().map(|(registration, _)| *registration).collect();
        list.sort_by_key(|r| (r.kind, r.family, r.name));
        list
    }

    /// Where a component comes from.
    pub fn provider(&self, registration: &Registration) -> Option<&Provider> {
        let at = self.by_name.get(&(registration.kind, registration.name))?;
        Some(&self.components[*at].1)
    }

    /// The components of one kind, by family and name.
    pub fn of_kind(&self, kind: ComponentKind) -> Vec<&'static Registration> {
        self.all().into_iter().filter(|r| r.kind == kind).collect()
    }

    /// The components of one family, by name.
    pub fn of_family(&self, family: Family) -> Vec<&'static Registration> {
        self.of_kind(family.kind).into_iter().filter(|r| r.family == family.name).collect()
    }

    /// The families in the order of the guide: those of modules by name, in the place of their kind.
    pub fn families(&self) -> Vec<Family> {
        let mut out = Vec::new();
        for kind in ComponentKind::ALL.iter().copied() {
            if kind != ComponentKind::Module {
                out.push(Family { kind, name: kind.name() });
                continue;
            }
            for registration in self.of_kind(kind) {
                let family = Family { kind, name: registration.family };
                if !out.contains(&family) {
                    out.push(family);
                }
            }
        }
        out
    }

    /// The family of that name.
    pub fn family(&self, name: &str) -> Option<Family> {
        self.families().into_iter().find(|family| family.name == name)
    }

    /// The component of that kind and name.
    pub fn find(&self, kind: ComponentKind, name: &str) -> Option<&'static Registration> {
        self.by_name.get(&(kind, name)).map(|at| self.components[*at].0)
    }

    /// The component of that name, whatever its kind.
    pub fn find_any(&self, name: &str) -> Option<&'static Registration> {
        self.components.iter().map(|(r, _)| *r).find(|r| r.name == name)
    }

    /// The rules across the tables of a recipe, by name.
    pub fn rules(&self) -> &[&'static Rule] {
        &self.rules
    }

    /// The tables of parameter names, by name.
    pub fn renames(&self) -> &[&'static RenameTable] {
        &self.renames
    }
}

impl Catalog for Registry {
    fn stays(&self, path: &[String], key: &str) -> bool {
        // The keys that name a node's target are replaced, whatever stays.
        let naming = ["apply", "call"].contains(&key);
        !naming && ComponentKind::at(path).is_some_and(|kind| kind.slot_keys().contains(&key))
    }

    fn knows(&self, path: &[String], component: &str) -> bool {
        // A node may call any module.
        let of_module = |kind: &ComponentKind| *kind != ComponentKind::Function;
        ComponentKind::at(path).filter(of_module).is_none_or(|kind| self.find(kind, component).is_some())
    }

    fn defaults(&self, path: &[String], component: &str) -> Vec<(String, String)> {
        let found = ComponentKind::at(path).and_then(|kind| self.find(kind, component));
        let schema = found.map(Registration::schema).unwrap_or_default();
        let properties = schema.get("properties").and_then(|p| p.as_object()).cloned().unwrap_or_default();
        properties.into_iter().map(|(key, value)| (key, value["default"].to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::Factory;
    use mtl_recipe::{Code, DecodeError};

    fn registration(kind: ComponentKind, name: &'static str, origin: &'static str) -> &'static Registration {
        let factory =
            Factory::Module(|_, _| Err(DecodeError { message: String::new(), origin: None, code: Code::Mistake }));
        let describe = || Ok(serde_json::json!({ "properties": { "margin": { "default": 0.5 } } }));
        Box::leak(Box::new(Registration { kind, family: kind.name(), name, origin, describe, factory }))
    }

    #[test]
    fn two_components_of_one_name_are_refused_with_both_providers() {
        let mut registry = Registry::default();
        let built_in = Provider::BuiltIn { krate: "mtl-a".into() };
        registry.add(built_in, &[registration(ComponentKind::Loss, "mse", "mtl-a")]).unwrap();
        let path = "/x/libidea.so".into();
        let plugin = Provider::Plugin { name: "idea".into(), version: "0.1.0".into(), path };
        // Of another kind the name is free.
        registry.add(plugin.clone(), &[registration(ComponentKind::Function, "mse", "idea")]).unwrap();
        let error = registry.add(plugin, &[registration(ComponentKind::Loss, "mse", "idea")]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("loss `mse`: one of the crate mtl-a and one of the plugin idea 0.1.0 (/x/libidea.so)"),
            "{text}"
        );
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn kinds_are_known_by_the_place_of_their_tables() {
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(ComponentKind::at(&path("model.backbone")), Some(ComponentKind::Module));
        assert_eq!(ComponentKind::at(&path("phase.gan.optimizer")), Some(ComponentKind::Optimizer));
        assert_eq!(ComponentKind::at(&path("evaluate.age.source")), Some(ComponentKind::Source));
        assert_eq!(ComponentKind::at(&path("model")), None);
        assert_eq!(ComponentKind::at(&path("run.checkpoint")), None);
    }

    #[test]
    fn keys_of_the_place_stay_when_another_component_is_named() {
        let mut registry = Registry::default();
        let provider = Provider::BuiltIn { krate: "mtl-a".into() };
        registry.add(provider, &[registration(ComponentKind::Module, "arcface", "mtl-a")]).unwrap();
        let path = ["model".to_owned(), "identity".to_owned()];
        assert!(registry.stays(&path, "weights") && !registry.stays(&path, "margin"));
        assert!(!registry.stays(&path, "lr"), "that is a key of optimizers");
        assert_eq!(registry.defaults(&path, "arcface"), [("margin".to_owned(), "0.5".to_owned())]);
        assert!(registry.defaults(&path, "nothing").is_empty());
        assert!(registry.knows(&path, "arcface") && !registry.knows(&path, "nothing"));
    }
}
