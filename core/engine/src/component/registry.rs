//! The register of components, filled at link time through `inventory`.

use super::Block;
use crate::data::{DatasetConfig, SamplerConfig, TransformConfig};
use crate::evaluate::Evaluator;
use crate::recipe::{DecodeError, Node, decode, schema_of};
use crate::train::{OptimizerConfig, Scheduler};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::fmt;

/// A type that can be decoded from a recipe and describes itself.
pub trait Configuration: DeserializeOwned + JsonSchema + 'static {}
impl<T: DeserializeOwned + JsonSchema + 'static> Configuration for T {}

/// What a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Dataset,
    Transform,
    Sampler,
    Backbone,
    Decomposition,
    Head,
    Icm,
    Decoder,
    Discriminator,
    Function,
    Loss,
    Optimizer,
    Scheduler,
    Evaluator,
    Command,
}

impl Kind {
    /// All kinds in the order of the guide.
    pub const ALL: [Kind; 15] = [
        Kind::Dataset,
        Kind::Transform,
        Kind::Sampler,
        Kind::Backbone,
        Kind::Decomposition,
        Kind::Head,
        Kind::Icm,
        Kind::Decoder,
        Kind::Discriminator,
        Kind::Function,
        Kind::Loss,
        Kind::Optimizer,
        Kind::Scheduler,
        Kind::Evaluator,
        Kind::Command,
    ];

    /// The kinds that `model.NAME` may name.
    pub const MODULES: [Kind; 6] =
        [Kind::Backbone, Kind::Decomposition, Kind::Head, Kind::Icm, Kind::Decoder, Kind::Discriminator];

    /// The kinds whose components are tables of a recipe: all but commands.
    pub const TABLES: &[Kind] = match Self::ALL.split_last() {
        Some((_, tables)) => tables,
        None => &[],
    };

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Transform => "transform",
            Self::Sampler => "sampler",
            Self::Backbone => "backbone",
            Self::Decomposition => "decomposition",
            Self::Head => "head",
            Self::Icm => "icm",
            Self::Decoder => "decoder",
            Self::Discriminator => "discriminator",
            Self::Function => "function",
            Self::Loss => "loss",
            Self::Optimizer => "optimizer",
            Self::Scheduler => "scheduler",
            Self::Evaluator => "evaluator",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

type Decoded<T> = Result<T, DecodeError>;

/// How a component is made from its configuration.
#[allow(missing_docs)]
pub enum Factory {
    Block(fn(&Node) -> Decoded<Box<dyn Block>>),
    Dataset(fn(&Node) -> Decoded<Box<dyn DatasetConfig>>),
    Transform(fn(&Node) -> Decoded<Box<dyn TransformConfig>>),
    Sampler(fn(&Node) -> Decoded<Box<dyn SamplerConfig>>),
    Optimizer(fn(&Node) -> Decoded<Box<dyn OptimizerConfig>>),
    Scheduler(fn(&Node) -> Decoded<Box<dyn Scheduler>>),
    Evaluator(fn(&Node) -> Decoded<Box<dyn Evaluator>>),
}

/// A registered component. Use [`register!`](crate::register) to make one.
pub struct Registration {
    /// What it is.
    pub kind: Kind,
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

macro_rules! constructors {
    ($($function:ident $variant:ident $object:path;)*) => {
        impl Registration {
            $(
                #[doc = concat!("A component of the factory `", stringify!($variant), "`.")]
                pub const fn $function<T: Configuration + $object>(
                    kind: Kind, name: &'static str, origin: &'static str,
                ) -> Self {
                    Self {
                        kind, name, origin,
                        schema: schema_of::<T>,
                        factory: Factory::$variant(|node| Ok(Box::new(decode::<T>(node)?))),
                    }
                }
            )*
        }
    };
}

constructors! {
    block Block Block;
    dataset Dataset DatasetConfig;
    transform Transform TransformConfig;
    sampler Sampler SamplerConfig;
    optimizer Optimizer OptimizerConfig;
    scheduler Scheduler Scheduler;
    evaluator Evaluator Evaluator;
}

/// Registers a component: `register!(Head, "cosface", CosFace);`.
#[macro_export]
macro_rules! register {
    (@with $function:ident $kind:ident, $name:literal, $config:ty) => {
        $crate::inventory::submit! {
            $crate::component::Registration::$function::<$config>(
                $crate::component::Kind::$kind, $name, env!("CARGO_PKG_NAME"),
            )
        }
    };
    (Dataset, $($rest:tt)*) => { $crate::register!(@with dataset Dataset, $($rest)*); };
    (Transform, $($rest:tt)*) => { $crate::register!(@with transform Transform, $($rest)*); };
    (Sampler, $($rest:tt)*) => { $crate::register!(@with sampler Sampler, $($rest)*); };
    (Optimizer, $($rest:tt)*) => { $crate::register!(@with optimizer Optimizer, $($rest)*); };
    (Scheduler, $($rest:tt)*) => { $crate::register!(@with scheduler Scheduler, $($rest)*); };
    (Evaluator, $($rest:tt)*) => { $crate::register!(@with evaluator Evaluator, $($rest)*); };
    ($kind:ident, $($rest:tt)*) => { $crate::register!(@with block $kind, $($rest)*); };
}

/// All components, sorted by kind and name.
pub fn all() -> Vec<&'static Registration> {
    let mut list: Vec<_> = inventory::iter::<Registration>.into_iter().collect();
    list.sort_by_key(|r| (r.kind, r.name));
    list
}

/// The components of one kind, sorted by name.
pub fn of_kind(kind: Kind) -> Vec<&'static Registration> {
    all().into_iter().filter(|r| r.kind == kind).collect()
}

/// The component of that name among some kinds.
pub fn find(kinds: &[Kind], name: &str) -> Option<&'static Registration> {
    inventory::iter::<Registration>.into_iter().find(|r| kinds.contains(&r.kind) && r.name == name)
}

/// The kind of that name.
pub fn named(kind: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|k| k.name() == kind)
}

impl Registration {
    /// What it is, in one paragraph: the doc comment of its configuration type.
    pub fn doc(&self) -> String {
        (self.schema)().get("description").and_then(|d| d.as_str()).unwrap_or_default().to_owned()
    }
}
