//! Where a recipe computes.

use crate::ranks::{Place, local_processes};
use crate::recipe::{Precision, Recipe};
use mtl_component::{Context, World};
use mtl_recipe::{Result, mistake, suggestion};
use std::sync::Arc;
use tch::{Device, Kind};

/// The device of that name, for this process: of several on a machine, each has a GPU of its own.
///
/// # Errors
/// A mistake if there is no such name, or no such device on this machine.
pub fn device(name: &str) -> Result<Device> {
    let named = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => None,
        other => match other.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()) {
            Some(index) => Some(index),
            None => mistake!("unknown device `{name}`: {}", suggestion(name, ["cpu", "cuda", "cuda:N"])),
        },
    };
    let place = Place::of_environment()?;
    if let (Some(place), Some(_)) = (place.as_ref().filter(|place| place.local_size > 1), named) {
        mistake!(
            "`{name}` is one device, and {} ranks on this machine need one each: say `cuda`; the variable \
             CUDA_VISIBLE_DEVICES chooses among them",
            place.local_size
        );
    }
    mtl_torch::load_cuda()?;
    let count = tch::Cuda::device_count();
    let index = named.unwrap_or_else(|| place.as_ref().map_or(0, |place| own_device(place, count)));
    if i64::try_from(index).is_ok_and(|index| index < count) {
        return Ok(Device::Cuda(index));
    }
    match place {
        Some(place) if place.local_size > 1 => mistake!(
            "{} ranks on this machine need a GPU each, and CUDA reports {count}: start one rank for each (--nproc {count})",
            place.local_size
        ),
        _ => mistake!("the device `{name}` is not available: CUDA reports {count} devices"),
    }
}

/// The number of the GPU of a process. Some launchers let each process see its own alone.
fn own_device(place: &Place, count: i64) -> usize {
    let chosen = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|list| !list.is_empty());
    if count == 1 && chosen && !place.launched { 0 } else { place.local_rank as usize }
}

/// Threads within an operator: the recipe's, or one for each core that a process of this machine has to itself.
pub fn threads(recipe: &Recipe) -> usize {
    recipe.run.threads.map_or_else(|| (cores() / local_processes() as usize).max(1), |n| n as usize)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Sets what holds for the whole process.
///
/// # Errors
/// If libtorch refuses the number of threads.
pub fn configure(recipe: &Recipe) -> Result<()> {
    let (wanted, cores) = (threads(recipe), cores());
    let processes = local_processes() as usize;
    if wanted * processes > 2 * cores {
        let each = if processes > 1 { format!(" for each of {processes} ranks") } else { String::new() };
        tracing::warn!(
            "run.threads = {wanted}{each} on {cores} cores: threads that wait for each other make steps slow"
        );
    }
    if recipe.run.device != "cpu" {
        // Before CUDA is first used.
        mtl_torch::cuda_rules(recipe.run.tf32, recipe.run.deterministic)?;
    }
    Ok(mtl_torch::set_threads(wanted)?)
}

/// Prepares this thread for steps by CUDA graphs, if the recipe asks for them.
///
/// # Errors
/// A mistake if it cannot be trained so.
pub fn prepare_graphs(recipe: &Recipe, context: &Context) -> Result<()> {
    if !recipe.run.cuda_graphs {
        return Ok(());
    }
    let world = context.world;
    let Device::Cuda(index) = context.device else {
        mistake!(
            "run.cuda_graphs needs a GPU, and the run is on `{}`: take it out, or say --device cuda",
            recipe.run.device
        )
    };
    if world.size() > 1 {
        mistake!("run.cuda_graphs is for one process, and there are {}: take it out", world.size());
    }
    if let Some((name, _)) = recipe.model.iter().find(|(_, entry)| entry.slot.common.sample_rate < 1.0) {
        mistake!(
            "run.cuda_graphs needs the same shapes in every step, and `model.{name}.sample_rate` draws other classes each \
             time: take one of them out"
        );
    }
    Ok(mtl_torch::begin_graphs(index)?)
}

/// The kind of the weights.
pub fn weight_kind(precision: Precision) -> Kind {
    match precision {
        Precision::Float64 => Kind::Double,
        Precision::Float32 | Precision::Bf16 | Precision::Fp16 => Kind::Float,
    }
}

/// Where a recipe computes, in one of the processes of a run.
///
/// # Errors
/// As [`device`].
pub fn context(recipe: &Recipe, world: World) -> Result<Arc<Context>> {
    let run = &recipe.run;
    let device = device(&run.device)?;
    if let Device::Cuda(index) = device {
        mtl_torch::use_cuda(index)?;
    }
    Ok(Arc::new(Context {
        device,
        kind: weight_kind(run.precision),
        channels_last: run.channels_last,
        winograd: device == Device::Cpu && run.winograd(),
        deterministic: run.deterministic,
        seed: run.seed as u64,
        world,
        sync_batch_norm: world.size() > 1 && run.sync_batch_norm,
        shapes_only: false,
    }))
}
