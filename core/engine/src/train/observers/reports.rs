//! The reports of evaluators in the run folder.

use super::{Event, Observer};
use crate::inference::write_report;
use crate::runs::RunFolder;
use mtl_recipe::Result;

pub(super) struct Reports {
    folder: RunFolder,
}

impl Reports {
    pub fn new(folder: &RunFolder) -> Self {
        Self { folder: folder.clone() }
    }
}

impl Observer for Reports {
    fn name(&self) -> String {
        "the reports of evaluators".into()
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Evaluated { step, evaluator, report, .. } = *event {
            write_report(&self.folder.reports(), evaluator, step, report)?;
        }
        Ok(())
    }
}
