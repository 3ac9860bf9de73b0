//! The project's own chores, run as `cargo xtask NAME`.
//!
//! This crate depends on no other crate of the workspace, so that it builds before libtorch is there.

mod cache;
mod checks;
mod cuda;
mod cycles;
mod detector;
mod fault;
mod fetch;
mod layout;
mod link;
mod long;
mod needs;
mod quickstart;
mod setup;
mod unpack;
mod validators;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Fetch libtorch once per user and point this clone's `.libtorch` at it
    Setup {
        /// Compare every file's content with its recorded hash, not only sizes and dates
        #[arg(long)]
        verify: bool,
        /// Also build the part for several GPUs and CUDA graphs, of headers that are fetched; no GPU is needed
        #[arg(long)]
        cuda: bool,
        /// Also fetch the weights of a face detector, for `mtlrun data align`
        #[arg(long, value_enum, value_name = "NAME")]
        detector: Option<detector::Detector>,
    },
    /// Set up, then check formatting, lints, cycles, tests and documentation, stopping at the first failure
    Test {
        /// Instead, what takes longer: kill loops, random recipes, foreign clients, valgrind, fuzzing
        #[arg(long)]
        long: bool,
    },
    /// Look for modules of a crate that depend on each other in a circle
    Cycles,
    /// Set up, build the release program, and train recipes/quickstart.toml on made faces
    Quickstart {
        /// Handed on to mtlrun, such as --set run.steps=100
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            fault::exit_code(&error)
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    let root = repository_root()?;
    match chore {
        Chore::Setup { verify, cuda, detector } => {
            setup::run(&root, verify)?;
            if cuda {
                cuda::build(&root)?;
            }
            if let Some(detector) = detector {
                detector::fetch(detector)?;
            }
            println!("Next: cargo build --release, then target/release/mtlrun doctor");
            Ok(())
        }
        Chore::Test { long: true } => {
            setup::run(&root, false)?;
            long::run(&root)
        }
        Chore::Cycles => cycles::check(&root),
        Chore::Test { long: false } => {
            // A missing component is reported before a download that may take minutes.
            checks::require_components()?;
            setup::run(&root, false)?;
            let validators = validators::ensure(&cache::root()?)?;
            let variables: Vec<_> = validators.iter().map(|place| ("MTLRUN_CLIENTS", place.as_os_str())).collect();
            checks::run(&root, &checks::steps(), &variables)
        }
        Chore::Quickstart { arguments } => {
            setup::run(&root, false)?;
            quickstart::run(&root, &arguments)
        }
    }
}

fn repository_root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().with_context(|| {
        format!(
            "the repository that this xtask was built in is no longer at {}; build it again with `cargo xtask`",
            root.display()
        )
    })
}
