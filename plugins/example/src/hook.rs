use mtl_component::{Hook, HookConfig, HookEvent, Result, RunInfo, register};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// Keeps the best value of one figure in the file `best.txt` of the run folder.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BestOf {
    /// The evaluator and its metric, such as `verification.auc`, of which larger is better.
    figure: String,
}

const FILE: &str = "best.txt";

impl HookConfig for BestOf {
    fn files(&self) -> Result<Vec<String>> {
        Ok(vec![FILE.into()])
    }

    fn open(&self, run: &RunInfo<'_>) -> Result<Box<dyn Hook>> {
        let file = run.folder.join(FILE);
        // A run that is resumed goes on with what it has found.
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let best = text.split(' ').next().and_then(|value| value.parse().ok()).unwrap_or(f64::MIN);
        Ok(Box::new(Best { figure: self.figure.clone(), file, best, leads: run.world.leads() }))
    }
}

struct Best {
    figure: String,
    file: PathBuf,
    best: f64,
    /// One process writes for all.
    leads: bool,
}

impl Hook for Best {
    fn on(&mut self, event: &HookEvent<'_>) -> Result<()> {
        let HookEvent::Evaluated { step, evaluator, report } = event else { return Ok(()) };
        let figure = report.metrics.iter().find(|(name, _)| format!("{evaluator}.{name}") == self.figure);
        if let Some((_, value)) = figure
            && *value > self.best
            && self.leads
        {
            self.best = *value;
            mtl_component::files::write_atomically(&self.file, format!("{value} at step {step}\n").as_bytes())?;
        }
        Ok(())
    }
}

register!(Hook, "best_of", BestOf);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::{Report, World};

    #[test]
    fn only_a_better_value_is_written() {
        let folder = std::env::temp_dir().join(format!("best_of-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let run = RunInfo { folder: &folder, step: 0, total: 9, world: World::alone() };
        let mut hook = BestOf { figure: "v.auc".into() }.open(&run).unwrap();
        for (step, value) in [(1, 0.5), (2, 0.75), (3, 0.625)] {
            let report = Report { metrics: [("auc".to_owned(), value)].into_iter().collect(), ..Report::default() };
            hook.on(&HookEvent::Evaluated { step, evaluator: "v", report: &report }).unwrap();
        }
        assert_eq!(std::fs::read_to_string(folder.join(FILE)).unwrap(), "0.75 at step 2\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
