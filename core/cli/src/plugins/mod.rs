//! `mtlrun plugin`, and the plugins that the command line names.

mod build;
mod new;

use crate::arguments::{CheckPlugin, Plugin, Plugins};
use crate::table::aligned;
use mtl_component::{Registry, Result};
use mtl_engine::plugin::{Headed, Libraries, Places, Trial, hash, library, library_name};
use std::path::Path;
use std::sync::Arc;

/// The components that are linked in and those of the plugins that the command line names, with somebody to load others.
pub fn registry(args: &Plugins) -> Result<Arc<Registry>> {
    let mut registry = Registry::built_in()?.loading(Arc::new(Libraries::new(places(args), trial())));
    for name in &args.plugins {
        registry = registry.with_plugin(name, &std::env::current_dir()?)?;
    }
    Ok(Arc::new(registry))
}

fn places(args: &Plugins) -> Places {
    let here = std::env::current_dir().unwrap_or_default();
    let given: Vec<_> = args.plugin_path.iter().map(|folder| here.join(folder)).collect();
    Places::new(&given)
}

/// Unknown files are opened by this program first, in another process.
fn trial() -> Trial {
    // The program that runs, also after another was built in its place.
    Trial::new("/proc/self/exe", &["plugin", "probe"])
}

/// Does what one of the commands asks for.
pub fn run(registry: &Registry, command: &Plugin, args: &Plugins) -> Result<u8> {
    match command {
        Plugin::New(new) => new::new(registry, new),
        Plugin::Build(build) => build::build(build),
        Plugin::Check(check) => self::check(check, &places(args)),
        Plugin::List => list(&places(args)),
        Plugin::Probe(file) => probe(&file.file),
    }
}

/// Opens a file whose header fits, and says so at the end.
fn probe(file: &Path) -> Result<u8> {
    let headed = Headed::read(file)?;
    headed.fits()?;
    library::open(&headed)?;
    println!("{}", mtl_engine::plugin::OPENED);
    Ok(0)
}

/// What the program and the plugin have, side by side, and what the plugin registers.
fn check(args: &CheckPlugin, places: &Places) -> Result<u8> {
    let path = &args.file;
    let inside = |folder: &Path| folder.file_name().map(|name| folder.join(library_name(&name.to_string_lossy())));
    let file = match path.canonicalize() {
        // The folder of a crate stands for its library.
        Ok(found) if found.is_dir() => inside(&found).filter(|file| file.exists()).unwrap_or(found),
        Ok(found) => found,
        Err(_) if path.components().count() == 1 && path.extension().is_none() => {
            places.find(&path.to_string_lossy(), &std::env::current_dir()?)?
        }
        Err(_) => path.clone(),
    };
    let headed = Headed::read(&file)?;
    let head = ["", "this program", "the plugin", ""].map(str::to_owned);
    let rows = headed.rows().into_iter().map(|row| {
        let word = if row.fits { "" } else { "differs" };
        vec![row.name.to_owned(), row.program, row.plugin, word.to_owned()]
    });
    print!("{}", aligned(&head, &rows.collect::<Vec<_>>()));
    headed.fits()?;
    registered(&headed)?;
    Ok(0)
}

/// Opens a plugin, in another process first, and prints what it registers; gives that as well.
fn registered(headed: &Headed) -> Result<Vec<String>> {
    let file = headed.path();
    trial().anew(file, &hash(file)?)?;
    let given = library::open(headed)?;
    let mut names: Vec<String> = given.components.iter().map(|r| format!("{}/{}", r.family, r.name)).collect();
    names.sort();
    names.extend(given.rules.iter().map(|rule| format!("the rule `{}`", rule.name)));
    names.extend(given.renames.iter().map(|table| format!("the table of names `{}`", table.name)));
    let all = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    println!("{} {} registers {all}", headed.name(), headed.version());
    Ok(names)
}

/// The plugins that recipes here may name.
fn list(places: &Places) -> Result<u8> {
    let here = std::env::current_dir()?;
    let mut rows = Vec::new();
    for folder in std::iter::once(&here).chain(places.folders()) {
        for file in Places::in_folder(folder) {
            let Ok(headed) = Headed::read(&file) else { continue };
            let state = headed.fits().map_or_else(|error| error.to_string(), |()| "fits this program".to_owned());
            rows.push(vec![headed.name(), headed.version(), file.display().to_string(), state]);
        }
    }
    if rows.is_empty() {
        println!("no plugin in {}", here.display());
        places.folders().iter().for_each(|folder| println!("  nor in {}", folder.display()));
        return Ok(0);
    }
    let head = ["name", "version", "file", ""].map(str::to_owned);
    print!("{}", aligned(&head, &rows));
    Ok(0)
}
