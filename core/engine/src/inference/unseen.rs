//! Whether an evaluator measures on pictures that a stream trains on.

use super::Evaluators;
use crate::data::{OpenedData, files};
use mtl_component::Result;
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The most files of training whose bytes are read before the first step.
const MOST_READ: usize = 100_000;

/// How files are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparing {
    /// By their bytes, however many they are.
    All,
    /// By their bytes where these are soon read, and else as files: a copy is not noticed then, which is told.
    Soon,
}

/// Warns where evaluators measure on files that a stream trains on, whatever their names.
///
/// # Errors
/// If an evaluator or a dataset cannot list its files.
pub fn warn_of_trained_pictures(data: &OpenedData, evaluators: &Evaluators<'_>, comparing: Comparing) -> Result<()> {
    let tested: Vec<(&str, Vec<&Path>)> = evaluators.files()?;
    let sizes: HashSet<u64> = tested.iter().flat_map(|(_, files)| files).filter_map(|file| files::size(file)).collect();
    if sizes.is_empty() {
        return Ok(());
    }
    // Only files of equal sizes can be equal.
    let alike = |file: &&Path| files::size(file).is_some_and(|size| sizes.contains(&size));
    let trained: Vec<(&String, Vec<&Path>)> = data
        .streams
        .iter()
        .map(|(stream, opened)| Ok((stream, opened.samples.files()?.into_par_iter().filter(alike).collect())))
        .collect::<Result<_>>()?;
    let count: usize = trained.iter().map(|(_, files)| files.len()).sum();
    let by_bytes = comparing == Comparing::All || count <= MOST_READ;
    if !by_bytes {
        tracing::info!(
            "{count} pictures of training have sizes of tested ones: copies among them are found by mtlrun check --data, \
             which reads them all"
        );
    }
    let key = |file: &Path| -> Option<Key> {
        if by_bytes {
            return Some(Key::Bytes(files::digest(file).ok()?));
        }
        let found = fs::metadata(file).ok()?;
        Some(Key::File(found.dev(), found.ino()))
    };
    let keys: Vec<Vec<Option<Key>>> =
        tested.iter().map(|(_, files)| files.par_iter().map(|file| key(file)).collect()).collect();
    let wanted: HashSet<Key> = keys.iter().flatten().flatten().copied().collect();
    for (stream, files) in &trained {
        let found = files.par_iter().filter_map(|file| Some((key(file).filter(|key| wanted.contains(key))?, *file)));
        let known: HashMap<Key, &Path> = found.collect();
        for ((evaluator, own), keys) in tested.iter().zip(&keys) {
            let mut seen = own.iter().zip(keys).filter_map(|(file, key)| Some((*file, *known.get(key.as_ref()?)?)));
            let Some((file, training)) = seen.next() else { continue };
            tracing::warn!(
                "`evaluate.{evaluator}` measures on pictures that `data.{stream}` trains on: {} of its {} files, such as {} \
                 (in training {}). What it measures on them says little",
                seen.count() + 1,
                own.len(),
                file.display(),
                training.display()
            );
        }
    }
    Ok(())
}

/// What makes two files the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// A hash of their bytes.
    Bytes([u8; 32]),
    /// The device and the number of the file on it.
    File(u64, u64),
}
