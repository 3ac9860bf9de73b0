//! Loading in parallel threads, in an order that does not depend on them.

use super::draw::{Draw, hash_words};
use super::{Dataset, Field, Layout, SampleOut, Sampler};
use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tch::{Kind, Tensor};

/// Which samples make up which batch: a pure function of the batch's number.
pub struct Plan {
    /// The data.
    pub data: Arc<dyn Dataset>,
    sampler: Box<dyn Sampler>,
    parts: Vec<f64>,
    batch_size: usize,
    seed: u64,
    world: u64,
    rank: u64,
}

impl Plan {
    /// The plan of one process out of `world`.
    pub fn new(
        data: Arc<dyn Dataset>,
        sampler: Box<dyn Sampler>,
        batch_size: usize,
        seed: u64,
        (rank, world): (u64, u64),
    ) -> Self {
        let parts: Vec<f64> = data.parts().into_iter().map(|(_, share)| share).collect();
        let total: f64 = parts.iter().sum();
        let parts = parts.into_iter().map(|s| s / total).collect();
        Self { data, sampler, parts, batch_size, seed, world, rank }
    }

    /// The samples of a batch: indices, and the position in the stream that seeds their draws.
    pub fn batch(&self, number: u64) -> Vec<(usize, u64)> {
        let global = self.batch_size as u64 * self.world;
        (0..self.batch_size as u64)
            .map(|slot| {
                let slot = slot * self.world + self.rank;
                let position = number * global + slot;
                let (part, within) = self.part(position);
                (self.sampler.index(part, within, global), position)
            })
            .collect()
    }

    /// The part that a position of the whole stream belongs to, and the position in that part's own stream.
    ///
    /// A part of share s has had floor(x s) of the first x positions; the others are shared out among the remaining
    /// parts in the same way. So the shares hold over all batches together, and every part is used without gaps.
    fn part(&self, position: u64) -> (usize, u64) {
        let (mut position, mut left) = (position, 1.0);
        for (i, share) in self.parts.iter().enumerate() {
            if i + 1 == self.parts.len() {
                return (i, position);
            }
            let share = (share / left).min(1.0);
            let before = |x: u64| (x as f64 * share).floor() as u64;
            if before(position + 1) > before(position) {
                return (i, before(position));
            }
            position -= before(position);
            left -= self.parts[i];
        }
        (0, position)
    }

    /// Loads a batch.
    pub fn load(&self, number: u64) -> Result<Batch> {
        let samples = self.batch(number);
        load_samples(&*self.data, &samples, self.seed)
    }
}

/// Loads the given samples, each an index and a position, into one batch.
pub fn load_samples(data: &dyn Dataset, samples: &[(usize, u64)], seed: u64) -> Result<Batch> {
    let fields = data.fields();
    let n = samples.len();
    let size = |f: &Field| f.shape.iter().product::<i64>() as usize;
    let mut floats: Vec<Vec<f32>> = Vec::new();
    let mut ints: Vec<Vec<i64>> = Vec::new();
    let mut at = Vec::new();
    for field in &fields {
        if field.layout == Layout::Int {
            at.push(ints.len());
            ints.push(vec![0; n * size(field)]);
        } else {
            at.push(floats.len());
            floats.push(vec![0.0; n * size(field)]);
        }
    }
    let mut skipped = 0;
    {
        let mut float_parts: Vec<_> = floats.iter_mut().map(|v| chunks(v, n)).collect();
        let mut int_parts: Vec<_> = ints.iter_mut().map(|v| chunks(v, n)).collect();
        for (index, position) in samples {
            let mut out = SampleOut {
                floats: float_parts.iter_mut().map(|p| p.next().unwrap_or_default()).collect(),
                ints: int_parts.iter_mut().map(|p| p.next().unwrap_or_default()).collect(),
                at: at.clone(),
                skipped: 0,
            };
            let mut draw = Draw::new(&[seed, *position]);
            data.sample(*index, &mut draw, &mut out)?;
            skipped += out.skipped;
        }
    }
    let mut tensors = Vec::with_capacity(fields.len());
    for (field, at) in fields.iter().zip(&at) {
        let mut shape = vec![n as i64];
        shape.extend(&field.shape);
        tensors.push(match field.layout {
            Layout::Int => Tensor::f_from_slice(&ints[*at])?.f_view(shape.as_slice())?,
            Layout::Float => Tensor::f_from_slice(&floats[*at])?.f_view(shape.as_slice())?,
            Layout::Image => {
                let [c, h, w] = field.shape[..] else { bail!("an image field has 3 sizes, found {:?}", field.shape) };
                Tensor::f_from_slice(&floats[*at])?.f_view([n as i64, h, w, c])?.f_permute([0, 3, 1, 2])?
            }
        });
    }
    Ok(Batch { tensors, skipped })
}

fn chunks<T>(v: &mut [T], n: usize) -> std::slice::ChunksExactMut<'_, T> {
    let size = (v.len() / n.max(1)).max(1);
    v.chunks_exact_mut(size)
}

/// The tensors of one batch in the order of the dataset's ports, on the CPU.
#[derive(Debug)]
pub struct Batch {
    /// One tensor a field.
    pub tensors: Vec<Tensor>,
    /// Samples that were passed over since they could not be read.
    pub skipped: u64,
}

impl Batch {
    /// The batch in other precision and on another device.
    pub fn to(self, kind: Kind, device: tch::Device) -> Result<Self> {
        let tensors = self
            .tensors
            .into_iter()
            .map(|t| {
                let t = if t.kind() == Kind::Float { t.f_to_kind(kind)? } else { t };
                Ok(t.f_to_device(device)?)
            })
            .collect::<Result<_>>()?;
        Ok(Self { tensors, skipped: self.skipped })
    }
}

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
    /// Starts `workers` threads at batch `first`, at most `prefetch` batches ahead.
    pub fn start(plan: Arc<Plan>, workers: usize, prefetch: usize, first: u64) -> Result<Self> {
        let (jobs, work) = unbounded::<u64>();
        let (done, results) = bounded(prefetch.max(1) + workers);
        let mut threads = Vec::new();
        let stopped = Arc::new(AtomicBool::new(false));
        for i in 0..workers.max(1) {
            let (plan, work, done, stopped) = (plan.clone(), work.clone(), done.clone(), stopped.clone());
            let thread = std::thread::Builder::new().name(format!("loader-{i}")).spawn(move || {
                let _ = mtl_torch::stay_serial();
                for number in work {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let batch = catch_unwind(AssertUnwindSafe(|| plan.load(number)))
                        .unwrap_or_else(|panic| Err(anyhow!("the loader panicked: {}", panic_text(&*panic))));
                    if done.send((number, batch)).is_err() {
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
        while self.asked < self.next + self.prefetch {
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

/// What a caught panic says.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// The seed of a data stream.
pub fn stream_seed(seed: u64, name: &str) -> u64 {
    let words: Vec<u64> = std::iter::once(seed).chain(name.bytes().map(u64::from)).collect();
    hash_words(&words)
}
