//! `mtl-recipe`: the configuration language of `mtlrun`.
//!
//! A recipe is a TOML file together with the files it extends and the overrides of the command line. [`Parsed`] merges
//! them into one [`ConfigValue`], whose every part remembers where it was written; [`Walk`] checks a value against the
//! JSON schema of a configuration type, and [`decode()`] turns it into that type. What is wrong is a [`Diagnostic`] with
//! a place.
//!
//! This crate knows no component and no tensor: a [`Catalog`] says what a table may hold.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod code;
pub mod decode;
pub mod diagnostic;
pub mod emit;
pub mod error;
pub mod files;
pub mod ids;
pub mod load;
mod references;
pub mod schema;
mod suggestion;
mod toml_version;
pub mod value;

pub use code::Code;
pub use decode::{DecodeError, decode};
pub use diagnostic::{Diagnostic, Diagnostics, Id, Severity};
pub use emit::{Change, difference, recorded, to_toml};
pub use error::{Context, Error, Result, guarded, guarded_with, panic_text, record_panics};
pub use load::{Catalog, Merged, Override, Parsed, Unset};
pub use schema::{RecipePath, Walk, schema_of};
pub use suggestion::{nearest, suggestion};
pub use value::{ConfigValue, Entry, Origin, Provenance, Source, Sources, Table, Value};
