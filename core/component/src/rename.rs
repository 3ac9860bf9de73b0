//! Changes of parameter names, so that weights of other programs fit the modules of a recipe.

/// Prefixes of names that are replaced; the first that fits counts.
pub struct RenameTable {
    /// The name in recipes: `rename = "NAME"`.
    pub name: &'static str,
    /// The crate that registers it.
    pub origin: &'static str,
    /// The prefixes there and here.
    pub prefixes: &'static [(&'static str, &'static str)],
}

inventory::collect!(RenameTable);

/// Registers a table of names: `rename!("mtlface", &[("head.", "identity.")]);`.
#[macro_export]
macro_rules! rename {
    ($name:literal, $prefixes:expr) => {
        $crate::inventory::submit! {
            $crate::RenameTable { name: $name, origin: env!("CARGO_PKG_NAME"), prefixes: $prefixes }
        }
    };
}
