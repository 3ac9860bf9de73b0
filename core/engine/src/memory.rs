//! Memory that is not there, in the words of somebody who can do something about it.

use crate::graph::Graph;
use crate::ids;
use crate::machine::{self, bytes_text};
use crate::model::{Model, Module};
use crate::ranks::{local_processes, processes};
use crate::recipe::{Cut, Precision, Recipe};
use mtl_recipe::{Diagnostic, Error, Result, bail};

/// The same error; what libtorch says of missing memory is replaced by how much was asked for and what to lower.
pub fn told(error: Error) -> Error {
    error.rephrase(|text| {
        let asked = match mtl_torch::memory_asked(text)? {
            0 => "an operation asked for more than there is".to_owned(),
            bytes => format!("{} were asked for at once", bytes_text(bytes)),
        };
        let there = match mtl_torch::card_memory(text) {
            Some((free, total)) => format!(", and the GPU has {} of {} free", bytes_text(free), bytes_text(total)),
            None => match machine::available_mib() {
                Some(mib) => format!(", and the machine has {} free", bytes_text(mib << 20)),
                None => String::new(),
            },
        };
        Some(format!(
            "not enough memory: {asked}{there}. Lower batch_size, the size of pictures, the width of the network, or \
             the number of classes"
        ))
    })
}

/// The same error; if memory is missing it also tells what holds it: tensors by what they are, and the rest of what the
/// process has taken.
pub fn told_with_holders(error: Error, holders: &[(&str, u64)]) -> Error {
    let text = format!("{error:#}");
    if mtl_torch::memory_asked(&text).is_none() {
        return error;
    }
    let known: u64 = holders.iter().map(|(_, bytes)| bytes).sum();
    let taken = mtl_torch::card_allocated(&text).or_else(|| machine::process_mib().map(|mib| mib << 20));
    let rest = taken.map(|taken| ("activations and the rest", taken.saturating_sub(known)));
    let mut all: Vec<(&str, u64)> = holders.iter().copied().chain(rest).filter(|(_, bytes)| *bytes > 0).collect();
    all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let advice = match all.first() {
        Some((name, _)) if name.starts_with("activations") => {
            "\nMost are activations: with half the batch_size and twice the accumulate of the phase the gradients are those \
             of as many samples, and run.precision = \"bf16\" halves most of them"
        }
        Some(_) => {
            "\nMost grow with the weights: several ranks share those of a head with shard = \"classes\", and sample_rate keeps \
             fewer of its gradients"
        }
        None => "",
    };
    let lines: String = all.iter().map(|(name, bytes)| format!("\n  {:>10}  {name}", bytes_text(*bytes))).collect();
    told(error).adding(&format!("In use were:{lines}{advice}"))
}

/// How many numbers training keeps for a module.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// Its parameters.
    pub weights: u64,
    /// Their gradients; none if nothing trains it.
    pub gradients: u64,
    /// The state of the optimizers that update it.
    pub optimizer: u64,
    /// Gradients on their way between ranks; none if there is one.
    pub buckets: u64,
}

impl Numbers {
    /// All of them.
    pub fn sum(&self) -> u64 {
        let sum = self.weights.saturating_add(self.gradients).saturating_add(self.optimizer);
        sum.saturating_add(self.buckets)
    }
}

/// The numbers of each module, where sizes that only the data decides count as 1, in one of so many ranks.
///
/// # Errors
/// If a module cannot be built.
pub fn numbers(recipe: &Recipe, graph: &Graph, ranks: u64) -> Result<Vec<Numbers>> {
    let outline = Model::outline(recipe, graph, 1)?;
    let of = |(m, module): (usize, &Module)| {
        let common = &recipe.model[m].slot.common;
        let cut = common.shard == Cut::Classes;
        let (mut weights, mut gradients, mut summed) = (0u64, 0u64, 0u64);
        for entry in module.parameters.values().filter(|entry| entry.role.is_some()) {
            let count = entry.tensor.numel() as u64;
            if entry.rows && cut {
                let own = count.div_ceil(ranks);
                weights = weights.saturating_add(own);
                gradients = gradients.saturating_add((own as f64 * common.sample_rate).ceil() as u64);
            } else {
                weights = weights.saturating_add(count);
                gradients = gradients.saturating_add(count);
                summed = summed.saturating_add(count);
            }
        }
        let updating = graph.phases().iter().zip(recipe.phase.values()).filter(|(phase, _)| phase.updates[m]);
        let updating: Vec<u64> = updating.map(|(_, entry)| entry.description.state_each as u64).collect();
        let trained = graph.modules()[m].trained;
        Numbers {
            weights,
            gradients: if trained { gradients } else { 0 },
            optimizer: weights.saturating_mul(updating.iter().sum()),
            // Each phase that updates it has buckets of its own.
            buckets: if ranks > 1 { summed.saturating_mul(updating.len() as u64) } else { 0 },
        }
    };
    Ok(outline.modules.iter().enumerate().map(of).collect())
}

/// What is wrong if weights, gradients and optimizer state are more than the memory of this machine.
fn too_much(recipe: &Recipe, graph: &Graph) -> Result<Option<String>> {
    let each: u64 = if recipe.run.precision == Precision::Float64 { 8 } else { 4 };
    let all = numbers(recipe, graph, processes())?.iter().fold(0u64, |all, module| all.saturating_add(module.sum()));
    let needed = all.saturating_mul(each).saturating_mul(local_processes());
    let there = machine::memory_mib().map(|mib| mib << 20).filter(|there| needed > *there);
    Ok(there.map(|there| {
        format!(
            "weights, gradients and optimizer state take {}, and this machine has {}",
            bytes_text(needed),
            bytes_text(there)
        )
    }))
}

/// A warning if weights, gradients and optimizer state are more than the memory of this machine.
///
/// # Errors
/// If a module cannot be built.
pub fn warning(recipe: &Recipe, graph: &Graph) -> Result<Option<Diagnostic>> {
    Ok(too_much(recipe, graph)?.map(|message| Diagnostic::warning(&ids::MEMORY, message)))
}

/// Checks that weights, gradients and optimizer state fit into the memory of this machine, before they are made there.
///
/// # Errors
/// If they do not, or a module cannot be built.
pub fn fits(recipe: &Recipe, graph: &Graph) -> Result<()> {
    if let Some(message) = too_much(recipe, graph)?.filter(|_| recipe.run.device == "cpu") {
        bail!("not enough memory: {message}. Lower the width of the network or the number of classes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_memory_is_told_with_its_amount() {
        let text = "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to \
                    allocate 36864000000 bytes. Error code 12 (Cannot allocate memory)\nframe #0: c10::ThrowEnforce";
        let error = told(Error::failure(text).context("in the node `identity` (cosface)"));
        let said = format!("{error:#}");
        assert!(said.starts_with("in the node `identity` (cosface): not enough memory: 34.3 GiB were asked"), "{said}");
        assert!(said.contains("batch_size") && !said.contains("frame #0"), "{said}");
        assert_eq!(format!("{:#}", told(Error::failure("shape mismatch"))), "shape mismatch");
        let cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.50 GiB of which 64.00 MiB \
                    is free. Of the allocated memory 70.00 GiB is allocated by PyTorch, and 1.00 GiB is reserved";
        let holders = [("gradients", 1 << 30), ("moving averages", 0), ("weights and buffers", 3 << 30)];
        let said = format!("{:#}", told_with_holders(Error::failure(cuda), &holders));
        assert!(said.contains("2.5 GiB were asked for at once, and the GPU has 64.0 MiB of 79.5 GiB free"), "{said}");
        let table = "In use were:\n    66.0 GiB  activations and the rest\n     3.0 GiB  weights and buffers\n     1.0 GiB  gradients\n";
        assert!(said.contains(table) && said.contains("half the batch_size"), "{said}");
        assert_eq!(told_with_holders(Error::failure("no"), &holders).to_string(), "no");
        assert_eq!(bytes_text(1023), "1023 bytes");
    }
}
