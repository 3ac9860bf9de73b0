//! The metrics file.

use super::{Event, Observer};
use crate::log::MetricsFile;
use crate::runs::RunFolder;
use mtl_recipe::Result;

pub(super) struct Metrics {
    file: MetricsFile,
}

impl Metrics {
    pub fn open(folder: &RunFolder, step: u64) -> Result<Self> {
        Ok(Self { file: MetricsFile::open(&folder.metrics(), step)? })
    }
}

impl Observer for Metrics {
    fn name(&self) -> String {
        "the metrics file".into()
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        match *event {
            Event::Logged { step, numbers, seconds_per_step } => {
                self.file.write(step, "train", numbers)?;
                self.file.write(step, "time", &[("time/seconds_per_step".into(), seconds_per_step)])
            }
            Event::Evaluated { step, evaluator, report, .. } if !report.metrics.is_empty() => {
                let name = |metric: &String| format!("eval/{evaluator}/{metric}");
                let numbers: Vec<_> = report.metrics.iter().map(|(metric, v)| (name(metric), *v)).collect();
                self.file.write(step, "eval", &numbers)
            }
            _ => Ok(()),
        }
    }
}
