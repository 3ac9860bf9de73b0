//! The components that a program knows: a table of kinds, and a registry that link-time registrations and loaded
//! libraries fill.

use crate::data::{DatasetConfig, SamplerConfig, TransformConfig};
use crate::evaluator::EvaluatorConfig;
use crate::hook::HookConfig;
use crate::metric::MetricConfig;
use crate::module::ModuleConfig;
use crate::optimizer::OptimizerConfig;
use crate::rename::RenameTable;
use crate::rule::Rule;
use crate::scheduler::Scheduler;
use mtl_recipe::error::Site;
use mtl_recipe::{Catalog, ConfigValue, DecodeError, Error, Result, decode, schema_of};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

/// A type that can be decoded from a recipe and describes itself.
pub trait Configuration: DeserializeOwned + JsonSchema + 'static {}
impl<T: DeserializeOwned + JsonSchema + 'static> Configuration for T {}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal at $place:literal, keys $keys:expr;)*) => {
        /// What a component is: where a recipe may name it, and which trait it implements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ComponentKind {
            $($(#[$doc])* $variant,)*
        }

        impl ComponentKind {
            /// All kinds in the order of the guide.
            pub const ALL: &[ComponentKind] = &[$(Self::$variant),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Where tables that name such components stand in a recipe, with `*` for a name that the recipe gives.
            pub fn place(self) -> &'static str {
                match self { $(Self::$variant => $place,)* }
            }

            /// The keys of such a table that belong to its place in the recipe and not to the component.
            pub fn slot_keys(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &$keys,)* }
            }
        }
    };
}

kinds! {
    /// Samples of a data stream.
    Dataset "dataset" at "data.*",
        keys ["component", "batch_size", "workers", "prefetch", "declares", "sampler", "transforms"];
    /// A change of a picture on its way into a batch.
    Transform "transform" at "data.*.transforms", keys ["component"];
    /// The order of samples.
    Sampler "sampler" at "data.*.sampler", keys ["component"];
    /// A part of the model that owns parameters. Modules have families, such as backbones or heads.
    Module "module" at "model.*", keys ["component", "precision", "weights", "random"];
    /// A computation without parameters.
    Function "function" at "graph.*", keys ["call", "apply", "in", "mode"];
    /// A number that a phase minimizes.
    Loss "loss" at "loss.*", keys ["component", "in", "weight", "ramp"];
    /// The rule by which gradients change parameters.
    Optimizer "optimizer" at "phase.*.optimizer", keys ["component", "lr", "weight_decay", "decay", "groups"];
    /// The course of the learning rate.
    Scheduler "scheduler" at "phase.*.scheduler", keys ["component"];
    /// A number computed from the cases that an evaluator measured.
    Metric "metric" at "evaluate.*.metrics", keys ["component"];
    /// A measurement of the model on data of its own.
    Evaluator "evaluator" at "evaluate.*", keys ["component", "every", "optional", "metrics"];
    /// An observer of a training run.
    Hook "hook" at "hook.*", keys ["component"];
}

impl ComponentKind {
    /// The kind whose tables stand at that path of keys.
    pub fn at(path: &[String]) -> Option<Self> {
        let fits = |kind: &&Self| {
            let place: Vec<&str> = kind.place().split('.').collect();
            place.len() == path.len() && place.iter().zip(path).all(|(p, key)| *p == "*" || p == key)
        };
        Self::ALL.iter().find(fits).copied()
    }
}

impl fmt::Display for ComponentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

type Decoded<T> = Result<T, DecodeError>;

/// A trait object that a registration can make from a configuration.
pub trait Made {
    /// Makes it; none if the registration is of another trait.
    fn made(registration: &Registration, node: &ConfigValue) -> Option<Decoded<Box<Self>>>;
}

macro_rules! factories {
    ($($function:ident $variant:ident $object:path;)*) => {
        /// How a component is made from its configuration.
        #[derive(Clone, Copy)]
        pub enum Factory {
            $(
                #[doc = concat!("Makes a `", stringify!($object), "`.")]
                $variant(fn(&ConfigValue) -> Decoded<Box<dyn $object>>),
            )*
        }

        impl Registration {
            $(
                #[doc = concat!("A component that implements `", stringify!($object), "`.")]
                pub const fn $function<T: Configuration + $object>(
                    kind: ComponentKind, family: &'static str, name: &'static str, origin: &'static str,
                ) -> Self {
                    Self {
                        kind, family, name, origin,
                        schema: schema_of::<T>,
                        factory: Factory::$variant(|node| Ok(Box::new(decode::<T>(node)?))),
                    }
                }
            )*
        }

        $(
            impl Made for dyn $object {
                fn made(registration: &Registration, node: &ConfigValue) -> Option<Decoded<Box<Self>>> {
                    match registration.factory {
                        Factory::$variant(make) => Some(make(node)),
                        _ => None,
                    }
                }
            }
        )*
    };
}

factories! {
    module Module ModuleConfig;
    dataset Dataset DatasetConfig;
    transform Transform TransformConfig;
    sampler Sampler SamplerConfig;
    optimizer Optimizer OptimizerConfig;
    scheduler Scheduler Scheduler;
    evaluator Evaluator EvaluatorConfig;
    metric Metric MetricConfig;
    hook Hook HookConfig;
}

/// A registered component. Use [`register!`](crate::register) to make one.
pub struct Registration {
    /// What it is.
    pub kind: ComponentKind,
    /// For modules what they are used for, such as `backbone`; else the name of the kind.
    pub family: &'static str,
    /// The name in recipes.
    pub name: &'static str,
    /// The crate that registers it.
    pub origin: &'static str,
    /// The JSON schema of its configuration.
    pub schema: fn() -> serde_json::Value,
    /// How it is made.
    pub factory: Factory,
}

inventory::collect!(Registration);

impl Registration {
    /// What it is, in one paragraph: the doc comment of its configuration type.
    pub fn doc(&self) -> String {
        (self.schema)().get("description").and_then(|d| d.as_str()).unwrap_or_default().to_owned()
    }

    /// Fills in which component failed, in which method.
    pub fn called<T>(&self, method: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            error.at(|| Site {
                origin: self.origin.to_owned(),
                component: format!("{}/{}", self.family, self.name),
                method: method.to_owned(),
            })
        })
    }
}

/// Registers a component: `register!(Loss, "cross_entropy", CrossEntropy);`, and a module with its family:
/// `register!(Module("head"), "cosface", CosFace);`.
#[macro_export]
macro_rules! register {
    (@with $function:ident $kind:ident $family:expr, $name:literal, $config:ty) => {
        $crate::inventory::submit! {
            $crate::Registration::$function::<$config>(
                $crate::ComponentKind::$kind, $family, $name, env!("CARGO_PKG_NAME"),
            )
        }
    };
    (Module($family:literal), $($rest:tt)*) => { $crate::register!(@with module Module $family, $($rest)*); };
    (Function, $($rest:tt)*) => { $crate::register!(@with module Function "function", $($rest)*); };
    (Loss, $($rest:tt)*) => { $crate::register!(@with module Loss "loss", $($rest)*); };
    (Dataset, $($rest:tt)*) => { $crate::register!(@with dataset Dataset "dataset", $($rest)*); };
    (Transform, $($rest:tt)*) => { $crate::register!(@with transform Transform "transform", $($rest)*); };
    (Sampler, $($rest:tt)*) => { $crate::register!(@with sampler Sampler "sampler", $($rest)*); };
    (Optimizer, $($rest:tt)*) => { $crate::register!(@with optimizer Optimizer "optimizer", $($rest)*); };
    (Scheduler, $($rest:tt)*) => { $crate::register!(@with scheduler Scheduler "scheduler", $($rest)*); };
    (Metric, $($rest:tt)*) => { $crate::register!(@with metric Metric "metric", $($rest)*); };
    (Evaluator, $($rest:tt)*) => { $crate::register!(@with evaluator Evaluator "evaluator", $($rest)*); };
    (Hook, $($rest:tt)*) => { $crate::register!(@with hook Hook "hook", $($rest)*); };
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A crate that is linked into the program.
    BuiltIn {
        /// The crate.
        krate: String,
    },
    /// A library that was loaded when the program started.
    Plugin {
        /// Its name.
        name: String,
        /// Its file.
        path: PathBuf,
    },
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn { krate } => write!(f, "the crate {krate}"),
            Self::Plugin { name, path } => write!(f, "the plugin {name} ({})", path.display()),
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
#[derive(Default)]
pub struct Registry {
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

    fn defaults(&self, path: &[String], component: &str) -> Vec<(String, String)> {
        let found = ComponentKind::at(path).and_then(|kind| self.find(kind, component));
        let schema = found.map(|r| (r.schema)()).unwrap_or_default();
        let properties = schema.get("properties").and_then(|p| p.as_object()).cloned().unwrap_or_default();
        properties.into_iter().map(|(key, value)| (key, value["default"].to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(kind: ComponentKind, name: &'static str, origin: &'static str) -> &'static Registration {
        let factory = Factory::Module(|_| Err(DecodeError { message: String::new(), origin: None }));
        let schema = || serde_json::json!({ "properties": { "margin": { "default": 0.5 } } });
        Box::leak(Box::new(Registration { kind, family: kind.name(), name, origin, schema, factory }))
    }

    #[test]
    fn two_components_of_one_name_are_refused_with_both_providers() {
        let mut registry = Registry::default();
        let built_in = Provider::BuiltIn { krate: "mtl-a".into() };
        registry.add(built_in, &[registration(ComponentKind::Loss, "mse", "mtl-a")]).unwrap();
        let plugin = Provider::Plugin { name: "idea".into(), path: "/x/libidea.so".into() };
        // Of another kind the name is free.
        registry.add(plugin.clone(), &[registration(ComponentKind::Function, "mse", "idea")]).unwrap();
        let error = registry.add(plugin, &[registration(ComponentKind::Loss, "mse", "idea")]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("loss `mse`: one of the crate mtl-a and one of the plugin idea (/x/libidea.so)"),
            "{text}"
        );
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn kinds_are_known_by_the_place_of_their_tables() {
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(ComponentKind::at(&path("model.backbone")), Some(ComponentKind::Module));
        assert_eq!(ComponentKind::at(&path("phase.gan.optimizer")), Some(ComponentKind::Optimizer));
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
    }
}
