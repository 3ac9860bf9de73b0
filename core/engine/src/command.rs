//! Commands that plugins add to the program.

use anyhow::Result;

/// A command of a plugin. Register it with `inventory::submit!`.
pub struct Command {
    /// Adds arguments and help.
    pub describe: fn() -> clap::Command,
    /// Runs it.
    pub run: fn(&clap::ArgMatches) -> Result<()>,
}

inventory::collect!(Command);

/// All commands of plugins, sorted by name.
pub fn all() -> Vec<&'static Command> {
    let mut list: Vec<_> = inventory::iter::<Command>.into_iter().collect();
    list.sort_by_key(|c| (c.describe)().get_name().to_owned());
    list
}
