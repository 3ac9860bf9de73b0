use mtl_component::{ErrorContext as _, Hook, HookConfig, HookEvent, Result, RunInfo, register};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fs::{File, OpenOptions};

/// Writes the numbers of training to a CSV file in the run folder, each on a line `step,name,value`. A resumed run
/// adds to the file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CsvLog {
    /// The name of the file.
    #[serde(default = "file")]
    file: String,
}

fn file() -> String {
    "numbers.csv".into()
}

impl HookConfig for CsvLog {
    fn problems(&self) -> Result<Vec<String>> {
        let plain = !self.file.is_empty() && !self.file.contains(['/', '\\']) && !self.file.starts_with('.');
        let problem = || format!("`file` is the name of a file in the run folder, found {:?}", self.file);
        Ok((!plain).then(problem).into_iter().collect())
    }

    fn files(&self) -> Result<Vec<String>> {
        Ok(vec![self.file.clone()])
    }

    fn open(&self, run: &RunInfo<'_>) -> Result<Box<dyn Hook>> {
        // One process writes for all.
        if !run.world.leads() {
            return Ok(Box::new(Log { writer: None }));
        }
        let path = run.folder.join(&self.file);
        let open = OpenOptions::new().create(true).append(true).open(&path);
        let out = open.with_context(|| format!("opening {}", path.display()))?;
        let new = out.metadata().map_or(true, |m| m.len() == 0);
        let mut writer = csv::Writer::from_writer(out);
        if new {
            writer.write_record(["step", "name", "value"])?;
        }
        Ok(Box::new(Log { writer: Some(writer) }))
    }
}

struct Log {
    writer: Option<csv::Writer<File>>,
}

impl Hook for Log {
    fn on(&mut self, event: &HookEvent<'_>) -> Result<()> {
        let (Some(writer), HookEvent::Logged { step, numbers }) = (&mut self.writer, event) else { return Ok(()) };
        for (name, value) in *numbers {
            writer.write_record([&step.to_string(), name, &value.to_string()])?;
        }
        Ok(writer.flush()?)
    }
}

register!(Hook, "csv_log", CsvLog);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::World;

    #[test]
    fn numbers_become_lines_and_a_resumed_run_adds_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunInfo { folder: dir.path(), step: 0, total: 9, world: World::alone() };
        let config = CsvLog { file: "n.csv".into() };
        for step in [1, 2] {
            let mut hook = config.open(&run).unwrap();
            let numbers = [("loss/a, b".to_owned(), 0.5)];
            hook.on(&HookEvent::Logged { step, numbers: &numbers }).unwrap();
            hook.on(&HookEvent::Ended { step, finished: true }).unwrap();
        }
        let text = std::fs::read_to_string(dir.path().join("n.csv")).unwrap();
        assert_eq!(text, "step,name,value\n1,\"loss/a, b\",0.5\n2,\"loss/a, b\",0.5\n");
        assert!(!CsvLog { file: "../x".into() }.problems().unwrap().is_empty());
    }
}
