//! Whether an evaluator measures on pictures that a stream trains on.

use super::Evaluators;
use crate::data::{OpenedData, files};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Warns where evaluators measure on files that a stream trains on, whatever their names: files are compared by their
/// bytes.
pub fn warn_of_trained_pictures(data: &OpenedData, evaluators: &Evaluators<'_>) {
    let tested: Vec<(&str, Vec<&Path>)> = evaluators.files();
    let sizes: HashSet<u64> = tested.iter().flat_map(|(_, files)| files).filter_map(|file| files::size(file)).collect();
    if sizes.is_empty() {
        return;
    }
    // Only files of equal sizes can be equal.
    let hashed = |all: &[&Path]| -> Vec<(usize, (u64, [u8; 32]))> {
        let hash = |(i, file): (usize, &&Path)| {
            let size = files::size(file).filter(|size| sizes.contains(size))?;
            Some((i, (size, files::digest(file).ok()?)))
        };
        all.par_iter().enumerate().filter_map(hash).collect()
    };
    let hashes: Vec<_> = tested.iter().map(|(_, files)| hashed(files)).collect();
    for (stream, opened) in &data.streams {
        let trained = opened.samples.files();
        let mut known: HashMap<(u64, [u8; 32]), &Path> = HashMap::new();
        for (i, key) in hashed(&trained) {
            known.entry(key).or_insert(trained[i]);
        }
        for ((evaluator, files), found) in tested.iter().zip(&hashes) {
            let mut seen = found.iter().filter_map(|(i, key)| Some((files[*i], *known.get(key)?)));
            let Some((own, training)) = seen.next() else { continue };
            tracing::warn!(
                "`evaluate.{evaluator}` measures on pictures that `data.{stream}` trains on: {} of its {} files, such as {} \
                 (in training {}). What it measures on them says little",
                seen.count() + 1,
                files.len(),
                own.display(),
                training.display()
            );
        }
    }
}
