//! What a library of components and the program that loads it know of each other.
//!
//! A plugin is a crate with components and one line `mtl_component::export_plugin!();`, built as a dynamic library by the
//! same compiler from the same sources of this crate. [`Header`] says so in plain bytes, which the program reads before
//! any code of the library runs; [`open`] hands the components over. Linked into a program at compile time, the same
//! crate needs neither.

mod header;
pub mod sources;

pub use header::{API_LEVEL, Field, Header, Meaning, SECTION, layout};

use crate::registration::Registration;
use crate::rename::RenameTable;
use crate::rule::Rule;
use mtl_recipe::{Result, guarded, record_panics};
use std::alloc::System;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

/// The program and its plugins free what the other has allocated: all take the allocator of the system. Another one, in
/// any of them, is an error of the compiler.
///
/// ```compile_fail
/// use mtl_component as _;
/// #[global_allocator]
/// static OTHER: std::alloc::System = std::alloc::System;
/// ```
#[global_allocator]
static ALLOCATOR: System = System;

/// What the program lends to a plugin.
pub struct Host {
    /// Tells the user something.
    pub tell: fn(&str),
    /// Held while starting values are drawn: libtorch's generator is the whole process's.
    pub drawing: &'static Mutex<()>,
}

/// The program, in a plugin.
static HOST: OnceLock<&'static Host> = OnceLock::new();

/// Who hears what this image has to tell, in the program.
static TELLER: OnceLock<fn(&str)> = OnceLock::new();

/// The lock of the program; in a plugin that of its host is taken.
static DRAWING: Mutex<()> = Mutex::new(());

/// Lets a program hear what components have to tell and cannot return, such as a panic while they are dropped.
pub fn listen(tell: fn(&str)) {
    let _ = TELLER.set(tell);
}

/// What this program lends to plugins.
pub fn host() -> Host {
    // It is called in the plugin: a panic in whoever shows the text stays here.
    let tell = |text: &str| {
        let _ = guarded(|| {
            tell(text);
            Ok(())
        });
    };
    Host { tell, drawing: drawing() }
}

/// Shows the user a warning that cannot be returned as an error. A component does not print: the program shows progress.
pub fn tell(text: &str) {
    match HOST.get() {
        Some(host) => (host.tell)(text),
        None => {
            if let Some(tell) = TELLER.get() {
                tell(text);
            }
        }
    }
}

/// The lock under which starting values are drawn.
pub(crate) fn drawing() -> &'static Mutex<()> {
    HOST.get().map_or(&DRAWING, |host| host.drawing)
}

/// Whether this code is that of a plugin.
pub(crate) fn in_plugin() -> bool {
    HOST.get().is_some()
}

/// What a component of that crate is from, in words.
pub(crate) fn from(krate: &str) -> String {
    match HOST.get() {
        Some(_) => format!("the plugin {krate}"),
        None => format!("the crate {krate}"),
    }
}

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
    fn load(&self, name: &str, folder: &std::path::Path) -> Result<std::sync::Arc<Plugin>>;
}

/// What [`export_plugin!`](crate::export_plugin) calls when the program opens the library: everything that the plugin's
/// own crate registers, which has been asked to describe itself once.
///
/// # Errors
/// If a schema cannot be made.
pub fn open(krate: &'static str, host: &'static Host) -> Result<Given> {
    let _ = HOST.set(host);
    // The standard library of this image has a hook of its own.
    record_panics();
    guarded(|| {
        let components: Vec<_> = inventory::iter::<Registration>.into_iter().filter(|r| r.origin == krate).collect();
        for registration in &components {
            crate::fence::fenced(registration, "schema", || (registration.describe)().map(|_| ()))?;
        }
        Ok(Given {
            components,
            rules: inventory::iter::<Rule>.into_iter().filter(|rule| rule.origin == krate).collect(),
            renames: inventory::iter::<RenameTable>.into_iter().filter(|table| table.origin == krate).collect(),
        })
    })
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
