//! The weights that modules start from: those of another run, or of a file.

use crate::class_rows::{self, ClassNames};
use crate::data::OpenedData;
use crate::model::{Model, Module};
use crate::recipe::{Recipe, Weights};
use crate::runs::RunFolder;
use crate::weights::{Rename, Tensors, load_into, read};
use indexmap::IndexMap;
use mtl_recipe::{Context, Diagnostics, Result, Value, mistake};
use std::path::PathBuf;

/// The same recipe with the newest run in the place of a folder of runs, so that its record says which one it was.
///
/// # Errors
/// A mistake if there is no such run.
pub fn pin(recipe: &Recipe) -> Result<Option<Recipe>> {
    let mut pinned = Vec::new();
    for (name, entry) in &recipe.model {
        let Some(run) = entry.slot.common.weights.as_ref().and_then(|w| w.run.as_ref()) else { continue };
        let found = RunFolder::resolve(run).with_context(|| format!("`model.{name}.weights`"))?;
        if found.path() != run.0 {
            pinned.push((format!("model.{name}.weights.run"), found.path().display().to_string()));
        }
    }
    if pinned.is_empty() {
        return Ok(None);
    }
    let changes: Vec<(&str, Option<Value>)> =
        pinned.iter().map(|(path, run)| (path.as_str(), Some(Value::String(run.clone())))).collect();
    Ok(Some(recipe.with(&changes).map_err(|found: Diagnostics| found)?))
}

/// Takes out of `tensors` what the configuration of a module fixes, and compares it.
///
/// # Errors
/// A mistake when one differs: the file is of another configuration.
fn compare_constants(module: &Module, tensors: &mut Tensors) -> Result<()> {
    for (name, constant) in &module.constants {
        let full = format!("{}.{name}", module.name);
        let Some(found) = tensors.shift_remove(&full) else { continue };
        let same = found.size() == constant.size()
            && found.f_to_kind(constant.kind())?.f_to_device(constant.device())?.f_equal(constant)?;
        if !same {
            mistake!(
                "`{full}` is {:?} in the file and {:?} by the recipe, or holds other values: the weights are of another \
                 configuration of `model.{}`",
                found.size(),
                constant.size(),
                module.name
            );
        }
    }
    Ok(())
}

/// Fills the modules whose recipe names weights, and says what was loaded.
///
/// # Errors
/// A mistake if a file cannot be read, or its weights do not fit the module.
pub fn load_initial(recipe: &Recipe, model: &Model, data: &OpenedData) -> Result<()> {
    let names = ClassNames::of_data(data);
    // Several modules are often filled from one file.
    let mut read_before: IndexMap<PathBuf, Tensors> = IndexMap::new();
    for (name, entry) in &recipe.model {
        let Some(weights) = &entry.slot.common.weights else { continue };
        let Some(module) = model.modules.iter().find(|m| m.name == *name) else { continue };
        let file = file_of(name, weights)?;
        if !read_before.contains_key(&file) {
            read_before.insert(file.clone(), read(&file)?);
        }
        let rename = weights.rename.as_ref().map(|r| Rename::named(&recipe.registry, &r.0)).transpose()?;
        let prefix = weights.prefix.clone().unwrap_or_else(|| format!("{name}."));
        let all = &read_before[&file];
        let renamed = |k: &String| rename.as_ref().map_or_else(|| k.clone(), |r| r.apply(k));
        let mut tensors: Tensors = all
            .iter()
            .filter_map(|(k, v)| Some((format!("{name}.{}", renamed(k).strip_prefix(&prefix)?), v.shallow_clone())))
            .collect();
        if tensors.is_empty() {
            let mut starts: Vec<String> = all
                .keys()
                .map(|k| renamed(k).split_once('.').map_or_else(|| renamed(k), |(a, _)| format!("{a}.")))
                .collect();
            starts.sort();
            starts.dedup();
            starts.truncate(12);
            mistake!(
                "{} has no weights under `{prefix}` for `model.{name}`: its names begin with {}. Say prefix = \"…\" \
                 (\"\" takes all names), or rename = \"…\" for weights of another program",
                file.display(),
                starts.join(", ")
            );
        }
        compare_constants(module, &mut tensors).with_context(|| file.display().to_string())?;
        class_rows::by_name(entry, module, &names, weights.run.as_deref(), &mut tensors)
            .with_context(|| file.display().to_string())?;
        let targets = module.parameters.iter().map(|(k, e)| (format!("{name}.{k}"), &e.tensor));
        let report = load_into(targets, &model.cut(&tensors)?).with_context(|| file.display().to_string())?;
        let lacking = report.lacking().len();
        let named = weights.prefix.clone().unwrap_or_default();
        let advice = report.prefix(name).map_or_else(
            || {
                "Say prefix = \"…\" for what stands before its names, or rename = \"…\" for weights of another program"
                    .into()
            },
            |prefix| {
                format!("In the file they begin with `{named}{prefix}`: say model.{name}.weights.prefix = \"{named}{prefix}\"")
            },
        );
        if report.loaded == 0 && !weights.strict {
            mistake!(
                "{} holds none of the weights of `model.{name}`, so that nothing of it would be loaded:\n{}\n{advice}. \
                 Without `weights` the module starts from random values",
                file.display(),
                report.explain()
            );
        }
        if lacking > 0 && weights.strict {
            mistake!(
                "{} lacks {lacking} of the weights of `model.{name}`:\n{}\nIs it of another network? {advice}; strict = \
                 false leaves them as they are drawn",
                file.display(),
                report.explain()
            );
        }
        let missing = if lacking > 0 { format!(", {lacking} missing and drawn") } else { String::new() };
        let left = match report.unused.first() {
            Some(first) => format!(", {} left over, such as `{first}`", report.unused.len()),
            None => String::new(),
        };
        let text = format!("model.{name}: {} tensors from {}{missing}{left}", report.loaded, file.display());
        if lacking > report.loaded {
            tracing::warn!("{text}");
        } else {
            tracing::info!("{text}");
        }
    }
    Ok(())
}

fn file_of(name: &str, weights: &Weights) -> Result<PathBuf> {
    match (&weights.run, &weights.file) {
        (Some(run), None) => {
            let run = RunFolder::resolve(run).with_context(|| format!("`model.{name}.weights`"))?;
            let file = run.weights();
            if !file.exists() {
                mistake!(
                    "the run {} has no weights.safetensors yet: it is not finished. Resume it with --resume, or name \
                     another run as model.{name}.weights.run",
                    run.path().display()
                );
            }
            Ok(file)
        }
        (None, Some(file)) => Ok(file.0.clone()),
        (Some(_), Some(_)) => mistake!(
            "`model.{name}.weights` must say either `run` or `file`, and says both: drop one, such as by --unset \
             model.{name}.weights.run"
        ),
        (None, None) => mistake!("`model.{name}.weights` must say either `run` or `file`"),
    }
}
