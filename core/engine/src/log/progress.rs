//! Progress for people: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shows how far a run is.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    total: u64,
    first: u64,
    started: Instant,
}

impl Progress {
    /// For a run of `total` steps of which `done` are done. On a terminal a bar on stderr, else lines.
    pub fn new(total: u64, done: u64, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_position(done);
            if let Ok(style) =
                ProgressStyle::with_template("{bar:24} {pos}/{len} {per_sec:>10} eta {eta:>5}  {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.reset_eta();
            bar
        });
        Self { bar, quiet, total, first: done, started: Instant::now() }
    }

    /// A step is done.
    pub fn step(&self, step: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    /// Numbers to show beside the rate.
    pub fn numbers(&self, step: u64, numbers: &[(String, f64)]) {
        let text: Vec<String> = numbers.iter().map(|(n, v)| format!("{n} {}", short(*v))).collect();
        let text = text.join("  ");
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if !self.quiet => {
                let elapsed = self.started.elapsed().as_secs_f64();
                let rate = (step - self.first) as f64 / elapsed.max(1e-9);
                let left = Duration::from_secs_f64(((self.total - step) as f64 / rate.max(1e-9)).min(1e9));
                plain(&format!("step {step}/{}  {rate:.2} steps/s  eta {}  {text}", self.total, clock(left)));
            }
            None => {}
        }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if !self.quiet => plain(text),
            None => {}
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line on stderr. That nobody reads it any more is no reason to stop training.
fn plain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn short(v: f64) -> String {
    let a = v.abs();
    if v == 0.0 {
        "0".into()
    } else if !(1e-3..1e5).contains(&a) {
        format!("{v:.2e}")
    } else if a >= 100.0 {
        format!("{v:.1}")
    } else {
        format!("{v:.4}")
    }
}

fn clock(d: Duration) -> String {
    let s = d.as_secs();
    if s >= 3600 { format!("{}h{:02}m", s / 3600, s % 3600 / 60) } else { format!("{}m{:02}s", s / 60, s % 60) }
}
