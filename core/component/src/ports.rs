//! Symbolic shapes: what a port expects and gives, and how wiring decides the sizes.

use crate::picture::Normalization;
use crate::source::SourceUse;
use indexmap::IndexMap;
use mtl_recipe::{Error, Result, bail};
use std::fmt;

/// One size of a shape while a graph is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A known size.
    Size(i64),
    /// A size that has a name but is known only once the data is opened, such as `identities`.
    Named(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(n) => write!(f, "{n}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// A shape while a graph is checked.
pub type Shape = Vec<Dim>;

/// A shape in brackets, for messages.
pub fn shape_text(shape: &[Dim]) -> String {
    let parts: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", parts.join(", "))
}

/// What kind of numbers a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// Floating point, in the precision of the run.
    Float,
    /// 64-bit integers: labels.
    Int,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Int => "integer",
        })
    }
}

/// A named input or output of a component.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its name in recipes.
    pub name: String,
    /// What it carries.
    pub dtype: DType,
    /// The shape as a pattern; see [`Ports`].
    pub pattern: String,
    /// An input that may be left unwired.
    pub optional: bool,
    /// For pictures: which numbers stand for which colours.
    pub pixels: Pixels,
    /// For labels: the size that they are below, such as `identities`.
    pub below: Option<String>,
    /// An output that is meant only where its name is said: a wire that names the node alone means another.
    pub aside: bool,
    /// An output with a place for each class, which exists in parts where the classes are cut over processes.
    pub by_class: bool,
}

impl Port {
    /// A port that is wired and carries no pictures.
    fn new(name: &str, dtype: DType, pattern: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            dtype,
            pattern: pattern.into(),
            optional: false,
            pixels: Pixels::None,
            below: None,
            aside: false,
            by_class: false,
        }
    }
}

/// Which numbers of a port stand for which colours.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Pixels {
    /// It carries no pictures.
    #[default]
    None,
    /// Pictures `[batch, 3, height, width]` of this normalisation.
    Normalized(Normalization),
    /// Pictures that are normalised like those of the input of that name.
    Like(String),
}

/// The inputs and outputs of a component.
///
/// A shape is written as a pattern of sizes separated by spaces:
/// - a number is that size;
/// - a name is bound by the first input that has it and must agree everywhere else in the component;
/// - `$name` is a size of the recipe's `[dims]`, or one that a dataset declares;
/// - an output may also say `name/16` or `name*2`; a division must come out even; `-2` after it takes away, and must
///   leave something;
/// - `...` alone is any shape, the same wherever the component says it.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order. A node with one output is wired by the node's name alone.
    pub outputs: Vec<Port>,
    /// No gradient passes from the outputs to the inputs.
    pub stops_gradient: bool,
    /// The fewest places that a channel is normalised over in training mode, as a pattern.
    pub statistics: Option<String>,
}

impl Ports {
    /// No ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input.
    pub fn input(mut self, name: &str, dtype: DType, pattern: impl Into<String>) -> Self {
        self.inputs.push(Port::new(name, dtype, pattern));
        self
    }

    /// Adds an input that may be left unwired.
    pub fn optional(mut self, name: &str, dtype: DType, pattern: impl Into<String>) -> Self {
        self.inputs.push(Port { optional: true, ..Port::new(name, dtype, pattern) });
        self
    }

    /// Adds an output.
    pub fn output(mut self, name: &str, dtype: DType, pattern: impl Into<String>) -> Self {
        self.outputs.push(Port::new(name, dtype, pattern));
        self
    }

    /// Says that the input added last takes labels from 0 to below a size: one that the inputs bind, or one of the
    /// recipe. Labels of the data that go beyond are then reported when it is opened.
    pub fn below(mut self, size: &str) -> Self {
        if let Some(port) = self.inputs.last_mut() {
            port.below = Some(size.to_owned());
        }
        self
    }

    /// Says that the output added last is meant only where its name is said, beside the node's main one.
    pub fn aside(mut self) -> Self {
        if let Some(port) = self.outputs.last_mut() {
            port.aside = true;
        }
        self
    }

    /// Says that the output added last has a place for each class.
    pub fn by_class(mut self) -> Self {
        if let Some(port) = self.outputs.last_mut() {
            port.by_class = true;
        }
        self
    }

    /// Says that the output added last carries pictures of that normalisation.
    pub fn pictures(mut self, normalization: Normalization) -> Self {
        if let Some(port) = self.outputs.last_mut() {
            port.pixels = Pixels::Normalized(normalization);
        }
        self
    }

    /// Says that the output added last carries pictures that are normalised like those of an input.
    pub fn pictures_like(mut self, input: &str) -> Self {
        if let Some(port) = self.outputs.last_mut() {
            port.pixels = Pixels::Like(input.to_owned());
        }
        self
    }

    /// Says that in training mode each channel is normalised over places of its batch, at the narrowest point over those
    /// of a pattern, such as `batch height/16 width/16`. One place alone has no statistics, which the check reports.
    pub fn batch_statistics(mut self, places: impl Into<String>) -> Self {
        self.statistics = Some(places.into());
        self
    }

    /// Declares that no gradient passes.
    pub fn stop_gradient(mut self) -> Self {
        self.stops_gradient = true;
        self
    }
}

/// What a component says of itself, given its configuration.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// Its inputs and outputs.
    pub ports: Ports,
    /// What is wrong between keys of the configuration that no schema can say; one sentence each.
    pub problems: Vec<String>,
    /// Optional inputs of which a node wires exactly one.
    pub one_of: Vec<OneOf>,
    /// For datasets: names of sizes in `[dims]` that are known only once the data is opened.
    pub declares: Vec<&'static str>,
    /// For datasets: where they have their pictures from.
    pub source: SourceUse,
}

/// Optional inputs of which a node wires exactly one.
#[derive(Debug, Clone)]
pub struct OneOf {
    /// The inputs.
    pub inputs: Vec<&'static str>,
    /// What they give, for messages, such as "the wanted age".
    pub what: &'static str,
}

impl From<Ports> for Description {
    fn from(ports: Ports) -> Self {
        Self { ports, ..Self::default() }
    }
}

impl Description {
    /// Adds what is wrong with the configuration.
    pub fn problems(mut self, problems: impl IntoIterator<Item = String>) -> Self {
        self.problems.extend(problems);
        self
    }

    /// Requires exactly one of some optional inputs, which give `what`.
    pub fn one_of(mut self, inputs: &[&'static str], what: &'static str) -> Self {
        self.one_of.push(OneOf { inputs: inputs.to_vec(), what });
        self
    }

    /// Says where a dataset has its pictures from.
    pub fn source(self, source: SourceUse) -> Self {
        Self { source, ..self }
    }

    /// Names sizes that the opened data decides.
    pub fn declares(mut self, sizes: &[&'static str]) -> Self {
        self.declares.extend(sizes);
        self
    }
}

impl OneOf {
    /// What is wrong with the inputs that a node wires, if anything is.
    pub fn problem(&self, wired: &[&str]) -> Option<String> {
        let names = |list: &[&str], word: &str| {
            list.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(&format!(" {word} "))
        };
        let given: Vec<&str> = self.inputs.iter().copied().filter(|name| wired.contains(name)).collect();
        match given.len() {
            0 => Some(format!("it needs {}: wire {}", self.what, names(&self.inputs, "or"))),
            1 => None,
            _ => Some(format!("{} each give {}: wire one of them", names(&given, "and"), self.what)),
        }
    }
}

/// The sizes that a call of a component has: those bound by its inputs and those of the recipe.
#[derive(Debug, Clone, Default)]
pub struct Sizes {
    bound: IndexMap<String, Dim>,
    any: Option<Shape>,
    global: IndexMap<String, Dim>,
}

impl Sizes {
    /// Sizes of the recipe alone; nothing is bound yet.
    pub fn new(global: &IndexMap<String, Dim>) -> Self {
        Self { global: global.clone(), ..Self::default() }
    }

    /// A size that the inputs bound, such as `channels`.
    pub fn get(&self, name: &str) -> Result<i64> {
        match self.bound.get(name) {
            Some(Dim::Size(n)) => Ok(*n),
            Some(Dim::Named(other)) => bail!("the size `{other}` is not known yet"),
            None => bail!("no input binds the size `{name}`"),
        }
    }

    /// A size of the recipe, such as `age_groups`.
    pub fn global(&self, name: &str) -> Result<i64> {
        match self.global.get(name) {
            Some(Dim::Size(n)) => Ok(*n),
            Some(Dim::Named(_)) => {
                bail!("the size `{name}` is not known yet: open the data, or set it: --set dims.{name}=…")
            }
            None => bail!("the size `{name}` is not set: add `{name} = …` to [dims]"),
        }
    }

    /// Binds the names of `pattern` to `shape`, or says what does not fit.
    pub fn bind(&mut self, pattern: &str, shape: &[Dim]) -> Result<()> {
        if pattern == "..." {
            match &self.any {
                Some(first) if first != shape => {
                    bail!("expected {} as the other input has, found {}", shape_text(first), shape_text(shape))
                }
                _ => self.any = Some(shape.to_vec()),
            }
            return Ok(());
        }
        let parts: Vec<&str> = pattern.split_whitespace().collect();
        if parts.len() != shape.len() {
            bail!("expected {} sizes [{}], found {} {}", parts.len(), parts.join(", "), shape.len(), shape_text(shape));
        }
        for (part, dim) in parts.iter().zip(shape) {
            let wanted = match part.strip_prefix('$') {
                Some(name) => self.global.get(name).cloned().ok_or_else(|| {
                    Error::failure(format!("the size `{name}` is not set: add `{name} = …` to [dims]"))
                })?,
                None => match part.parse() {
                    Ok(n) => Dim::Size(n),
                    Err(_) => match self.bound.get(*part) {
                        Some(known) => known.clone(),
                        None => {
                            self.bound.insert((*part).to_owned(), dim.clone());
                            continue;
                        }
                    },
                },
            };
            if wanted != *dim {
                let name = if part.parse::<i64>().is_ok() { String::new() } else { format!("`{part}` = ") };
                bail!("expected {name}{wanted}, found {dim} in {}", shape_text(shape));
            }
        }
        Ok(())
    }

    /// The shape that an output pattern has with these sizes.
    pub fn shape(&self, pattern: &str) -> Result<Shape> {
        if pattern == "..." {
            return self.any.clone().ok_or_else(|| Error::failure("no input has any shape"));
        }
        pattern.split_whitespace().map(|part| self.dim(part)).collect()
    }

    fn dim(&self, part: &str) -> Result<Dim> {
        if let Some(name) = part.strip_prefix('$') {
            return self
                .global
                .get(name)
                .cloned()
                .ok_or_else(|| Error::failure(format!("the size `{name}` is not set: add `{name} = …` to [dims]")));
        }
        if let Ok(n) = part.parse() {
            return Ok(Dim::Size(n));
        }
        if let Some((rest, less)) = part.split_once('-') {
            let less: i64 = less.parse()?;
            return match self.dim(rest)? {
                Dim::Size(n) if n > less => Ok(Dim::Size(n - less)),
                Dim::Size(n) => bail!("`{rest}` is {n}, expected more than {less}"),
                Dim::Named(other) => Ok(Dim::Named(format!("{other}-{less}"))),
            };
        }
        if let Some((name, by)) = part.split_once('/') {
            let by: i64 = by.parse()?;
            return match self.dim(name)? {
                Dim::Size(n) if n % by == 0 && n > 0 => Ok(Dim::Size(n / by)),
                Dim::Size(n) => bail!("`{name}` is {n}, expected a multiple of {by}"),
                Dim::Named(other) => Ok(Dim::Named(format!("{other}/{by}"))),
            };
        }
        if let Some((name, by)) = part.split_once('*') {
            let by: i64 = by.parse()?;
            return Ok(match self.dim(name)? {
                Dim::Size(n) => Dim::Size(n * by),
                Dim::Named(other) => Dim::Named(format!("{other}*{by}")),
            });
        }
        self.bound.get(part).cloned().ok_or_else(|| Error::failure(format!("no input binds the size `{part}`")))
    }

    /// Puts the true sizes in the place of names.
    pub fn resolve(&mut self, known: &IndexMap<String, Dim>) {
        for dim in self.bound.values_mut().chain(self.global.values_mut()).chain(self.any.iter_mut().flatten()) {
            if let Dim::Named(name) = dim
                && let Some(size) = known.get(name)
            {
                *dim = size.clone();
            }
        }
    }

    /// The names bound by inputs, with their sizes.
    pub fn bound(&self) -> &IndexMap<String, Dim> {
        &self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(list: &[(&str, i64)]) -> Sizes {
        Sizes::new(&list.iter().map(|(k, v)| ((*k).to_owned(), Dim::Size(*v))).collect())
    }

    fn dims(list: &[i64]) -> Shape {
        list.iter().map(|n| Dim::Size(*n)).collect()
    }

    #[test]
    fn names_bind_once_and_must_agree() {
        let mut s = sizes(&[("groups", 7)]);
        s.bind("batch 3 height width", &dims(&[4, 3, 32, 48])).unwrap();
        assert_eq!(s.shape("batch 64 height/16 width/16").unwrap(), dims(&[4, 64, 2, 3]));
        assert_eq!(s.shape("batch $groups").unwrap(), dims(&[4, 7]));
        let error = s.bind("batch", &dims(&[5])).unwrap_err().to_string();
        assert_eq!(error, "expected `batch` = 4, found 5 in [5]");
    }

    #[test]
    fn uneven_division_is_refused() {
        let mut s = sizes(&[]);
        s.bind("batch height", &dims(&[1, 100])).unwrap();
        assert_eq!(s.shape("height/16").unwrap_err().to_string(), "`height` is 100, expected a multiple of 16");
        assert_eq!(s.shape("height/50-1").unwrap(), dims(&[1]));
        assert_eq!(s.shape("height/50-2").unwrap_err().to_string(), "`height/50` is 2, expected more than 2");
    }

    #[test]
    fn exactly_one_of_alternative_inputs_is_wired() {
        let wanted = OneOf { inputs: vec!["group", "age"], what: "the wanted age" };
        assert_eq!(wanted.problem(&["features", "group"]), None);
        assert_eq!(wanted.problem(&["features"]).unwrap(), "it needs the wanted age: wire `group` or `age`");
        let both = wanted.problem(&["age", "group"]).unwrap();
        assert_eq!(both, "`group` and `age` each give the wanted age: wire one of them");
    }

    #[test]
    fn a_missing_size_says_where_to_set_it() {
        let error = sizes(&[]).shape("$age_groups").unwrap_err().to_string();
        assert!(error.contains("add `age_groups = …` to [dims]"), "{error}");
    }
}
