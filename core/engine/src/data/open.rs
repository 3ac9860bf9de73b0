//! Opening the data streams of a recipe.

use super::order::{BatchOrder, stream_seed};
use crate::recipe::{Data, Recipe};
use indexmap::IndexMap;
use mtl_component::{DType, Layout, Open, OpenDataset, Ports, Result, Transform, World, bail, mistake};
use mtl_recipe::Context;
use std::sync::Arc;

/// The opened data streams of a recipe.
pub struct OpenedData {
    /// The streams by name, in order.
    pub streams: IndexMap<String, OpenDataset>,
    /// The sizes of the recipe, with those that the data decides.
    pub dims: IndexMap<String, i64>,
}

/// Opens the transforms of a stream; outside of training only those that belong to the input of the network.
///
/// # Errors
/// If one cannot be opened.
pub(crate) fn transforms(data: &Data, training: bool) -> Result<Vec<Arc<dyn Transform>>> {
    let wanted = data.transforms.iter().filter(|(_, t)| training || t.in_evaluation);
    wanted.map(|(slot, _)| slot.config.open()).collect()
}

/// Opens all data streams.
///
/// # Errors
/// If one cannot be opened, holds no sample, or has sizes that contradict those of the recipe or of another stream.
pub fn open(recipe: &Recipe) -> Result<OpenedData> {
    let mut dims = recipe.dims.clone();
    let mut streams = IndexMap::new();
    for (name, data) in &recipe.data {
        let slot = &data.slot;
        let opening = || format!("opening `data.{name}` ({})", slot.registration.name);
        let transforms = transforms(data, true).with_context(opening)?;
        let source = data.source.as_ref().map(|slot| slot.config.open()).transpose().with_context(opening)?;
        let open = Open { dims: &dims, transforms, source };
        let opened = slot.config.open(&open).with_context(opening)?;
        if opened.len == 0 {
            mistake!("`data.{name}` holds no sample");
        }
        fields_are_ports(&opened, &data.description.ports, slot.common.pairs_with.is_some()).with_context(opening)?;
        for (size, value) in opened.sizes.iter().filter(|_| slot.common.declares) {
            match dims.get(*size) {
                Some(known) if known != value => mistake!(
                    "`dims.{size}` is {known} (by [dims] or another data stream), but `data.{name}` has {value}: make \
                     them agree, or say `declares = false` there"
                ),
                _ => {
                    dims.insert((*size).to_owned(), *value);
                }
            }
        }
        streams.insert(name.clone(), opened);
    }
    Ok(OpenedData { streams, dims })
}

/// Reads one sample of each stream: what cannot be read at all is found before the first step.
///
/// # Errors
/// That of the sample.
pub fn first_samples(data: &OpenedData) -> Result<()> {
    for (name, stream) in &data.streams {
        super::load_samples(stream, &[(0, 0)], 0, false)
            .with_context(|| format!("the first sample of `data.{name}`"))?;
    }
    Ok(())
}

/// Checks that an opened dataset gives what its ports promise, or values would stand under the wrong names.
fn fields_are_ports(opened: &OpenDataset, ports: &Ports, follows: bool) -> Result<()> {
    let field = |(name, layout): (&str, Layout)| {
        let dtype = if layout == Layout::Int { DType::Int } else { DType::Float };
        format!("{name} ({dtype})")
    };
    let fields: Vec<String> = opened.fields.iter().map(|f| field((f.name, f.layout))).collect();
    // The last one of a stream that follows another is the engine's.
    let own = &ports.outputs[..ports.outputs.len() - usize::from(follows)];
    let ports: Vec<String> = own.iter().map(|p| format!("{} ({})", p.name, p.dtype)).collect();
    if fields != ports {
        bail!("the dataset gives {}, but its ports are {}", fields.join(", "), ports.join(", "));
    }
    Ok(())
}

/// The order of batches of each stream.
///
/// # Errors
/// If a sampler does not fit its data.
pub fn orders(recipe: &Recipe, data: &OpenedData, world: World) -> Result<IndexMap<String, Arc<BatchOrder>>> {
    let mut made: IndexMap<&str, Arc<BatchOrder>> = IndexMap::new();
    // Streams that follow others come after all that lead; none follows one that follows.
    let follows = |entry: &Data| entry.slot.common.pairs_with.is_some();
    let (leading, following): (Vec<_>, Vec<_>) = recipe.data.iter().partition(|(_, entry)| !follows(entry));
    for (name, entry) in leading.into_iter().chain(following) {
        let dataset = data.streams[name.as_str()].clone();
        let seed = stream_seed(recipe.run.seed as u64, name);
        let slot = &entry.sampler;
        let leader = entry.slot.common.pairs_with.as_deref().and_then(|leader| made.get(leader)).cloned();
        let sampler = match &leader {
            Some(leader) => slot.config.open_beside(&dataset, &leader.data, seed),
            None => slot.config.open(&dataset, seed),
        };
        let sampler = sampler.with_context(|| format!("the sampler of `data.{name}` ({})", slot.registration.name))?;
        let batch = entry.slot.common.batch(world.size()).with_context(|| format!("`data.{name}`"))? as usize;
        let order = BatchOrder::new(dataset, sampler, batch, seed, world);
        made.insert(name, Arc::new(order.following(leader)));
    }
    let ordered = recipe.data.keys().filter_map(|name| Some((name.clone(), made.get(name.as_str())?.clone())));
    Ok(ordered.collect())
}
