//! What a component is: the table of kinds, and how it is registered and made.

use crate::data::{DatasetConfig, SamplerConfig, TransformConfig};
use crate::evaluator::EvaluatorConfig;
use crate::fence::{Fenced, Whose, fenced};
use crate::hook::HookConfig;
use crate::host::tell;
use crate::metric::MetricConfig;
use crate::module::ModuleConfig;
use crate::optimizer::OptimizerConfig;
use crate::scheduler::Scheduler;
use crate::source::PictureSourceConfig;
use mtl_recipe::{ConfigValue, DecodeError, Result, decode, guarded, schema_of};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::fmt;

/// A type that can be decoded from a recipe and describes itself; every type with these two derives is one.
///
/// ```
/// use mtl_component::Configuration;
///
/// /// The doc comment is what `mtlrun list` and editors show.
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Smoothing {
///     /// As is this one.
///     #[schemars(range(min = 0.0, max = 1.0))]
///     share: f64,
/// }
///
/// fn takes<T: Configuration>() {}
/// takes::<Smoothing>();
/// ```
pub trait Configuration: DeserializeOwned + JsonSchema + 'static {}
impl<T: DeserializeOwned + JsonSchema + 'static> Configuration for T {}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal at $($place:literal)|+, keys $keys:expr;)*) => {
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
            pub fn places(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($place),+],)* }
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
        keys ["component", "batch_size", "global_batch_size", "workers", "prefetch", "declares", "pairs_with", "source", "sampler", "transforms"];
    /// Pictures that a dataset or an evaluator reads.
    Source "source" at "data.*.source" | "evaluate.*.source", keys ["component"];
    /// A change of a picture on its way into a batch.
    Transform "transform" at "data.*.transforms", keys ["component"];
    /// The order of samples.
    Sampler "sampler" at "data.*.sampler", keys ["component"];
    /// A part of the model that owns parameters. Modules have families, such as backbones or heads.
    Module "module" at "model.*", keys ["component", "precision", "weights", "random", "shard", "sample_rate"];
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
    Evaluator "evaluator" at "evaluate.*", keys ["component", "every", "optional", "source", "metrics"];
    /// An observer of a training run.
    Hook "hook" at "hook.*", keys ["component"];
}

impl ComponentKind {
    /// The kind whose tables stand at that path of keys.
    pub fn at(path: &[String]) -> Option<Self> {
        let is = |place: &&str| {
            let place: Vec<&str> = place.split('.').collect();
            place.len() == path.len() && place.iter().zip(path).all(|(p, key)| *p == "*" || p == key)
        };
        let fits = |kind: &&Self| kind.places().iter().any(is);
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
///
/// ```
/// use mtl_component::{ConfigValue, Made, ModuleConfig, Registration};
///
/// /// The ports of a component that needs no key.
/// fn ports(registration: &'static Registration, nothing: &ConfigValue) -> Option<usize> {
///     let config = <dyn ModuleConfig>::made(registration, nothing)?.ok()?;
///     Some(config.describe().ok()?.ports.inputs.len())
/// }
/// ```
pub trait Made {
    /// Makes it, with a fence around it; none if the registration is of another trait.
    fn made(registration: &'static Registration, node: &ConfigValue) -> Option<Decoded<Box<Self>>>;
}

macro_rules! factories {
    ($($function:ident $variant:ident $object:path;)*) => {
        /// How a component is made from its configuration.
        #[derive(Clone, Copy)]
        pub enum Factory {
            $(
                #[doc = concat!("Makes a `", stringify!($object), "`.")]
                $variant(fn(&'static Registration, &ConfigValue) -> Decoded<Box<dyn $object>>),
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
                        describe: described::<T>,
                        factory: Factory::$variant(|of, node| {
                            let config: Box<dyn $object> = Box::new(decoded::<T>(of.whose(), node)?);
                            Ok(Box::new(Fenced::new(of.whose(), config)))
                        }),
                    }
                }
            )*
        }

        $(
            impl Made for dyn $object {
                fn made(registration: &'static Registration, node: &ConfigValue) -> Option<Decoded<Box<Self>>> {
                    match registration.factory {
                        Factory::$variant(make) => Some(make(registration, node)),
                        _ => None,
                    }
                }
            }
        )*
    };
}

/// The schema of a configuration. It is asked for in the crate of the component, so that a panic stays there.
fn described<T: Configuration>() -> Result<serde_json::Value> {
    guarded(|| Ok(schema_of::<T>()))
}

/// Decodes a configuration. What the author of a component lets run then, such as a function that gives a default, may
/// panic.
fn decoded<T: Configuration>(of: Whose, node: &ConfigValue) -> Decoded<T> {
    let decoded = fenced(of, "deserialize", || Ok(decode::<T>(node)));
    decoded.unwrap_or_else(|error| Err(DecodeError { message: format!("{error:#}"), origin: None, code: error.code() }))
}

factories! {
    module Module ModuleConfig;
    dataset Dataset DatasetConfig;
    source Source PictureSourceConfig;
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
    ///
    /// It runs what the author of the component has written, such as functions that give defaults: see
    /// [`schema`](Self::schema).
    pub describe: fn() -> Result<serde_json::Value>,
    /// How it is made.
    pub factory: Factory,
}

inventory::collect!(Registration);

impl Registration {
    /// What its fence says of it.
    pub(crate) fn whose(&self) -> Whose {
        Whose { origin: self.origin, family: self.family, name: self.name }
    }

    /// The JSON schema of its configuration; an empty one, and a warning, if none can be made.
    pub fn schema(&self) -> serde_json::Value {
        (self.describe)().unwrap_or_else(|error| {
            tell(&format!("the schema of {}/{}: {error:#}", self.family, self.name));
            serde_json::json!({})
        })
    }

    /// What it is, in one paragraph: the doc comment of its configuration type.
    pub fn doc(&self) -> String {
        self.schema().get("description").and_then(|d| d.as_str()).unwrap_or_default().to_owned()
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
    (Source, $($rest:tt)*) => { $crate::register!(@with source Source "source", $($rest)*); };
    (Transform, $($rest:tt)*) => { $crate::register!(@with transform Transform "transform", $($rest)*); };
    (Sampler, $($rest:tt)*) => { $crate::register!(@with sampler Sampler "sampler", $($rest)*); };
    (Optimizer, $($rest:tt)*) => { $crate::register!(@with optimizer Optimizer "optimizer", $($rest)*); };
    (Scheduler, $($rest:tt)*) => { $crate::register!(@with scheduler Scheduler "scheduler", $($rest)*); };
    (Metric, $($rest:tt)*) => { $crate::register!(@with metric Metric "metric", $($rest)*); };
    (Evaluator, $($rest:tt)*) => { $crate::register!(@with evaluator Evaluator "evaluator", $($rest)*); };
    (Hook, $($rest:tt)*) => { $crate::register!(@with hook Hook "hook", $($rest)*); };
}
