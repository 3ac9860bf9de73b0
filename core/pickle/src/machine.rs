//! The stack machine.

use crate::input::Input;
use crate::{Call, MAX_LINE, MAX_MARKS, MAX_OBJECTS, MAX_SHORT, Object, Pickle, Value, refuse};
use mtl_recipe::{Result, bail, ensure};
use std::collections::HashMap;

/// What is read of a line at a time.
const LINE_PART: usize = 256;

struct Machine<'i> {
    input: &'i mut dyn Input,
    at: u64,
    /// Where the present opcode stands.
    opcode: u64,
    stack: Vec<Value>,
    /// The heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    objects: Vec<Object>,
    places: Vec<u64>,
    texts: Vec<Box<str>>,
    unescaped: Vec<Vec<u8>>,
}

pub(crate) fn run(input: &mut dyn Input, start: u64) -> Result<Pickle> {
    let mut machine = Machine {
        input,
        at: start,
        opcode: start,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
        places: Vec::new(),
        texts: Vec::new(),
        unescaped: Vec::new(),
    };
    let root = machine.run()?;
    let Machine { at, objects, places, texts, unescaped, .. } = machine;
    Ok(Pickle { root, objects, places, texts, unescaped, end: at })
}

impl Machine<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(&self.input.from(self.at, N)?[..N]);
        self.at += N as u64;
        Ok(out)
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let bytes = self.input.from(self.at, count)?[..count].to_vec();
        self.at += count as u64;
        Ok(bytes)
    }

    /// A line of text without its end.
    fn line(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let left = self.input.len().saturating_sub(self.at);
            if left == 0 || out.len() > MAX_LINE {
                bail!("the pickle ends at byte {} within a line that starts at {}", self.at, self.opcode);
            }
            let wanted = left.min(LINE_PART as u64) as usize;
            let part = &self.input.from(self.at, wanted)?[..wanted];
            let found = part.iter().position(|b| *b == b'\n');
            out.extend_from_slice(&part[..found.unwrap_or(wanted)]);
            self.at += found.map_or(wanted, |n| n + 1) as u64;
            if found.is_some() {
                return Ok(out);
            }
        }
    }

    fn text_line(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.line()?).trim_end_matches('\r').to_owned())
    }

    fn pop(&mut self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => bail!("byte {}: an opcode takes from an empty stack", self.opcode),
        }
    }

    fn top(&self) -> Result<Value> {
        match self.stack.last() {
            Some(top) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => Ok(*top),
            _ => bail!("byte {}: an opcode needs a value, and there is none", self.opcode),
        }
    }

    /// Everything above the topmost mark, which goes as well.
    fn above_mark(&mut self) -> Result<Vec<Value>> {
        let Some(mark) = self.marks.pop() else {
            bail!("byte {}: an opcode needs a mark, and there is none", self.opcode)
        };
        Ok(self.stack.split_off(mark))
    }

    fn object(&mut self, object: Object) -> Result<Value> {
        ensure!(self.objects.len() < MAX_OBJECTS, "byte {}: more than {MAX_OBJECTS} objects", self.opcode);
        self.objects.push(object);
        self.places.push(self.opcode);
        Ok(Value::Object(self.objects.len() - 1))
    }

    fn push_object(&mut self, object: Object) -> Result<()> {
        let value = self.object(object)?;
        self.stack.push(value);
        Ok(())
    }

    fn push_text(&mut self, text: &str) {
        self.texts.push(text.into());
        self.stack.push(Value::Text(self.texts.len() - 1));
    }

    /// A text or byte string of that length: kept if it is short and UTF-8, else a range of the input.
    fn string(&mut self, len: u64, is_text: bool) -> Result<()> {
        let start = self.at;
        if start.checked_add(len).is_none_or(|end| end > self.input.len()) {
            bail!("the pickle ends at byte {} within {len} bytes that start at {start}", self.input.len());
        }
        if len <= MAX_SHORT && is_text {
            let bytes = self.bytes(len as usize)?;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                self.push_text(text);
                return Ok(());
            }
        }
        self.at = start + len;
        self.stack.push(Value::Span { start, len });
        Ok(())
    }

    fn named(&mut self, module: &str, name: &str) -> Result<()> {
        ensure!(module.len() + name.len() <= MAX_SHORT as usize, "byte {}: a name is too long", self.opcode);
        refuse(module, name, self.opcode)?;
        self.push_object(Object::Named(module.to_owned(), name.to_owned()))
    }

    fn call(&mut self, what: Value, arguments: Value) -> Result<()> {
        let named = matches!(self.objects.get(index(what)), Some(Object::Named(..)));
        let tuple = matches!(self.objects.get(index(arguments)), Some(Object::Tuple(_) | Object::List(_)));
        if !named || !tuple {
            bail!("byte {}: something is called that is no callable, or without arguments", self.opcode);
        }
        let Some(Object::Named(module, name)) = self.objects.get(index(what)) else { return Ok(()) };
        let empty = matches!(self.objects.get(index(arguments)), Some(Object::Tuple(items)) if items.is_empty());
        // Containers are what they would be.
        let object = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict" | "defaultdict") => Object::Dict(Vec::new()),
            ("builtins" | "__builtin__", "dict") if empty => Object::Dict(Vec::new()),
            ("builtins" | "__builtin__", "list") if empty => Object::List(Vec::new()),
            ("builtins" | "__builtin__", "set" | "frozenset") => Object::Set(Vec::new()),
            _ => {
                let (state, items, pairs) = Default::default();
                Object::Call(Box::new(Call { what, arguments, state, items, pairs }))
            }
        };
        self.push_object(object)
    }

    fn pairs(&self, values: &[Value]) -> Result<Vec<(Value, Value)>> {
        ensure!(values.len().is_multiple_of(2), "byte {}: a dictionary has a key without a value", self.opcode);
        Ok(values.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }

    fn append(&mut self, values: Vec<Value>) -> Result<()> {
        let top = self.top()?;
        match self.objects.get_mut(index(top)) {
            Some(Object::List(list) | Object::Set(list)) => list.extend(values),
            Some(Object::Call(call)) => call.items.extend(values),
            _ => bail!("byte {}: something is appended to what is no list", self.opcode),
        }
        Ok(())
    }

    fn insert(&mut self, pairs: Vec<(Value, Value)>) -> Result<()> {
        let top = self.top()?;
        match self.objects.get_mut(index(top)) {
            Some(Object::Dict(dict)) => dict.extend(pairs),
            Some(Object::Call(call)) => call.pairs.extend(pairs),
            _ => bail!("byte {}: something is set in what is no dictionary", self.opcode),
        }
        Ok(())
    }

    fn remember(&mut self, number: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(number, top);
        Ok(())
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

    fn number_line(&mut self) -> Result<u64> {
        let line = self.text_line()?;
        match line.trim().parse() {
            Ok(number) => Ok(number),
            Err(_) => bail!("byte {}: expected a number", self.opcode),
        }
    }

    fn long(&mut self, len: u64) -> Result<()> {
        if len > MAX_SHORT {
            bail!("byte {}: a whole number of {len} bytes", self.opcode);
        }
        let part = self.bytes(len as usize)?;
        let value = match part.as_slice() {
            [] => Value::Int(0),
            [.., last] if part.len() <= 8 => {
                let fill = if last & 0x80 != 0 { -1i64 } else { 0 };
                Value::Int(part.iter().rev().fold(fill, |v, b| v << 8 | i64::from(*b)))
            }
            _ => Value::Float(f64::INFINITY),
        };
        self.stack.push(value);
        Ok(())
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            self.opcode = self.at;
            let [opcode] = self.take::<1>()?;
            match opcode {
                b'.' => return self.pop(),
                0x80 => drop(self.take::<1>()?),
                0x95 => drop(self.take::<8>()?),
                b'(' => {
                    ensure!(self.marks.len() < MAX_MARKS, "byte {}: more than {MAX_MARKS} open marks", self.opcode);
                    self.marks.push(self.stack.len());
                }
                b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.above_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'J' => {
                    let n = i32::from_le_bytes(self.take()?);
                    self.stack.push(Value::Int(n.into()));
                }
                b'K' => {
                    let [n] = self.take()?;
                    self.stack.push(Value::Int(n.into()));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.take()?);
                    self.stack.push(Value::Int(n.into()));
                }
                0x8a => {
                    let [n] = self.take()?;
                    self.long(n.into())?;
                }
                0x8b => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.long(n.into())?;
                }
                b'I' | b'L' => {
                    let line = self.text_line()?;
                    let value = match line.trim_end_matches('L') {
                        "00" => Value::Bool(false),
                        "01" => Value::Bool(true),
                        text => text.parse().map_or(Value::Float(f64::INFINITY), Value::Int),
                    };
                    self.stack.push(value);
                }
                b'F' => {
                    let line = self.text_line()?;
                    self.stack.push(Value::Float(line.parse().unwrap_or(f64::NAN)));
                }
                b'G' => {
                    let n = f64::from_be_bytes(self.take()?);
                    self.stack.push(Value::Float(n));
                }
                // The strings of Python 2 are bytes, and names as well.
                b'U' | 0x8c => {
                    let [n] = self.take()?;
                    self.string(n.into(), true)?;
                }
                b'C' => {
                    let [n] = self.take()?;
                    self.string(n.into(), false)?;
                }
                b'T' | b'X' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.string(n.into(), true)?;
                }
                b'B' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.string(n.into(), false)?;
                }
                0x8d => {
                    let n = u64::from_le_bytes(self.take()?);
                    self.string(n, true)?;
                }
                0x8e | 0x96 => {
                    let n = u64::from_le_bytes(self.take()?);
                    self.string(n, false)?;
                }
                b'S' | b'V' => {
                    let line = self.line()?;
                    self.written(&line, opcode == b'S')?;
                }
                b']' => self.push_object(Object::List(Vec::new()))?,
                b')' => self.push_object(Object::Tuple(Vec::new()))?,
                b'}' => self.push_object(Object::Dict(Vec::new()))?,
                0x8f => self.push_object(Object::Set(Vec::new()))?,
                b'l' => {
                    let values = self.above_mark()?;
                    self.push_object(Object::List(values))?;
                }
                0x91 => {
                    let values = self.above_mark()?;
                    self.push_object(Object::Set(values))?;
                }
                b't' => {
                    let values = self.above_mark()?;
                    self.push_object(Object::Tuple(values))?;
                }
                n @ 0x85..=0x87 => {
                    let count = usize::from(n - 0x84);
                    let mut values = Vec::with_capacity(count);
                    for _ in 0..count {
                        values.push(self.pop()?);
                    }
                    values.reverse();
                    self.push_object(Object::Tuple(values))?;
                }
                b'd' => {
                    let values = self.above_mark()?;
                    let pairs = self.pairs(&values)?;
                    self.push_object(Object::Dict(pairs))?;
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
                    let [n] = self.take()?;
                    self.remember(n.into())?;
                }
                b'r' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.remember(n.into())?;
                }
                b'p' => {
                    let n = self.number_line()?;
                    self.remember(n)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => {
                    let [n] = self.take()?;
                    self.recall(n.into())?;
                }
                b'j' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.recall(n.into())?;
                }
                b'g' => {
                    let n = self.number_line()?;
                    self.recall(n)?;
                }
                b'c' => {
                    let (module, name) = (self.text_line()?, self.text_line()?);
                    self.named(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let text = |value| match value {
                        Value::Text(number) => self.texts.get(number).map(|text| text.to_string()),
                        _ => None,
                    };
                    let (Some(module), Some(name)) = (text(module), text(name)) else {
                        bail!("byte {}: a callable is named by what is no text", self.opcode)
                    };
                    self.named(&module, &name)?;
                }
                b'R' | 0x81 => {
                    let (arguments, what) = (self.pop()?, self.pop()?);
                    self.call(what, arguments)?;
                }
                0x92 => {
                    let (_, arguments, what) = (self.pop()?, self.pop()?, self.pop()?);
                    self.call(what, arguments)?;
                }
                b'i' => {
                    let (module, name) = (self.text_line()?, self.text_line()?);
                    let values = self.above_mark()?;
                    self.named(&module, &name)?;
                    let what = self.pop()?;
                    let arguments = self.object(Object::Tuple(values))?;
                    self.call(what, arguments)?;
                }
                b'o' => {
                    let mut values = self.above_mark()?;
                    ensure!(!values.is_empty(), "byte {}: an object of no class", self.opcode);
                    let what = values.remove(0);
                    let arguments = self.object(Object::Tuple(values))?;
                    self.call(what, arguments)?;
                }
                b'b' => {
                    let state = self.pop()?;
                    let top = self.top()?;
                    // The attributes of dictionaries are notes of PyTorch's on the modules' versions.
                    if let Some(Object::Call(call)) = self.objects.get_mut(index(top)) {
                        call.state = Some(state);
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push_object(Object::Outside(id))?;
                }
                other => bail!("byte {}: the opcode {other:#04x} is none of a pickle of data", self.opcode),
            }
        }
    }

    /// A string as it is written in a program: with quotes and escapes in Python 2's form of bytes.
    fn written(&mut self, line: &[u8], quoted: bool) -> Result<()> {
        let inner = match line {
            [open @ (b'\'' | b'"'), inner @ .., close] if quoted && open == close => inner,
            line if !quoted => line,
            _ => bail!("byte {}: a string without quotes", self.opcode),
        };
        let mut out = Vec::with_capacity(inner.len());
        let mut rest = inner.iter().copied();
        while let Some(byte) = rest.next() {
            if byte != b'\\' {
                out.push(byte);
                continue;
            }
            match rest.next() {
                Some(b'n') => out.push(b'\n'),
                Some(b't') => out.push(b'\t'),
                Some(b'r') => out.push(b'\r'),
                Some(b'x') => {
                    let digit = |d: Option<u8>| d.and_then(|d| char::from(d).to_digit(16));
                    let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                        bail!("byte {}: an escape `\\x` without two digits", self.opcode)
                    };
                    out.push((high * 16 + low) as u8);
                }
                Some(other @ (b'\\' | b'\'' | b'"')) => out.push(other),
                Some(other) => out.extend([b'\\', other]),
                None => bail!("byte {}: a string ends in the midst of an escape", self.opcode),
            }
        }
        match String::from_utf8(out) {
            Ok(text) if text.len() <= MAX_SHORT as usize => self.push_text(&text),
            Ok(text) => self.hold(text.into_bytes()),
            Err(e) => self.hold(e.into_bytes()),
        }
        Ok(())
    }

    fn hold(&mut self, bytes: Vec<u8>) {
        self.unescaped.push(bytes);
        self.stack.push(Value::Unescaped(self.unescaped.len() - 1));
    }
}

/// The number of an object; one that no object has for other values.
fn index(value: Value) -> usize {
    match value {
        Value::Object(number) => number,
        _ => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(mut bytes: &[u8]) -> Result<Pickle> {
        Pickle::read(&mut bytes, 0)
    }

    fn told(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_call_is_a_value() {
        // argparse.Namespace() with a dictionary of its attributes.
        let found =
            read(b"\x80\x02cargparse\nNamespace\n)\x81}X\x02\x00\x00\x00lrG?\xb9\x99\x99\x99\x99\x99\x9asb.").unwrap();
        let (module, name, arguments, call) = found.call(found.root()).unwrap();
        assert_eq!((module, name, arguments.len()), ("argparse", "Namespace", 0));
        let Some(Object::Dict(pairs)) = found.object(call.state.unwrap()) else { panic!("no attributes") };
        assert_eq!((found.text(pairs[0].0), pairs[0].1), (Some("lr"), Value::Float(0.1)));
    }

    #[test]
    fn forms_of_python_2_are_read() {
        let found = read(b"(lp0\nS'\\xff\\xd8 it\\'s'\np1\naI01\naI7\naL8L\naF0.5\naV\\u00e9\na.").unwrap();
        let items = found.items(found.root()).unwrap();
        assert_eq!(found.unescaped(items[0]).unwrap(), b"\xff\xd8 it's");
        assert_eq!(items[1..5], [Value::Bool(true), Value::Int(7), Value::Int(8), Value::Float(0.5)]);
    }

    #[test]
    fn long_strings_stay_where_they_are() {
        let mut bytes = b"\x80\x03B\x00\x10\x00\x00".to_vec();
        bytes.extend([7; 4096]);
        bytes.push(b'.');
        assert_eq!(read(&bytes).unwrap().root(), Value::Span { start: 7, len: 4096 });
        assert!(told(&bytes[..1000]).contains("within 4096 bytes that start at 7"));
    }

    #[test]
    fn attacks_are_refused_by_name() {
        for (bytes, word) in [
            (&b"cos\nsystem\n(S'true'\ntR."[..], "`os.system`"),
            (b"c__builtin__\neval\n(S'1'\ntR.", "`__builtin__.eval`"),
            (b"\x8c\x05posix\x8c\x06system\x93.", "`posix.system`"),
            (&b"(".repeat(5000), "open marks"),
            (b"q\x00.", "needs a value"),
            (b"(a.", "empty stack"),
            (b"\x82\x01.", "the opcode 0x82"),
            (b"X\xff\xff\xff\xff", "within 4294967295 bytes"),
            (b"K\x01)R.", "no callable"),
        ] {
            assert!(told(bytes).contains(word), "{word}: {}", told(bytes));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_machine_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
