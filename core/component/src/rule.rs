//! Rules across the tables of a recipe, registered by the crates that know them.

use crate::host::from;
use crate::ports::Ports;
use crate::registration::Registration;
use mtl_recipe::{ConfigValue, Diagnostic, Id, Origin, Result, guarded};

/// A rule that no single table can say: what fits together, and what is valid but probably not meant.
///
/// What one component's keys say among themselves belongs to that component's description.
pub struct Rule {
    /// Its name, which also decides the order of rules.
    pub name: &'static str,
    /// The kinds of findings that it makes.
    pub ids: &'static [&'static Id],
    /// The crate that registers it.
    pub origin: &'static str,
    /// Adds its findings. The recipe's tables are sound by themselves; its wiring may not be.
    ///
    /// # Errors
    /// If it panics.
    pub check: fn(&RecipeView<'_>, &mut Vec<Diagnostic>) -> Result<()>,
}

inventory::collect!(Rule);

/// Registers a rule with the ids of its findings: `rule!("age groups", [&AGE_GROUPS], age_groups_are_defined);`.
#[macro_export]
macro_rules! rule {
    ($name:literal, [$($id:expr),*], $check:path) => {
        $crate::inventory::submit! {
            $crate::Rule {
                name: $name,
                ids: &[$($id),*],
                origin: env!("CARGO_PKG_NAME"),
                check: |view, found| $crate::checked(env!("CARGO_PKG_NAME"), $name, || $check(view, found)),
            }
        }
    };
}

/// Calls a rule; what [`rule!`](crate::rule) makes of one.
///
/// # Errors
/// If it panics.
pub fn checked(krate: &str, name: &str, check: impl FnOnce()) -> Result<()> {
    let checked = guarded(|| {
        check();
        Ok(())
    });
    checked.map_err(|error| error.context(format!("the rule `{name}` of {} failed", from(krate))))
}

/// What a rule sees of a recipe: its values, its components and the places of both.
pub struct RecipeView<'r> {
    /// The merged values with defaults.
    pub root: &'r ConfigValue,
    /// The components that tables name.
    pub components: Vec<Placed<'r>>,
}

/// A component in its place in a recipe.
pub struct Placed<'r> {
    /// The section, such as `data`.
    pub section: &'static str,
    /// The name that the recipe gives it.
    pub name: &'r str,
    /// The component.
    pub registration: &'static Registration,
    /// Its ports, if it has some.
    pub ports: Option<&'r Ports>,
    /// Where its table stands.
    pub origin: &'r Origin,
}

impl<'r> RecipeView<'r> {
    /// The components of a section, in order.
    pub fn section<'s>(&'s self, section: &'s str) -> impl Iterator<Item = &'s Placed<'r>> {
        self.components.iter().filter(move |placed| placed.section == section)
    }

    /// The value at a dotted path.
    pub fn at(&self, path: &str) -> Option<&ConfigValue> {
        self.root.at(path)
    }

    /// The whole number at a dotted path.
    pub fn integer(&self, path: &str) -> Option<i64> {
        self.at(path)?.to_json().as_i64()
    }

    /// Where the value at a dotted path stands, or else the table around it.
    pub fn place(&self, path: &str) -> Origin {
        self.root.place(path)
    }
}
