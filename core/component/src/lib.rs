//! `mtl-component`: what the author of a component sees.
//!
//! A component is a configuration type that implements the trait of its kind and is registered under a name with
//! [`register!`]. The type is decoded from a recipe; its doc comments become the descriptions of the schema. See
//! [`ModuleConfig`] for a loss with its test.
//!
//! Everything that can fail returns [`Result`]: `?` turns any other error into a failure, and [`mistake!`] returns one
//! that the user can mend. Which component failed in which method is filled in at its fence, where a panic becomes an error
//! as well.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cases;
mod context;
pub mod data;
pub mod draw;
mod evaluator;
mod fence;
mod hook;
mod host;
mod metric;
mod module;
pub mod nn;
mod optimizer;
mod params;
pub mod picture;
pub mod plugin;
pub mod ports;
mod registration;
mod registry;
mod rename;
mod report;
mod rule;
mod scheduler;
mod source;
pub mod testing;

pub use cases::Cases;
pub use context::{Context, World};
pub use data::{
    Column, Dataset, DatasetConfig, Field, Layout, Open, OpenDataset, Partner, Place, SampleOut, Sampler,
    SamplerConfig, Transform, TransformConfig, TransformDescription,
};
pub use draw::Draw;
pub use evaluator::{
    Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, OpenEvaluator, ReadPicture, Report, joined,
};
pub use fence::Lent;
pub use hook::{Hook, HookConfig, HookEvent, RunInfo};
pub use host::tell;
pub use metric::{Better, Metric, MetricConfig};
pub use module::{Call, Module, ModuleConfig, Progress, single};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerDescription, OptimizerState, Update};
pub use params::{Entry, Init, Parameters, Params, ROWS_PER_BLOCK, Role, Rows, Sample, Sampled, Shard};
pub use picture::{Normalization, Picture};
pub use ports::{DType, Description, Dim, OneOf, Pixels, Port, Ports, Sizes};
pub use registration::{ComponentKind, Configuration, Factory, Made, Registration};
pub use registry::{Family, Provider, Registry};
pub use rename::RenameTable;
pub use report::{Axis, Cell, ReportCurve, ReportTable};
pub use rule::{Placed, RecipeView, Rule, checked};
pub use scheduler::{Scheduler, SchedulerDescription};
pub use source::{OpenSource, PictureSource, PictureSourceConfig, SourceColumn, SourceDescription, SourceUse};

pub use mtl_recipe::error::Context as ErrorContext;
pub use mtl_recipe::files;
pub use mtl_recipe::{Code, Error, Result, bail, ensure, ids, mistake, panic_text};
pub use mtl_recipe::{ConfigValue, Diagnostic, Id, Origin, RecipePath};
pub use mtl_torch::{Number, ScalarOps, arange, full};

/// Re-exported for the registration macros.
pub use inventory;

/// The guide for authors of components, whose examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../plugins/README.md")]
struct Guide;
