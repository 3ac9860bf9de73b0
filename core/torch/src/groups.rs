//! Processes that train together: the store that they meet at, and groups for collectives on tensors.
//!
//! All of it is libtorch's own c10d: `TCPStore`, and process groups of gloo on the CPU and of NCCL on GPUs.

use crate::ffi::{self, Handle, Raw, check, one, raw, take_text};
use anyhow::{Context, Result};
use libc::c_int;
use std::ffi::CString;
use std::ptr::null_mut;
use std::time::{Duration, Instant};
use tch::Tensor;

/// How an error begins that is the fault of another process, or of the network between them.
pub const LOST: &str = "communication between the ranks failed: ";

/// How values of all processes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// The largest.
    Max,
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).context("a text for libtorch holds a zero byte")
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Keys and values that all processes see.
#[derive(Debug)]
pub struct Store(Handle);

// SAFETY: c10d's stores lock themselves, and the handle is never changed.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// A store of this process alone, for tests with threads in the place of processes.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn local() -> Result<Self> {
        let mut out = null_mut();
        // SAFETY: `out` is a valid place for one pointer.
        check(unsafe { ffi::mtl_store_local(&mut out) })?;
        Ok(Self(out))
    }

    /// Connects to the store at that address, for which it waits so long.
    ///
    /// # Errors
    /// If nobody serves it.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        Ok(Self::tcp(host, port, false, timeout)?.0)
    }

    /// Serves a store at a port of this machine, 0 for any that is free; gives the port as well.
    ///
    /// # Errors
    /// If the port is in use.
    pub fn serve(host: &str, port: u16, timeout: Duration) -> Result<(Self, u16)> {
        Self::tcp(host, port, true, timeout)
    }

    fn tcp(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<(Self, u16)> {
        let (host, mut port, mut out) = (text(host)?, c_int::from(port), null_mut());
        // SAFETY: the text is alive for the call, and both places are valid.
        check(unsafe { ffi::mtl_store_tcp(host.as_ptr(), &mut port, serves.into(), milliseconds(timeout), &mut out) })?;
        Ok((Self(out), u16::try_from(port).context("port of the store")?))
    }

    /// The same store with a prefix before each key.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn under(&self, prefix: &str) -> Result<Self> {
        let (prefix, mut out) = (text(prefix)?, null_mut());
        // SAFETY: the store is alive, and shares its ownership with the new one.
        check(unsafe { ffi::mtl_store_under(self.0, prefix.as_ptr(), &mut out) })?;
        Ok(Self(out))
    }

    /// Sets a value. Other processes see it a moment later.
    ///
    /// # Errors
    /// If the store is gone.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let key = text(key)?;
        // SAFETY: both texts are alive for the call, and copied.
        check(unsafe { ffi::mtl_store_set(self.0, key.as_ptr(), value.as_ptr().cast(), value.len() as i64) })
    }

    /// A value, if it is there yet.
    ///
    /// # Errors
    /// If the store is gone.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let (key, mut value, mut length) = (text(key)?, null_mut(), 0);
        // SAFETY: the text is alive for the call, and both places are valid.
        check(unsafe { ffi::mtl_store_get(self.0, key.as_ptr(), &mut value, &mut length) })?;
        Ok((!value.is_null()).then(|| take_text(value)))
    }

    /// Adds to a count, and gives it.
    ///
    /// # Errors
    /// If the store is gone.
    pub fn add(&self, key: &str, n: i64) -> Result<i64> {
        let (key, mut out) = (text(key)?, 0);
        // SAFETY: the text is alive for the call, and the place is valid.
        check(unsafe { ffi::mtl_store_add(self.0, key.as_ptr(), n, &mut out) })?;
        Ok(out)
    }
}

impl Store {
    pub(crate) fn handle(&self) -> Handle {
        self.0
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and dropped once.
        unsafe { ffi::mtl_store_free(self.0) }
    }
}

/// Processes that reduce and gather tensors together. Every process calls the same collectives in the same order.
#[derive(Debug)]
pub struct Group(Handle);

// SAFETY: the handle is never changed, and c10d's groups may be used from any thread.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Group {
    /// One that the shim has made.
    pub(crate) fn of(handle: Handle) -> Self {
        Self(handle)
    }

    /// A group of gloo for tensors on the CPU. Its sockets belong to a network interface, or to the own address `host`.
    ///
    /// # Errors
    /// If a process does not come in that time, or cannot be reached.
    pub fn gloo(
        store: &Store,
        (rank, size): (u64, u64),
        interface: Option<&str>,
        host: &str,
        timeout: Duration,
    ) -> Result<Self> {
        let (interface, host, mut out) = (interface.map(text).transpose()?, text(host)?, null_mut());
        let interface = interface.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        // SAFETY: texts and store are alive for the call, and the place is valid.
        check(unsafe {
            let (rank, size) = (rank as c_int, size as c_int);
            ffi::mtl_group_gloo(store.0, rank, size, interface, host.as_ptr(), milliseconds(timeout), &mut out)
        })?;
        Ok(Self(out))
    }

    /// A group whose collectives do nothing, to see what one process of any number would do.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn fake(rank: u64, size: u64) -> Result<Self> {
        let mut out = null_mut();
        // SAFETY: `out` is a valid place for one pointer.
        check(unsafe { ffi::mtl_group_fake(rank as c_int, size as c_int, &mut out) })?;
        Ok(Self(out))
    }

    /// Reduces a tensor over all processes, in place.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<()> {
        // SAFETY: group and tensor are alive for the call.
        check(unsafe { ffi::mtl_all_reduce(self.0, ptr(tensor), reduction as c_int) })
    }

    /// Starts to reduce a tensor; it is not to be touched before the work has been awaited.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn start_all_reduce(&self, tensor: Tensor, reduction: Reduction) -> Result<Work> {
        let mut out = null_mut();
        // SAFETY: group and tensor are alive for the call; c10d keeps the tensor's memory while it works.
        check(unsafe { ffi::mtl_all_reduce_start(self.0, ptr(&tensor), reduction as c_int, &mut out) })?;
        Ok(Work { handle: out, tensor })
    }

    /// The tensors of all processes, one after the other along the first dimension, without gradients.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        // SAFETY: group and tensor are alive for the call.
        one(|out| unsafe { ffi::mtl_all_gather(self.0, ptr(tensor), out) })
    }

    /// Gives what process `root` holds to all, in place.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn broadcast(&self, tensors: &[&Tensor], root: u64) -> Result<()> {
        let list = raw(tensors);
        // SAFETY: group and tensors are alive for the call.
        check(unsafe { ffi::mtl_broadcast(self.0, list.as_ptr(), list.len() as i64, root as c_int) })
    }

    /// The rows of all processes `[size * n, …]`, with gradients: that of the own rows `[n, …]` is the sum of what every
    /// process finds for them. The group has to outlive the backward pass.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn gather_rows(&'static self, tensor: &Tensor) -> Result<Tensor> {
        // SAFETY: the tensor is alive for the call, and the group for the whole program.
        one(|out| unsafe { ffi::mtl_gather_rows(self.0, ptr(tensor), out) })
    }

    /// Batch normalisation of `[batch, channels, …]` in training mode, with the statistics of all processes.
    ///
    /// # Errors
    /// If a process is gone, or an operation fails.
    pub fn batch_norm(
        &'static self,
        x: &Tensor,
        [weight, bias, running_mean, running_var]: [&Tensor; 4],
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor> {
        let [weight, bias, mean, var] = [weight, bias, running_mean, running_var].map(ptr);
        // SAFETY: the tensors are alive for the call, and the group for the whole program.
        one(|out| unsafe { ffi::mtl_sync_batch_norm(self.0, ptr(x), weight, bias, mean, var, momentum, eps, out) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and dropped once.
        unsafe { ffi::mtl_group_free(self.0) }
    }
}

fn ptr(tensor: &Tensor) -> Raw {
    tensor.as_ptr().cast_mut()
}

/// The sum of cross-entropies over samples that are `known`, divided by a number.
///
/// `logits` are `[batch, columns]` of some classes, and `column` `[batch]` is where the true class of a sample stands, or
/// negative where it is not among them. With a group, they are of the samples of all processes, and each process has
/// columns of its own; every process gets the loss of the whole. Its gradients are right if they are summed over processes after each has divided the loss by their number.
///
/// # Errors
/// If a process is gone, or an operation fails.
pub fn class_cross_entropy(
    logits: &Tensor,
    column: &Tensor,
    known: &Tensor,
    divisor: &Tensor,
    group: Option<&'static Group>,
) -> Result<Tensor> {
    let group = group.map_or(null_mut(), |group| group.0);
    // SAFETY: the tensors are alive for the call, and the group for the whole program.
    one(|out| unsafe { ffi::mtl_class_cross_entropy(group, ptr(logits), ptr(column), ptr(known), ptr(divisor), out) })
}

/// A collective under way.
#[derive(Debug)]
pub struct Work {
    handle: Handle,
    tensor: Tensor,
}

impl Work {
    /// Waits for its end; gives the tensor.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn wait(&self) -> Result<&Tensor> {
        // SAFETY: the handle is alive.
        check(unsafe { ffi::mtl_work_wait(self.handle) })?;
        Ok(&self.tensor)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and dropped once.
        unsafe { ffi::mtl_work_free(self.handle) }
    }
}

/// The gradients of parameters, summed over processes in buckets of fixed content and order while the backward pass goes
/// on.
#[derive(Debug)]
pub struct Buckets(Handle);

impl Buckets {
    /// For the parameters of one phase, in the order of their making.
    ///
    /// # Errors
    /// If there is no memory for the buckets.
    pub fn new(group: &Group, params: &[&Tensor]) -> Result<Self> {
        let (list, mut out) = (raw(params), null_mut());
        // SAFETY: the tensors are alive for the call, and kept by the buckets, as is the group.
        check(unsafe { ffi::mtl_buckets_new(group.0, list.as_ptr(), list.len() as i64, &mut out) })?;
        Ok(Self(out))
    }

    /// Runs the backward pass that completes the gradients of the step, which are those of all processes afterwards.
    ///
    /// Gives the index of a parameter that this pass has reached though no process reached it in the first one, if there
    /// is one: the processes could not agree on it.
    ///
    /// # Errors
    /// That of the pass, or if a process is gone.
    pub fn summing(&self, pass: impl FnOnce() -> Result<()>) -> Result<Option<usize>> {
        // SAFETY: the buckets are alive.
        let armed = check(unsafe { ffi::mtl_buckets_arm(self.0) });
        if let Err(error) = armed.and_then(|()| pass()) {
            // SAFETY: the buckets are alive.
            unsafe { ffi::mtl_buckets_disarm(self.0) };
            return Err(error);
        }
        let mut unexpected = -1;
        // SAFETY: the buckets are alive, and the place is valid.
        check(unsafe { ffi::mtl_buckets_finish(self.0, &mut unexpected) })?;
        Ok(usize::try_from(unexpected).ok())
    }

    /// When the sum of each bucket was started in the last pass, and when it was there. The first call only lets the
    /// passes after it be timed. With NCCL the second is when the sum was queued.
    pub fn times(&self) -> Vec<(Instant, Instant)> {
        let mut out = vec![0.0; 2 * self.bytes().len()];
        // SAFETY: the buckets are alive, and there is room for a pair of each.
        let count = unsafe { ffi::mtl_buckets_times(self.0, out.as_mut_ptr(), (out.len() / 2) as i64) };
        let now = Instant::now();
        let ago =
            |seconds: f64| now.checked_sub(Duration::try_from_secs_f64(seconds).unwrap_or_default()).unwrap_or(now);
        out.chunks(2).take(usize::try_from(count).unwrap_or(0)).map(|pair| (ago(pair[0]), ago(pair[1]))).collect()
    }

    /// The bytes of each bucket, in the order in which they are sent.
    pub fn bytes(&self) -> Vec<u64> {
        // SAFETY: the buckets are alive; nothing is written.
        let count = unsafe { ffi::mtl_buckets_bytes(self.0, null_mut(), 0) };
        let mut out = vec![0i64; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for all of them.
        unsafe { ffi::mtl_buckets_bytes(self.0, out.as_mut_ptr(), count) };
        out.into_iter().map(|n| n as u64).collect()
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        // SAFETY: made by the shim, and dropped once.
        unsafe { ffi::mtl_buckets_free(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, PoisonError};
    use tch::{Device, Kind};

    const SOON: Duration = Duration::from_secs(30);

    /// Runs a closure as each of so many processes, in threads. One such world at a time: libtorch expects one in a process.
    fn ranks<T: Send>(size: u64, run: impl Fn(&'static Group, u64) -> T + Sync) -> Vec<T> {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let store = Arc::new(Store::local().unwrap());
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = (0..size)
                .map(|rank| {
                    let store = store.clone();
                    scope.spawn(move || {
                        let group = Group::gloo(&store, (rank, size), None, "127.0.0.1", SOON).unwrap();
                        run(Box::leak(Box::new(group)), rank)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Numbers between -1 and 1. Nothing is drawn: other tests draw from libtorch's generator at the same time.
    fn wave(size: &[i64], at: f64) -> Tensor {
        let count = size.iter().product::<i64>();
        ((Tensor::arange(count, (Kind::Double, Device::Cpu)) + at).square() * 0.37).sin().view(size)
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn collectives_of_two_processes() {
        let found = ranks(2, |group, rank| {
            let value = Tensor::from_slice(&[rank as i64 + 1, 5]);
            let (sum, max) = (value.copy(), value.copy());
            group.all_reduce(&sum, Reduction::Sum).unwrap();
            let work = group.start_all_reduce(max, Reduction::Max).unwrap();
            let all = group.all_gather(&value.view([1, 2])).unwrap();
            group.broadcast(&[&value], 1).unwrap();
            [sum, work.wait().unwrap().copy(), all.view([4]), value].map(|t| Vec::<i64>::try_from(t).unwrap())
        });
        for found in found {
            assert_eq!(found, [vec![3, 10], vec![2, 5], vec![1, 5, 2, 5], vec![2, 5]]);
        }
    }

    #[test]
    fn a_store_keeps_values_and_counts() {
        let (store, port) = Store::serve("127.0.0.1", 0, SOON).unwrap();
        let store = store.under("a").unwrap();
        let other = Store::connect("127.0.0.1", port, SOON).unwrap().under("a").unwrap();
        assert_eq!(other.get("key").unwrap(), None);
        // What one sets, others see a moment later.
        store.set("key", "two\nlines").unwrap();
        let value = std::iter::repeat_with(|| other.get("key").unwrap()).find_map(|value| value);
        assert_eq!(value.as_deref(), Some("two\nlines"));
        assert_eq!((store.add("count", 2).unwrap(), other.add("count", 3).unwrap()), (2, 5));
        let gone = Store::connect("127.0.0.1", 1, Duration::from_millis(1)).unwrap_err();
        assert!(gone.to_string().contains('1'), "{gone}");
    }

    #[test]
    fn batch_norm_over_processes_is_that_of_the_whole_batch() {
        let inputs = || (wave(&[12, 3, 4, 4], 0.0) * 3.0 + 50.0, wave(&[12, 3, 4, 4], 7.0));
        let (x, seen) = inputs();
        let params = || [wave(&[3], 1.0), wave(&[3], 2.0)].map(|t| t.set_requires_grad(true));
        let running =
            || [Tensor::zeros([3], (Kind::Double, Device::Cpu)), Tensor::ones([3], (Kind::Double, Device::Cpu))];
        let (whole, [w, b], [mean, var]) = (x.copy().set_requires_grad(true), params(), running());
        let y = whole.batch_norm(Some(&w), Some(&b), Some(&mean), Some(&var), true, 0.1, 1e-5, false);
        (&y * &seen).sum(Kind::Double).backward();
        for size in [2, 3] {
            let found = ranks(size, |group, rank| {
                let (n, (x, seen)) = (12 / size as i64, inputs());
                let part = |t: &Tensor| t.narrow(0, rank as i64 * n, n);
                let x = crate::channels_last(&part(&x)).unwrap().set_requires_grad(true);
                let ([w, b], [mean, var]) = (params(), running());
                let y = group.batch_norm(&x, [&w, &b, &mean, &var], 0.1, 1e-5).unwrap();
                (&y * part(&seen)).sum(Kind::Double).backward();
                [y.detach(), x.grad(), w.grad(), b.grad(), mean, var]
            });
            let all = |i: usize| Tensor::cat(&found.iter().map(|f| f[i].shallow_clone()).collect::<Vec<_>>(), 0);
            let sum = |i: usize| all(i).view([size as i64, 3]).sum_dim_intlist(0i64, false, Kind::Double);
            // Rounding of sums over 192 values of about 50.
            assert!(apart(&all(0), &y.detach()) < 1e-12);
            assert!(apart(&all(1), &whole.grad()) < 1e-12);
            assert!(apart(&sum(2), &w.grad()) < 1e-12);
            assert!(apart(&sum(3), &b.grad()) < 1e-12);
            for found in &found {
                assert!(apart(&found[4], &mean) < 1e-12 && apart(&found[5], &var) < 1e-12);
            }
        }
    }

    /// Eleven classes do not divide evenly, and two labels are not known.
    #[test]
    fn cross_entropy_over_cut_classes_is_that_of_all() {
        let inputs = || (wave(&[12, 5], 0.0), Tensor::from_slice(&[3i64, 0, 10, -1, 5, 5, 9, -1, 2, 8, 7, 1]));
        let leaves = || [wave(&[11, 5], 3.0) * 4.0, wave(&[5, 5], 5.0)].map(|t| t.set_requires_grad(true));
        let (input, label) = inputs();
        let [w, before] = leaves();
        let logits = input.matmul(&before).tanh().matmul(&w.transpose(0, 1));
        let known = label.ge(0).sum(Kind::Double);
        let sum = logits.cross_entropy_loss::<&Tensor>(&label, None, tch::Reduction::Sum, -1, 0.0);
        let loss = sum / known;
        loss.backward();
        for size in [1u64, 2, 3] {
            let found = ranks(size, |group, rank| {
                let ((input, label), group) = (inputs(), (size > 1).then_some(group));
                let (n, each) = (12 / size as i64, (11 + size as i64 - 1) / size as i64);
                let first = rank as i64 * each;
                let part = |t: &Tensor| t.narrow(0, rank as i64 * n, n);
                let [w, before] = leaves();
                let own = w.narrow(0, first, each.min(11 - first));
                let (mut e, mut labels) = (part(&input).matmul(&before).tanh(), part(&label));
                if let Some(group) = group {
                    (e, labels) = (group.gather_rows(&e).unwrap(), group.all_gather(&labels).unwrap());
                }
                let logits = e.matmul(&own.transpose(0, 1));
                let (known, local) = (labels.ge(0), &labels - first);
                let here = local.ge(0).logical_and(&local.lt(logits.size()[1])).logical_and(&known);
                let column = local.where_self(&here, &Tensor::from(-1i64));
                let count = known.sum(Kind::Double);
                let loss = class_cross_entropy(&logits, &column, &known, &count, group).unwrap();
                (&loss / size as f64).backward();
                [loss.detach(), w.grad(), before.grad()]
            });
            let sum = |i: usize| found.iter().map(|f| f[i].shallow_clone()).reduce(|a, b| a + b).unwrap();
            for found in &found {
                assert!(apart(&found[0], &loss.detach()) < 1e-13, "{size}");
            }
            // Each process has the gradient of its rows, and zeros for the others.
            assert!(apart(&sum(1), &w.grad()) < 1e-13, "{size}");
            assert!(apart(&sum(2), &before.grad()) < 1e-13, "{size}");
        }
    }

    /// A parameter that nothing reaches, one in two phases, and gradients of an earlier batch of the step.
    #[test]
    fn buckets_sum_the_gradients_of_all_processes() {
        let shapes: [&[i64]; 4] = [&[4, 5], &[5], &[300, 2000], &[3]];
        let found = ranks(3, |group, rank| {
            let params = shapes.map(|size| wave(size, 1.0).set_requires_grad(true));
            let [a, b, large, unused] = &params;
            let all = Buckets::new(group, &[a, b, large, unused]).unwrap();
            let some = Buckets::new(group, &[b]).unwrap();
            let loss = |at: f64| {
                (wave(&[2, 4], at + rank as f64).matmul(a) + b).square().sum(Kind::Double) + large.sum(Kind::Double)
            };
            let mut grads = Vec::new();
            for step in 0..3 {
                let leaves: Vec<&Tensor> = params.iter().collect();
                crate::backward(&loss(step as f64), &leaves, false).unwrap();
                let pass = || crate::backward(&loss(step as f64 + 0.5), &leaves, false);
                assert_eq!(all.summing(pass).unwrap(), None);
                grads.push(
                    params.each_ref().map(|p| crate::take_grad(p).unwrap()).map(|g| g.defined().then(|| g.copy())),
                );
            }
            let pass = || crate::backward(&loss(9.0), &[b], false);
            assert_eq!(some.summing(pass).unwrap(), None);
            let alone = crate::take_grad(b).unwrap();
            (grads, alone.copy(), all.bytes())
        });
        let alone = |at: f64, only_b: bool| {
            let params = shapes.map(|size| wave(size, 1.0).set_requires_grad(true));
            let [a, b, large, _] = &params;
            for rank in 0..3 {
                let one = |at: f64| {
                    (wave(&[2, 4], at + rank as f64).matmul(a) + b).square().sum(Kind::Double) + large.sum(Kind::Double)
                };
                one(at).backward();
                if !only_b {
                    one(at + 0.5).backward();
                }
            }
            params.map(|p| p.grad())
        };
        for (grads, b, bytes) in &found {
            for (step, grads) in grads.iter().enumerate() {
                for (found, wanted) in grads.iter().zip(&alone(step as f64, false)[..3]) {
                    assert!(apart(found.as_ref().unwrap(), wanted) < 1e-12);
                }
                assert!(grads[3].is_none(), "nothing reaches it in any process");
            }
            assert!(apart(b, &alone(9.0, true)[1]) < 1e-12);
            // From the last made to the first: the matrix of 4.8 MB fills the first bucket.
            assert_eq!(*bytes, [8 * (3 + 600_000), 8 * 25]);
        }
    }
}
