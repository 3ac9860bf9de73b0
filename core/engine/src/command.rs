//! Commands that plugins add to the program.

use crate::recipe::Override;
use anyhow::Result;

/// A command of a plugin. Register it with `inventory::submit!`.
pub struct Command {
    /// Adds arguments and help.
    pub describe: fn() -> clap::Command,
    /// Runs it.
    pub run: fn(&clap::ArgMatches) -> Result<()>,
}

inventory::collect!(Command);

/// The `--set` and `--unset` of a command, which the program adds to every one.
pub fn overrides(matches: &clap::ArgMatches) -> Vec<Override> {
    let texts = |name: &str| -> Vec<String> {
        let found = matches.try_get_many::<String>(name).ok().flatten();
        found.map(|values| values.cloned().collect()).unwrap_or_default()
    };
    let sets = texts("set").into_iter().map(Override::Set);
    sets.chain(texts("unset").into_iter().map(Override::Unset)).collect()
}

/// All commands of plugins, sorted by name.
pub fn all() -> Vec<&'static Command> {
    let mut list: Vec<_> = inventory::iter::<Command>.into_iter().collect();
    list.sort_by_key(|c| (c.describe)().get_name().to_owned());
    list
}
