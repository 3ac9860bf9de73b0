//! Reading Python pickles that hold tensors, without running anything.
//!
//! A pickle is a program for a stack machine that may call any function of Python. This machine knows the opcodes of
//! data, and of callables only those that PyTorch needs for tensors and containers: they build values here and call
//! nothing. Anything else is an error that names what was asked for.
//!
//! Every opcode makes at most one value and reads at least one byte, what is copied is short, objects live in one list
//! and refer to each other by number, and each dictionary is looked into once: time and memory are bounded by a
//! multiple of the length of the input, which is limited, and no nesting, not even a cycle, is followed deeply.

use mtl_recipe::{Result, bail, ensure};
use std::collections::{HashMap, HashSet};
use tch::Kind;

/// Pickles beyond this size are refused: it has room for the names and shapes of some hundred thousand tensors.
const MAX_BYTES: usize = 32 << 20;
/// More tensors than any network has.
const MAX_TENSORS: usize = 100_000;
/// Nesting of dictionaries beyond this is not looked into.
const MAX_DEPTH: usize = 8;
/// Dimensions of a tensor; weights have five at most.
const MAX_DIMENSIONS: usize = 16;
/// Longest name of a tensor or a storage, in bytes.
const MAX_NAME: usize = 1024;

/// A value: small, or the number of an object.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    /// Numbers, flags and nothing: which weights do not need to distinguish.
    Plain,
    Int(i64),
    /// A range of the input.
    Text(usize, usize),
    Callable(Callable),
    Object(usize),
    Mark,
}

/// What may be called, or named.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Callable {
    Dict,
    Set,
    Size,
    RebuildTensor,
    RebuildParameter,
    /// The type of a storage.
    Storage(Kind),
    /// Gives a value without meaning for weights, such as a device.
    Opaque,
}

#[derive(Debug)]
enum Object {
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Layout),
}

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

/// The tensors of a pickled dictionary by name, names of nested dictionaries joined by points.
///
/// A dictionary with a `state_dict` stands for that one. A `module.` before every name of a dictionary, which
/// data-parallel training leaves, is dropped.
///
/// # Errors
/// The byte and what is wrong there: an unknown opcode, a callable that is not allowed, a wrong operand, the end.
pub fn tensors(bytes: &[u8]) -> Result<Vec<(String, Layout)>> {
    ensure!(bytes.len() <= MAX_BYTES, "the pickle has {} bytes, expected at most {MAX_BYTES}", bytes.len());
    let mut machine = Machine { bytes, at: 0, opcode: 0, stack: Vec::new(), memo: HashMap::new(), objects: Vec::new() };
    let root = machine.run()?;
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    machine.collect(root, "", MAX_DEPTH, &mut seen, &mut found)?;
    Ok(found)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the present opcode stands.
    opcode: usize,
    stack: Vec<Value>,
    memo: HashMap<u64, Value>,
    objects: Vec<Object>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)) {
            Some(part) => {
                self.at += n;
                Ok(part)
            }
            None => {
                bail!("the pickle ends at byte {} within an opcode that starts at {}", self.bytes.len(), self.opcode)
            }
        }
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    fn length(&mut self, n: usize) -> Result<usize> {
        Ok(usize::try_from(self.number(n)?)?)
    }

    /// A line of text without its end.
    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match rest.iter().position(|b| *b == b'\n') {
            Some(n) => {
                self.at += n + 1;
                Ok(&rest[..n])
            }
            None => bail!("the pickle ends at byte {} within a line that starts at {}", self.bytes.len(), self.at),
        }
    }

    fn pop(&mut self) -> Result<Value> {
        match self.stack.pop() {
            Some(value) => Ok(value),
            None => bail!("byte {}: an opcode takes from an empty stack", self.opcode),
        }
    }

    /// Everything above the topmost mark, which goes as well.
    fn above_mark(&mut self) -> Result<Vec<Value>> {
        let Some(mark) = self.stack.iter().rposition(|v| *v == Value::Mark) else {
            bail!("byte {}: an opcode needs a mark, and there is none", self.opcode)
        };
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn push_object(&mut self, object: Object) {
        self.objects.push(object);
        self.stack.push(Value::Object(self.objects.len() - 1));
    }

    fn text(&mut self, length: usize) -> Result<()> {
        let start = self.at;
        let part = self.take(length)?;
        if std::str::from_utf8(part).is_err() {
            // A byte string: no name.
            self.stack.push(Value::Plain);
        } else {
            self.stack.push(Value::Text(start, start + length));
        }
        Ok(())
    }

    fn str(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(start, end) => std::str::from_utf8(self.bytes.get(start..end)?).ok(),
            _ => None,
        }
    }

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(number) => self.objects.get(number),
            _ => None,
        }
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            self.opcode = self.at;
            match self.take(1)?[0] {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.stack.push(Value::Mark),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.above_mark()?),
                b'2' => {
                    let top = self.pop()?;
                    self.stack.extend([top, top]);
                }
                b'N' | 0x88 | 0x89 => self.stack.push(Value::Plain),
                b'J' => {
                    let n = self.number(4)? as u32 as i32;
                    self.stack.push(Value::Int(n.into()));
                }
                b'K' => {
                    let n = self.number(1)?;
                    self.stack.push(Value::Int(n as i64));
                }
                b'M' => {
                    let n = self.number(2)?;
                    self.stack.push(Value::Int(n as i64));
                }
                0x8a => {
                    let n = self.length(1)?;
                    self.long(n)?;
                }
                0x8b => {
                    let n = self.length(4)?;
                    self.long(n)?;
                }
                b'I' | b'L' => {
                    let line = self.line()?;
                    let text = std::str::from_utf8(line).unwrap_or_default();
                    self.stack.push(text.trim_end_matches('L').parse().map_or(Value::Plain, Value::Int));
                }
                b'F' => {
                    self.line()?;
                    self.stack.push(Value::Plain);
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Plain);
                }
                b'U' | 0x8c | b'C' => {
                    let n = self.length(1)?;
                    self.text(n)?;
                }
                b'T' | b'X' | b'B' => {
                    let n = self.length(4)?;
                    self.text(n)?;
                }
                0x8d | 0x8e | 0x96 => {
                    let n = self.length(8)?;
                    self.text(n)?;
                }
                b']' => self.push_object(Object::List(Vec::new())),
                b')' => self.push_object(Object::Tuple(Vec::new())),
                b'}' => self.push_object(Object::Dict(Vec::new())),
                // Sets are lists here: weights are never in them.
                0x8f => self.push_object(Object::List(Vec::new())),
                0x91 | b'l' => {
                    let values = self.above_mark()?;
                    self.push_object(Object::List(values));
                }
                b't' => {
                    let values = self.above_mark()?;
                    self.push_object(Object::Tuple(values));
                }
                n @ 0x85..=0x87 => {
                    let count = usize::from(n - 0x84);
                    let mut values = Vec::with_capacity(count);
                    for _ in 0..count {
                        values.push(self.pop()?);
                    }
                    values.reverse();
                    self.push_object(Object::Tuple(values));
                }
                b'd' => {
                    let values = self.above_mark()?;
                    let pairs = self.pairs(&values)?;
                    self.push_object(Object::Dict(pairs));
                }
                b'a' => {
                    let value = self.pop()?;
                    self.append(vec![value])?;
                }
                b'e' | 0x90 => {
                    let values = self.above_mark()?;
                    self.append(values)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(vec![(key, value)])?;
                }
                b'u' => {
                    let values = self.above_mark()?;
                    let pairs = self.pairs(&values)?;
                    self.insert(pairs)?;
                }
                b'q' => {
                    let n = self.number(1)?;
                    self.remember(n)?;
                }
                b'r' => {
                    let n = self.number(4)?;
                    self.remember(n)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => {
                    let n = self.number(1)?;
                    self.recall(n)?;
                }
                b'j' => {
                    let n = self.number(4)?;
                    self.recall(n)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let callable = self.callable(&String::from_utf8_lossy(module), &String::from_utf8_lossy(name))?;
                    self.stack.push(callable);
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Some(module), Some(name)) = (self.str(module), self.str(name)) else {
                        bail!("byte {}: a callable is named by what is no text", self.opcode)
                    };
                    let callable = self.callable(module, name)?;
                    self.stack.push(callable);
                }
                b'R' | 0x81 => self.call()?,
                // Attributes of an object: those of dictionaries are notes of PyTorch's on the modules' versions.
                b'b' => drop(self.pop()?),
                b'Q' => self.persistent()?,
                other => bail!(
                    "byte {}: the opcode {other:#04x} is none of a pickle of tensors and plain containers",
                    self.opcode
                ),
            }
        }
    }

    fn long(&mut self, length: usize) -> Result<()> {
        let part = self.take(length)?;
        let value = match part {
            [] => Value::Int(0),
            [.., last] if part.len() <= 8 => {
                let fill = if last & 0x80 != 0 { -1i64 } else { 0 };
                Value::Int(part.iter().rev().fold(fill, |v, b| v << 8 | i64::from(*b)))
            }
            _ => Value::Plain,
        };
        self.stack.push(value);
        Ok(())
    }

    fn pairs(&self, values: &[Value]) -> Result<Vec<(Value, Value)>> {
        ensure!(values.len().is_multiple_of(2), "byte {}: a dictionary has a key without a value", self.opcode);
        Ok(values.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }

    fn append(&mut self, values: Vec<Value>) -> Result<()> {
        match self.stack.last() {
            Some(Value::Object(number)) if matches!(self.objects[*number], Object::List(_)) => {
                if let Object::List(list) = &mut self.objects[*number] {
                    list.extend(values);
                }
                Ok(())
            }
            _ => bail!("byte {}: something is appended to what is no list", self.opcode),
        }
    }

    fn insert(&mut self, pairs: Vec<(Value, Value)>) -> Result<()> {
        match self.stack.last() {
            Some(Value::Object(number)) if matches!(self.objects[*number], Object::Dict(_)) => {
                if let Object::Dict(dict) = &mut self.objects[*number] {
                    dict.extend(pairs);
                }
                Ok(())
            }
            _ => bail!("byte {}: something is set in what is no dictionary", self.opcode),
        }
    }

    fn remember(&mut self, number: u64) -> Result<()> {
        match self.stack.last() {
            Some(top) => {
                self.memo.insert(number, *top);
                Ok(())
            }
            None => bail!("byte {}: nothing is there to remember", self.opcode),
        }
    }

    fn recall(&mut self, number: u64) -> Result<()> {
        match self.memo.get(&number) {
            Some(value) => {
                self.stack.push(*value);
                Ok(())
            }
            None => bail!("byte {}: nothing has been remembered as {number}", self.opcode),
        }
    }

    fn callable(&self, module: &str, name: &str) -> Result<Value> {
        let storage = |kind| Callable::Storage(kind);
        Ok(Value::Callable(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") => Callable::Dict,
            ("builtins" | "__builtin__", "set" | "frozenset") => Callable::Set,
            ("torch", "Size") => Callable::Size,
            ("torch._utils", "_rebuild_tensor_v2") => Callable::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Callable::RebuildParameter,
            ("torch", "FloatStorage") => storage(Kind::Float),
            ("torch", "DoubleStorage") => storage(Kind::Double),
            ("torch", "HalfStorage") => storage(Kind::Half),
            ("torch", "BFloat16Storage") => storage(Kind::BFloat16),
            ("torch", "LongStorage") => storage(Kind::Int64),
            ("torch", "IntStorage") => storage(Kind::Int),
            ("torch", "ShortStorage") => storage(Kind::Int16),
            ("torch", "CharStorage") => storage(Kind::Int8),
            ("torch", "ByteStorage") => storage(Kind::Uint8),
            ("torch", "BoolStorage") => storage(Kind::Bool),
            ("torch", "device") => Callable::Opaque,
            _ if ["posix", "nt", "os", "subprocess", "sys", "builtins", "__builtin__", "runpy", "importlib"]
                .contains(&module.split('.').next().unwrap_or_default()) =>
            {
                bail!(
                    "byte {}: whoever loads it would call `{module}.{name}`. Nothing was run; do not load it elsewhere either",
                    self.opcode
                )
            }
            _ => bail!(
                "byte {}: {} (`{module}.{name}`). Such objects are not read, and nothing was run. Load it where it was made \
                 and save its weights alone: torch.save(checkpoint[\"state_dict\"], \"weights.pth\"), or under whichever key \
                 they are",
                self.opcode,
                contents(module)
            ),
        }))
    }

    /// The elements of a list or tuple.
    fn items(&self, value: Value) -> Option<&[Value]> {
        match self.object(value)? {
            Object::Tuple(items) | Object::List(items) => Some(items),
            _ => None,
        }
    }

    fn call(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Callable(function), Some(arguments)) = (function, self.items(arguments)) else {
            bail!("byte {}: something is called that is no callable, or without arguments", self.opcode)
        };
        let first = arguments.first().copied();
        let object = match function {
            Callable::Dict => Object::Dict(Vec::new()),
            Callable::Set => Object::List(Vec::new()),
            Callable::Size => {
                let items = first.and_then(|v| self.items(v)).unwrap_or_default();
                ensure!(items.len() <= MAX_DIMENSIONS, "byte {}: a shape of {} sizes", self.opcode, items.len());
                Object::Tuple(items.to_vec())
            }
            Callable::Opaque => {
                self.stack.push(Value::Plain);
                return Ok(());
            }
            Callable::RebuildTensor => Object::Tensor(self.layout(arguments)?),
            Callable::RebuildParameter => match first.and_then(|v| self.object(v)) {
                Some(Object::Tensor(layout)) => Object::Tensor(layout.clone()),
                _ => bail!("byte {}: a parameter is made of what is no tensor", self.opcode),
            },
            Callable::Storage(_) => bail!("byte {}: the type of a storage is called", self.opcode),
        };
        self.push_object(object);
        Ok(())
    }

    /// The arguments of `_rebuild_tensor_v2`: storage, offset, size, stride, and what does not matter here.
    fn layout(&self, arguments: &[Value]) -> Result<Layout> {
        let numbers = |value: &Value| -> Option<Vec<i64>> {
            let number = |v: &Value| if let Value::Int(n) = v { Some(*n) } else { None };
            self.items(*value)?.iter().take(MAX_DIMENSIONS + 1).map(number).collect()
        };
        if let [storage, Value::Int(offset), size, stride, ..] = arguments
            && let (Some(Object::Storage(storage)), Some(size), Some(stride)) =
                (self.object(*storage), numbers(size), numbers(stride))
            && size.len() <= MAX_DIMENSIONS
        {
            return Ok(Layout { storage: storage.clone(), offset: *offset, size, stride });
        }
        bail!("byte {}: a tensor is made of other things than a storage, an offset, a size and strides", self.opcode)
    }

    /// `("storage", type, key, device, count)`.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        if let Some([tag, Value::Callable(Callable::Storage(kind)), key, _, Value::Int(count)]) = self.items(id)
            && self.str(*tag) == Some("storage")
            && let (Some(key), Ok(count)) = (self.str(*key), usize::try_from(*count))
            && key.len() <= MAX_NAME
        {
            let storage = Storage { kind: *kind, key: key.to_owned(), count };
            self.push_object(Object::Storage(storage));
            return Ok(());
        }
        bail!("byte {}: what is stored elsewhere is no storage of a known type", self.opcode)
    }

    fn collect(
        &self,
        value: Value,
        path: &str,
        depth: usize,
        seen: &mut HashSet<usize>,
        out: &mut Vec<(String, Layout)>,
    ) -> Result<()> {
        match (self.object(value), value) {
            (Some(Object::Tensor(layout)), _) => {
                ensure!(out.len() < MAX_TENSORS, "more than {MAX_TENSORS} tensors");
                out.push((path.to_owned(), layout.clone()));
            }
            (Some(Object::Dict(pairs)), Value::Object(number)) if depth > 0 && seen.insert(number) => {
                // A key that is too long is no name; its text is not looked at, however often it stands here.
                let short = |key: &Value| matches!(key, Value::Text(start, end) if end - start < MAX_NAME);
                let named: Vec<(&str, Value)> = pairs
                    .iter()
                    .filter(|(key, _)| short(key))
                    .filter_map(|(key, value)| Some((self.str(*key)?, *value)))
                    .collect();
                let inner = named.iter().find(|(name, value)| {
                    *name == "state_dict" && matches!(self.object(*value), Some(Object::Dict(_)))
                });
                if let Some((_, value)) = inner {
                    return self.collect(*value, path, depth - 1, seen, out);
                }
                let parallel = !named.is_empty() && named.iter().all(|(name, _)| name.starts_with("module."));
                for (name, value) in named {
                    let name = if parallel { name.strip_prefix("module.").unwrap_or(name) } else { name };
                    ensure!(path.len() + name.len() < MAX_NAME, "a name of more than {MAX_NAME} bytes");
                    let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                    self.collect(value, &path, depth - 1, seen, out)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a file is that holds objects of a Python module beside its tensors.
fn contents(module: &str) -> &'static str {
    match module.split('.').next().unwrap_or_default() {
        "pytorch_lightning" | "lightning" | "lightning_fabric" => {
            "it is a checkpoint of PyTorch Lightning, with objects of its own beside the weights under `state_dict`"
        }
        "argparse" => "it is a checkpoint of a training script, with its command line beside the weights",
        "numpy" => "it holds NumPy numbers beside its tensors",
        "torch" if module.starts_with("torch.nn") => "it is a whole model (torch.save(model)) and not its weights",
        "__torch__" => "it is a TorchScript program",
        _ => "it holds objects beside its tensors",
    }
}
