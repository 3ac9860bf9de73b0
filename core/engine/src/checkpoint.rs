//! Saved states: written whole or not at all, off the training thread, and checked when read.
//!
//! A checkpoint is a folder `step-N` with `weights.safetensors`, `optimizer.safetensors`, perhaps
//! `averages.safetensors`, `state.json`, and `manifest.json`. The manifest holds the size and SHA-256 of the other
//! files and is written last, in a folder of another name that is renamed when all of it is on the disk. So a
//! folder `step-N` is complete, whatever happens.

use crate::weights::{self, Tensors};
use crossbeam_channel::{Receiver, Sender, bounded};
use indexmap::IndexMap;
use mtl_recipe::files::{stream_durably, sync_folder, write_atomically};
use mtl_recipe::{Context, Error, Result, bail, mistake};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tch::Tensor;

/// The version of [`State`] that this program writes and resumes from.
pub const STATE_VERSION: u32 = 2;

/// What a run is apart from its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The version of this format; 0 in files from before it had one, which count batches.
    pub version: u32,
    /// Steps done.
    pub step: u64,
    /// Samples that all processes together have drawn from each data stream.
    pub samples: IndexMap<String, u64>,
    /// Samples that were skipped because they could not be read.
    pub skipped: u64,
    /// Sizes of the recipe, with those that the data decided.
    pub dims: IndexMap<String, i64>,
    /// The newest evaluation, as `evaluator.metric`.
    pub metrics: IndexMap<String, f64>,
}

impl Default for State {
    /// The state that an unversioned file starts from.
    fn default() -> Self {
        Self {
            version: 0,
            step: 0,
            samples: IndexMap::new(),
            skipped: 0,
            dims: IndexMap::new(),
            metrics: IndexMap::new(),
        }
    }
}

impl State {
    /// A run at its start.
    pub fn new(dims: IndexMap<String, i64>) -> Self {
        Self { version: STATE_VERSION, dims, ..Self::default() }
    }

    /// Checks that a run can be resumed from it.
    ///
    /// # Errors
    /// A mistake if another version of the program has written it.
    pub fn resumable(&self) -> Result<()> {
        match self.version {
            STATE_VERSION => Ok(()),
            0 => mistake!(
                "the checkpoint of step {} was saved by an earlier version of mtlrun, which drew class matrices and \
                 counted samples differently: it can be evaluated, but not resumed. Start a new run; its modules can \
                 start from these weights with weights = {{ run = \"…\" }}",
                self.step
            ),
            other => mistake!(
                "the checkpoint of step {} has a state of version {other}, and this version of mtlrun resumes version \
                 {STATE_VERSION}",
                self.step
            ),
        }
    }
}

/// Everything that a run needs to go on, as it was at one step.
pub struct Snapshot {
    /// The state.
    pub state: State,
    /// Parameters and buffers.
    pub weights: Vec<(String, Tensor)>,
    /// Optimizers and scalers.
    pub optimizer: Vec<(String, Tensor)>,
    /// Moving averages; may be empty.
    pub averages: Vec<(String, Tensor)>,
}

/// Copies tensors to the CPU, so that training may go on changing the originals.
pub fn copies<'t>(tensors: impl IntoIterator<Item = (String, &'t Tensor)>) -> Result<Vec<(String, Tensor)>> {
    let _guard = tch::no_grad_guard();
    tensors
        .into_iter()
        .map(|(name, t)| Ok((name, t.f_detach()?.f_to_device(tch::Device::Cpu)?.f_detach_copy()?)))
        .collect()
}

/// Hands on tensors without copying them, when nothing will change the originals any more.
pub fn shared<'t>(tensors: impl IntoIterator<Item = (String, &'t Tensor)>) -> Result<Vec<(String, Tensor)>> {
    tensors.into_iter().map(|(name, t)| Ok((name, t.f_detach()?))).collect()
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    step: u64,
    files: IndexMap<String, FileEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileEntry {
    bytes: u64,
    sha256: String,
}

/// A file of which length and digest are taken while it is written.
struct Tee<'a> {
    file: &'a mut dyn Write,
    digest: &'a mut Sha256,
    bytes: &'a mut u64,
}

impl Write for Tee<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.digest.update(&buffer[..written]);
        *self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Which checkpoints are kept.
#[derive(Debug, Clone)]
pub struct Retention {
    /// How many of the newest.
    pub last: usize,
    /// Those at multiples of this step; 0 for none.
    pub every: u64,
}

/// Writes one checkpoint into `folder` (the run's `checkpoints`).
pub fn write(folder: &Path, snapshot: &Snapshot) -> Result<PathBuf> {
    let step = snapshot.state.step;
    let target = folder.join(format!("step-{step}"));
    let temporary = folder.join(format!("step-{step}.tmp-{}", std::process::id()));
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let _ = fs::remove_dir_all(&temporary);
    let result = write_into(&temporary, snapshot).and_then(|()| {
        // Only a checkpoint of the same step can be in the way: a resumed run has come past it again.
        if target.exists() {
            discard(&target)?;
        }
        fs::rename(&temporary, &target).with_context(|| format!("renaming to {}", target.display()))?;
        sync_folder(folder)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    result.with_context(|| format!("saving the checkpoint {}", target.display()))?;
    Ok(target)
}

fn write_into(folder: &Path, snapshot: &Snapshot) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let mut manifest = Manifest { step: snapshot.state.step, files: IndexMap::new() };
    let mut put = |name: &str, content: &dyn Fn(&mut dyn Write) -> Result<()>| -> Result<()> {
        let (mut bytes, mut digest) = (0, Sha256::new());
        stream_durably(&folder.join(name), |file| content(&mut Tee { file, digest: &mut digest, bytes: &mut bytes }))?;
        manifest.files.insert(name.to_owned(), FileEntry { bytes, sha256: hex::encode(digest.finalize()) });
        Ok(())
    };
    put("weights.safetensors", &|file| weights::stream(&snapshot.weights, file))?;
    put("optimizer.safetensors", &|file| weights::stream(&snapshot.optimizer, file))?;
    if !snapshot.averages.is_empty() {
        put("averages.safetensors", &|file| weights::stream(&snapshot.averages, file))?;
    }
    put("state.json", &|file| Ok(serde_json::to_writer_pretty(file, &snapshot.state)?))?;
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    stream_durably(&folder.join("manifest.json"), |file| Ok(file.write_all(&manifest)?))?;
    sync_folder(folder)
}

/// A checkpoint that was read and found whole.
pub struct Saved {
    /// The state.
    pub state: State,
    /// Parameters and buffers.
    pub weights: Tensors,
    /// Optimizers and scalers.
    pub optimizer: Tensors,
    /// Moving averages; may be empty.
    pub averages: Tensors,
}

/// Reads a checkpoint and checks it against its manifest.
///
/// # Errors
/// A mistake that names the file and what was expected of it.
pub fn read(folder: &Path) -> Result<Saved> {
    let manifest_path = folder.join("manifest.json");
    let text = match fs::read(&manifest_path) {
        Ok(text) => text,
        Err(e) => {
            mistake!("{} is not a complete checkpoint: cannot read {}: {e}", folder.display(), manifest_path.display())
        }
    };
    let manifest: Manifest = match serde_json::from_slice(&text) {
        Ok(manifest) => manifest,
        Err(e) => mistake!("{} is not a complete checkpoint: its manifest is damaged: {e}", folder.display()),
    };
    let mut state = None;
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) => mistake!("the checkpoint {} lacks {name}: {e}", folder.display()),
        };
        if bytes.len() as u64 != entry.bytes {
            mistake!(
                "the checkpoint file {} is damaged: expected {} bytes, found {}. Remove the folder to use an older one",
                path.display(),
                entry.bytes,
                bytes.len()
            );
        }
        if hex::encode(Sha256::digest(&bytes)) != entry.sha256 {
            mistake!(
                "the checkpoint file {} is damaged: its SHA-256 is not that of its manifest. Remove the folder to use \
                 an older one",
                path.display()
            );
        }
        if name == "state.json" {
            state = Some(serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?);
        }
    }
    let tensors = |name: &str| {
        if manifest.files.contains_key(name) { weights::read(&folder.join(name)) } else { Ok(Tensors::new()) }
    };
    Ok(Saved {
        state: state.with_context(|| format!("{} has no state.json", folder.display()))?,
        weights: tensors("weights.safetensors")?,
        optimizer: tensors("optimizer.safetensors")?,
        averages: tensors("averages.safetensors")?,
    })
}

/// The checkpoints of a run by step, oldest first; folders that are not finished are not among them.
pub fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// The step that was best so far and by which number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Best {
    /// Its step.
    pub step: u64,
    /// The metric.
    pub metric: String,
    /// Its value.
    pub value: f64,
}

/// Reads which checkpoint is best.
pub fn best(folder: &Path) -> Option<Best> {
    serde_json::from_slice(&fs::read(folder.join("best.json")).ok()?).ok()
}

/// Removes a checkpoint under another name, so that no half of it is ever taken for a whole one.
fn discard(path: &Path) -> Result<()> {
    let aside = path.with_extension(format!("tmp-{}-old", std::process::id()));
    let _ = fs::remove_dir_all(&aside);
    fs::rename(path, &aside)
        .and_then(|()| fs::remove_dir_all(&aside))
        .with_context(|| format!("removing the checkpoint {}", path.display()))
}

/// Removes checkpoints that need not be kept, and what an interrupted save has left. Those after the step that was
/// just `written` do not count: they are of a run that went on from an older one since they were damaged.
fn tidy(folder: &Path, retention: &Retention, written: u64) -> Result<()> {
    let mut all = list(folder);
    all.retain(|(step, _)| *step <= written);
    let best = best(folder).map(|b| b.step);
    let newest = all.len().saturating_sub(retention.last.max(1));
    for (step, path) in &all[..newest] {
        let kept = Some(*step) == best || (retention.every > 0 && step.is_multiple_of(retention.every));
        if !kept {
            discard(path)?;
        }
    }
    let own = format!(".tmp-{}", std::process::id());
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("step-") && name.contains(".tmp-") && !name.ends_with(&own) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// A save to be done: the copy, and the metric by which it may be the best.
struct Job {
    snapshot: Snapshot,
    best: Option<Best>,
}

/// Writes checkpoints on a thread of its own.
pub struct Writer {
    jobs: Option<Sender<Job>>,
    done: Receiver<Result<u64>>,
    waiting: usize,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread; it writes into `folder`.
    pub fn start(folder: PathBuf, retention: Retention) -> Result<Self> {
        let (jobs, work) = bounded::<Job>(1);
        let (report, done) = bounded(64);
        let thread = std::thread::Builder::new().name("checkpoints".into()).spawn(move || {
            let _ = mtl_torch::disable_intra_op_threads();
            for job in work {
                let step = job.snapshot.state.step;
                let result = write(&folder, &job.snapshot).and_then(|_| {
                    if let Some(best) = &job.best {
                        write_atomically(&folder.join("best.json"), &serde_json::to_vec_pretty(best)?)?;
                    }
                    tidy(&folder, &retention, step)?;
                    Ok(step)
                });
                if report.send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, waiting: 0, thread: Some(thread) })
    }

    /// Hands over a copy; waits only if the save before last is not done yet.
    ///
    /// # Errors
    /// That of an earlier save.
    pub fn save(&mut self, snapshot: Snapshot, best: Option<Best>) -> Result<()> {
        self.check()?;
        let jobs = self.jobs.as_ref().context("the checkpoint writer has ended")?;
        jobs.send(Job { snapshot, best }).map_err(|_| Error::failure("the checkpoint writer has ended"))?;
        self.waiting += 1;
        Ok(())
    }

    /// Reports a save that failed.
    pub fn check(&mut self) -> Result<()> {
        while let Ok(result) = self.done.try_recv() {
            self.waiting -= 1;
            result?;
        }
        Ok(())
    }

    /// Waits for all saves.
    pub fn finish(&mut self) -> Result<()> {
        self.jobs = None;
        let mut first = Ok(());
        while self.waiting > 0 {
            let result = self.done.recv().context("the checkpoint writer ended early").and_then(|r| r);
            self.waiting -= 1;
            if let (Ok(()), Err(e)) = (&first, result.map(|_| ())) {
                first = Err(e);
            }
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            bail!("the checkpoint writer panicked");
        }
        first
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn snapshot(step: u64, value: f64) -> Snapshot {
        Snapshot {
            state: State { step, ..State::new(IndexMap::new()) },
            weights: vec![("m.w".into(), Tensor::full([3], value, (Kind::Float, Device::Cpu)))],
            optimizer: Vec::new(),
            averages: Vec::new(),
        }
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &snapshot(5, 2.5)).unwrap();
        let saved = read(&path).unwrap();
        assert_eq!(saved.state.step, 5);
        assert_eq!(saved.weights["m.w"].double_value(&[1]), 2.5);
    }

    #[test]
    fn a_state_without_a_version_is_read_and_not_resumed() {
        let old: State = serde_json::from_str("{\"step\": 7, \"batches\": {\"faces\": 7}}").unwrap();
        assert_eq!((old.step, old.version), (7, 0));
        let error = old.resumable().unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("an earlier version"), "{error}");
        assert!(State { version: 9, ..old }.resumable().unwrap_err().to_string().contains("version 9"));
        State::new(IndexMap::new()).resumable().unwrap();
    }

    #[test]
    fn a_cut_or_changed_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &snapshot(5, 2.5)).unwrap();
        let file = path.join("weights.safetensors");
        let good = fs::read(&file).unwrap();
        for bad in [good[..good.len() - 1].to_vec(), {
            let mut b = good.clone();
            *b.last_mut().unwrap() ^= 1;
            b
        }] {
            fs::write(&file, &bad).unwrap();
            let error = read(&path).err().unwrap();
            assert!(error.to_string().contains("weights.safetensors is damaged"), "{error}");
        }
    }

    #[test]
    fn the_newest_the_best_and_the_round_steps_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(dir.path().to_owned(), Retention { last: 2, every: 4 }).unwrap();
        for step in 1..=9 {
            let best = (step == 3).then(|| Best { step, metric: "a.b".into(), value: 1.0 });
            writer.save(snapshot(step, 0.0), best).unwrap();
        }
        writer.finish().unwrap();
        let kept: Vec<u64> = list(dir.path()).into_iter().map(|(s, _)| s).collect();
        assert_eq!(kept, [3, 4, 8, 9]);
    }

    #[test]
    fn a_damaged_newer_checkpoint_does_not_push_out_good_ones() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &snapshot(100, 1.0)).unwrap();
        let damaged = write(dir.path(), &snapshot(200, 1.0)).unwrap();
        fs::write(damaged.join("state.json"), "").unwrap();
        let mut writer = Writer::start(dir.path().to_owned(), Retention { last: 1, every: 0 }).unwrap();
        writer.save(snapshot(150, 1.5), None).unwrap();
        writer.finish().unwrap();
        assert_eq!(read(&dir.path().join("step-150")).unwrap().state.step, 150);
    }

    #[test]
    fn a_failed_save_is_reported_and_leaves_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &snapshot(1, 1.0)).unwrap();
        // A file where the temporary folder would be made stops the second save.
        let blocked = dir.path().join(format!("step-2.tmp-{}", std::process::id()));
        fs::write(&blocked, "in the way").unwrap();
        let mut writer = Writer::start(dir.path().to_owned(), Retention { last: 1, every: 0 }).unwrap();
        writer.save(snapshot(2, 2.0), None).unwrap();
        assert!(writer.finish().is_err());
        assert_eq!(read(&list(dir.path())[0].1).unwrap().state.step, 1);
    }
}
