//! Process-wide settings and facts of libtorch.

use crate::ffi::{self, check, one, take_text};
use anyhow::{Context, Result, bail};
use libc::c_char;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::collections::BTreeSet;
use std::error::Error as _;
use std::mem::ManuallyDrop;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tch::{Device, Tensor};

/// The numbers of `c10::DeviceType`.
const CPU: i32 = 0;
const CUDA: i32 = 1;

fn text(call: impl FnOnce(*mut *mut c_char) -> *mut c_char) -> Result<String> {
    let mut out = std::ptr::null_mut();
    check(call(&mut out))?;
    Ok(take_text(out))
}

/// The version of the libtorch that this program was built against.
pub fn version() -> Result<String> {
    // SAFETY: `out` is a valid place for one pointer.
    text(|out| unsafe { ffi::mtl_version(out) })
}

/// libtorch's own description of its build and its threads.
pub fn build_config() -> Result<String> {
    // SAFETY: `out` is a valid place for one pointer.
    text(|out| unsafe { ffi::mtl_build_config(out) })
}

/// The instruction set that libtorch's CPU kernels use here, such as `AVX512`.
pub fn cpu_capability() -> Result<String> {
    // SAFETY: `out` is a valid place for one pointer.
    text(|out| unsafe { ffi::mtl_cpu_capability(out) })
}

/// What libtorch keeps for the calling thread and a computation may change: whether gradients are recorded, autocast with
/// its nesting, and what else decides which kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadState(ffi::RawThreadState);

impl ThreadState {
    /// That of this thread at present.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn now() -> Result<Self> {
        let mut state = ffi::RawThreadState::default();
        // SAFETY: `state` is a valid place of the layout that the shim writes.
        check(unsafe { ffi::mtl_thread_state(&mut state) })?;
        Ok(Self(state))
    }

    /// Puts it back, after a panic has left scopes that were never closed.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn restore(&self) -> Result<()> {
        // SAFETY: the pointer is to a live value of the layout that the shim reads.
        check(unsafe { ffi::mtl_restore_thread_state(&self.0) })
    }
}

/// Seeds the default generators of every device.
pub fn seed(seed: u64) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { ffi::mtl_seed(seed) })
}

/// Sets the threads within an operator.
pub fn set_threads(intra: usize) -> Result<()> {
    let intra = i32::try_from(intra).context("number of threads")?;
    // SAFETY: no pointers are passed.
    check(unsafe { ffi::mtl_set_threads(intra, 0) })
}

/// Keeps libtorch's operators on the calling thread from now on.
///
/// Each thread that runs a parallel operator gets helper threads of its own, which wait busily and take the cores
/// from training. Threads that only prepare data call this first.
pub fn disable_intra_op_threads() -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { ffi::mtl_disable_intra_op_threads() })
}

/// What CUDA's kernels may do: round factors to TF32 (10 bits of fraction), and add in an order that changes from call to
/// call. Before CUDA is first used.
///
/// # Errors
/// If libtorch refuses.
pub fn cuda_rules(tf32: bool, deterministic: bool) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { ffi::mtl_cuda_rules(tf32.into(), deterministic.into()) })
}

/// Lets memory that this thread asks for without naming a device, such as pinned memory, belong to that GPU.
///
/// # Errors
/// If there is no such device.
pub fn use_cuda(index: usize) -> Result<()> {
    let index = i32::try_from(index).context("number of a device")?;
    // SAFETY: no pointers are passed.
    check(unsafe { ffi::mtl_use_cuda(index) })
}

/// What libtorch's CUDA half says of the versions of CUDA, cuDNN and its own build.
///
/// # Errors
/// If CUDA is not loaded.
pub fn cuda_config() -> Result<String> {
    // SAFETY: `out` is a valid place for one pointer.
    text(|out| unsafe { ffi::mtl_cuda_config(out) })
}

/// A moment in the work of a GPU: it is there when all is done that was asked for before.
#[derive(Debug)]
pub struct Mark(ffi::Handle);

impl Mark {
    /// The present one of this thread's work on a GPU.
    ///
    /// # Errors
    /// If CUDA is not loaded.
    pub fn now(index: usize) -> Result<Self> {
        let (index, mut out) = (i32::try_from(index).context("number of a device")?, std::ptr::null_mut());
        // SAFETY: `out` is a valid place for one pointer.
        check(unsafe { ffi::mtl_mark_now(index, &mut out) })?;
        Ok(Self(out))
    }

    /// The time that the device took from here to a later mark.
    ///
    /// # Errors
    /// If the device has not come to both.
    pub fn until(&self, later: &Self) -> Result<Duration> {
        let mut milliseconds = 0.0;
        // SAFETY: both marks are alive, and the place is valid.
        check(unsafe { ffi::mtl_mark_between(self.0, later.0, &mut milliseconds) })?;
        Ok(Duration::from_secs_f64(milliseconds.max(0.0) / 1e3))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and dropped once.
        unsafe { ffi::mtl_mark_free(self.0) }
    }
}

/// A copy on another device, without gradients, that the host does not wait for. From a device to the
/// CPU the copy is in pinned memory, and is complete when the device was synchronised.
///
/// # Errors
/// If there is no memory for it.
pub fn copy_to(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let (device_type, index) = match device {
        Device::Cuda(index) => (CUDA, i32::try_from(index).context("number of a device")?),
        _ => (CPU, -1),
    };
    // SAFETY: the tensor is live for the call.
    one(|out| unsafe { ffi::mtl_copy_to(tensor.as_ptr().cast_mut(), device_type, index, out) })
}

/// A copy of a tensor in pinned memory on a GPU. It is made beside what the device computes at present; what this thread
/// asks of the device next comes after it. The host does not wait.
///
/// # Errors
/// If there is no memory for it.
pub fn copy_beside(tensor: &Tensor, index: usize) -> Result<Tensor> {
    let index = i32::try_from(index).context("number of a device")?;
    // SAFETY: the tensor is live for the call.
    one(|out| unsafe { ffi::mtl_copy_beside(tensor.as_ptr().cast_mut(), index, out) })
}

/// The tensor in memory that a device reads by itself.
///
/// # Errors
/// If CUDA is not loaded, or there is no memory for it.
pub fn pin(tensor: &Tensor) -> Result<Tensor> {
    // SAFETY: the tensor is live for the call.
    one(|out| unsafe { ffi::mtl_pin(tensor.as_ptr().cast_mut(), out) })
}

/// Tells glibc to keep large freed buffers instead of returning them to the kernel.
///
/// Training frees and allocates the same large tensors every step; by default glibc maps and unmaps each, and
/// the kernel clears the pages anew. Tensors above 32 MiB still go back: kept, their holes fit nothing else and the
/// peak grows by a tenth. Call it once, before the first tensor is made.
pub fn tune_malloc() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets limits of the allocator. Values out of its range are refused by return value,
    // after which the defaults still hold.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Lets a closed pipe end the program quietly, as in `mtlrun list | head`. Not for training, which must save.
pub fn restore_sigpipe() {
    // SAFETY: the default action of SIGPIPE runs no code of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Lets the process that a command starts receive SIGTERM when the thread that starts it ends, however it ends.
pub fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl and getppid may be called between fork and exec; the closure touches no memory that other threads
    // may have been changing.
    unsafe {
        let parent = libc::getpid();
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may have ended before the call.
            if libc::getppid() != parent {
                return Err(std::io::Error::other("the process that started it has ended"));
            }
            Ok(())
        });
    }
}

/// The libraries of libtorch that are mapped into this process.
pub fn libtorch_files() -> Result<BTreeSet<PathBuf>> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?;
    let of_libtorch = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        (name.starts_with("libtorch") || name.starts_with("libc10")) && name.ends_with(".so")
    };
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    Ok(paths.filter(of_libtorch).map(PathBuf::from).collect())
}

/// The folder that libtorch_cpu was loaded from.
pub fn libtorch_folder() -> Result<PathBuf> {
    let files = libtorch_files()?;
    let path = files.iter().find(|path| path.ends_with("libtorch_cpu.so")).context("libtorch_cpu.so is not mapped")?;
    Ok(path.parent().map(PathBuf::from).unwrap_or_default())
}

/// Loads libtorch's CUDA half, once, so that CUDA devices can be used.
///
/// The program is linked against the CPU libraries alone. CUDA registers itself when its library is loaded,
/// which must happen before the first question about CUDA devices.
pub fn load_cuda() -> Result<()> {
    static LOADED: OnceLock<Result<ManuallyDrop<Library>, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        // SAFETY: loading runs libtorch's own initialisers; the library is never unloaded.
        unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }
            .map(ManuallyDrop::new)
            // The loader's own words are the cause.
            .map_err(|e| e.source().map_or_else(|| e.to_string(), ToString::to_string))
    });
    if let Err(reason) = loaded {
        bail!(
            "CUDA was asked for, but libtorch_cuda.so cannot be loaded ({reason}). Install PyTorch {} with CUDA and put \
             its torch/lib folder on LD_LIBRARY_PATH, or run with --device cpu",
            version()?
        );
    }
    same_version()
}

/// The libraries on LD_LIBRARY_PATH may be of another libtorch than the program was built for.
fn same_version() -> Result<()> {
    let (built, config) = (version()?, build_config()?);
    let loaded = config.split("TORCH_VERSION=").nth(1).and_then(|rest| rest.split([',', ' ', '\n']).next());
    match loaded.filter(|loaded| *loaded != built) {
        Some(loaded) => bail!(
            "the libtorch of {} is version {loaded}, and mtlrun was built for {built}: put the torch/lib folder of PyTorch \
             {built} on LD_LIBRARY_PATH",
            libtorch_folder()?.display()
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Autocast;
    use tch::Kind;

    #[test]
    fn what_a_panic_leaves_open_is_closed() {
        let before = ThreadState::now().unwrap();
        let no_grad = tch::no_grad_guard();
        let autocast = Autocast::new(Device::Cpu, Kind::BFloat16).unwrap();
        let inside = ThreadState::now().unwrap();
        assert_ne!(inside, before);
        assert_eq!(inside.0.autocast_nesting, before.0.autocast_nesting + 1);
        // Neither scope is left as it should be.
        std::mem::forget((no_grad, autocast));
        before.restore().unwrap();
        assert_eq!(ThreadState::now().unwrap(), before);
        let x = tch::Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = x.matmul(&x);
        assert_eq!((y.kind(), y.requires_grad()), (Kind::Float, true));
    }
}
