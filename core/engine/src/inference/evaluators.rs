//! The evaluators of a recipe, opened with their data.

use crate::recipe::{EvaluateEntry, Recipe};
use indexmap::IndexMap;
use mtl_component::{Better, Evaluator, Inference, Lent, OpenEvaluator, Report, Result, bail, mistake};
use mtl_recipe::Context;
use std::path::Path;

/// The opened evaluators of a recipe.
pub struct Evaluators<'r> {
    open: IndexMap<&'r str, (&'r EvaluateEntry, Box<dyn Evaluator>)>,
}

impl<'r> Evaluators<'r> {
    /// Opens the evaluators of a recipe; optional ones whose files are missing are left out, which is told.
    ///
    /// # Errors
    /// A mistake if a file is missing, or cannot be used.
    pub fn open(recipe: &'r Recipe) -> Result<Self> {
        let mut open = IndexMap::new();
        for (name, entry) in &recipe.evaluate {
            let slot = &entry.slot;
            match entry.description.files.iter().find(|file| !file.exists()) {
                Some(file) if slot.common.optional => {
                    tracing::info!("`evaluate.{name}` is left out: there is no {}", file.display());
                }
                Some(file) => mistake!(
                    "`evaluate.{name}` needs {}, which does not exist: correct the path, or drop the evaluator with \
                     --unset evaluate.{name}",
                    file.display()
                ),
                None => {
                    let opening = || format!("opening `evaluate.{name}` ({})", slot.registration.name);
                    let source = entry.source.as_ref().map(|source| source.config.open()).transpose();
                    let given = OpenEvaluator { source: source.with_context(opening)? };
                    let evaluator = slot.config.open(&given);
                    open.insert(name.as_str(), (entry, evaluator.with_context(opening)?));
                }
            }
        }
        let all = Self { open };
        all.best_is_resolved(recipe)?;
        Ok(all)
    }

    /// Which checkpoint is best cannot be decided by a metric that the data cannot tell.
    fn best_is_resolved(&self, recipe: &Recipe) -> Result<()> {
        let Some((evaluator, metric)) = recipe.run.checkpoint.best.as_deref().and_then(|best| best.split_once('.'))
        else {
            return Ok(());
        };
        let Some((entry, open)) = self.open.get(evaluator) else { return Ok(()) };
        let unresolved = open.unresolved()?;
        let Some((_, reason)) = unresolved.iter().find(|(name, _)| name == metric) else { return Ok(()) };
        let left = entry.metrics().filter(|m| m.better != Better::Neither && m.complement_of.is_none());
        let left = left.filter(|m| unresolved.iter().all(|(name, _)| *name != m.name));
        mistake!(
            "`run.checkpoint.best` watches `{evaluator}.{metric}`, which has no value: {reason}. Watch one of {}",
            left.map(|m| format!("`{evaluator}.{}`", m.name)).collect::<Vec<_>>().join(", ")
        )
    }

    /// Their names with their entries in the recipe.
    pub fn entries(&self) -> impl Iterator<Item = (&'r str, &'r EvaluateEntry)> {
        self.open.iter().map(|(name, (entry, _))| (*name, *entry))
    }

    /// The files that each looks at.
    ///
    /// # Errors
    /// If one cannot list them.
    pub fn files(&self) -> Result<Vec<(&'r str, Vec<&Path>)>> {
        self.open.iter().map(|(name, (_, evaluator))| Ok((*name, evaluator.files()?))).collect()
    }

    /// Lets each check, before the first step, what the model decides.
    ///
    /// # Errors
    /// That of the first evaluator that could not measure such a model.
    pub fn check(&self, model: &dyn Inference) -> Result<()> {
        for (name, (entry, evaluator)) in &self.open {
            let registration = entry.slot.registration;
            let checked = evaluator.check(&Lent::new(model));
            checked.with_context(|| format!("`evaluate.{name}` ({})", registration.name))?;
        }
        Ok(())
    }

    /// Measures a model with one of them; adds the metrics that the recipe computes from its cases.
    ///
    /// # Errors
    /// If there is none of that name, or the model or the cases cannot be measured.
    pub fn measure(&self, name: &str, model: &dyn Inference) -> Result<Report> {
        let Some((entry, evaluator)) = self.open.get(name) else { bail!("the evaluator `{name}` is not open") };
        let mut report = evaluator.evaluate(&Lent::new(model))?;
        for (slot, metric) in &entry.metrics {
            let Some(cases) = &report.cases else {
                bail!("`{}` keeps no cases to compute `{}` from", entry.slot.registration.name, metric.name);
            };
            let value = slot.config.measure(cases)?;
            report.metrics.insert(metric.name.clone(), value);
        }
        Ok(report)
    }
}
