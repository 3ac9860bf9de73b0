//! `mtlrun`: trains, checks and evaluates recipes of multi-task face learning.

mod arguments;
mod children;
mod commands;
mod compare;
mod curves;
mod data;
mod doctor;
mod figures;
mod launch;
mod listing;
mod messages;
mod plugins;
mod progress;
mod reproduce;
mod resampling;
mod sweep;
mod table;

// The crates register their components when they are linked in.
use mtl_recognition as _;
use mtl_standard as _;
use mtl_synthesis as _;

use arguments::{Cli, Command};
use clap::{CommandFactory, Parser};
use mtl_component::{Result, mistake};
use mtl_recipe::{guarded, nearest, record_panics, suggestion};
use progress::pictures;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    mtl_torch::tune_malloc();
    mtl_torch::fatal::listen();
    messages::listen();
    mtl_component::plugin::listen(|text| tracing::warn!("{text}"));
    // A panic is a fault, of the program or of a component, and reported as such with the other errors.
    record_panics();
    match guarded(run) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let error = mtl_engine::memory::told(error);
            messages::error(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

fn run() -> Result<u8> {
    mistyped()?;
    let cli = Cli::parse();
    let registry = plugins::registry(&cli.plugins)?;
    let Some(command) = cli.command else { return commands::train(&registry, &cli.train) };
    // Only training has something to save when nobody reads its output any more.
    mtl_torch::restore_sigpipe();
    match command {
        Command::Check(args) => commands::check(&registry, &args),
        Command::List(args) => commands::list(&registry, &args),
        Command::Show(args) => commands::show(&registry, &args),
        Command::Explain(args) => commands::explain(&registry, &args),
        Command::Schema(args) => commands::schema(&registry, &args),
        Command::Trace(args) => commands::trace(&registry, &args),
        Command::Eval(args) => commands::eval(&registry, &args),
        Command::Embed(args) => shown(args.command.run(&registry, &args.changes(), pictures())),
        Command::Age(args) => shown(args.command.run(&registry, &args.changes(), pictures())),
        Command::Graph(args) => commands::graph(&registry, &args),
        Command::Summary(args) => commands::summary(&registry, &args),
        Command::Sweep(args) => sweep::sweep(&registry, &args),
        Command::Runs(args) => compare::runs(&args),
        Command::Compare(args) => compare::compare(&registry, &args),
        Command::Reproduce(args) => reproduce::reproduce(&registry, &args),
        Command::Data { command } => data::run(&registry, &command),
        Command::Plugin { command } => plugins::run(&registry, &command, &cli.plugins),
        Command::Diagnostics => listing::diagnostics(&registry),
        Command::Completions(args) => {
            clap_complete::generate(args.shell, &mut Cli::command(), "mtlrun", &mut std::io::stdout());
            Ok(0)
        }
        Command::Doctor => doctor::doctor(&registry),
    }
}

/// Prints what a command has to show.
fn shown(text: Result<String>) -> Result<u8> {
    println!("{}", text?);
    Ok(0)
}

/// A first word that is no file and nearly a command is meant as one.
fn mistyped() -> Result<()> {
    let Some(first) = std::env::args_os().nth(1).and_then(|a| a.into_string().ok()) else { return Ok(()) };
    let all = Cli::command();
    let known: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).chain(["help"]).collect();
    if first.starts_with('-') || first.contains(['.', '/']) || known.contains(&first.as_str()) {
        return Ok(());
    }
    if Path::new(&first).exists() {
        return Ok(());
    }
    if ["train", "fit", "run"].contains(&first.as_str()) {
        mistake!("training needs no command: mtlrun RECIPE.toml");
    }
    match nearest(&first, known.iter().copied()).first() {
        Some(near) => mistake!("there is no command `{first}`: did you mean `{near}`?"),
        None => mistake!("there is no command and no recipe `{first}`: {}", suggestion(&first, known)),
    }
}
