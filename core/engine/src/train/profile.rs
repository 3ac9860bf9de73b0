//! Where the time of some steps goes, as a Chrome trace (chrome://tracing, ui.perfetto.dev).

use mtl_recipe::files::write_atomically;
use mtl_recipe::{Context, Result};
use mtl_torch::Mark;
use serde_json::{Value, json};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tch::Device;

/// Steps that are left out at the start: in them libraries choose their kernels, and memory is taken.
const WARM_UP: u64 = 5;

/// A row of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// What the training thread does.
    Host = 0,
    /// What the device does meanwhile.
    Device = 1,
    /// Reductions of gradients over processes.
    Buckets = 2,
}

struct Span {
    lane: Lane,
    kind: &'static str,
    name: String,
    begun: Duration,
    took: Duration,
}

/// The beginning of a span.
pub(super) struct Begun {
    at: Instant,
    mark: Option<Mark>,
}

/// Spans of time of some steps of a run.
pub struct Profile {
    steps: Range<u64>,
    path: PathBuf,
    rank: u64,
    device: Device,
    origin: Instant,
    /// The moment of `origin` on the device.
    device_origin: Option<Mark>,
    spans: Vec<Span>,
    /// Spans of the device, whose times are known when it has come there.
    pending: Vec<(&'static str, String, Mark, Mark)>,
    recording: bool,
}

impl Profile {
    /// A profile of so many steps after some more, of a run that goes on from a step; its last step is the last at all.
    pub fn new(path: PathBuf, rank: u64, device: Device, (from, steps, last): (u64, u64, u64)) -> Self {
        let begin = (from + WARM_UP + 1).min(last.saturating_sub(steps - 1)).max(from + 1);
        Self {
            steps: begin..(begin + steps).min(last + 1),
            path,
            rank,
            device,
            origin: Instant::now(),
            device_origin: None,
            spans: Vec::new(),
            pending: Vec::new(),
            recording: false,
        }
    }

    /// Before a step, counted from 1.
    ///
    /// # Errors
    /// If the device cannot be asked.
    pub(super) fn enter(&mut self, step: u64) -> Result<()> {
        self.recording = self.steps.contains(&step);
        if self.recording && step == self.steps.start {
            self.origin = Instant::now();
            self.device_origin = self.mark()?;
        }
        Ok(())
    }

    fn mark(&self) -> Result<Option<Mark>> {
        match self.device {
            Device::Cuda(index) => Ok(Some(Mark::now(index)?)),
            _ => Ok(None),
        }
    }

    /// Begins a span, if steps are being recorded.
    pub(super) fn begin(&self) -> Result<Option<Begun>> {
        match self.recording {
            true => Ok(Some(Begun { at: Instant::now(), mark: self.mark()? })),
            false => Ok(None),
        }
    }

    /// Ends a span.
    pub(super) fn end(&mut self, begun: Begun, kind: &'static str, name: impl FnOnce() -> String) -> Result<()> {
        let name = name();
        if let (Some(start), Some(end)) = (begun.mark, self.mark()?) {
            self.pending.push((kind, name.clone(), start, end));
        }
        self.push(Lane::Host, kind, name, begun.at, begun.at.elapsed());
        Ok(())
    }

    /// A span whose times are known.
    pub(super) fn push(&mut self, lane: Lane, kind: &'static str, name: String, at: Instant, took: Duration) {
        if self.recording {
            let begun = at.saturating_duration_since(self.origin);
            self.spans.push(Span { lane, kind, name, begun, took });
        }
    }

    /// After a step: the last one writes the file, and gives its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn leave(&mut self, step: u64) -> Result<Option<PathBuf>> {
        self.recording = false;
        if step + 1 != self.steps.end {
            return Ok(None);
        }
        if let (Device::Cuda(index), Some(origin)) = (self.device, &self.device_origin) {
            tch::Cuda::synchronize(i64::try_from(index)?);
            for (kind, name, start, end) in std::mem::take(&mut self.pending) {
                let (begun, took) = (origin.until(&start)?, start.until(&end)?);
                self.spans.push(Span { lane: Lane::Device, kind, name, begun, took });
            }
        }
        let text = serde_json::to_vec(&self.trace())?;
        let wrote = write_atomically(&self.path, &text);
        wrote.with_context(|| format!("cannot write the profile {}", self.path.display()))?;
        Ok(Some(self.path.clone()))
    }

    fn trace(&self) -> Value {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let lanes = [(Lane::Host, "host"), (Lane::Device, "device"), (Lane::Buckets, "gradients between ranks")];
        let used = lanes.iter().filter(|(lane, _)| self.spans.iter().any(|span| span.lane == *lane));
        let names = used.map(|(lane, name)| {
            json!({ "ph": "M", "name": "thread_name", "pid": self.rank, "tid": *lane as u32, "args": { "name": name } })
        });
        let rank = format!("rank {}", self.rank);
        let process = json!({ "ph": "M", "name": "process_name", "pid": self.rank, "args": { "name": rank } });
        let spans = self.spans.iter().map(|span| {
            json!({
                "ph": "X",
                "name": span.name,
                "cat": span.kind,
                "pid": self.rank,
                "tid": span.lane as u32,
                "ts": micros(span.begun),
                "dur": micros(span.took),
            })
        });
        json!({ "displayTimeUnit": "ms", "traceEvents": std::iter::once(process).chain(names).chain(spans).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_after_the_start_are_taken_or_the_last_ones() {
        let steps = |run| Profile::new(PathBuf::new(), 0, Device::Cpu, run).steps;
        assert_eq!(steps((0, 3, 100)), 6..9);
        assert_eq!(steps((50, 3, 100)), 56..59);
        assert_eq!(steps((0, 3, 7)), 5..8);
        assert_eq!(steps((0, 5, 2)), 1..3);
    }

    #[test]
    fn spans_are_written_when_the_last_step_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let mut profile = Profile::new(path.clone(), 1, Device::Cpu, (0, 2, 2));
        for step in 1..=2 {
            profile.enter(step).unwrap();
            let begun = profile.begin().unwrap().unwrap();
            profile.end(begun, "node", || format!("embed {step}")).unwrap();
            assert_eq!(profile.leave(step).unwrap().is_some(), step == 2);
            assert!(profile.begin().unwrap().is_none());
        }
        let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let spans: Vec<&Value> = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!(spans.iter().map(|e| &e["name"]).collect::<Vec<_>>(), ["embed 1", "embed 2"]);
        assert!(spans[1]["ts"].as_f64() >= spans[0]["ts"].as_f64() && spans[0]["pid"] == 1);
    }
}
