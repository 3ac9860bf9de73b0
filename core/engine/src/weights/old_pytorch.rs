//! Weights in the files of PyTorch before 1.6: pickles of a mark, a version, the machine, the tensors and the keys of
//! their storages, then each storage as a count and its numbers, in the order of the keys.

use super::Tensors;
use super::pickle::{self, Storage};
use super::pytorch::{instead, numbers, view};
use mtl_pickle::{Object, Pickle, Value, of_range};
use mtl_recipe::{Context, Result, bail, ensure};
use std::collections::{HashMap, HashSet};
use tch::Tensor;

/// The first bytes: a pickled number of PyTorch's own.
pub(super) const MAGIC: &[u8] = &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9];
/// The version of the format that there was.
const VERSION: i64 = 1001;

/// Reads all tensors; nothing of the file is run.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn parse(bytes: &[u8]) -> Result<Tensors> {
    let mut input = bytes;
    let mut at = 0;
    let mut next = |what: &str| -> Result<(u64, Pickle)> {
        let start = at;
        let pickle = Pickle::read(&mut input, start).with_context(|| format!("its pickle of {what}"))?;
        at = pickle.end();
        Ok((start, pickle))
    };
    next("a mark")?;
    let (_, version) = next("a version")?;
    ensure!(version.root() == Value::Int(VERSION), "its format has another version than {VERSION}");
    let (_, machine) = next("the machine")?;
    is_little(&machine)?;
    let (start, tensors) = next("tensors")?;
    let (_, keys) = next("keys")?;
    let layouts = pickle::layouts(&tensors)?;
    let text = of_range(bytes, start..tensors.end()).unwrap_or_default();
    ensure!(!layouts.is_empty(), "it holds no tensors under names{}", instead(text));
    let used: HashSet<&str> = layouts.iter().map(|(_, layout)| layout.storage.key.as_str()).collect();
    let storages = storages(bytes, at, &keys, &pickle::storages(&tensors)?, &used)?;
    let mut out = Tensors::new();
    for (name, layout) in layouts {
        let Some(flat) = storages.get(layout.storage.key.as_str()) else {
            bail!("`{name}`: the file has no storage `{}`", layout.storage.key)
        };
        ensure!(
            flat.kind() == layout.storage.kind && flat.numel() == layout.storage.count,
            "`{name}`: its storage is said to be of two kinds or lengths"
        );
        out.insert(name.clone(), view(&layout, flat).with_context(|| format!("`{name}`"))?);
    }
    out.sort_keys();
    Ok(out)
}

fn is_little(machine: &Pickle) -> Result<()> {
    if let Some(Object::Dict(pairs)) = machine.object(machine.root())
        && pairs.iter().any(|(key, value)| machine.text(*key) == Some("little_endian") && *value == Value::Bool(false))
    {
        bail!("its numbers are big-endian, which is not read here: save it on another machine");
    }
    Ok(())
}

/// The used storages by key, as all of them follow each other from `at` on.
fn storages<'k>(
    bytes: &[u8],
    mut at: u64,
    keys: &'k Pickle,
    all: &[Storage],
    used: &HashSet<&str>,
) -> Result<HashMap<&'k str, Tensor>> {
    let of: HashMap<&str, &Storage> = all.iter().map(|storage| (storage.key.as_str(), storage)).collect();
    let mut out = HashMap::new();
    for key in keys.items(keys.root()).context("the keys of its storages are no list")? {
        let key = keys.text(*key).context("the key of a storage is no text")?;
        let Some(storage) = of.get(key) else { bail!("the storage `{key}` is of no tensor") };
        let count = of_range(bytes, at..at + 8).and_then(|count| count.try_into().ok()).map(u64::from_le_bytes);
        let width = storage.kind.elt_size_in_bytes() as u64;
        let size = count.filter(|count| *count == storage.count as u64).and_then(|n| n.checked_mul(width));
        let data = size.and_then(|size| of_range(bytes, at + 8..(at + 8).checked_add(size)?));
        let Some(data) = data else {
            bail!(
                "byte {at}: expected the storage `{key}` of {} numbers of {width} bytes, found {} and {} bytes",
                storage.count,
                count.map_or("no count".to_owned(), |count| format!("a count of {count}")),
                (bytes.len() as u64).saturating_sub(at + 8)
            )
        };
        ensure!(!out.contains_key(key), "byte {at}: a second storage `{key}`");
        if used.contains(key) {
            out.insert(key, numbers(storage, data)?);
        }
        at += 8 + data.len() as u64;
    }
    Ok(out)
}
