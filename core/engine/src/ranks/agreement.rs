//! What all processes must agree on before they communicate: a tensor of another size on one of them would end the others
//! without a word.

use indexmap::IndexMap;
use mtl_recipe::{Result, bail, mistake};
use serde::{Deserialize, Serialize};

/// What a process is about to do, by topics whose texts are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The program with its libtorch and its plugins.
    pub program: IndexMap<String, String>,
    /// The values of the recipe, by their paths.
    pub recipe: IndexMap<String, String>,
    /// The data streams.
    pub data: IndexMap<String, String>,
    /// Parameters and buffers, with their shapes and kinds and a sum of their values.
    pub parameters: IndexMap<String, String>,
    /// The instructions of the first step, by phase.
    pub plan: IndexMap<String, String>,
}

impl Intent {
    /// Checks that this process intends what rank 0 does.
    ///
    /// # Errors
    /// An error that names the rank and the first thing that differs; a mistake if the user can mend it.
    pub fn agrees(&self, rank: u64, leader: &Self) -> Result<()> {
        let differs = |own: &IndexMap<String, String>, other: &IndexMap<String, String>| {
            let names = other.keys().chain(own.keys());
            let name = names.into_iter().find(|name| own.get(*name) != other.get(*name))?.clone();
            let text = |of: &IndexMap<String, String>| of.get(&name).cloned().unwrap_or_else(|| "not there".into());
            let (there, here) = (text(other), text(own));
            Some((name, format!("{there} for rank 0, and {here} for rank {rank}")))
        };
        let words = format!("rank {rank} does not do what rank 0 does: ");
        if let Some((name, apart)) = differs(&self.program, &leader.program) {
            mistake!("{words}{name} is {apart}. Start the same program with the same plugins everywhere");
        }
        if let Some((name, apart)) = differs(&self.recipe, &leader.recipe) {
            mistake!("{words}`{name}` is {apart}. Start all ranks with the same recipe and the same command line");
        }
        if let Some((name, apart)) = differs(&self.data, &leader.data) {
            mistake!("{words}`data.{name}` is {apart}. All ranks have to read the same data");
        }
        if let Some((name, apart)) = differs(&self.parameters, &leader.parameters) {
            bail!("{words}`{name}` is {apart}");
        }
        if let Some((name, apart)) = differs(&self.plan, &leader.plan) {
            bail!("{words}the phase `{name}` is {apart}");
        }
        Ok(())
    }
}

/// The values of a tree by their paths.
pub fn leaves(value: &serde_json::Value, path: &str, out: &mut IndexMap<String, String>) {
    use serde_json::Value;
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(table) => table.iter().for_each(|(key, value)| leaves(value, &below(key), out)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| leaves(value, &below(&i.to_string()), out)),
        other => {
            out.insert(path.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_and_the_thing_that_differs_are_named() {
        let intent = |key: &str, value: &str| {
            let map: IndexMap<String, String> = [("same".into(), "1".into()), (key.to_owned(), value.into())].into();
            Intent { recipe: map, ..Intent::default() }
        };
        let leader = intent("run.steps", "5");
        assert!(intent("run.steps", "5").agrees(1, &leader).is_ok());
        let error = intent("run.steps", "6").agrees(1, &leader).unwrap_err().to_string();
        assert!(
            error.starts_with("rank 1 does not do what rank 0 does: `run.steps` is 5 for rank 0, and 6"),
            "{error}"
        );
        let error = intent("run.seed", "6").agrees(2, &leader).unwrap_err().to_string();
        assert!(error.contains("`run.steps` is 5 for rank 0, and not there for rank 2"), "{error}");
        let parameters = |text: &str| Intent {
            parameters: [("backbone.weight".to_owned(), text.to_owned())].into(),
            ..Intent::default()
        };
        let error = parameters("[2, 3] float").agrees(3, &parameters("[2, 4] float")).unwrap_err();
        assert!(error.to_string().contains("`backbone.weight` is [2, 4] float for rank 0"), "{error}");
        assert_eq!(error.exit_status(), 1);
    }

    #[test]
    fn a_tree_has_paths() {
        let mut out = IndexMap::new();
        leaves(&serde_json::json!({ "run": { "steps": 3, "phases": ["a"] } }), "", &mut out);
        assert_eq!(out["run.steps"], "3");
        assert_eq!(out["run.phases.0"], "\"a\"");
    }
}
