//! Saved states: written whole or not at all, off the training thread, and checked when read.
//!
//! A checkpoint is a folder `step-N` with `weights.safetensors`, `optimizer.safetensors`, perhaps
//! `averages.safetensors`, `state.json`, and `manifest.json`. The manifest holds the size and SHA-256 of the other
//! files and is written last, in a folder of another name that is renamed when all of it is on the disk. So a
//! folder `step-N` is complete, whatever happens.
//!
//! Whether its weights are any good shows in the next step only. A finite loss there *proves* a checkpoint, which a file
//! `proven` in its folder says; a loss that is not finite makes it `unsound`.

use crate::weights::{self, Tensors};
use crossbeam_channel::{Receiver, Sender, bounded};
use indexmap::IndexMap;
use mtl_recipe::files::{read_bounded, stream_durably, sync_folder, temporary_folder, write_atomically};
use mtl_recipe::{Context, Error, Result, bail, guarded, mistake};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tch::{Device, Tensor};

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
    /// The newest evaluation, as `evaluator.metric`. What was measured and is no finite number is not kept.
    #[serde(deserialize_with = "finite")]
    pub metrics: IndexMap<String, f64>,
    /// The best step so far, by the metric that the recipe names.
    pub best: Option<Best>,
    /// Evaluators that were due at this step and could not measure.
    pub due: Vec<String>,
}

/// Numbers by name, without those that are null: JSON has no other way to write what is not finite.
fn finite<'de, D: Deserializer<'de>>(from: D) -> Result<IndexMap<String, f64>, D::Error> {
    let all = IndexMap::<String, Option<f64>>::deserialize(from)?;
    Ok(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
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
            best: None,
            due: Vec::new(),
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
    on_the_cpu(tensors, |t| Ok(t.f_detach_copy()?))
}

/// Hands on tensors without copying what is on the CPU already, when nothing will change the originals any more.
pub fn shared<'t>(tensors: impl IntoIterator<Item = (String, &'t Tensor)>) -> Result<Vec<(String, Tensor)>> {
    on_the_cpu(tensors, |t| Ok(t.f_detach()?))
}

/// Tensors on the CPU; those of a device are copied one after the other, and waited for once.
fn on_the_cpu<'t>(
    tensors: impl IntoIterator<Item = (String, &'t Tensor)>,
    of_the_cpu: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Vec<(String, Tensor)>> {
    let mut devices = BTreeSet::new();
    let mut taken = |(name, t): (String, &Tensor)| match t.device() {
        Device::Cuda(index) => {
            devices.insert(index);
            Ok((name, mtl_torch::copy_to(&t.f_detach()?, Device::Cpu)?))
        }
        _ => Ok((name, of_the_cpu(t)?)),
    };
    let out = tensors.into_iter().map(&mut taken).collect::<Result<_>>()?;
    for index in devices {
        tch::Cuda::synchronize(i64::try_from(index)?);
    }
    Ok(out)
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

/// Writes one checkpoint into `folder` (the run's `checkpoints`), and reads its state back.
pub fn write(folder: &Path, snapshot: &Snapshot) -> Result<PathBuf> {
    let target = folder.join(format!("step-{}", snapshot.state.step));
    let saving = || format!("saving the checkpoint {}", target.display());
    // Only in a run folder that is there: one that was moved away is not made again.
    match fs::create_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::from(e).context(format!("making the folder {}", folder.display())));
        }
        _ => {}
    }
    let temporary = temporary_folder(folder, &format!("step-{}.tmp-", snapshot.state.step)).with_context(saving)?;
    let result = write_into(&temporary, snapshot).and_then(|()| {
        // What cannot be read again replaces nothing.
        state(&temporary)?;
        // Only a checkpoint of the same step can be in the way: a resumed run has come past it again.
        if target.exists() {
            exchange(&temporary, &target)?;
            fs::remove_dir_all(&temporary).with_context(|| format!("removing {}", temporary.display()))?;
        } else {
            fs::rename(&temporary, &target).with_context(|| format!("renaming to {}", target.display()))?;
        }
        sync_folder(folder)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    result.with_context(saving)?;
    Ok(target)
}

/// Exchanges two folders in one step, so that at no moment one of the names is missing.
fn exchange(a: &Path, b: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // Some network file systems cannot.
    let aside = a.with_extension("tmp-old");
    fs::rename(b, &aside)
        .and_then(|()| fs::rename(a, b))
        .and_then(|()| fs::rename(&aside, a))
        .with_context(|| format!("renaming to {}", b.display()))
}

fn write_into(folder: &Path, snapshot: &Snapshot) -> Result<()> {
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
#[derive(Debug)]
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

/// The files of a checkpoint. Those of optimizers and averages may be absent: evaluation needs neither.
const FILES: [&str; 4] = ["weights.safetensors", "optimizer.safetensors", "averages.safetensors", "state.json"];
/// The largest manifest or state that is read.
const MAX_TEXT: u64 = 64 << 20;

fn manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join("manifest.json");
    let text = match read_bounded(&path, MAX_TEXT) {
        Ok(text) => text,
        Err(e) => mistake!("{} is not a complete checkpoint: cannot read {}: {e}", folder.display(), path.display()),
    };
    let manifest: Manifest = match serde_json::from_slice(&text) {
        Ok(manifest) => manifest,
        Err(e) => mistake!("{} is not a complete checkpoint: its manifest is damaged: {e}", folder.display()),
    };
    for name in manifest.files.keys() {
        let verdict = [Verdict::Proven, Verdict::Unsound].iter().any(|verdict| verdict.file() == name);
        if !FILES.contains(&name.as_str()) && !verdict {
            mistake!("the checkpoint {} is damaged: its manifest names {name:?}", folder.display());
        }
    }
    for name in ["weights.safetensors", "state.json"] {
        if !manifest.files.contains_key(name) {
            mistake!("the checkpoint {} is damaged: its manifest lacks {name}", folder.display());
        }
    }
    Ok(manifest)
}

/// The bytes of a file of a checkpoint, compared with its manifest.
fn content(folder: &Path, name: &str, entry: &FileEntry) -> Result<Vec<u8>> {
    let path = folder.join(name);
    let found = match fs::symlink_metadata(&path) {
        Ok(found) => found,
        Err(e) => mistake!("the checkpoint {} lacks {name}: {e}", folder.display()),
    };
    // The length is compared first: a file that has grown without end is not read.
    if !found.is_file() || found.len() != entry.bytes {
        mistake!(
            "the checkpoint file {} is damaged: expected {} bytes, found {}. Remove the folder to use an older one",
            path.display(),
            entry.bytes,
            if found.is_file() { found.len().to_string() } else { "no regular file".into() }
        );
    }
    let bytes = match read_bounded(&path, entry.bytes) {
        Ok(bytes) => bytes,
        Err(e) => mistake!("cannot read the checkpoint file {}: {e}", path.display()),
    };
    if bytes.len() as u64 != entry.bytes || hex::encode(Sha256::digest(&bytes)) != entry.sha256 {
        mistake!(
            "the checkpoint file {} is damaged: its SHA-256 is not that of its manifest. Remove the folder to use an \
             older one",
            path.display()
        );
    }
    Ok(bytes)
}

fn parse_state(folder: &Path, manifest: &Manifest, bytes: &[u8]) -> Result<State> {
    let state: State = match serde_json::from_slice(bytes) {
        Ok(state) => state,
        Err(e) => mistake!("the checkpoint {} is damaged: its state.json: {e}", folder.display()),
    };
    if state.step != manifest.step {
        mistake!(
            "the checkpoint {} is damaged: its manifest is of step {} and its state of step {}",
            folder.display(),
            manifest.step,
            state.step
        );
    }
    Ok(state)
}

/// The state of a checkpoint, without its tensors.
///
/// # Errors
/// A mistake that names the file and what was expected of it.
pub fn state(folder: &Path) -> Result<State> {
    let manifest = manifest(folder)?;
    let bytes = content(folder, "state.json", &manifest.files["state.json"])?;
    parse_state(folder, &manifest, &bytes)
}

/// Reads a checkpoint and checks it against its manifest.
///
/// # Errors
/// A mistake that names the file and what was expected of it.
pub fn read(folder: &Path) -> Result<Saved> {
    let manifest = manifest(folder)?;
    if step_of(folder).is_some_and(|step| step != manifest.step) {
        mistake!("the checkpoint {} is damaged: it holds step {}", folder.display(), manifest.step);
    }
    let bytes = content(folder, "state.json", &manifest.files["state.json"])?;
    let state = parse_state(folder, &manifest, &bytes)?;
    let tensors = |name: &str| match manifest.files.get(name) {
        Some(entry) => weights::parse(&content(folder, name, entry)?, &folder.join(name)),
        None => Ok(Tensors::new()),
    };
    Ok(Saved {
        state,
        weights: tensors("weights.safetensors")?,
        optimizer: tensors("optimizer.safetensors")?,
        averages: tensors("averages.safetensors")?,
    })
}

/// The step of a folder `step-N`.
fn step_of(folder: &Path) -> Option<u64> {
    let text = folder.file_name()?.to_str()?.strip_prefix("step-")?;
    text.parse().ok().filter(|step: &u64| step.to_string() == text)
}

/// The folder of the checkpoint of a step.
pub fn of_step(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step}"))
}

/// The checkpoints of a run by step, oldest first; folders that are not finished are not among them.
pub fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<(u64, PathBuf)> = entries.filter_map(|path| Some((step_of(&path)?, path))).collect();
    found.sort();
    found
}

/// What the step after a checkpoint has shown of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The next losses were finite.
    Proven,
    /// A loss was not finite before one was.
    Unsound,
}

impl Verdict {
    fn file(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Unsound => "unsound",
        }
    }
}

/// What is known of the checkpoint in that folder.
pub fn verdict(folder: &Path) -> Option<Verdict> {
    [Verdict::Unsound, Verdict::Proven].into_iter().find(|verdict| folder.join(verdict.file()).exists())
}

/// The newest checkpoint that is proven, of those up to a step.
pub fn newest_proven(folder: &Path, up_to: u64) -> Option<u64> {
    let all = list(folder);
    all.iter().rev().find(|(step, path)| *step <= up_to && verdict(path) == Some(Verdict::Proven)).map(|(s, _)| *s)
}

/// Takes the checkpoints after a step out of the way of a run that goes on from it; they are removed once the run
/// does.
///
/// # Errors
/// If one cannot be renamed.
pub fn set_aside(folder: &Path, after: u64) -> Result<Vec<u64>> {
    let mut moved = Vec::new();
    for (step, path) in list(folder).into_iter().filter(|(step, _)| *step > after) {
        fs::rename(&path, folder.join(format!("step-{step}.tmp-aside")))
            .with_context(|| format!("renaming the checkpoint {}", path.display()))?;
        moved.push(step);
    }
    if noted_best(folder).is_some_and(|best| best.step > after) {
        fs::remove_file(folder.join(BEST)).context("removing the note of a best checkpoint that is dropped")?;
    }
    Ok(moved)
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

/// Which checkpoint is best. The newest state says it; `best.json` is for readers, and for older states.
pub fn best(folder: &Path) -> Option<Best> {
    let newest = list(folder).pop().and_then(|(_, path)| state(&path).ok()?.best);
    newest.or_else(|| noted_best(folder))
}

/// What `best.json` says.
fn noted_best(folder: &Path) -> Option<Best> {
    serde_json::from_slice(&read_bounded(&folder.join(BEST), MAX_TEXT).ok()?).ok()
}

/// The file that names the best checkpoint.
const BEST: &str = "best.json";

/// Removes a checkpoint under another name, so that no half of it is ever taken for a whole one.
fn discard(path: &Path) -> Result<()> {
    let aside = path.with_extension("tmp-old");
    let _ = fs::remove_dir_all(&aside);
    fs::rename(path, &aside)
        .and_then(|()| fs::remove_dir_all(&aside))
        .with_context(|| format!("removing the checkpoint {}", path.display()))
}

/// Removes checkpoints that need not be kept, and what an interrupted save has left. Those after the step that was
/// just `written` do not count: they are of a run that went on from an older one since they were damaged.
fn tidy(folder: &Path, retention: &Retention, written: u64, best: Option<u64>) -> Result<()> {
    let mut all = list(folder);
    all.retain(|(step, _)| *step <= written);
    let proven = newest_proven(folder, written);
    let newest = all.len().saturating_sub(retention.last.max(1));
    for (step, path) in &all[..newest] {
        let kept =
            [best, proven].contains(&Some(*step)) || (retention.every > 0 && step.is_multiple_of(retention.every));
        if !kept {
            discard(path)?;
        }
    }
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("step-") && name.contains(".tmp-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Names the best checkpoint, and removes those that need not be kept.
fn settle(folder: &Path, retention: &Retention, step: u64, best: Option<&Best>) -> Result<()> {
    if let Some(best) = best {
        write_atomically(&folder.join(BEST), &serde_json::to_vec_pretty(best)?)?;
    }
    tidy(folder, retention, step, best.map(|b| b.step))
}

/// What the thread does, in order.
enum Job {
    Save(Box<Snapshot>),
    Settle(u64, Option<Best>),
    Judge(u64, Verdict),
}

impl Job {
    /// Does it; whether a checkpoint was saved.
    fn run(self, folder: &Path, retention: &Retention) -> Result<bool> {
        match self {
            Self::Save(snapshot) => {
                let step = snapshot.state.step;
                write(folder, &snapshot)?;
                settle(folder, retention, step, snapshot.state.best.as_ref())?;
                Ok(true)
            }
            Self::Settle(step, best) => {
                settle(folder, retention, step, best.as_ref())?;
                Ok(false)
            }
            Self::Judge(step, verdict) => {
                let folder = folder.join(format!("step-{step}"));
                // It may have been removed since.
                if folder.exists() {
                    write_atomically(&folder.join(verdict.file()), b"")?;
                }
                Ok(false)
            }
        }
    }
}

/// Writes checkpoints on a thread of its own.
pub struct Writer {
    jobs: Option<Sender<Job>>,
    /// How each job went, and whether it was a save.
    done: Receiver<Result<bool>>,
    waiting: usize,
    saved: bool,
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
                if report.send(guarded(|| job.run(&folder, &retention))).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, waiting: 0, saved: false, thread: Some(thread) })
    }

    /// Hands over a copy; waits only if the save before last is not done yet.
    ///
    /// # Errors
    /// That of an earlier save.
    pub fn save(&mut self, snapshot: Snapshot) -> Result<()> {
        self.hand_over(Job::Save(Box::new(snapshot)))
    }

    /// Does what a save of that step does after its checkpoint is there; it may have been interrupted.
    ///
    /// # Errors
    /// That of an earlier save.
    pub fn settle(&mut self, step: u64, best: Option<Best>) -> Result<()> {
        self.hand_over(Job::Settle(step, best))
    }

    /// Notes what the step after a checkpoint has shown of it.
    ///
    /// # Errors
    /// That of an earlier save.
    pub fn judge(&mut self, step: u64, verdict: Verdict) -> Result<()> {
        self.hand_over(Job::Judge(step, verdict))
    }

    fn hand_over(&mut self, job: Job) -> Result<()> {
        self.check()?;
        let jobs = self.jobs.as_ref().context("the checkpoint writer has ended")?;
        jobs.send(job).map_err(|_| Error::failure("the checkpoint writer has ended"))?;
        self.waiting += 1;
        Ok(())
    }

    /// Reports a save that failed.
    ///
    /// # Errors
    /// Why it failed.
    pub fn check(&mut self) -> Result<()> {
        while let Ok(result) = self.done.try_recv() {
            self.count(result)?;
        }
        Ok(())
    }

    /// Waits for all that was handed over.
    ///
    /// # Errors
    /// The first one, if something failed.
    pub fn wait(&mut self) -> Result<()> {
        let mut first = Ok(());
        while self.waiting > 0 {
            let Ok(result) = self.done.recv() else {
                self.waiting = 0;
                return first.and(Err(Error::failure("the checkpoint writer ended early")));
            };
            first = first.and(self.count(result));
        }
        first
    }

    fn count(&mut self, result: Result<bool>) -> Result<()> {
        self.waiting -= 1;
        self.saved |= result?;
        Ok(())
    }

    /// Whether a checkpoint is on the disk.
    pub fn has_saved(&self) -> bool {
        self.saved
    }

    /// Waits for all saves, and ends the thread.
    ///
    /// # Errors
    /// The first one, if a save failed.
    pub fn finish(&mut self) -> Result<()> {
        self.jobs = None;
        let first = self.wait();
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
            let mut snapshot = snapshot(step, 0.0);
            snapshot.state.best = (step >= 3).then(|| Best { step: 3, metric: "a.b".into(), value: 1.0 });
            writer.save(snapshot).unwrap();
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
        writer.save(snapshot(150, 1.5)).unwrap();
        writer.finish().unwrap();
        assert_eq!(read(&dir.path().join("step-150")).unwrap().state.step, 150);
    }

    #[test]
    fn a_failed_save_is_reported_and_leaves_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &snapshot(1, 1.0)).unwrap();
        // A file where the second save would go stops it.
        fs::write(dir.path().join("step-2"), "in the way").unwrap();
        let mut writer = Writer::start(dir.path().to_owned(), Retention { last: 1, every: 0 }).unwrap();
        writer.save(snapshot(2, 2.0)).unwrap();
        assert!(writer.finish().is_err());
        assert_eq!(read(&list(dir.path())[0].1).unwrap().state.step, 1);
    }

    #[test]
    fn the_newest_proven_checkpoint_is_kept_whatever_the_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(dir.path().to_owned(), Retention { last: 1, every: 0 }).unwrap();
        for step in 1..=5 {
            writer.save(snapshot(step, 0.0)).unwrap();
            if step < 4 {
                writer.judge(step, Verdict::Proven).unwrap();
            }
        }
        writer.judge(5, Verdict::Unsound).unwrap();
        writer.finish().unwrap();
        let kept: Vec<(u64, Option<Verdict>)> = list(dir.path()).iter().map(|(s, path)| (*s, verdict(path))).collect();
        assert_eq!(kept, [(3, Some(Verdict::Proven)), (5, Some(Verdict::Unsound))]);
        assert_eq!(newest_proven(dir.path(), 9), Some(3));
        assert_eq!(set_aside(dir.path(), 3).unwrap(), [5]);
        assert_eq!(list(dir.path()).len(), 1);
    }

    /// What is not finite never makes a checkpoint unreadable.
    #[test]
    fn a_state_with_numbers_that_are_not_finite_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = snapshot(1, f64::NAN);
        bad.state.metrics.insert("l.r2".into(), f64::NEG_INFINITY);
        bad.state.metrics.insert("l.accuracy".into(), 0.5);
        let path = write(dir.path(), &bad).unwrap();
        let back = state(&path).unwrap();
        assert_eq!(back.metrics.into_iter().collect::<Vec<_>>(), [("l.accuracy".to_owned(), 0.5)]);
        // A second save of the same step takes its place.
        let path = write(dir.path(), &snapshot(1, 3.0)).unwrap();
        assert_eq!(read(&path).unwrap().weights["m.w"].double_value(&[0]), 3.0);
    }

    #[test]
    fn a_checkpoint_that_is_not_what_it_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &snapshot(5, 2.5)).unwrap();
        let manifest = fs::read_to_string(path.join("manifest.json")).unwrap();
        let refused = |changed: &str, words: &str| {
            fs::write(path.join("manifest.json"), changed).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains(words), "{error}");
        };
        refused(&manifest.replace("weights.safetensors", "/etc/passwd"), "/etc/passwd");
        refused(&manifest.replace("weights.safetensors", "averages.safetensors"), "lacks weights.safetensors");
        refused(&manifest.replace("\"step\": 5", "\"step\": 6"), "holds step 6");
        fs::write(path.join("manifest.json"), manifest).unwrap();
        let moved = dir.path().join("step-7");
        fs::rename(&path, &moved).unwrap();
        assert!(read(&moved).unwrap_err().to_string().contains("holds step 5"));
        fs::rename(&moved, dir.path().join("step-+7")).unwrap();
        assert!(list(dir.path()).is_empty());
    }
}
