//! What is known of the machine.

use std::fs;

/// The value of a key in a file of `key : value` lines.
fn value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The name of the processor.
pub fn cpu_name() -> Option<String> {
    value("/proc/cpuinfo", "model name")
}

/// Whether the processor has a feature, by its name in Linux.
pub fn cpu_has(feature: &str) -> bool {
    value("/proc/cpuinfo", "flags").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == feature))
}

fn memory(file: &str, key: &str) -> Option<u64> {
    value(file, key)?.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib >> 10)
}

/// The memory that this process has taken in MiB.
pub fn process_mib() -> Option<u64> {
    memory("/proc/self/status", "VmRSS")
}

/// The memory of the machine in MiB.
pub fn memory_mib() -> Option<u64> {
    memory("/proc/meminfo", "MemTotal")
}

/// The memory in MiB that a new process could use.
pub fn available_mib() -> Option<u64> {
    memory("/proc/meminfo", "MemAvailable")
}

/// The GPUs of this machine, their driver, and the versions of CUDA and cuDNN, as far as they can be told.
pub fn cuda() -> serde_json::Value {
    let line = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.lines().next().map(str::to_owned));
    let gpus = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let gpus = gpus.filter_map(|gpu| value(&gpu.path().join("information").to_string_lossy(), "Model"));
    serde_json::json!({
        "gpus": gpus.collect::<Vec<_>>(),
        "driver": line("/proc/driver/nvidia/version"),
        "libraries": mtl_torch::cuda_config().ok().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")),
    })
}

/// The name of the machine.
pub fn host() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|text| text.trim().to_owned())
}

/// A number of bytes for people, such as `1.5 GiB`.
pub fn bytes_text(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes as f64, "bytes");
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{amount:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        assert!(cpu_name().is_some_and(|name| !name.is_empty()));
        assert!(cpu_has("fpu") && !cpu_has("no_such_feature"));
        assert!(memory_mib() >= available_mib() && available_mib() > Some(0));
        assert!(host().is_some());
    }
}
