//! The files that a run logs to: metrics line by line, and curves and pictures for TensorBoard.

pub mod histogram;
pub mod outline;
pub mod tensorboard;

use mtl_recipe::files::{read_bounded, write_atomically};
use mtl_recipe::{Context, Result};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The largest file that is gone on with.
const MAX_BYTES: u64 = 4 << 30;

/// `metrics.jsonl`: one JSON object a line, with the step.
pub struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens the file; lines of steps after `step` are dropped, since the run goes on from there.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        // A byte that is no text costs its line, and not the file.
        if let Ok(bytes) = read_bounded(path, MAX_BYTES) {
            let text = String::from_utf8_lossy(&bytes);
            let kept: Vec<&str> = text
                .lines()
                .filter(|line| {
                    serde_json::from_str::<Value>(line)
                        .ok()
                        .and_then(|v| v.get("step")?.as_u64())
                        .is_some_and(|s| s <= step)
                })
                .collect();
            let mut kept = kept.join("\n");
            if !kept.is_empty() {
                kept.push('\n');
            }
            write_atomically(path, kept.as_bytes())?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Adds a line in one write.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, step: u64, kind: &str, numbers: &[(String, f64)]) -> Result<()> {
        let mut map = Map::new();
        map.insert("step".into(), step.into());
        map.insert("kind".into(), kind.into());
        for (name, value) in numbers {
            let value = serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number);
            map.insert(name.clone(), value);
        }
        let mut line = serde_json::to_string(&map)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).with_context(|| format!("writing {}", self.path.display()))
    }
}
