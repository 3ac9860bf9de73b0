//! The reports of evaluators in files.

use super::cases::write_cases;
use crate::png::png;
use crate::runs::ReportFolder;
use mtl_component::{Picture, Report, Result};
use mtl_recipe::files::write_atomically;
use std::path::PathBuf;

/// Writes a report with its cases and pictures into a folder; returns the files of the pictures, in order.
///
/// # Errors
/// If a file cannot be written.
pub fn write_report(folder: &ReportFolder, name: &str, step: u64, report: &Report) -> Result<Vec<PathBuf>> {
    write_atomically(&folder.report(name, step), &serde_json::to_vec_pretty(report)?)?;
    if let Some(cases) = &report.cases {
        write_cases(cases, &folder.cases(name, step))?;
    }
    let write = |(picture, pixels): &(String, Picture)| {
        let path = folder.picture(name, picture, step);
        write_atomically(&path, &png(pixels)?)?;
        Ok(path)
    };
    report.pictures.iter().map(write).collect()
}
