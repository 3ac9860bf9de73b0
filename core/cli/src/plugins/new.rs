//! `mtlrun plugin new`: a crate with one component, which is one of the examples under another name.

use super::build::{Sdk, lock_as, profiles};
use crate::arguments::{Example, NewPlugin};
use clap::ValueEnum;
use mtl_component::{ErrorContext as _, Registry, Result, bail, mistake};
use mtl_engine::recipe::is_name;
use mtl_recipe::files::write_atomically;

macro_rules! examples {
    ($($kind:ident $name:literal)*) => {
        /// The source and the recipe of the example of a kind.
        fn example(kind: Example) -> (&'static str, &'static str) {
            match kind {
                $(Example::$kind => (
                    include_str!(concat!("../../../../plugins/example/src/", $name, ".rs")),
                    include_str!(concat!("../../../../plugins/example/recipes/", $name, ".toml")),
                ),)*
            }
        }
    };
}

examples! {
    Decomposition "decomposition" Head "head" Function "function" Loss "loss" Dataset "dataset" Source "source"
    Transform "transform"
    Sampler "sampler" Optimizer "optimizer" Scheduler "scheduler" Metric "metric" Evaluator "evaluator" Hook "hook"
}

/// Makes the crate.
pub fn new(registry: &Registry, args: &NewPlugin) -> Result<u8> {
    let name = args.name.as_str();
    if !is_name(name) || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        mistake!(
            "a plugin cannot be called `{name}`: expected a letter, then letters, digits, `_` and `-`, 64 at most"
        );
    }
    let sdk = Sdk::find(args.sdk.sdk.as_deref())?;
    if let Some(known) = registry.find_any(&name.replace('-', "_").to_lowercase()) {
        mistake!("there is a {} `{}` already: take another name", known.family, known.name);
    }
    let folder = args.folder.join(name);
    if folder.exists() {
        mistake!("{} is there already: take another name, or --folder", folder.display());
    }
    // That of the library, and that of the component, which is written as all are.
    let krate = name.replace('-', "_");
    let component = krate.to_lowercase();
    let kind = args.kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let (source, recipe) = example(args.kind);
    // The component is called as the plugin: the one of the example may be loaded beside it.
    let Some(old) = registered(source) else { bail!("the example of {kind} registers nothing") };
    let renamed = |text: &str| text.replace(&format!("\"{old}\""), &format!("\"{component}\""));
    let root = sdk.root().display().to_string();
    let recipe = renamed(recipe)
        .replace(&format!("\"plugin_{kind}\""), &format!("\"{component}\""))
        .replace(&format!("the plugin's {kind}"), &format!("the {kind} of {name}"))
        .replace("../../../recipes/", &format!("{root}/recipes/"))
        .replace("\"example_plugin\"", &format!("\"{krate}\""));
    let library = format!("//! {name}: a plugin of mtlrun.\n\nmod {kind};\n\nmtl_component::export_plugin!();\n");
    for (file, text) in [
        ("Cargo.toml", manifest(name, &sdk)?),
        (".cargo/config.toml", settings(&sdk)?),
        (".gitignore", "/*.so\n/*.debug\n/runs\n".to_owned()),
        ("src/lib.rs", library),
        (&format!("src/{kind}.rs"), renamed(source)),
        ("recipe.toml", recipe),
        ("README.md", readme(name, &krate, &component, &kind, &root)),
    ] {
        write_atomically(&folder.join(file), text.as_bytes())?;
    }
    lock_as(&folder.join("Cargo.lock"), &sdk)?;
    let shown = folder.display();
    println!("{shown}/src/{kind}.rs has a component to begin with. Next:");
    println!("  mtlrun plugin build {shown}");
    println!("  mtlrun {shown}/recipe.toml");
    Ok(0)
}

/// The name that the source of an example registers.
fn registered(source: &str) -> Option<&str> {
    let (_, rest) = source.split_once("\nregister!(")?;
    // The family of a module stands in brackets before the name.
    let line = rest.lines().next()?;
    line.rsplit_once("\", ").and_then(|(before, _)| before.rsplit_once('"')).map(|(_, name)| name)
}

fn manifest(name: &str, sdk: &Sdk) -> Result<String> {
    let root = sdk.root().display();
    let all = sdk.manifest()?;
    let mut dependencies = String::new();
    for krate in ["schemars", "serde", "tch"] {
        let value = all.get("workspace").and_then(|w| w.get("dependencies")?.get(krate));
        let value = value.with_context(|| format!("{root}/Cargo.toml names no version of {krate}"))?;
        dependencies.push_str(&format!("{krate} = {value}\n"));
    }
    Ok(format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         # `mtlrun plugin build` makes the dynamic library.\n[lib]\ncrate-type = [\"rlib\"]\n\n\
         [dependencies]\nmtl-component = {{ path = \"{root}/core/component\" }}\n{dependencies}\n\
         # The crate stands by itself, wherever its folder lies.\n[workspace]\n"
    ))
}

/// What `cargo test` in the crate needs: libtorch, and what lets it take what is built already.
fn settings(sdk: &Sdk) -> Result<String> {
    let root = sdk.root().display().to_string();
    let mut settings = profiles(&sdk.manifest()?);
    let own = sdk.settings()?;
    let mut build = own.get("build").and_then(|b| b.as_table()).cloned().unwrap_or_default();
    build.remove("rustdocflags");
    build.insert("target-dir".into(), format!("{root}/target").into());
    settings.insert("build".into(), build.into());
    let environment = [("LIBTORCH", format!("{root}/.libtorch")), ("LIBTORCH_CXX11_ABI", "1".to_owned())];
    let environment: toml::Table =
        environment.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    settings.insert("env".into(), environment.into());
    Ok(format!(
        "# `cargo test` in this folder takes libtorch and finished crates from the repository of mtlrun.\n\n{}",
        toml::to_string_pretty(&settings)?
    ))
}

fn readme(name: &str, krate: &str, component: &str, kind: &str, root: &str) -> String {
    format!(
        "# {name}\n\nA plugin of mtlrun. `src/{kind}.rs` registers the {kind} `{component}`.\n\n\
         ```sh\nmtlrun plugin build        # makes lib{krate}.so here; the .so.debug beside it is for debuggers alone\n\
         mtlrun recipe.toml         # trains with it\n\
         cargo test                 # its tests; the first time takes minutes\nmtlrun list {kind} --recipe recipe.toml\n\
         mtlrun schema --recipe recipe.toml --out recipe.schema.json   # for editors: #:schema recipe.schema.json\n```\n\n\
         Any other recipe names it by `plugins = [\"{krate}\"]` in its first lines, if it lies in this folder or in the one\n\
         above, or with `--plugin-path`. The guide is {root}/plugins/README.md.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_registers_one_component_that_its_recipe_names() {
        for kind in Example::value_variants() {
            let (source, recipe) = example(*kind);
            assert_eq!(source.matches("\nregister!(").count(), 1, "{kind:?}");
            let name = registered(source).unwrap();
            assert!(recipe.contains(&format!("\"{name}\"")), "{kind:?}: {name}");
        }
    }
}
