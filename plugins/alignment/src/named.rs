//! Detectors by their names.

use crate::detector::Detector;
use crate::mtcnn::Mtcnn;
use mtl_component::{Result, mistake};
use mtl_faces::picture_files::user_cache;
use std::path::Path;

/// Opens a detector by its name, with weights in a folder, or where the set-up has put them.
///
/// # Errors
/// A mistake if there is no such detector, or its weights are not there.
pub fn detector(name: &str, weights: Option<&Path>) -> Result<Box<dyn Detector>> {
    if name != "mtcnn" {
        mistake!("there is no detector `{name}`: expected mtcnn");
    }
    let folder = match weights {
        Some(folder) => folder.to_owned(),
        None => match user_cache("detectors").map(|folder| folder.join(name)) {
            Some(folder) if folder.is_dir() => folder,
            _ => mistake!(
                "the weights of the detector {name} are not here: fetch them by `cargo xtask setup --detector {name}`, or name \
                 the folder that holds them by --detector-weights"
            ),
        },
    };
    Ok(Box::new(Mtcnn::open(&folder)?))
}
