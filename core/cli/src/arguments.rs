//! The command line.

use crate::data::Data;
use clap::{Args, Parser, Subcommand, ValueEnum};
use mtl_engine::inference::Which;
use mtl_evaluation::commands::{Age, Embed};
use mtl_recipe::Override;
use std::path::PathBuf;

/// Declarative multi-task face learning: a recipe names components, mtlrun trains them.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 a failure, 2 a mistake in the recipe, the data or the command line,\n\
    3 left at a second signal without saving, or found by `data audit --strict`, 129, 130 and 143 stopped by a signal with the state saved.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub train: Train,
    #[command(flatten)]
    pub plugins: Plugins,
}

/// Plugins besides those that a recipe names.
#[derive(Debug, Args)]
pub struct Plugins {
    /// Load this plugin as well: its name, or its .so file
    #[arg(long = "plugin", value_name = "PLUGIN", global = true, help_heading = "Plugins")]
    pub plugins: Vec<String>,
    /// Look for plugins in this folder as well
    #[arg(long, value_name = "DIR", global = true, help_heading = "Plugins")]
    pub plugin_path: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check recipes without opening data: all mistakes in the tables, then all in the wiring, with file and line
    Check(Check),
    /// List the components, or those of one kind
    List(List),
    /// Print a recipe with everything it extends, overrides and defaults, or what differs from another
    Show(Show),
    /// Explain a value of a recipe: what it is, what it may be, and who set it
    Explain(Explain),
    /// Write the JSON schema of recipes
    Schema(Schema),
    /// Print the numbers of a recipe on given inputs and weights, to compare with other implementations
    Trace(Trace),
    /// Draw the multi-task graph of a recipe
    Graph(GraphArgs),
    /// Count the parameters and the memory of a recipe's modules
    Summary(Summary),
    /// Evaluate a run
    Eval(Eval),
    /// Write the embeddings of pictures
    Embed(Overridden<Embed>),
    /// Show faces at other ages
    Age(Overridden<Age>),
    /// Train a recipe at many points: ablations and seeds
    Sweep(Sweep),
    /// List the runs in a folder
    Runs(Runs),
    /// Compare what runs have measured, mean and deviation over seeds
    Compare(Compare),
    /// Train a recorded run again and compare its numbers bit by bit
    Reproduce(Reproduce),
    /// Inspect, convert, align, split, audit and pack data sets
    #[command(arg_required_else_help = true)]
    Data {
        #[command(subcommand)]
        command: Data,
    },
    /// Make, build, check and list plugins: components of your own
    #[command(arg_required_else_help = true)]
    Plugin {
        #[command(subcommand)]
        command: Plugin,
    },
    /// List what a check of a recipe may find, as Markdown
    Diagnostics,
    /// Write completions for a shell
    Completions(Completions),
    /// Show what this machine and this build can do
    Doctor,
}

/// Commands for plugins.
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Begin a plugin: a crate that builds, with a component, its test and a recipe
    New(NewPlugin),
    /// Build a plugin for this program, beside its crate
    Build(BuildPlugin),
    /// Show whether a file fits this program, and what it registers
    Check(CheckPlugin),
    /// List the plugins that recipes may name
    List,
    /// Open a file and say so; what a constructor does to the process happens here
    #[command(hide = true)]
    Probe(CheckPlugin),
}

#[derive(Debug, Args)]
pub struct NewPlugin {
    /// Its name, such as my-idea: letters, digits, `-` and `_`
    pub name: String,
    /// What its first component is
    #[arg(long, default_value = "loss")]
    pub kind: Example,
    /// The folder in which its folder is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    #[command(flatten)]
    pub sdk: Sdk,
}

/// A kind of component that a plugin may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Example {
    /// A split of features into parts
    Decomposition,
    /// A classifier on embeddings
    Head,
    /// A computation without parameters
    Function,
    /// A number that a phase minimizes
    Loss,
    /// Samples of a data stream
    Dataset,
    /// Pictures that a dataset or an evaluator reads
    Source,
    /// A change of a picture
    Transform,
    /// The order of samples
    Sampler,
    /// The rule by which gradients change parameters
    Optimizer,
    /// The course of the learning rate
    Scheduler,
    /// A number computed from the cases of an evaluator
    Metric,
    /// A measurement of the model
    Evaluator,
    /// An observer of a run
    Hook,
}

/// Where the sources of this program are.
#[derive(Debug, Args)]
pub struct Sdk {
    /// The repository of mtlrun; without it that from which this program was built
    #[arg(long, value_name = "DIR", env = "MTLRUN_SDK")]
    pub sdk: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct BuildPlugin {
    /// The folder of its crate
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// The folder for the library; without it that of the crate
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub sdk: Sdk,
    /// Features of the crate, as cargo takes them
    #[arg(long, value_name = "FEATURES")]
    pub features: Option<String>,
}

#[derive(Debug, Args)]
pub struct CheckPlugin {
    /// The .so file, the folder of its crate, or its name
    pub file: PathBuf,
}

/// A command on a run, whose recipe may be changed.
#[derive(Debug, Args)]
pub struct Overridden<C: Args> {
    #[command(flatten)]
    pub command: C,
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(flatten)]
    pub place: Place,
}

impl<C: Args> Overridden<C> {
    /// The changes of the recipe, those of the place included.
    pub fn changes(&self) -> Vec<Override> {
        self.overrides.list().into_iter().chain(self.place.list()).collect()
    }
}

/// Where a run computes, in place of what its recipe says.
#[derive(Debug, Args, Clone, Default)]
pub struct Place {
    /// cpu, cuda or cuda:N
    #[arg(long)]
    pub device: Option<String>,
    /// Threads within an operator
    #[arg(long)]
    pub threads: Option<u32>,
}

impl Place {
    /// As changes of a recipe.
    pub fn list(&self) -> Vec<Override> {
        let device = self.device.iter().map(|device| format!("run.device={device}"));
        device.chain(self.threads.map(|n| format!("run.threads={n}"))).map(Override::Set).collect()
    }

    /// As given, for the record.
    pub fn texts(&self) -> Vec<String> {
        let device = self.device.iter().map(|device| format!("--device {device}"));
        device.chain(self.threads.map(|n| format!("--threads {n}"))).collect()
    }
}

/// Changes of a recipe from the command line.
#[derive(Debug, Args, Clone, Default)]
pub struct Overrides {
    /// Set a value: model.identity.margin=0.5 (paths are relative to the working directory)
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Remove a value
    #[arg(long, value_name = "PATH")]
    pub unset: Vec<String>,
}

impl Overrides {
    /// All of them, sets first.
    pub fn list(&self) -> Vec<Override> {
        self.set.iter().cloned().map(Override::Set).chain(self.unset.iter().cloned().map(Override::Unset)).collect()
    }

    /// As given, for the record.
    pub fn texts(&self) -> Vec<String> {
        let set = self.set.iter().map(|s| format!("--set {s}"));
        set.chain(self.unset.iter().map(|s| format!("--unset {s}"))).collect()
    }
}

/// Training.
#[derive(Debug, Args)]
pub struct Train {
    /// The recipe to train
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// The run folder; without it `runs/<name>/<time>`
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with a run: that of --out, else the newest of this name
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Empty the run folder first
    #[arg(long)]
    pub overwrite: bool,
    /// Resume although the recipe has changed
    #[arg(long, requires = "resume")]
    pub allow_recipe_change: bool,
    /// Resume although a plugin has changed
    #[arg(long, requires = "resume")]
    pub allow_plugin_change: bool,
    /// Resume from the checkpoint of this step, and not from the newest sound one
    #[arg(long, requires = "resume", value_name = "STEP")]
    pub checkpoint: Option<u64>,
    /// Read all files of the data, to record and compare their bytes
    #[arg(long)]
    pub deep: bool,
    /// Write where the time of some steps goes, 5 unless given, as a Chrome trace: profile.json in the run folder
    #[arg(long, value_name = "STEPS", num_args = 0..=1, require_equals = true, default_missing_value = "5", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub profile: Option<u64>,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub ranks: Ranks,
    /// No progress and no notes
    #[arg(long, short)]
    pub quiet: bool,
}

/// Processes that train together.
#[derive(Debug, Args, Clone, Default)]
pub struct Ranks {
    /// Train with so many processes on this machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096), help_heading = "Ranks")]
    pub nproc: Option<u64>,
    /// Machines that take part, each with --nproc processes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Ranks")]
    pub nnodes: u64,
    /// Which of the machines this is, from 0
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Ranks")]
    pub node_rank: u64,
    /// Where the machines meet: an address of machine 0
    #[arg(long, value_name = "HOST:PORT", help_heading = "Ranks")]
    pub rdzv: Option<String>,
    /// Start the processes again so many times where one fails, each time from the newest checkpoint
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Ranks")]
    pub max_restarts: u64,
}

impl Ranks {
    /// Whether processes are to be started.
    pub fn wants_processes(&self) -> bool {
        self.nproc.is_some_and(|n| n > 1) || self.nnodes > 1
    }
}

#[derive(Debug, Args)]
pub struct Check {
    /// The recipes
    #[arg(required = true)]
    pub recipes: Vec<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Open the data as well
    #[arg(long)]
    pub data: bool,
    /// Print what was found as JSON, for editors and CI
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct List {
    /// A kind or a family, such as backbone
    pub kind: Option<String>,
    /// Those of this recipe's plugins as well
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Only what differs in this recipe, as path: value -> value there
    #[arg(long, value_name = "OTHER")]
    pub diff: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Summary {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Also what each of so many ranks holds and sends in a step
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub nproc: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The dotted path, such as model.identity.margin
    pub path: String,
    /// The recipe, or a run folder
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Schema {
    /// Only the table of this component, such as head/cosface
    #[arg(long, value_name = "KIND/NAME")]
    pub component: Option<String>,
    /// With the components of this recipe's plugins; --out names the file
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// The folder for recipe.schema.json and one schema for each family; without it the schema is printed
    #[arg(long, value_name = "DIR or FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Trace {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Inputs: tensors named `<step>/<data>.<port>`, from step 1
    #[arg(long, value_name = "FILE.safetensors")]
    pub inputs: PathBuf,
    /// Weights of all modules
    #[arg(long, value_name = "FILE.safetensors")]
    pub weights: PathBuf,
    /// A change of parameter names: a registered table such as mtlface, or a TOML file of "from" = "to" lines
    #[arg(long, value_name = "MAP")]
    pub rename: Option<String>,
    /// Steps to train
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Double precision
    #[arg(long)]
    pub double: bool,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Only outputs and losses, in evaluation mode
    #[arg(long)]
    pub eval: bool,
    /// Also the gradient norms of each loss alone
    #[arg(long)]
    pub per_loss: bool,
    /// Where the outputs of step 1 go
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: Option<PathBuf>,
    /// Where the numbers go; without it they are printed
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Eval {
    /// The run folder
    pub run: PathBuf,
    /// last, best, or a step
    #[arg(long, default_value = "last")]
    pub checkpoint: Which,
    /// The folder for the reports; without it `RUN/evaluations/NAME`
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    pub out: Option<PathBuf>,
    /// What this evaluation is called; without it the time
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Sweep {
    /// The recipe; its section sweep gives points as well
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Every value with every value of the other grids; a path without a section is one of run
    #[arg(long, value_name = "PATH=VALUE,…")]
    pub grid: Vec<String>,
    /// Values that go together, first with first
    #[arg(long, value_name = "PATH=VALUE,…")]
    pub zip: Vec<String>,
    /// The folder of the runs; without it `runs/<recipe>.sweep`. Finished points in it are kept, half-done ones go on
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Train points anew that were trained with another build of a plugin
    #[arg(long)]
    pub overwrite_changed: bool,
    /// Runs at one time, which share the cores
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub jobs: usize,
    /// Processes of each run, as `mtlrun --nproc`
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub nproc: u64,
    /// Only show the points
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Reproduce {
    /// The run folder
    pub run: PathBuf,
    /// Only the first steps of its course
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Reproduce although a plugin has changed
    #[arg(long)]
    pub allow_plugin_change: bool,
    /// Compare the bytes of the files of its data, where the record has their hashes
    #[arg(long)]
    pub deep: bool,
    /// The folder of the new run; without it `RUN/reproduced`
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Empty that folder first
    #[arg(long)]
    pub overwrite: bool,
    /// No progress and no notes
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Runs {
    /// The folder
    #[arg(default_value = "runs")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct Compare {
    /// Run folders, or folders of runs
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Only this figure, such as verification.accuracy; for curves also those of training, such as loss/total
    #[arg(long)]
    pub metric: Vec<String>,
    /// Group runs by the value at this path of their recipes; without it by all values that differ, but for seeds
    #[arg(long, value_name = "PATH")]
    pub by: Vec<String>,
    /// The variant, by its name in the table, that differences are measured from; without it the first
    #[arg(long, value_name = "VARIANT")]
    pub against: Option<String>,
    /// How the table is written
    #[arg(long, default_value = "table")]
    pub format: Format,
}

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned text
    Table,
    /// Markdown
    Md,
    /// Comma-separated values, mean and deviation apart
    Csv,
    /// JSON
    Json,
    /// Learning curves as SVG, means over the runs of a variant
    Svg,
}

#[derive(Debug, Args)]
pub struct GraphArgs {
    /// The recipe
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// The drawing: .svg, .dot (Graphviz) or .mmd (Mermaid)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}
