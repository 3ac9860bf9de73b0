//! Rules across the tables of a recipe, registered by the crates that know them.

use super::{Origin, Recipe};
use crate::diagnostic::Diagnostic;

/// A rule that no single table can say: what fits together, and what is legal but probably not meant.
///
/// What one component's keys say among themselves belongs to that component; see
/// [`Block::problems`](crate::component::Block::problems) and its like.
pub struct Rule {
    /// Its name, which also decides the order of rules.
    pub name: &'static str,
    /// Adds its findings. The recipe's tables are sound by themselves; its wiring may not be.
    pub check: fn(&Recipe, &mut Vec<Diagnostic>),
}

inventory::collect!(Rule);

/// Registers a rule: `rule!("age groups", age_groups_are_defined);`.
#[macro_export]
macro_rules! rule {
    ($name:literal, $check:path) => {
        $crate::inventory::submit! { $crate::recipe::Rule { name: $name, check: $check } }
    };
}

/// What all rules find, sorted by their names.
pub(crate) fn broken(recipe: &Recipe) -> Vec<Diagnostic> {
    let mut rules: Vec<&Rule> = inventory::iter::<Rule>.into_iter().collect();
    rules.sort_by_key(|rule| rule.name);
    let mut found = Vec::new();
    for rule in rules {
        (rule.check)(recipe, &mut found);
    }
    found
}

impl Recipe {
    /// Whether a number at a dotted path, or in the table there, only stands in for what the data will tell.
    pub fn waits(&self, path: &str) -> bool {
        self.root.at(path).is_some_and(super::Node::waits)
    }

    /// Where the value of a dotted path stands, or else the table around it.
    pub fn place(&self, path: &str) -> Origin {
        let mut node = &self.root;
        for key in path.split('.') {
            match node.get(key) {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node.origin.clone()
    }
}
