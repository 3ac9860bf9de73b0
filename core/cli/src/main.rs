//! `mtlrun`: trains, checks and evaluates recipes of multi-task face learning.

mod arguments;
mod bootstrap;
mod commands;
mod compare;
mod curves;
mod doctor;
mod records;
mod reproduce;
mod sweep;

// The crates register their components when they are linked in.
use mtl_evaluation as _;
use mtl_faces as _;
use mtl_recognition as _;
use mtl_synthesis as _;

use arguments::{Cli, Command};
use clap::{CommandFactory, FromArgMatches};
use mtl_core::diagnostic::nearest;
use mtl_core::mistake;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    mtl_torch::keep_large_buffers();
    // A panic is a fault of the program: it is told as such, in one place, below.
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(run);
    match result {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            tell(&error);
            ExitCode::from(mtl_core::diagnostic::exit_code(&error))
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            eprintln!(
                "error: mtlrun met a fault of its own: {text}\nPlease report it with the recipe and the command."
            );
            ExitCode::FAILURE
        }
    }
}

/// The command line with the commands of plugins.
fn command() -> clap::Command {
    mtl_core::command::all().into_iter().fold(Cli::command(), |all, plugin| all.subcommand((plugin.describe)()))
}

fn run() -> anyhow::Result<u8> {
    mistyped()?;
    let matches = command().get_matches();
    if matches.subcommand().is_some() {
        mtl_torch::end_with_the_pipe();
    }
    if let Some((name, matches)) = matches.subcommand()
        && let Some(plugin) = mtl_core::command::all().into_iter().find(|c| (c.describe)().get_name() == name)
    {
        return (plugin.run)(matches).map(|()| 0);
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match cli.command {
        Some(Command::Check(args)) => commands::check(&args),
        Some(Command::List(args)) => commands::list(&args),
        Some(Command::Show(args)) => commands::show(&args),
        Some(Command::Explain(args)) => commands::explain(&args),
        Some(Command::Schema(args)) => commands::schema(&args),
        Some(Command::Trace(args)) => commands::trace(&args),
        Some(Command::Eval(args)) => commands::eval(&args),
        Some(Command::Graph(args)) => commands::graph(&args),
        Some(Command::Summary(args)) => commands::summary(&args),
        Some(Command::Sweep(args)) => sweep::sweep(&args),
        Some(Command::Runs(args)) => compare::runs(&args),
        Some(Command::Compare(args)) => compare::compare(&args),
        Some(Command::Reproduce(args)) => reproduce::reproduce(&args),
        Some(Command::Completions(args)) => {
            clap_complete::generate(args.shell, &mut command(), "mtlrun", &mut std::io::stdout());
            Ok(0)
        }
        Some(Command::Doctor) => doctor::doctor(),
        None => commands::train(&cli.train),
    }
}

/// A first word that is no file and nearly a command is meant as one.
fn mistyped() -> anyhow::Result<()> {
    let Some(first) = std::env::args_os().nth(1).and_then(|a| a.into_string().ok()) else { return Ok(()) };
    let all = command();
    let known: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).chain(["help"]).collect();
    if first.starts_with('-') || first.contains(['.', '/']) || known.contains(&first.as_str()) {
        return Ok(());
    }
    if !Path::new(&first).exists()
        && let Some(near) = nearest(&first, known).first()
    {
        mistake!("there is no command `{first}`: did you mean `{near}`?");
    }
    Ok(())
}

fn tell(error: &anyhow::Error) {
    if let Some(found) = error.chain().find_map(|e| e.downcast_ref::<mtl_core::diagnostic::Diagnostics>()) {
        eprint!("{}", found.render(std::io::stderr().is_terminal()));
        let n = found.errors();
        eprintln!("{n} error{}", if n == 1 { "" } else { "s" });
        return;
    }
    // libtorch adds the frames of its own code, which tell a user nothing.
    let text = format!("{error:#}");
    let lines = text.lines().take_while(|line| !line.starts_with("Exception raised from"));
    eprintln!("error: {}", lines.collect::<Vec<_>>().join("\n").trim_end());
}
