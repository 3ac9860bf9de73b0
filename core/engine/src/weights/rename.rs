//! Changes of parameter names, so that weights of other programs fit the modules of a recipe.

use indexmap::IndexMap;
use mtl_component::Registry;
use mtl_recipe::files::read_text;
use mtl_recipe::schema::NameOrPath;
use mtl_recipe::{Result, mistake, suggestion};
use std::path::Path;

/// The largest table of names that is read.
const MAX_BYTES: u64 = 16 << 20;

/// Prefixes of names that are replaced; the first that fits counts.
#[derive(Debug, Clone)]
pub struct Rename(Vec<(String, String)>);

impl Rename {
    /// The registered table of that name, or one from a TOML file of `"from" = "to"` lines.
    ///
    /// # Errors
    /// A mistake if there is no such table or file.
    pub fn named(registry: &Registry, name: &str) -> Result<Self> {
        let tables = registry.renames();
        if let Some(table) = tables.iter().find(|table| table.name == name) {
            return Ok(Self(table.prefixes.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()));
        }
        if !NameOrPath::is_path(name) {
            mistake!(
                "there is no table of names `{name}`: {}; or name a TOML file of \"from\" = \"to\" lines",
                suggestion(name, tables.iter().map(|table| table.name))
            );
        }
        let path = Path::new(name);
        if !path.exists() {
            mistake!("there is no file {name}, which would hold a table of \"from\" = \"to\" lines");
        }
        let text = match read_text(path, MAX_BYTES) {
            Ok(text) => text,
            Err(e) => mistake!("cannot read the table of names {name}: {e}"),
        };
        match toml::from_str::<IndexMap<String, String>>(&text) {
            Ok(map) => Ok(Self(map.into_iter().collect())),
            Err(e) => mistake!("{name} is not a table of \"from\" = \"to\" lines: {e}"),
        }
    }

    /// The name in our recipes. The `module.` that data-parallel training puts before every name is dropped.
    pub fn apply(&self, name: &str) -> String {
        let name = name.strip_prefix("module.").unwrap_or(name);
        for (from, to) in &self.0 {
            if let Some(rest) = name.strip_prefix(from.as_str()) {
                return format!("{to}{rest}");
            }
        }
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_renames_prefixes_and_an_unknown_name_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.toml");
        std::fs::write(&path, "\"head.\" = \"identity.\"\n").unwrap();
        let registry = Registry::default();
        let rename = Rename::named(&registry, path.to_str().unwrap()).unwrap();
        assert_eq!(rename.apply("module.head.weight"), "identity.weight");
        assert_eq!(rename.apply("backbone.0.bias"), "backbone.0.bias");
        for (name, words) in [("nothing", "no table of names `nothing`"), ("./gone.toml", "no file ./gone.toml")] {
            let error = Rename::named(&registry, name).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains(words), "{error}");
        }
    }
}
