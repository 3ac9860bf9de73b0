//! What all processes must agree on before they communicate: a tensor of another size on one of them would end the others
//! without a word.

use indexmap::IndexMap;
use mtl_recipe::{Result, bail, difference, mistake};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a process is about to do, by topics whose texts are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The program with its libtorch and its plugins.
    pub program: IndexMap<String, String>,
    /// The recipe with everything that it extends.
    pub recipe: Value,
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
        if let Some(change) = difference(&leader.recipe, &self.recipe).first() {
            let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "not there".into(), Value::to_string);
            mistake!(
                "{words}`{}` is {} for rank 0, and {} for rank {rank}. Start all ranks with the same recipe and the same \
                 command line",
                change.path,
                text(&change.old),
                text(&change.new)
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_and_the_thing_that_differs_are_named() {
        let intent = |key: &str, value: u64| Intent {
            recipe: serde_json::json!({ "run": { "same": 1, key: value } }),
            ..Intent::default()
        };
        let leader = intent("steps", 5);
        assert!(intent("steps", 5).agrees(1, &leader).is_ok());
        let error = intent("steps", 6).agrees(1, &leader).unwrap_err().to_string();
        assert!(
            error.starts_with("rank 1 does not do what rank 0 does: `run.steps` is 5 for rank 0, and 6"),
            "{error}"
        );
        let error = intent("seed", 6).agrees(2, &leader).unwrap_err().to_string();
        assert!(error.contains("`run.steps` is 5 for rank 0, and not there for rank 2"), "{error}");
        let parameters = |text: &str| Intent {
            parameters: [("backbone.weight".to_owned(), text.to_owned())].into(),
            ..Intent::default()
        };
        let error = parameters("[2, 3] float").agrees(3, &parameters("[2, 4] float")).unwrap_err();
        assert!(error.to_string().contains("`backbone.weight` is [2, 4] float for rank 0"), "{error}");
        assert_eq!(error.exit_status(), 1);
    }
}
