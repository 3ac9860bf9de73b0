//! How far a sweep is, from what its runs have logged.

use crate::messages;
use crate::progress::{bar_of, clock};
use mtl_engine::runs::RunFolder;
use serde_json::Value;
use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the runs are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often a line tells of it where there is no terminal.
const TELL: Duration = Duration::from_secs(60);
/// How much of the end of the metrics is looked at.
const LOOKED_AT: u64 = 1 << 16;

/// The points of a sweep and their lengths.
pub(super) struct Watch {
    /// Folder, name, steps, and whether it was finished before.
    pub points: Vec<(PathBuf, String, u64, bool)>,
    /// What has become of them.
    pub course: Mutex<Course>,
    /// Set when the sweep is over.
    pub over: AtomicBool,
}

/// The points that train at present and those that have ended, each with the step at which it was started.
#[derive(Default)]
pub(super) struct Course {
    training: Vec<(usize, u64)>,
    ended: Vec<(usize, u64)>,
}

impl Watch {
    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A point is about to train.
    pub(super) fn starts(&self, point: usize) {
        let from = last_step(&self.points[point].0);
        self.course().training.push((point, from));
    }

    /// A point has ended.
    pub(super) fn ends(&self, point: usize) {
        let mut course = self.course();
        if let Some(at) = course.training.iter().position(|(training, _)| *training == point) {
            let ended = course.training.remove(at);
            course.ended.push(ended);
        }
    }

    /// Shows how far the sweep is until it is over: a bar on a terminal, elsewhere a line each minute.
    pub(super) fn show(&self) {
        let all: u64 = self.points.iter().filter(|(_, _, _, kept)| !kept).map(|(_, _, steps, _)| steps).sum();
        let bar = std::io::stderr().is_terminal().then(|| bar_of(all, "{bar:24} {pos}/{len} steps  {wide_msg}"));
        messages::set_bar(bar.clone());
        let (started, mut told) = (Instant::now(), Instant::now());
        while !self.over.load(Ordering::Relaxed) {
            let (done, trained, at) = self.done();
            let rate = trained as f64 / started.elapsed().as_secs_f64().max(1e-9);
            let left = (trained > 0).then(|| all.saturating_sub(done) as f64 / rate);
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

    /// The steps that are done, those of them that this sweep has trained, and where the runs that train are, in words.
    fn done(&self) -> (u64, u64, String) {
        let course = self.course();
        let (mut done, mut trained) = (0, 0);
        for (point, from) in &course.ended {
            let steps = self.points[*point].2;
            done += steps;
            trained += steps.saturating_sub(*from);
        }
        let mut words = Vec::new();
        for (point, from) in &course.training {
            let (folder, name, steps, _) = &self.points[*point];
            let step = last_step(folder).min(*steps);
            done += step;
            trained += step.saturating_sub(*from);
            words.push(format!("{name} {step}/{steps}"));
        }
        (done, trained, words.join("  "))
    }
}

/// The newest step that a run has logged.
fn last_step(folder: &PathBuf) -> u64 {
    let end = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(RunFolder::at(folder).metrics())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOOKED_AT)))?;
        let mut bytes = Vec::new();
        file.take(LOOKED_AT).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = end().unwrap_or_default();
    let lines = bytes.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let step = |line: &[u8]| serde_json::from_slice::<Value>(line).ok()?.get("step")?.as_u64();
    lines.take(2).find_map(step).unwrap_or(0)
}
