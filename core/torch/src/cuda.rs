//! What needs CUDA's own headers: groups of NCCL, and CUDA graphs.
//!
//! It is a second library of the shim, `libmtl_torch_cuda.so`, which `cargo xtask setup --cuda` builds. It is loaded when
//! it is first asked for, after libtorch's CUDA half.

use crate::ffi::{Handle, check};
use crate::{Group, Store, load_cuda};
use anyhow::{Context, Result, anyhow, bail};
use libc::{c_char, c_int};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::error::Error as _;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::time::Duration;

/// The number of the library's interface, in `cuda.h`.
const INTERFACE: c_int = 1;

type Made = *mut c_char;

/// The functions of the library.
struct Functions {
    group_nccl: unsafe extern "C" fn(Handle, c_int, c_int, c_int, i64, *mut Handle) -> Made,
    graphs_begin: unsafe extern "C" fn(c_int) -> Made,
    graph_capture: unsafe extern "C" fn(*mut Handle) -> Made,
    graph_captured: unsafe extern "C" fn(Handle) -> Made,
    graph_replay: unsafe extern "C" fn(Handle) -> Made,
    graph_free: unsafe extern "C" fn(Handle),
}

fn functions() -> Result<&'static Functions> {
    static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
    load_cuda()?;
    LOADED.get_or_init(|| open().map_err(|error| format!("{error:#}"))).as_ref().map_err(|reason| {
        anyhow!(
            "several GPUs and CUDA graphs need libmtl_torch_cuda.so, the part of mtlrun that is built with CUDA's headers: \
             run `cargo xtask setup --cuda` once ({reason})"
        )
    })
}

fn open() -> Result<Functions> {
    let reason = |e: libloading::Error| anyhow!("{}", e.source().map_or_else(|| e.to_string(), ToString::to_string));
    // SAFETY: loading runs libtorch's registrations only; the library is never unloaded.
    let library = unsafe { Library::open(Some("libmtl_torch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }.map_err(reason)?;
    let library = Box::leak(Box::new(library));
    // SAFETY: the types are those of `cuda.h`, whose number is compared before any other function is called, and the
    // library stays loaded for the rest of the program.
    unsafe {
        let interface = library.get::<unsafe extern "C" fn() -> c_int>(b"mtl_cuda_interface").map_err(reason)?;
        let found = interface();
        if found != INTERFACE {
            bail!("the one that is found has the interface {found}, and this program {INTERFACE}");
        }
        macro_rules! function {
            ($name:literal) => {
                *library.get($name).map_err(reason)?
            };
        }
        Ok(Functions {
            group_nccl: function!(b"mtl_group_nccl"),
            graphs_begin: function!(b"mtl_graphs_begin"),
            graph_capture: function!(b"mtl_graph_capture"),
            graph_captured: function!(b"mtl_graph_captured"),
            graph_replay: function!(b"mtl_graph_replay"),
            graph_free: function!(b"mtl_graph_free"),
        })
    }
}

fn number(of: usize) -> Result<c_int> {
    c_int::try_from(of).context("number of a device")
}

impl Group {
    /// A group of NCCL for tensors on the GPU of that number, which no other process of the group uses.
    ///
    /// # Errors
    /// If the second library is not there, or the processes cannot reach each other.
    pub fn nccl(store: &Store, (rank, size): (u64, u64), device: usize, timeout: Duration) -> Result<Self> {
        let functions = functions()?;
        let (device, timeout) = (number(device)?, i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
        let mut out = null_mut();
        // SAFETY: the store is alive for the call, and the place is valid.
        check(unsafe {
            (functions.group_nccl)(store.handle(), rank as c_int, size as c_int, device, timeout, &mut out)
        })?;
        Ok(Self::of(out))
    }
}

/// Lets the work of this thread go to a stream of its own, of which graphs can be taken. Before the work that is to be
/// captured has first been done.
///
/// # Errors
/// If the second library is not there.
pub fn begin_graphs(device: usize) -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { (functions()?.graphs_begin)(number(device)?) })
}

/// Kernels that are started all at once, on the memory that they were captured with.
#[derive(Debug)]
pub struct Graph(Handle);

impl Graph {
    /// Captures what some work would do on the device; nothing is computed. The work must not wait for the device.
    ///
    /// # Errors
    /// That of the work, or if CUDA cannot capture it.
    pub fn capture<E: From<anyhow::Error>>(work: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        let functions = functions()?;
        let mut out = null_mut();
        // SAFETY: `out` is a valid place for one pointer.
        check(unsafe { (functions.graph_capture)(&mut out) })?;
        let graph = Self(out);
        let worked = work();
        // SAFETY: the handle is alive. The capture ends also where the work has failed.
        let captured = check(unsafe { (functions.graph_captured)(graph.0) });
        worked?;
        captured?;
        Ok(graph)
    }

    /// Starts all of it.
    ///
    /// # Errors
    /// If CUDA refuses.
    pub fn replay(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        check(unsafe { (functions()?.graph_replay)(self.0) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(functions) = functions() {
            // SAFETY: made by the library, and dropped once.
            unsafe { (functions.graph_free)(self.0) }
        }
    }
}
