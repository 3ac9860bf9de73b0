//! Python pickles as values, read without running anything.
//!
//! A pickle is a program for a stack machine that may call any function of Python. Here a call is a value: what is called,
//! with what, and what is set in the result. Whoever reads weights or pictures looks for those calls that it knows, and
//! all others stay what they are. Functions that no data needs and that an attack would use are refused by name.
//!
//! Every opcode makes at most one value and reads at least one byte; texts of some length stay in the input, as ranges of
//! it; objects live in one list and refer to each other by number. Time and memory are bounded by a multiple of the bytes
//! that are looked at, and no nesting, not even a cycle, is followed.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod input;
mod machine;

pub use input::{FileInput, Input};

use mtl_recipe::{Result, bail};
use std::ops::Range;

/// More objects than any network or verification set needs.
pub(crate) const MAX_OBJECTS: usize = 8_000_000;
/// Marks that stand open at a time: nesting as it is written.
pub(crate) const MAX_MARKS: usize = 1000;
/// Longer texts and byte strings stay in the input.
pub(crate) const MAX_SHORT: u64 = 1024;
/// Longest line of the text forms of numbers, names and strings.
pub(crate) const MAX_LINE: usize = 16 << 20;

/// A value: small, or the number of what is kept beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// A flag.
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// A floating-point number, or a whole number beyond 64 bits.
    Float(f64),
    /// A short text: see [`Pickle::text`].
    Text(usize),
    /// Bytes or a text in the input: where they begin, and how many there are.
    Span {
        /// The first byte.
        start: u64,
        /// The number of bytes.
        len: u64,
    },
    /// Bytes that were written with escapes: see [`Pickle::unescaped`].
    Unescaped(usize),
    /// See [`Pickle::object`].
    Object(usize),
}

/// What a value stands for that is not small.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set.
    Set(Vec<Value>),
    /// A dictionary.
    Dict(Vec<(Value, Value)>),
    /// A class or function by module and name.
    Named(String, String),
    /// What a class or function would have made.
    Call(Box<Call>),
    /// What is kept outside of the pickle, by a name of its own.
    Outside(Value),
}

/// A call that was not made.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What would be called.
    pub what: Value,
    /// The arguments, a tuple.
    pub arguments: Value,
    /// What would be set in the result.
    pub state: Option<Value>,
    /// What would be appended to it.
    pub items: Vec<Value>,
    /// What would be set in it by key.
    pub pairs: Vec<(Value, Value)>,
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    pub(crate) root: Value,
    pub(crate) objects: Vec<Object>,
    /// Where the opcode of each object stands.
    pub(crate) places: Vec<u64>,
    pub(crate) texts: Vec<Box<str>>,
    pub(crate) unescaped: Vec<Vec<u8>>,
    pub(crate) end: u64,
}

impl Pickle {
    /// Reads a pickle that begins at `start`.
    ///
    /// # Errors
    /// The byte and what is wrong there: an unknown opcode, a function that is refused, a wrong operand, the end.
    pub fn read(input: &mut dyn Input, start: u64) -> Result<Self> {
        machine::run(input, start)
    }

    /// What it holds.
    pub fn root(&self) -> Value {
        self.root
    }

    /// The byte behind it.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// A short text.
    pub fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(number) => self.texts.get(number).map(|text| &**text),
            _ => None,
        }
    }

    /// Bytes that were written with escapes.
    pub fn unescaped(&self, value: Value) -> Option<&[u8]> {
        match value {
            Value::Unescaped(number) => self.unescaped.get(number).map(Vec::as_slice),
            _ => None,
        }
    }

    /// An object.
    pub fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(number) => self.objects.get(number),
            _ => None,
        }
    }

    /// The byte at which an object stands.
    pub fn place(&self, value: Value) -> u64 {
        match value {
            Value::Object(number) => self.places.get(number).copied().unwrap_or_default(),
            _ => 0,
        }
    }

    /// The elements of a list or tuple.
    pub fn items(&self, value: Value) -> Option<&[Value]> {
        match self.object(value)? {
            Object::List(items) | Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A call of a class or function: its module and name, its arguments, and the call itself.
    pub fn call(&self, value: Value) -> Option<(&str, &str, &[Value], &Call)> {
        let Object::Call(call) = self.object(value)? else { return None };
        let Object::Named(module, name) = self.object(call.what)? else { return None };
        Some((module, name, self.items(call.arguments)?, call))
    }

    /// A class or function by module and name.
    pub fn named(&self, value: Value) -> Option<(&str, &str)> {
        match self.object(value)? {
            Object::Named(module, name) => Some((module, name)),
            _ => None,
        }
    }

    /// Everything in it that is kept outside.
    pub fn all_outside(&self) -> impl Iterator<Item = Value> {
        let outside = |number: &usize| matches!(self.objects.get(*number), Some(Object::Outside(_)));
        (0..self.objects.len()).filter(outside).map(Value::Object)
    }

    /// All classes and functions that are named in it.
    pub fn all_named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.objects.iter().filter_map(|object| match object {
            Object::Named(module, name) => Some((module.as_str(), name.as_str())),
            _ => None,
        })
    }
}

/// Refuses what no data needs and what would run a program, read a file or load code.
pub(crate) fn refuse(module: &str, name: &str, at: u64) -> Result<()> {
    const MODULES: [&str; 16] = [
        "posix",
        "nt",
        "os",
        "subprocess",
        "sys",
        "runpy",
        "importlib",
        "shutil",
        "socket",
        "pty",
        "webbrowser",
        "code",
        "ctypes",
        "multiprocessing",
        "commands",
        "bdb",
    ];
    const HARMLESS: [&str; 14] = [
        "set",
        "frozenset",
        "dict",
        "list",
        "tuple",
        "object",
        "int",
        "float",
        "bool",
        "str",
        "bytes",
        "bytearray",
        "complex",
        "slice",
    ];
    let builtin = ["builtins", "__builtin__"].contains(&module)
        && !["unicode", "long", "range", "xrange"].iter().chain(&HARMLESS).any(|known| *known == name);
    if builtin || MODULES.contains(&module.split('.').next().unwrap_or_default()) {
        bail!(
            "byte {at}: whoever loads it would call `{module}.{name}`. Nothing was run; do not load it elsewhere either"
        );
    }
    Ok(())
}

/// Bytes of a range, from a slice that is the whole input.
pub fn of_range(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
