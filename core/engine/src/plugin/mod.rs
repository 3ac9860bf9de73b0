//! Plugins: libraries of components that are loaded when a recipe or the command line names them.
//!
//! A file is found by its name ([`Places`]), its header is read and compared without running anything of it
//! ([`Headed`]), a file that is seen for the first time is opened by another process ([`Trial`]), and then it is opened
//! here ([`library`]). What it gives becomes part of a [`Registry`](mtl_component::Registry).

mod header;
pub mod library;
mod places;
mod trial;

pub use header::{Headed, Row};
pub use places::{Places, library_name};
pub use trial::{OPENED, Trial};

use crate::data::files::digest;
use mtl_component::plugin::{Plugin, PluginLoader, sources};
use mtl_recipe::{Result, mistake};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Finds and loads plugins; each file once, never to be unloaded.
pub struct Libraries {
    places: Places,
    trial: Trial,
    loaded: Mutex<HashMap<PathBuf, Arc<Plugin>>>,
}

impl Libraries {
    /// Looks in those places, and tries unknown files in that way.
    pub fn new(places: Places, trial: Trial) -> Self {
        Self { places, trial, loaded: Mutex::default() }
    }
}

impl PluginLoader for Libraries {
    fn load(&self, name: &str, folder: &Path) -> Result<Arc<Plugin>> {
        let path = self.places.find(name, folder)?;
        // Of a file that is not there, reading it says so.
        let path = path.canonicalize().unwrap_or(path);
        // One at a time: what the other has loaded is found then.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = loaded.get(&path) {
            return Ok(known.clone());
        }
        let before = stamp(&path);
        let headed = Headed::read(&path)?;
        headed.fits()?;
        let hash = hash(&path)?;
        self.trial.passed(&path, &hash)?;
        let given = library::open(&headed)?;
        if stamp(&path) != before {
            mistake!("the plugin {} was replaced while it was opened: try again", path.display());
        }
        if let (Some(folder), Some(then)) = (path.parent(), headed.sources())
            && own_sources(folder).is_some_and(|now| now != then)
        {
            tracing::warn!(
                "the sources of the plugin {} have changed since {} was built: mtlrun plugin build {}",
                headed.name(),
                path.display(),
                folder.display()
            );
        }
        let plugin = Plugin {
            name: headed.name(),
            version: headed.version(),
            path: path.clone(),
            sha256: hash,
            sources: headed.sources(),
            given,
        };
        let plugin = Arc::new(plugin);
        loaded.insert(path, plugin.clone());
        Ok(plugin)
    }
}

/// A hash of the sources of the crate in a folder, if there is one.
pub fn own_sources(folder: &Path) -> Option<String> {
    let parts: Vec<&str> = ["src", "Cargo.toml", "build.rs"].into_iter().filter(|p| folder.join(p).exists()).collect();
    if !parts.contains(&"Cargo.toml") {
        return None;
    }
    sources::hash(folder, &parts).ok()
}

/// What tells whether a path leads to another file than before.
fn stamp(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// The folder of the user's own that a variable of the XDG base directories names, or its usual place in `HOME`.
fn user_folder(variable: &str, usual: &str) -> Option<PathBuf> {
    let value = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    value(variable).map(PathBuf::from).or_else(|| Some(Path::new(&value("HOME")?).join(usual)))
}

/// The SHA-256 of a file, as hexadecimal digits.
///
/// # Errors
/// A mistake if it cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    match digest(path) {
        Ok(digest) => Ok(hex::encode(digest)),
        Err(e) => mistake!("cannot read the plugin {}: {e}", path.display()),
    }
}
