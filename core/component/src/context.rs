//! Where a run computes, and which of its processes this one is.

use mtl_recipe::{Result, ensure};
use mtl_torch::{Group, Reduction, ScalarOps};
use tch::{Device, Tensor};

/// What holds for all tensors, draws, files and messages of one process of a run.
#[derive(Debug, Clone)]
pub struct Context {
    /// The device that tensors are on.
    pub device: Device,
    /// The kind of floating point numbers of weights.
    pub kind: tch::Kind,
    /// 4-D tensors keep channels innermost in memory.
    pub channels_last: bool,
    /// 3x3 convolutions may use Winograd's algorithm.
    pub winograd: bool,
    /// Kernels have to give the same bits each time.
    pub deterministic: bool,
    /// BatchNorm takes the statistics of the batches of all processes.
    pub sync_batch_norm: bool,
    /// The seed of the run.
    pub seed: u64,
    /// The processes of the run.
    pub world: World,
    /// Only the shapes of parameters are wanted: they get no memory of their own.
    pub shapes_only: bool,
}

impl Context {
    /// One process on the CPU, in that kind of numbers, with seed 0 and plain memory.
    pub fn cpu(kind: tch::Kind) -> Self {
        Self {
            device: Device::Cpu,
            kind,
            channels_last: false,
            winograd: false,
            deterministic: false,
            sync_batch_norm: false,
            seed: 0,
            world: World::alone(),
            shapes_only: false,
        }
    }
}

/// The processes (ranks) that train one model together, and which of them this one is.
///
/// What is averaged, drawn, written or shown asks it, so that a loss or a sampler is right for any number of ranks. Every
/// process has to call its collectives in the same order.
#[derive(Debug, Clone, Copy)]
pub struct World {
    rank: u64,
    size: u64,
    local_rank: u64,
    group: Option<&'static Group>,
}

impl World {
    /// The only process of its run.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, local_rank: 0, group: None }
    }

    /// Process `rank` of `size`, the `local_rank`th of its machine, all counted from 0. It cannot communicate yet.
    ///
    /// # Errors
    /// If a rank is not below the number of processes.
    pub fn new(rank: u64, size: u64, local_rank: u64) -> Result<Self> {
        ensure!(rank < size && local_rank < size, "rank {rank} (local {local_rank}) is not one of {size} ranks");
        Ok(Self { rank, size, local_rank, group: None })
    }

    /// The same, communicating through that group for the rest of the program.
    #[must_use]
    pub fn with(self, group: &'static Group) -> Self {
        Self { group: Some(group), ..self }
    }

    /// The number of this process, from 0.
    pub fn rank(self) -> u64 {
        self.rank
    }

    /// How many processes there are.
    pub fn size(self) -> u64 {
        self.size
    }

    /// The number of this process on its machine, from 0.
    pub fn local_rank(self) -> u64 {
        self.local_rank
    }

    /// Whether this process writes the files and messages of the run.
    pub fn leads(self) -> bool {
        self.rank == 0
    }

    /// What it communicates through; nothing if the process is alone.
    ///
    /// # Errors
    /// If there are several processes that have not been connected.
    pub fn group(self) -> Result<Option<&'static Group>> {
        ensure!(self.size == 1 || self.group.is_some(), "the {} processes of the run are not connected", self.size);
        Ok(self.group.filter(|_| self.size > 1))
    }

    /// A tensor reduced over all processes, without gradients.
    fn reduced(self, tensor: &Tensor, reduction: Reduction) -> Result<Tensor> {
        let Some(group) = self.group()? else { return Ok(tensor.f_detach()?) };
        let out = tch::no_grad(|| tensor.f_detach_copy())?.f_contiguous()?;
        group.all_reduce(&out, reduction)?;
        Ok(out)
    }

    /// The sum of a tensor over all processes, without gradients.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn sum(self, tensor: &Tensor) -> Result<Tensor> {
        self.reduced(tensor, Reduction::Sum)
    }

    /// The largest value of each place of a tensor over all processes, without gradients.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn max(self, tensor: &Tensor) -> Result<Tensor> {
        self.reduced(tensor, Reduction::Max)
    }

    /// The mean of a tensor over all processes, without gradients. A loss that averages over the samples whose label is
    /// known divides by the mean of their count, clamped at `1 / size`, or the gradients of several processes would be
    /// wrong.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn mean(self, tensor: &Tensor) -> Result<Tensor> {
        let sum = self.sum(tensor)?;
        if self.size == 1 { Ok(sum) } else { Ok(sum.try_div_scalar(self.size as f64)?) }
    }

    /// A count of samples as the divisor of a sum over them: its mean over the processes, at least `1 / size`.
    ///
    /// # Errors
    /// As [`mean`](Self::mean).
    pub fn divisor(self, count: &Tensor) -> Result<Tensor> {
        Ok(self.mean(count)?.try_clamp_min(1.0 / self.size as f64)?)
    }

    /// The rows `[n, …]` of all processes, `[size n, …]` in the order of ranks, with gradients. The loss of each process
    /// may depend on all of them, as in losses over pairs of a batch.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn gather_rows(self, rows: &Tensor) -> Result<Tensor> {
        match self.group()? {
            None => Ok(rows.shallow_clone()),
            Some(group) if rows.requires_grad() => Ok(group.gather_rows(rows)?),
            Some(group) => Ok(group.all_gather(rows)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_leads_and_averages_itself() {
        let world = World::alone();
        assert!(world.leads());
        assert_eq!(world.mean(&Tensor::from(3.0)).unwrap().double_value(&[]), 3.0);
        assert_eq!(world.divisor(&Tensor::from(0.0)).unwrap().double_value(&[]), 1.0);
    }

    #[test]
    fn ranks_are_counted_from_zero_and_have_to_fit() {
        let world = World::new(1, 4, 1).unwrap();
        assert_eq!((world.rank(), world.size(), world.local_rank(), world.leads()), (1, 4, 1, false));
        assert!(World::new(4, 4, 0).is_err());
        assert!(world.mean(&Tensor::from(1.0)).unwrap_err().to_string().contains("4 processes"));
        let fake: &'static Group = Box::leak(Box::new(Group::fake(1, 4).unwrap()));
        // A group that does nothing leaves the own value in the place of the sum.
        assert_eq!(world.with(fake).mean(&Tensor::from(1.0)).unwrap().double_value(&[]), 0.25);
        assert_eq!(world.with(fake).divisor(&Tensor::from(0.0)).unwrap().double_value(&[]), 0.25);
    }
}
