//! Loading in parallel threads, in an order that does not depend on them.

use super::batch::Batch;
use super::order::BatchOrder;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mtl_recipe::{Context, Result, bail, guarded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tch::Device;

/// Loads batches ahead in threads and hands them out in order.
pub struct Loader {
    jobs: Option<Sender<u64>>,
    results: Receiver<(u64, Result<Batch>)>,
    waiting: BTreeMap<u64, Result<Batch>>,
    next: u64,
    asked: u64,
    prefetch: u64,
    threads: Vec<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
}

impl Loader {
    /// Starts `workers` threads at batch `first`, at most `prefetch` batches ahead, for a device.
    pub fn start(order: Arc<BatchOrder>, workers: usize, prefetch: usize, first: u64, device: Device) -> Result<Self> {
        let (jobs, work) = unbounded::<u64>();
        let (done, results) = bounded(prefetch.max(1) + workers);
        let mut threads = Vec::new();
        let stopped = Arc::new(AtomicBool::new(false));
        for i in 0..workers.max(1) {
            let (order, work, done, stopped) = (order.clone(), work.clone(), done.clone(), stopped.clone());
            let thread = std::thread::Builder::new().name(format!("loader-{i}")).spawn(move || {
                let _ = mtl_torch::disable_intra_op_threads();
                if let Device::Cuda(index) = device {
                    let _ = mtl_torch::use_cuda(index);
                }
                for number in work {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    if done.send((number, guarded(|| order.load(number, device)?.pinned(device)))).is_err() {
                        return;
                    }
                }
            });
            threads.push(thread.context("starting a loader thread")?);
        }
        let mut loader = Self {
            jobs: Some(jobs),
            results,
            waiting: BTreeMap::new(),
            next: first,
            asked: first,
            prefetch: prefetch.max(1) as u64,
            threads,
            stopped,
        };
        loader.ask()?;
        Ok(loader)
    }

    fn ask(&mut self) -> Result<()> {
        let Some(jobs) = &self.jobs else { bail!("the loader has ended") };
        while self.asked - self.next < self.prefetch {
            jobs.send(self.asked).context("the loader's threads have ended")?;
            self.asked += 1;
        }
        Ok(())
    }

    /// The next batch in order; waits for it if need be.
    pub fn next_batch(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.waiting.remove(&self.next) {
                self.next += 1;
                self.ask()?;
                return batch;
            }
            let (number, batch) = self.results.recv().context("the loader's threads have ended")?;
            self.waiting.insert(number, batch);
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.jobs = None;
        // Threads may wait for room in the queue of results.
        while self.results.recv().is_ok() {}
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
