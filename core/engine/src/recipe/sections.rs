//! The sections of a recipe that the engine itself defines.

use indexmap::IndexMap;
use mtl_recipe::schema::NameOrPath;
use mtl_recipe::{RecipePath, Result, mistake};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The precision of floating point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision everywhere.
    #[default]
    Float32,
    /// Modules with `precision = "amp"` compute in bfloat16.
    Bf16,
    /// Modules with `precision = "amp"` compute in half precision, with dynamic loss scaling.
    Fp16,
    /// Double precision everywhere; slow, for comparisons.
    Float64,
}

/// The precision of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModulePrecision {
    /// That of the run's weights.
    #[default]
    Full,
    /// Autocast to `run.precision`; outputs return to the weights' precision.
    Amp,
}

/// Settings of a run.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Name of the run, of 1 to 64 letters, digits, `_` and `-`; without it the recipe file's name.
    #[serde(default)]
    #[schemars(regex(pattern = r"^([A-Za-z0-9_-]{1,64}|.*\$\{.*\}.*)$"))]
    pub name: Option<String>,
    /// Steps to train.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Seed of weights, data order, augmentation and dropout.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// The phases of a step, in order; without it all phases in the order of their declaration.
    #[serde(default)]
    #[schemars(example = serde_json::json!(["critic", "generator"]))]
    pub phases: Option<Vec<String>>,
    /// Precision of modules that ask for `amp`, or of everything for float64.
    #[serde(default)]
    pub precision: Precision,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "cpu")]
    #[schemars(example = "cuda:0")]
    pub device: String,
    /// Threads within an operator; without it all cores.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    pub threads: Option<u32>,
    /// Images and convolutions keep channels innermost in memory, which is faster.
    #[serde(default = "yes")]
    pub channels_last: bool,
    /// 3x3 convolutions in float32 on the CPU take Winograd's algorithm: fewer multiplications, and rounding errors
    /// some ten times larger. Without it they are direct sums, which are the faster ones on processors with AVX-512;
    /// where the key is not given, the processor decides. Needs `channels_last`.
    #[serde(default)]
    pub winograd: Option<bool>,
    /// On CUDA, float32 products may round their factors to TF32, which is several times faster and has 10 bits of
    /// fraction in the place of 23. It has no part in bf16 and fp16.
    #[serde(default)]
    pub tf32: bool,
    /// On CUDA, only kernels that give the same bits each time, at some cost of speed; where there is none for an operator,
    /// the run ends and names it. On the CPU they always do.
    #[serde(default)]
    pub deterministic: bool,
    /// On CUDA, forward and backward passes are captured once and then started as a whole, which saves the time to start
    /// their kernels one by one: small batches gain. Not for several processes, nor for heads with a `sample_rate`.
    #[serde(default)]
    pub cuda_graphs: bool,
    /// In a run of several processes, BatchNorm takes the statistics of the batches of all, as if they were one.
    #[serde(default = "yes")]
    pub sync_batch_norm: bool,
    /// Steps between lines of metrics.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    pub log_every: u64,
    /// Steps between histograms of weights in TensorBoard; 0 for none.
    #[serde(default)]
    pub histogram_every: u64,
    /// Steps between sheets of input images in TensorBoard; 0 for none but the first step's.
    #[serde(default)]
    pub images_every: u64,
    /// Dynamic loss scaling; by default on for fp16 and off otherwise.
    #[serde(default)]
    pub loss_scaling: Option<LossScaling>,
    /// Saved states.
    #[serde(default)]
    pub checkpoint: Checkpoint,
}

impl Run {
    /// Whether 3x3 convolutions take Winograd's algorithm.
    pub fn winograd(&self) -> bool {
        self.winograd.unwrap_or_else(|| mtl_torch::cpu_capability().is_ok_and(|c| !c.starts_with("AVX512")))
    }
}

fn cpu() -> String {
    "cpu".into()
}
fn yes() -> bool {
    true
}
fn ten() -> u64 {
    10
}

/// Dynamic loss scaling, for half precision.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LossScaling {
    /// First scale.
    #[schemars(range(min = 1e-6))]
    pub initial: f64,
    /// The scale is multiplied by this after `interval` steps without overflow.
    #[schemars(range(min = 1.0))]
    pub growth: f64,
    /// The scale is multiplied by this after an overflow.
    #[schemars(range(min = 1e-6, max = 1.0))]
    pub backoff: f64,
    /// Steps without overflow before it grows.
    #[schemars(range(min = 1))]
    pub interval: u64,
}

impl Default for LossScaling {
    fn default() -> Self {
        Self { initial: 65536.0, growth: 2.0, backoff: 0.5, interval: 2000 }
    }
}

/// When states are saved and which are kept.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Steps between saves; 0 saves at the end only.
    pub every: u64,
    /// How many of the newest are kept.
    #[schemars(range(min = 1))]
    pub keep_last: u32,
    /// Those at multiples of this step are kept as well; 0 for none.
    pub keep_every: u64,
    /// The metric of evaluation whose best state is kept, as `evaluator.metric`.
    #[schemars(example = "verification.accuracy")]
    pub best: Option<String>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 1000, keep_last: 2, keep_every: 0, best: None }
    }
}

/// The keys of `data.NAME` besides those of the dataset.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct DataSlot {
    /// The dataset.
    pub component: String,
    /// Samples that each process of the run draws for a batch.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch_size: Option<i64>,
    /// Samples that all processes together draw for a batch; it comes before `batch_size`. The same run on another
    /// number of processes.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub global_batch_size: Option<i64>,
    /// Threads that load and transform.
    #[serde(default = "workers")]
    #[schemars(range(min = 1, max = 256))]
    pub workers: u32,
    /// Batches prepared ahead.
    #[serde(default = "prefetch")]
    #[schemars(range(min = 1, max = 1024))]
    pub prefetch: u32,
    /// Its sizes, such as the number of identities, hold for the recipe; without it they are its own affair, and
    /// another stream or `[dims]` gives them.
    #[serde(default = "yes")]
    pub declares: bool,
    /// Another stream that this one follows: each sample is a partner of the one that stands there in the other's batch, as
    /// the sampler finds it, such as another picture of the same person. Both have batches of one size, and the random
    /// transforms of both draw the same numbers. The output `paired` is 1 for partners, and 0 for what stands in the place
    /// of one where there is none.
    #[serde(default)]
    #[schemars(example = &"faces")]
    pub pairs_with: Option<String>,
}

/// The output of a stream that follows another: 1 for partners, 0 for samples that stand in the place of one.
pub const PAIRED: &str = "paired";

impl DataSlot {
    /// The samples that each of so many processes draws for a batch.
    ///
    /// # Errors
    /// A mistake if neither size is given, or the processes cannot share a batch evenly.
    pub fn batch(&self, processes: u64) -> Result<i64> {
        let processes = processes as i64;
        match (self.global_batch_size, self.batch_size) {
            (Some(all), _) if all % processes != 0 => {
                mistake!("`global_batch_size` is {all}, which {processes} ranks cannot share evenly")
            }
            (Some(all), _) => Ok(all / processes),
            (None, Some(each)) => Ok(each),
            (None, None) => mistake!("`batch_size` or `global_batch_size` is needed"),
        }
    }
}

fn workers() -> u32 {
    2
}
fn prefetch() -> u32 {
    4
}

/// The keys of `model.NAME` besides those of the component.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct ModelSlot {
    /// The component.
    pub component: String,
    /// Precision of this module.
    #[serde(default)]
    pub precision: ModulePrecision,
    /// Where its weights come from; without it they are drawn.
    #[serde(default)]
    pub weights: Option<Weights>,
    /// Accept drawn weights for a module that nothing trains.
    #[serde(default)]
    pub random: bool,
    /// What of it is cut over the processes of the run.
    #[serde(default)]
    pub shard: Cut,
    /// The share of the classes that a step takes for negatives, drawn anew each time; the classes of the batch are always
    /// among them, and the others keep their values and their momentum. Below 1 it needs `shard = "classes"`.
    #[serde(default = "whole")]
    #[schemars(range(min = 1e-6, max = 1.0))]
    pub sample_rate: f64,
}

fn whole() -> f64 {
    1.0
}

/// What of a module is cut over processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// Nothing: each process has all of it.
    #[default]
    Nothing,
    /// The rows of classes: each process has those of some classes, and computes their logits for the samples of all.
    Classes,
}

/// Weights to start from.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// A run folder, or a folder of runs, of which the newest counts.
    #[serde(default)]
    #[schemars(example = "../runs/aifr_scaf")]
    pub run: Option<RecipePath>,
    /// A file: safetensors, or PyTorch's `.pth` and `.pt`.
    #[serde(default)]
    #[schemars(example = "mtlface.pth")]
    pub file: Option<RecipePath>,
    /// Only names that start with this, which is cut off; "" takes all names. Without it the module's own name and a
    /// point.
    #[serde(default)]
    #[schemars(example = "backbone.")]
    pub prefix: Option<String>,
    /// A change of names: a registered table, such as `mtlface`, or a TOML file of "from" = "to" lines.
    #[serde(default)]
    #[schemars(example = &"mtlface")]
    pub rename: Option<NameOrPath>,
    /// Every weight of the module must be there; without it those that are missing stay as they are drawn.
    #[serde(default = "yes")]
    pub strict: bool,
}

/// Whether a node runs its module as in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Batch statistics and dropout.
    Train,
    /// Running statistics, no dropout.
    Eval,
}

/// The keys of `graph.NAME` besides those of a function.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct NodeSlot {
    /// The module to call.
    #[serde(default)]
    #[schemars(example = &"backbone")]
    pub call: Option<String>,
    /// The function to apply.
    #[serde(default)]
    pub apply: Option<String>,
    /// What each input is wired to: `node`, `node.port` or `data.port`.
    #[serde(default, rename = "in")]
    #[schemars(example = serde_json::json!({ "image": "faces.image" }))]
    pub inputs: IndexMap<String, String>,
    /// Training or evaluation; without it training if any phase updates the module.
    #[serde(default)]
    pub mode: Option<Mode>,
}

/// The keys of `loss.NAME` besides those of the component.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct LossSlot {
    /// The loss.
    pub component: String,
    /// What each input is wired to.
    #[serde(default, rename = "in")]
    #[schemars(example = serde_json::json!({ "logits": "logits", "target": "faces.identity" }))]
    pub inputs: IndexMap<String, String>,
    /// Factor of the loss in the sum that a phase minimizes.
    #[serde(default = "one")]
    pub weight: f64,
    /// How the weight rises; without it it is constant.
    #[serde(default)]
    #[schemars(example = serde_json::json!({ "from": 1000, "until": 3000 }))]
    pub ramp: Option<Ramp>,
}

/// A weight that rises linearly with the steps.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The last step at which it is at its start.
    #[serde(default)]
    pub from: u64,
    /// The first step at which the weight is whole.
    pub until: u64,
    /// The share of the weight at the start.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub start: f64,
}

impl Ramp {
    /// The share of the weight at a step, counted from 1.
    pub fn share(&self, step: u64) -> f64 {
        if step >= self.until {
            return 1.0;
        }
        let way = step.saturating_sub(self.from) as f64 / (self.until - self.from.min(self.until)).max(1) as f64;
        self.start + (1.0 - self.start) * way
    }
}

fn one() -> f64 {
    1.0
}

/// One optimisation of a step.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// The losses whose weighted sum is minimized.
    #[schemars(length(min = 1), example = serde_json::json!(["identity", "age"]))]
    pub minimize: Vec<String>,
    /// The modules that are updated.
    #[schemars(length(min = 1), example = serde_json::json!(["backbone", "embed", "identity"]))]
    pub update: Vec<String>,
    /// The optimizer, with its settings.
    #[schemars(example = serde_json::json!({ "component": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4 }))]
    pub optimizer: IndexMap<String, serde_json::Value>,
    /// The course of the learning rate; without it constant.
    #[serde(default)]
    pub scheduler: Option<IndexMap<String, serde_json::Value>>,
    /// Largest norm of all gradients together; larger ones are scaled down.
    #[serde(default)]
    #[schemars(range(min = 1e-12))]
    pub clip_norm: Option<f64>,
    /// Batches whose gradients are averaged into one update.
    #[serde(default = "once")]
    #[schemars(range(min = 1, max = 65536))]
    pub accumulate: u32,
    /// First step (from 0) at which the phase runs.
    #[serde(default)]
    pub from: u64,
    /// Step at which it runs no more.
    #[serde(default)]
    pub until: Option<u64>,
    /// It runs at every so many steps.
    #[serde(default = "once_u64")]
    #[schemars(range(min = 1))]
    pub every: u64,
    /// Under loss scaling: where weight decay is added.
    #[serde(default)]
    pub scaled_decay: ScaledDecay,
}

fn once() -> u32 {
    1
}
fn once_u64() -> u64 {
    1
}

/// Where coupled weight decay is added under loss scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaledDecay {
    /// To the true gradient.
    #[default]
    AfterUnscaling,
    /// To the scaled gradient, so that unscaling shrinks it by the scale, as some released training code does.
    BeforeUnscaling,
}

/// The keys of an optimizer besides its own.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct OptimizerSlot {
    /// The optimizer.
    pub component: String,
    /// Learning rate.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Weight decay.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Which parameters decay.
    #[serde(default)]
    pub decay: Decay,
    /// Modules with settings of their own.
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// Which parameters weight decay applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Weights only: no bias, no normalisation.
    #[default]
    Weights,
    /// Every parameter.
    All,
}

/// Settings of some modules in an optimizer.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The modules.
    #[schemars(length(min = 1))]
    pub modules: Vec<String>,
    /// Factor on the learning rate.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0))]
    pub lr_scale: f64,
    /// Weight decay instead of the optimizer's.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub weight_decay: Option<f64>,
}

/// The keys of `evaluate.NAME` besides those of the evaluator.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
pub struct EvaluateSlot {
    /// The evaluator.
    pub component: String,
    /// Steps between evaluations in training; 0 evaluates at the end only.
    #[serde(default)]
    pub every: u64,
    /// Left out with a warning where its files are missing.
    #[serde(default)]
    pub optional: bool,
}

/// Moving averages of weights.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ema {
    /// The modules that are averaged.
    #[schemars(length(min = 1))]
    pub modules: Vec<String>,
    /// Share of the old average that stays each step.
    #[serde(default = "ema_decay")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub decay: f64,
    /// Evaluate with the averages.
    #[serde(default = "yes")]
    pub evaluate: bool,
}

/// Points at which `mtlrun sweep` trains the recipe: every variant with every value of the grid.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SweepSection {
    /// Values by dotted path, every one with every one of the other paths.
    #[schemars(example = serde_json::json!({ "run.seed": [1, 2, 3], "loss.domain.weight": [0.0, 0.002] }))]
    pub grid: IndexMap<String, Vec<serde_json::Value>>,
    /// Values by dotted path that go together, the first with the first.
    pub zip: IndexMap<String, Vec<serde_json::Value>>,
    /// Variants by name.
    pub variants: IndexMap<String, SweepVariant>,
}

/// A variant of a recipe.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SweepVariant {
    /// Another recipe in the place of this one.
    pub recipe: Option<RecipePath>,
    /// Values by dotted path.
    pub set: IndexMap<String, serde_json::Value>,
    /// Dotted paths that are dropped.
    pub unset: Vec<String>,
}

fn ema_decay() -> f64 {
    0.999
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises_from_its_start_to_the_whole() {
        let ramp = Ramp { from: 10, until: 20, start: 0.5 };
        assert_eq!([1, 10, 15, 20, 99].map(|step| ramp.share(step)), [0.5, 0.5, 0.75, 1.0, 1.0]);
        let jump = Ramp { from: 5, until: 5, start: 0.0 };
        assert_eq!([4, 5].map(|step| jump.share(step)), [0.0, 1.0]);
    }
}
