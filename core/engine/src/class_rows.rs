//! Rows of weights that stand for classes with names, such as the people of a head: they are taken by name, since the
//! same number stands for somebody else in other data.

use crate::data::OpenedData;
use crate::model::Module;
use crate::recipe::ModuleEntry;
use crate::runs::RunFolder;
use crate::weights::Tensors;
use indexmap::IndexMap;
use mtl_recipe::files::read_text;
use mtl_recipe::{Result, mistake};
use std::collections::HashMap;
use std::path::Path;
use tch::Tensor;

/// The largest file of names that is read.
const MAX_NAMES: u64 = 1 << 30;

/// The names of classes, by the size that counts them.
pub(crate) struct ClassNames(IndexMap<String, Vec<String>>);

impl ClassNames {
    /// Those of opened data: the first stream that declares a size names its classes.
    pub fn of_data(data: &OpenedData) -> Self {
        let mut out = IndexMap::new();
        for opened in data.streams.values() {
            for (size, count) in &opened.sizes {
                let file = format!("{size}.json");
                let record = opened.records.iter().find(|(name, _)| *name == file);
                let names = record.and_then(|(_, names)| serde_json::from_value::<Vec<String>>(names.clone()).ok());
                if let Some(names) = names.filter(|_| data.dims.get(*size) == Some(count)) {
                    out.entry((*size).to_owned()).or_insert(names);
                }
            }
        }
        Self(out)
    }

    /// Those of a size in a run folder; none if it does not keep them.
    fn of_run(run: &Path, size: &str, count: usize) -> Option<Vec<String>> {
        let folder = RunFolder::resolve(run).ok()?;
        let (file, ending) = (format!("{size}.json"), format!(".{size}.json"));
        let found = folder.path().read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy() == file || name.to_string_lossy().ends_with(&ending))
        });
        let mut found: Vec<_> = found.collect();
        found.sort();
        found.iter().find_map(|path| {
            let names: Vec<String> = serde_json::from_str(&read_text(path, MAX_NAMES).ok()?).ok()?;
            (names.len() == count).then_some(names)
        })
    }
}

/// Puts the rows of loaded tensors into the order of the present classes; a class that the source does not know keeps the
/// row that was drawn for it. `run` is the run that the tensors are from, if they are from one.
///
/// # Errors
/// A mistake if the source knows none of the classes.
pub(crate) fn by_name(
    entry: &ModuleEntry,
    module: &Module,
    names: &ClassNames,
    run: Option<&Path>,
    tensors: &mut Tensors,
) -> Result<()> {
    let of_size = |size: &str| entry.description.ports.inputs.iter().any(|port| port.below.as_deref() == Some(size));
    let Some((size, now)) = names.0.iter().find(|(size, _)| of_size(size)) else { return Ok(()) };
    for (name, own) in module.parameters.iter().filter(|(_, own)| own.rows) {
        let full = format!("{}.{name}", module.name);
        let Some(source) = tensors.get(&full).filter(|source| source.size().get(1..) == own.tensor.size().get(1..))
        else {
            continue;
        };
        let count = source.size().first().map_or(0, |n| *n as usize);
        let Some(then) = run.and_then(|run| ClassNames::of_run(run, size, count)) else {
            tracing::warn!(
                "the rows of `{full}` are taken in their order: whose they are is not known, and nobody can say whether the \
                 {size} of this data are the same"
            );
            continue;
        };
        if then == *now {
            continue;
        }
        let places: HashMap<&str, i64> = then.iter().map(String::as_str).zip(0..).collect();
        let (mut to, mut from): (Vec<i64>, Vec<i64>) =
            now.iter().zip(0..).filter_map(|(name, row)| Some((row, *places.get(name.as_str())?))).unzip();
        let known_classes = to.len();
        if to.is_empty() {
            mistake!(
                "`{full}` has rows of other {size}: none of the {} of this data, such as `{}`, is among the {} of the \
                 weights, such as `{}`. Drop the weights of `model.{}`, so that it starts anew",
                now.len(),
                now.first().map_or("", String::as_str),
                then.len(),
                then.first().map_or("", String::as_str),
                module.name
            );
        }
        // Of a matrix that is cut over processes, the rows that are here.
        let first = own.shard.map_or(0, |shard| shard.first);
        let here = first..first + own.tensor.size()[0];
        (to, from) =
            to.into_iter().zip(from).filter(|(row, _)| here.contains(row)).map(|(row, of)| (row - first, of)).unzip();
        let rows = own.tensor.f_detach()?;
        let known = source.f_index_select(0, &Tensor::f_from_slice(&from)?)?;
        let known = known.f_to_kind(rows.kind())?.f_to_device(rows.device())?;
        let rows = rows.f_index_copy(0, &Tensor::f_from_slice(&to)?.f_to_device(rows.device())?, &known)?;
        tracing::info!(
            "the rows of `{full}` are taken by name: {} of {} {size} are known, the others are drawn",
            known_classes,
            now.len()
        );
        tensors.insert(full, rows);
    }
    Ok(())
}
