//! The hooks that a recipe names, as observers.

use super::{Ending, Event, Observer};
use crate::recipe::Recipe;
use mtl_component::{Hook, HookEvent, RunInfo};
use mtl_recipe::{Context, Result};

struct Named {
    name: String,
    hook: Box<dyn Hook>,
}

/// Opens the hooks of a recipe.
///
/// # Errors
/// If one cannot be opened: a recipe that asks for it should not train without it.
pub(in crate::train) fn open_hooks(recipe: &Recipe, run: &RunInfo<'_>) -> Result<Vec<Box<dyn Observer>>> {
    let open = |(name, slot): (&String, &crate::recipe::HookEntry)| {
        let hook = slot.config.open(run);
        let hook = hook.with_context(|| format!("opening `hook.{name}` ({})", slot.registration.name))?;
        Ok(Box::new(Named { name: name.clone(), hook }) as Box<dyn Observer>)
    };
    recipe.hook.iter().map(open).collect()
}

impl Observer for Named {
    fn name(&self) -> String {
        format!("`hook.{}`", self.name)
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        let event = match *event {
            Event::Started { .. } => return Ok(()),
            Event::Stepped { step, .. } => HookEvent::Stepped { step },
            Event::Logged { step, numbers, .. } => HookEvent::Logged { step, numbers },
            Event::Evaluated { step, evaluator, report, .. } => HookEvent::Evaluated { step, evaluator, report },
            Event::Saved { step } => HookEvent::Saved { step },
            Event::Ended { step, ending } => HookEvent::Ended { step, finished: ending == Ending::Finished },
        };
        self.hook.on(&event)
    }
}
