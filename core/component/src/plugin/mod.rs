//! What a library of components and the program that loads it know of each other.
//!
//! A plugin is a crate with components and one line `mtl_component::export_plugin!();`, built as a dynamic library by the
//! same compiler from the same sources of this crate. [`Header`] says so in plain bytes, which the program reads before
//! any code of the library runs; [`open`] hands the components over. Linked into a program at compile time, the same
//! crate needs neither.

mod header;
pub mod sources;

pub use header::{API_LEVEL, Field, Header, Meaning, SECTION, layout};

pub use crate::host::{Host, host, listen, tell};

use crate::registration::Registration;
use crate::rename::RenameTable;
use crate::rule::Rule;
use mtl_recipe::{Result, guarded, mistake, record_panics};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a plugin gives to the program.
#[derive(Default)]
pub struct Given {
    /// Its components.
    pub components: Vec<&'static Registration>,
    /// Its rules across the tables of a recipe.
    pub rules: Vec<&'static Rule>,
    /// Its tables of parameter names.
    pub renames: Vec<&'static RenameTable>,
}

/// A plugin that was loaded.
pub struct Plugin {
    /// The name of its crate.
    pub name: String,
    /// The version of its crate.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
    /// The SHA-256 of the file.
    pub sha256: String,
    /// A hash of the sources that it was built from, if it was built by `mtlrun plugin build`.
    pub sources: Option<String>,
    /// What it gives.
    pub given: Given,
}

/// Finds and loads plugins for a program.
///
/// ```
/// use mtl_component::plugin::{Plugin, PluginLoader};
/// use mtl_component::{Registry, Result, mistake};
/// use std::{path::Path, sync::Arc};
///
/// /// A program that wants none.
/// struct Nothing;
///
/// impl PluginLoader for Nothing {
///     fn load(&self, name: &str, _: &Path) -> Result<Arc<Plugin>> {
///         mistake!("{name} is not welcome")
///     }
/// }
///
/// let registry = Registry::built_in()?.loading(Arc::new(Nothing));
/// assert!(registry.with_plugin("idea", Path::new(".")).is_err());
/// # Ok::<(), mtl_component::Error>(())
/// ```
pub trait PluginLoader: Send + Sync {
    /// Loads the plugin of that name, or in that file, as a recipe in `folder` names it. Asked twice, it gives the same.
    ///
    /// # Errors
    /// A mistake if there is none, or it does not fit this program.
    fn load(&self, name: &str, folder: &Path) -> Result<Arc<Plugin>>;
}

/// What [`export_plugin!`](crate::export_plugin) calls when the program opens the library: everything that the plugin's
/// own crate registers, which has been asked to describe itself once.
///
/// # Errors
/// If a schema cannot be made.
pub fn open(krate: &'static str, host: &'static Host) -> Result<Given> {
    crate::host::enter(host);
    // The standard library of this image has a hook of its own.
    record_panics();
    guarded(|| {
        let components: Vec<_> = inventory::iter::<Registration>.into_iter().filter(|r| r.origin == krate).collect();
        for registration in &components {
            let schema = crate::fence::fenced(registration.whose(), "schema", || (registration.describe)())?;
            has_own_keys(registration, &schema)?;
        }
        Ok(Given {
            components,
            rules: inventory::iter::<Rule>.into_iter().filter(|rule| rule.origin == krate).collect(),
            renames: inventory::iter::<RenameTable>.into_iter().filter(|table| table.origin == krate).collect(),
        })
    })
}

/// Checks that no key of a component is one of the tables that name it, where it could never be set.
fn has_own_keys(registration: &Registration, schema: &serde_json::Value) -> Result<()> {
    let (kind, own) = (registration.kind, schema.get("properties").and_then(|p| p.as_object()));
    let mut own = own.into_iter().flatten().map(|(key, _)| key);
    if let Some(key) = own.find(|key| kind.slot_keys().contains(&key.as_str())) {
        mistake!(
            "{}/{} has a key `{key}`, which every table of a {kind} has already, so that it could never be set. Rename it; \
             taken are {}",
            registration.family,
            registration.name,
            kind.slot_keys().join(", ")
        );
    }
    Ok(())
}

/// Lets the crate be loaded as a plugin; once, in its `lib.rs`.
#[macro_export]
macro_rules! export_plugin {
    () => {
        const _: () = {
            #[used]
            #[unsafe(export_name = concat!("mtl_plugin_header_", env!("CARGO_CRATE_NAME")))]
            #[unsafe(link_section = ".mtlplugin")]
            pub static HEADER: $crate::plugin::Header = $crate::plugin::Header::new(
                env!("CARGO_PKG_NAME"),
                env!("CARGO_PKG_VERSION"),
                env!("CARGO_CRATE_NAME"),
                option_env!("MTLRUN_PLUGIN_SOURCES"),
            );

            #[unsafe(export_name = concat!("mtl_plugin_open_", env!("CARGO_CRATE_NAME")))]
            pub fn open(host: &'static $crate::plugin::Host) -> $crate::Result<$crate::plugin::Given> {
                $crate::plugin::open(env!("CARGO_PKG_NAME"), host)
            }
        };
    };
}
