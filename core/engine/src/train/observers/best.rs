//! Which step was best by the metric that the recipe names.

use super::Event;
use crate::checkpoint::Best;
use crate::recipe::Recipe;
use mtl_component::Better;

/// Knows the best step so far.
pub(in crate::train) struct BestTracker {
    /// The evaluator and the metric that decide.
    metric: (String, String),
    /// The metric whose complement to one that is, if it is an older name.
    complement_of: Option<String>,
    better: Better,
    best: Option<Best>,
    found: Option<Best>,
}

impl BestTracker {
    /// That of a recipe, if it names a metric; `best` is what an earlier part of the run has found.
    pub fn new(recipe: &Recipe, best: Option<Best>) -> Option<Self> {
        let (evaluator, name) = recipe.run.checkpoint.best.as_ref()?.split_once('.')?;
        let known = recipe.evaluate.get(evaluator)?.metrics().find(|m| m.name == name)?;
        let (better, complement_of) = (known.better, known.complement_of.clone());
        let same = |b: &Best| b.metric.split_once('.') == Some((evaluator, name));
        let metric = (evaluator.to_owned(), name.to_owned());
        Some(Self { metric, complement_of, better, best: best.filter(same), found: None })
    }

    /// Takes note of what happened.
    pub fn on(&mut self, event: &Event<'_>) {
        let Event::Evaluated { step, evaluator, report, .. } = *event else { return };
        let (decides, metric) = &self.metric;
        let value = match &self.complement_of {
            Some(other) => report.metrics.get(other).map(|value| 1.0 - value),
            None => report.metrics.get(metric).copied(),
        };
        let Some(value) = value.filter(|v| v.is_finite()) else { return };
        let improves = self.best.as_ref().is_none_or(|best| match self.better {
            Better::Larger => value > best.value,
            Better::Smaller => value < best.value,
            Better::Neither => false,
        });
        if evaluator == decides && improves {
            let best = Best { step, metric: format!("{decides}.{metric}"), value };
            (self.best, self.found) = (Some(best.clone()), Some(best));
        }
    }

    /// The new best, if one was found since this was last asked.
    pub fn found(&mut self) -> Option<Best> {
        self.found.take()
    }
}
