//! What this machine and this build can do.

use mtl_component::{Registry, Result, ensure};
use mtl_engine::machine;
use mtl_torch::{Group, Reduction, Store};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Prints facts, then what is missing; exit code 0 if nothing needed is missing.
pub fn doctor(registry: &Registry) -> Result<u8> {
    let line = |what: &str, value: String| println!("{what:<16} {value}");
    line("mtlrun", env!("CARGO_PKG_VERSION").into());
    line("libtorch", mtl_torch::version()?);
    line("from", mtl_torch::libtorch_folder()?.display().to_string());
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    line("threads", format!("{} of {cores} cores", tch::get_num_threads()));
    line("cpu", machine::cpu_name().unwrap_or_else(|| "unknown".into()));
    line("cpu kernels", mtl_torch::cpu_capability()?);
    line("avx512", yes(std::is_x86_feature_detected!("avx512f")));
    let native = std::is_x86_feature_detected!("avx512bf16");
    let note = if native { "yes, by the processor" } else { "emulated: slower than float32 here" };
    line("bf16", note.into());
    line("amx", yes(machine::cpu_has("amx_bf16")));
    line("memory", memory().unwrap_or_else(|| "unknown".into()));
    let mut missing = Vec::new();
    match mtl_torch::load_cuda() {
        Ok(()) => {
            let n = tch::Cuda::device_count();
            line("cuda devices", n.to_string());
            if n == 0 {
                missing.push("CUDA is loaded and finds no device: nvidia-smi shows whether the driver does".to_owned());
            } else {
                match nccl() {
                    Ok(()) => line("nccl", "ranks on several GPUs can communicate".into()),
                    Err(error) => missing.push(format!("{error:#}")),
                }
            }
        }
        Err(_) => {
            line("cuda devices", "none".into());
            let version = mtl_torch::version()?;
            missing.push(format!(
                "a GPU needs the libraries of PyTorch {version} for CUDA: put its torch/lib folder on LD_LIBRARY_PATH, and \
                 train with --device cuda"
            ));
        }
    }
    let components = registry.all().len();
    line("components", format!("{components} (mtlrun list)"));
    println!("\nEverything is there to train on this machine's CPU.");
    for text in &missing {
        println!("Optional: {text}.");
    }
    println!("\nThis libtorch says of itself:");
    for text in mtl_torch::build_config()?.lines().filter(|l| !l.trim().is_empty()) {
        println!("  {}", text.trim());
    }
    Ok(0)
}

/// Tries a group of one process, which reduces a number on the first GPU.
fn nccl() -> Result<()> {
    let group = Group::nccl(&Store::local()?, (0, 1), 0, Duration::from_secs(60))?;
    let number = Tensor::f_ones([1], (Kind::Float, Device::Cuda(0)))?;
    group.all_reduce(&number, Reduction::Sum)?;
    ensure!(number.f_double_value(&[0])? == 1.0, "NCCL does not reduce a number of one process to itself");
    Ok(())
}

fn yes(value: bool) -> String {
    if value { "yes".into() } else { "no".into() }
}

fn memory() -> Option<String> {
    Some(format!("{} MiB, {} MiB free", machine::memory_mib()?, machine::available_mib()?))
}
