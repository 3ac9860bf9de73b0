//! Opening the library of a plugin.

use super::Headed;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use mtl_component::plugin::{Given, Host, host};
use mtl_recipe::{Context, Result, mistake};
use mtl_torch::libtorch_files;
use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Opens the library of a plugin whose header fits this program. It is never closed.
///
/// # Errors
/// A mistake if it cannot be opened, lacks its entry, or brings a libtorch of its own.
pub fn open(plugin: &Headed) -> Result<Given> {
    static HOST: OnceLock<Host> = OnceLock::new();
    let shown = plugin.path().display();
    let before = libtorch_files()?;
    // SAFETY: opening runs the constructors of the library. Its header says that it was built from the same sources by the
    // same compiler, and another process has opened it before. Nothing that the library gives out is used after it was
    // closed, since it is never closed.
    let library = unsafe { Library::open(Some(plugin.path()), RTLD_NOW | RTLD_LOCAL | libc::RTLD_NODELETE) };
    let library = match library {
        Ok(library) => ManuallyDrop::new(library),
        Err(e) => mistake!("the plugin {shown} cannot be opened: {}", reason(&e)),
    };
    one_libtorch(&before).with_context(|| format!("the plugin {shown} cannot be used"))?;
    // SAFETY: `export_plugin!` gives the function of this name that type, and the header says that both sides were built
    // from the same sources, so that its arguments and results are laid out alike.
    let entry: Symbol<fn(&'static Host) -> Result<Given>> = match unsafe { library.get(plugin.entry().as_bytes()) } {
        Ok(entry) => entry,
        Err(_) => mistake!(
            "the plugin {shown} lacks the function {}: its lib.rs must contain mtl_component::export_plugin!();",
            plugin.entry()
        ),
    };
    entry(HOST.get_or_init(host)).with_context(|| format!("the plugin {shown} cannot be used"))
}

/// The words of the dynamic loader.
fn reason(error: &libloading::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words = cause.to_string();
        source = cause.source();
    }
    words
}

/// Checks that no library of libtorch came from elsewhere: two of them would not know each other's tensors.
fn one_libtorch(before: &BTreeSet<PathBuf>) -> Result<()> {
    let folders: BTreeSet<_> = before.iter().filter_map(|file| file.parent()).collect();
    for file in libtorch_files()? {
        if let Some(own) = before.first()
            && !folders.contains(file.parent().unwrap_or(Path::new("")))
        {
            mistake!(
                "it brings a second libtorch: {}, beside {}. A plugin is linked to the program's own, as `mtlrun plugin \
                 build` does",
                file.display(),
                own.display()
            );
        }
    }
    Ok(())
}
