//! The tensors of a pickle: their names, and where their numbers lie. Nothing is run.

use mtl_pickle::{Object, Pickle, Value};
use mtl_recipe::{Result, bail, ensure};
use std::collections::HashSet;
use tch::Kind;

/// Pickles beyond this size are refused: it has room for the names and shapes of some hundred thousand tensors.
const MAX_BYTES: usize = 32 << 20;
/// More tensors than any network has.
const MAX_TENSORS: usize = 100_000;
/// Nesting of dictionaries and modules beyond this is not looked into.
const MAX_DEPTH: usize = 24;
/// Dimensions of a tensor; weights have five at most.
const MAX_DIMENSIONS: usize = 16;
/// Longest name of a tensor or a storage, in bytes.
const MAX_NAME: usize = 1024;

/// Numbers in one entry of the archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// What they are.
    pub kind: Kind,
    /// The name of the entry, below `data/`.
    pub key: String,
    /// How many.
    pub count: usize,
}

/// Where a tensor lies in its storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The storage.
    pub storage: Storage,
    /// Its first element.
    pub offset: i64,
    /// Its shape.
    pub size: Vec<i64>,
    /// The distance of neighbours in each dimension, in elements.
    pub stride: Vec<i64>,
}

/// The tensors of a pickle by name, names of nested dictionaries and modules joined by points.
///
/// A dictionary with a `state_dict` stands for that one. A `module.` before every name of a dictionary, which
/// data-parallel training leaves, is dropped. Whatever else a checkpoint holds, such as its command line, is passed over.
///
/// # Errors
/// The byte and what is wrong there: an unknown opcode, a call that is refused, a tensor made of something else.
pub fn tensors(mut bytes: &[u8]) -> Result<Vec<(String, Layout)>> {
    ensure!(bytes.len() <= MAX_BYTES, "the pickle has {} bytes, expected at most {MAX_BYTES}", bytes.len());
    layouts(&Pickle::read(&mut bytes, 0)?)
}

/// The same of a pickle that was read.
///
/// # Errors
/// As [`tensors`].
pub(super) fn layouts(pickle: &Pickle) -> Result<Vec<(String, Layout)>> {
    let mut search = Search { pickle, seen: HashSet::new(), found: Vec::new() };
    search.collect(pickle.root(), "", MAX_DEPTH)?;
    Ok(search.found)
}

/// Every storage that a pickle names, of tensors or not.
pub(super) fn storages(pickle: &Pickle) -> Result<Vec<Storage>> {
    pickle
        .all_outside()
        .filter_map(|value| Some(stored(pickle, value).transpose()?.map(|(storage, _)| storage)))
        .collect()
}

struct Search<'p> {
    pickle: &'p Pickle,
    seen: HashSet<usize>,
    found: Vec<(String, Layout)>,
}

impl Search<'_> {
    fn collect(&mut self, value: Value, path: &str, depth: usize) -> Result<()> {
        if let Some(layout) = layout(self.pickle, value, 4)? {
            ensure!(self.found.len() < MAX_TENSORS, "more than {MAX_TENSORS} tensors");
            self.found.push((path.to_owned(), layout));
            return Ok(());
        }
        let Value::Object(number) = value else { return Ok(()) };
        if depth == 0 {
            return Ok(());
        }
        match self.pickle.object(value) {
            Some(Object::Dict(pairs)) if self.seen.insert(number) => self.dictionary(pairs, path, depth),
            Some(Object::Call(call)) if self.seen.insert(number) => {
                // A module, as torch.save(model) or TorchScript keeps it: its parts are the attributes.
                match call.state.and_then(|state| self.pickle.object(state)) {
                    Some(Object::Dict(pairs)) if self.is_module(value) => self.module(pairs, path, depth),
                    // A dictionary of another name, such as Lightning's.
                    _ if !call.pairs.is_empty() => self.dictionary(&call.pairs, path, depth),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn is_module(&self, value: Value) -> bool {
        let Some((module, _, _, call)) = self.pickle.call(value) else { return false };
        let parts = ["_parameters", "_modules"];
        let state = call.state.and_then(|state| self.pickle.object(state));
        let keeps_parts = matches!(state, Some(Object::Dict(pairs)) if parts.iter().all(|part| self.named(pairs).any(|(name, _)| name == *part)));
        module.starts_with("__torch__") || keeps_parts
    }

    /// The entries whose key is a short text. A key that is too long is no name; its text is not looked at, however often
    /// it stands here.
    fn named<'s>(&'s self, pairs: &'s [(Value, Value)]) -> impl Iterator<Item = (&'s str, Value)> {
        pairs.iter().filter_map(|(key, value)| Some((self.pickle.text(*key)?, *value)))
    }

    fn module(&mut self, pairs: &[(Value, Value)], path: &str, depth: usize) -> Result<()> {
        let (pickle, below) = (self.pickle, depth.saturating_sub(1));
        for (key, value) in pairs {
            let Some(name) = pickle.text(*key) else { continue };
            match (name, pickle.object(*value)) {
                ("_parameters" | "_buffers" | "_modules", Some(Object::Dict(parts))) => {
                    self.dictionary(parts, path, below)?;
                }
                _ => self.collect(*value, &joined(path, name)?, below)?,
            }
        }
        Ok(())
    }

    fn dictionary(&mut self, pairs: &[(Value, Value)], path: &str, depth: usize) -> Result<()> {
        let (pickle, below) = (self.pickle, depth.saturating_sub(1));
        let named: Vec<(&str, Value)> =
            pairs.iter().filter_map(|(key, value)| Some((pickle.text(*key)?, *value))).collect();
        let dict = |value: Value| matches!(pickle.object(value), Some(Object::Dict(_) | Object::Call(_)));
        if let Some((_, value)) = named.iter().find(|(name, value)| *name == "state_dict" && dict(*value)) {
            return self.collect(*value, path, below);
        }
        let parallel = !named.is_empty() && named.iter().all(|(name, _)| name.starts_with("module."));
        for (name, value) in named {
            let name = if parallel { name.strip_prefix("module.").unwrap_or(name) } else { name };
            self.collect(value, &joined(path, name)?, below)?;
        }
        Ok(())
    }
}

fn joined(path: &str, name: &str) -> Result<String> {
    ensure!(path.len() + name.len() < MAX_NAME, "a name of more than {MAX_NAME} bytes");
    Ok(if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") })
}

/// The tensor that a call would rebuild; none if the value is none. Parameters are wrapped in `depth` calls at most.
fn layout(pickle: &Pickle, value: Value, depth: usize) -> Result<Option<Layout>> {
    let Some((module, name, arguments, _)) = pickle.call(value) else { return Ok(None) };
    let at = pickle.place(value);
    let inner = |value: Option<&Value>| match value {
        Some(value) if depth > 0 => layout(pickle, *value, depth - 1),
        _ => Ok(None),
    };
    match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {}
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            return match inner(arguments.first())? {
                None => bail!("byte {at}: a parameter is made of what is no tensor"),
                found => Ok(found),
            };
        }
        _ => return Ok(None),
    }
    let numbers = |value: &Value| -> Option<Vec<i64>> {
        let number = |v: &Value| if let Value::Int(n) = v { Some(*n) } else { None };
        // A shape is a tuple, or the call of torch.Size with one.
        let value = match pickle.call(*value) {
            Some(("torch", "Size", [sizes], _)) => *sizes,
            _ => *value,
        };
        pickle.items(value)?.iter().take(MAX_DIMENSIONS + 1).map(number).collect()
    };
    if let [storage, Value::Int(offset), size, stride, ..] = arguments
        && let (Some((storage, first)), Some(size), Some(stride)) =
            (stored(pickle, *storage)?, numbers(size), numbers(stride))
        && size.len() <= MAX_DIMENSIONS
        && let Some(offset) = offset.checked_add(first)
    {
        return Ok(Some(Layout { storage, offset, size, stride }));
    }
    bail!("byte {at}: a tensor is made of other things than a storage, an offset, a size and strides")
}

/// What is stored outside, `("storage", type, key, device, count)`, and where in it a view begins, which files before
/// PyTorch 1.6 add as `(key, offset, count)`.
fn stored(pickle: &Pickle, value: Value) -> Result<Option<(Storage, i64)>> {
    let Some(Object::Outside(id)) = pickle.object(value) else { return Ok(None) };
    if let Some([tag, kind, key, _, Value::Int(count), rest @ ..]) = pickle.items(*id)
        && pickle.text(*tag) == Some("storage")
        && let Some(kind) = pickle.named(*kind).and_then(kind_of)
        && let (Some(key), Ok(count)) = (pickle.text(*key), usize::try_from(*count))
        && key.len() <= MAX_NAME
    {
        let first = match rest.first().and_then(|view| pickle.items(*view)) {
            Some([_, Value::Int(first), _]) => *first,
            _ => 0,
        };
        return Ok(Some((Storage { kind, key: key.to_owned(), count }, first)));
    }
    bail!("byte {}: what is stored elsewhere is no storage of a known type", pickle.place(value))
}

fn kind_of(named: (&str, &str)) -> Option<Kind> {
    Some(match named {
        ("torch", "FloatStorage") => Kind::Float,
        ("torch", "DoubleStorage") => Kind::Double,
        ("torch", "HalfStorage") => Kind::Half,
        ("torch", "BFloat16Storage") => Kind::BFloat16,
        ("torch", "LongStorage") => Kind::Int64,
        ("torch", "IntStorage") => Kind::Int,
        ("torch", "ShortStorage") => Kind::Int16,
        ("torch", "CharStorage") => Kind::Int8,
        ("torch", "ByteStorage") => Kind::Uint8,
        ("torch", "BoolStorage") => Kind::Bool,
        _ => return None,
    })
}
