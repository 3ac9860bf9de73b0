//! How far a sweep is, from what its runs have logged.

use crate::messages;
use crate::progress::{bar_of, clock};
use mtl_engine::runs::RunFolder;
use mtl_recipe::files::read_bounded;
use serde_json::Value;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the runs are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often a line tells of it where there is no terminal.
const TELL: Duration = Duration::from_secs(60);
/// The largest file of metrics that is looked at.
const MAX_BYTES: u64 = 1 << 30;

/// The points of a sweep and their lengths.
pub(super) struct Watch {
    /// Folder, name, steps, and whether it was finished before.
    pub points: Vec<(PathBuf, String, u64, bool)>,
    /// The points that train at present.
    pub training: Mutex<Vec<usize>>,
    /// Those that have ended.
    pub ended: Mutex<Vec<usize>>,
    /// Set when the sweep is over.
    pub over: AtomicBool,
}

impl Watch {
    /// Shows how far the sweep is until it is over: a bar on a terminal, elsewhere a line each minute.
    pub(super) fn show(&self) {
        let all: u64 = self.points.iter().filter(|(_, _, _, kept)| !kept).map(|(_, _, steps, _)| steps).sum();
        let bar = std::io::stderr().is_terminal().then(|| bar_of(all, "{bar:24} {pos}/{len} steps  {wide_msg}"));
        messages::set_bar(bar.clone());
        let (started, mut told) = (Instant::now(), Instant::now());
        let mut first = None;
        while !self.over.load(Ordering::Relaxed) {
            let (done, at) = self.done();
            let first = *first.get_or_insert(done);
            let share = (done - first) as f64 / (all - first).max(1) as f64;
            let left = (share > 0.0).then(|| started.elapsed().as_secs_f64() * (1.0 - share) / share);
            let left = left.map_or(String::new(), |s| format!("  eta {}", clock(Duration::from_secs_f64(s.min(1e9)))));
            match &bar {
                Some(bar) => {
                    bar.set_position(done);
                    bar.set_message(format!("{at}{left}"));
                }
                None if told.elapsed() >= TELL => {
                    told = Instant::now();
                    messages::line(&format!("{done}/{all} steps of all points  {at}{left}"));
                }
                None => {}
            }
            std::thread::sleep(LOOK);
        }
        messages::set_bar(None);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }

    /// The steps that are done, and where the runs that train are, in words.
    fn done(&self) -> (u64, String) {
        let points = |list: &Mutex<Vec<usize>>| list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (ended, training) = (points(&self.ended), points(&self.training));
        let mut done: u64 = ended.iter().map(|point| self.points[*point].2).sum();
        let mut words = Vec::new();
        for point in training {
            let (folder, name, steps, _) = &self.points[point];
            let step = last_step(folder).min(*steps);
            done += step;
            words.push(format!("{name} {step}/{steps}"));
        }
        (done, words.join("  "))
    }
}

/// The newest step that a run has logged.
fn last_step(folder: &PathBuf) -> u64 {
    let bytes = read_bounded(&RunFolder::at(folder).metrics(), MAX_BYTES).unwrap_or_default();
    let lines = bytes.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let step = |line: &[u8]| serde_json::from_slice::<Value>(line).ok()?.get("step")?.as_u64();
    lines.take(2).find_map(step).unwrap_or(0)
}
