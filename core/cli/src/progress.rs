//! Progress for people: a bar on a terminal, plain lines elsewhere.

use crate::messages::{self, line};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mtl_component::Result;
use mtl_engine::inference::Progress as Pictures;
use mtl_engine::runs::RunFolder;
use mtl_engine::train::{Ending, Event, Observer};
use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often a line tells the progress where there is no terminal.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Shows how many pictures a model has looked at: a bar on a terminal, elsewhere a line now and then.
pub fn pictures() -> Pictures {
    let bar: RefCell<Option<ProgressBar>> = RefCell::default();
    let told = Cell::new(Instant::now());
    Rc::new(move |done, all| {
        if std::io::stderr().is_terminal() {
            let mut bar = bar.borrow_mut();
            let shown = bar.get_or_insert_with(|| bar_of(all as u64, "{bar:24} {pos}/{len} pictures  eta {eta}"));
            messages::set_bar(Some(shown.clone()));
            shown.set_length(all as u64);
            shown.set_position(done as u64);
            if done == all {
                shown.finish_and_clear();
                messages::set_bar(None);
                *bar = None;
            }
        } else if told.get().elapsed() >= TOLD_EVERY {
            told.set(Instant::now());
            tracing::info!("{done} of {all} pictures");
        }
    })
}

pub(crate) fn bar_of(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Shows how far a run is.
#[derive(Default)]
pub struct Progress {
    run: Option<Run>,
}

/// The run that is shown.
struct Run {
    folder: RunFolder,
    bar: Option<ProgressBar>,
    total: u64,
    first: u64,
    started: Instant,
}

impl Observer for Progress {
    fn name(&self) -> String {
        "progress".into()
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Started { folder, step, until, .. } = *event {
            self.run = Some(Run::start(folder, step, until));
        }
        if let Some(run) = &self.run {
            run.on(event);
        }
        Ok(())
    }
}

impl Run {
    fn start(folder: &RunFolder, done: u64, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = bar_of(total, "{bar:24} {pos}/{len}  {wide_msg}");
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        messages::set_bar(bar.clone());
        line(&format!(
            "run folder {}   look at it: tensorboard --logdir {}",
            folder.path().display(),
            folder.tensorboard().display()
        ));
        Self { folder: folder.clone(), bar, total, first: done, started: Instant::now() }
    }

    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::Stepped { step, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(step);
                }
            }
            Event::Logged { step, numbers, .. } => self.numbers(step, numbers),
            Event::Evaluated { step, evaluator, report, .. } => {
                for (picture, _) in &report.pictures {
                    let path = self.folder.picture(evaluator, picture, step);
                    line(&format!("step {step}  {evaluator}: {}", path.display()));
                }
                if !report.metrics.is_empty() {
                    let value = |v: &f64| if v.is_finite() { format!("{v:.4}") } else { "not resolved".to_owned() };
                    let text: Vec<String> = report.metrics.iter().map(|(m, v)| format!("{m} {}", value(v))).collect();
                    line(&format!("step {step}  {evaluator}: {}", text.join("  ")));
                }
            }
            Event::Ended { step, ending } => self.end(step, ending),
            _ => {}
        }
    }

    /// The losses and learning rates, and the rate of steps.
    fn numbers(&self, step: u64, numbers: &[(String, f64)]) {
        let rates = numbers.iter().filter(|(name, _)| name.starts_with("lr/")).count();
        let shown = numbers.iter().filter_map(|(name, v)| {
            let name = match name.strip_prefix("loss/") {
                Some(loss) => loss,
                None if !name.starts_with("lr/") => return None,
                None if rates == 1 => "lr",
                None => name,
            };
            Some(format!("{name} {}", short(*v)))
        });
        let text = shown.collect::<Vec<_>>().join("  ");
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = (step - self.first) as f64 / elapsed.max(1e-9);
        let left = Duration::from_secs_f64(((self.total - step) as f64 / rate.max(1e-9)).min(1e9));
        let pace = format!("{rate:.2} steps/s  eta {}", clock(left));
        // The numbers stay to be read; what changes stands in the bar.
        match &self.bar {
            Some(bar) => {
                bar.set_message(pace);
                line(&format!("step {step}  {text}"));
            }
            None => line(&format!("step {step}/{}  {pace}  {text}", self.total)),
        }
    }

    fn end(&self, step: u64, ending: Ending) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        messages::set_bar(None);
        match ending {
            Ending::Finished => {
                line(&format!("done: {step} steps, weights in {}", self.folder.weights().display()));
            }
            Ending::Stopped => {
                line(&format!("stopped by a signal at step {step}: the state is saved; go on with --resume"));
            }
            Ending::Reached => line(&format!("stopped after step {step}, as asked")),
            Ending::Failed => {}
        }
    }
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

pub(crate) fn clock(d: Duration) -> String {
    let s = d.as_secs();
    if s >= 3600 { format!("{}h{:02}m", s / 3600, s % 3600 / 60) } else { format!("{}m{:02}s", s / 60, s % 60) }
}
