//! Models as evaluators see them, and finished runs opened for use.

mod cases;
mod evaluators;
mod open;
mod report;
mod unseen;

pub use cases::{read_cases, write_cases};
pub use evaluators::Evaluators;
pub use open::{OpenRun, Which, open_run};
pub use report::write_report;
pub use unseen::{Comparing, warn_of_trained_pictures};

use crate::data::open::transforms;
use crate::device::threads;
use crate::graph::{Graph, Wire};
use crate::model::{Feed, Model, gathered};
use crate::recipe::Recipe;
use crate::runs::RunFolder;
use mtl_component::{Dim, Draw, Inference, Normalization, ReadPicture, Registry, Transform, joined};
use mtl_recipe::{Context, Error, Result, mistake};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::{Device, Kind, Tensor};

/// Finished runs that evaluators have opened, such as judges. They are kept, since each evaluation opens them again.
#[derive(Clone, Default)]
pub struct Judges {
    open: Rc<RefCell<HashMap<PathBuf, Rc<OpenRun>>>>,
}

/// A model, in training or of an opened run.
enum Held<'m> {
    Borrowed(&'m Model),
    Opened(Rc<OpenRun>),
}

/// A model with what evaluators need besides: the transforms of its data, and where its weights come from.
pub struct ModelInference<'m> {
    model: Held<'m>,
    registry: Arc<Registry>,
    judges: Judges,
    threads: usize,
    /// For each data stream, what its recipe does to pictures also outside of training.
    transforms: Vec<Vec<Arc<dyn Transform>>>,
    /// The runs whose weights modules started from.
    starts: Vec<PathBuf>,
    recipe: serde_json::Value,
    progress: Option<Progress>,
}

/// Is told how many of how many pictures a model has looked at.
pub type Progress = Rc<dyn Fn(usize, usize)>;

impl<'m> ModelInference<'m> {
    /// Of a model of that recipe.
    ///
    /// # Errors
    /// If a transform cannot be opened.
    pub fn new(model: &'m Model, recipe: &Recipe, judges: &Judges) -> Result<Self> {
        Self::of(Held::Borrowed(model), recipe, judges)
    }

    /// Of an opened run.
    ///
    /// # Errors
    /// If a transform cannot be opened.
    pub fn of_run(run: Rc<OpenRun>, judges: &Judges) -> Result<ModelInference<'static>> {
        let recipe = run.recipe.clone();
        ModelInference::of(Held::Opened(run), &recipe, judges)
    }

    fn of(model: Held<'m>, recipe: &Recipe, judges: &Judges) -> Result<Self> {
        let weights = recipe.model.values().filter_map(|entry| entry.slot.common.weights.as_ref()?.run.as_ref());
        Ok(Self {
            model,
            registry: recipe.registry.clone(),
            judges: judges.clone(),
            threads: threads(recipe).max(1),
            transforms: recipe.data.values().map(|data| transforms(data, false)).collect::<Result<_>>()?,
            starts: weights.map(|run| run.0.clone()).collect(),
            recipe: recipe.root.to_json(),
            progress: None,
        })
    }

    /// The same, telling how far it is with pictures.
    #[must_use]
    pub fn telling(self, progress: Progress) -> Self {
        Self { progress: Some(progress), ..self }
    }

    fn model(&self) -> &Model {
        match &self.model {
            Held::Borrowed(model) => model,
            Held::Opened(run) => &run.model,
        }
    }

    fn graph(&self) -> &Graph {
        &self.model().graph
    }

    fn wire(&self, text: &str) -> Result<Wire> {
        match self.graph().wire(text) {
            Ok(wire) => Ok(wire),
            Err(e) => mistake!("`{text}`: {e}"),
        }
    }

    /// Hands on some batches of the pictures of `0..count`, in order; other threads prepare them meanwhile.
    fn batches(
        &self,
        feed: &str,
        read: ReadPicture<'_>,
        batch_size: usize,
        count: usize,
        wanted: &[usize],
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let Wire::Data { stream, .. } = self.wire(feed)? else {
            mistake!("`{feed}` is a node: pictures are fed to a data port");
        };
        let Ok(shape) = <[i64; 3]>::try_from(self.sample_shape(feed)?) else {
            mistake!("`{feed}` carries no pictures [3, height, width]");
        };
        let load = Loading { transforms: &self.transforms[stream], shape, read };
        let batch_size = batch_size.max(1);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (send, receive) = crossbeam_channel::bounded(2 * self.threads);
            for _ in 0..self.threads {
                let (send, next, load) = (send.clone(), &next, &load);
                scope.spawn(move || {
                    let _ = mtl_torch::disable_intra_op_threads();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(number) = wanted.get(at) else { return };
                        let range = number * batch_size..count.min((number + 1) * batch_size);
                        if send.send((at, load.batch(range))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut waiting = BTreeMap::new();
            for (at, number) in wanted.iter().enumerate() {
                let batch = loop {
                    if let Some(batch) = waiting.remove(&at) {
                        break batch;
                    }
                    let (number, batch) = receive.recv().context("a loading thread ended early")?;
                    waiting.insert(number, batch);
                };
                each(&batch?)?;
                if let Some(progress) = &self.progress {
                    progress(count.min((number + 1) * batch_size), count);
                }
            }
            Ok(())
        })
    }
}

/// How pictures become batches; shared by the threads that read them.
struct Loading<'l> {
    transforms: &'l [Arc<dyn Transform>],
    /// Channels, height and width.
    shape: [i64; 3],
    read: ReadPicture<'l>,
}

impl Loading<'_> {
    /// The pictures of some numbers as a batch.
    fn batch(&self, range: Range<usize>) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        let size = (channels * height * width) as usize;
        let mut data = vec![0f32; range.len() * size];
        let n = range.len() as i64;
        for (i, out) in range.zip(data.chunks_exact_mut(size)) {
            let mut picture = (self.read)(i)?;
            let mut draw = Draw::new(&[]);
            for transform in self.transforms {
                transform.apply(&mut picture, &mut draw)?;
            }
            picture.resize(width as usize, height as usize)?;
            picture.write(out)?;
        }
        Ok(Tensor::f_from_slice(&data)?.f_view([n, height, width, channels])?.f_permute([0, 3, 1, 2])?)
    }
}

impl Inference for ModelInference<'_> {
    fn has(&self, wire: &str) -> bool {
        self.graph().wire(wire).is_ok()
    }

    fn sample_shape(&self, wire: &str) -> Result<Vec<i64>> {
        let wire = self.wire(wire)?;
        let sizes = self.graph().shape(wire).iter().skip(1);
        let size = |d: &Dim| match d {
            Dim::Size(n) => Ok(*n),
            Dim::Named(n) => Err(Error::failure(format!("the size `{n}` is not known"))),
        };
        sizes.map(size).collect()
    }

    fn setting(&self, path: &str) -> Option<serde_json::Value> {
        path.split('.').try_fold(&self.recipe, |value, key| value.get(key)).cloned()
    }

    fn dim(&self, name: &str) -> Option<i64> {
        match self.graph().dims.get(name) {
            Some(Dim::Size(n)) => Some(*n),
            _ => None,
        }
    }

    fn needs(&self, wanted: &[&str], port: &str) -> Result<bool> {
        let Ok(port) = self.wire(port) else { return Ok(false) };
        let wires: Vec<Wire> = wanted.iter().map(|w| self.wire(w)).collect::<Result<_>>()?;
        let graph = self.graph();
        let needed = graph.needed_beyond(&wires, &[]);
        Ok(graph.nodes.iter().zip(needed).any(|(node, needed)| needed && node.inputs.contains(&Some(port))))
    }

    fn normalization(&self, wire: &str) -> Result<Normalization> {
        match self.graph().normalization(self.wire(wire)?) {
            Some(normalization) => Ok(normalization),
            None => mistake!("`{wire}` carries no pictures"),
        }
    }

    fn run(&self, given: &[(&str, &Tensor)], wanted: &[&str]) -> Result<Vec<Tensor>> {
        let wires: Vec<Wire> = wanted.iter().map(|w| self.wire(w)).collect::<Result<_>>()?;
        let context = self.model().context();
        let mut values: Vec<(Wire, Tensor)> = Vec::new();
        for (name, value) in given {
            let value =
                if value.kind() == Kind::Float { value.f_to_kind(context.kind)? } else { value.shallow_clone() };
            values.push((self.wire(name)?, value.f_to_device(context.device)?));
        }
        let graph = self.graph();
        let known: Vec<Wire> = values.iter().map(|(w, _)| *w).collect();
        for (n, needed) in graph.needed_beyond(&wires, &known).into_iter().enumerate() {
            for wire in graph.nodes[n].inputs.iter().flatten().filter(|_| needed) {
                if matches!(wire, Wire::Data { .. }) && !known.contains(wire) {
                    let names: Vec<&str> = given.iter().map(|(n, _)| *n).collect();
                    mistake!(
                        "`{}` needs `{}`, but the evaluation feeds {} only",
                        graph.nodes[n].label(),
                        graph.wire_name(*wire),
                        names.join(", ")
                    );
                }
            }
        }
        let out = self.model().infer(&Feed::new(), &wires, &values).context("evaluating")?;
        out.iter().map(|t| Ok(t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)).collect()
    }

    fn pictures(
        &self,
        feed: &str,
        count: usize,
        read: ReadPicture<'_>,
        batch_size: usize,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let all: Vec<usize> = (0..count.div_ceil(batch_size.max(1))).collect();
        self.batches(feed, read, batch_size, count, &all, each)
    }

    fn map_pictures(
        &self,
        feed: &str,
        count: usize,
        read: ReadPicture<'_>,
        batch_size: usize,
        map: &mut dyn FnMut(&Tensor) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let context = self.model().context();
        let batches = count.div_ceil(batch_size.max(1));
        let (rank, size) = (context.world.rank() as usize, context.world.size() as usize);
        // A process without a batch takes the first, to know what is found; its rows are left out below.
        let own = |rank: usize| (0..batches).filter(move |at| at % size == rank || (rank >= batches && *at == 0));
        let numbers: Vec<usize> = own(rank).collect();
        let parts = joined(map, |each| self.batches(feed, read, batch_size, count, &numbers, each))?;
        let Some(group) = context.world.group()? else { return Ok(parts) };
        let rows = |at: usize| (count.min((at + 1) * batch_size) - at * batch_size) as i64;
        let most = (0..size).map(|rank| own(rank).map(rows).sum::<i64>()).max().unwrap_or(0);
        let dealt = |part: &Tensor| -> Result<Tensor> {
            let all = gathered(&part.f_to_device(context.device)?, most, group)?.f_to_device(part.device())?;
            let mut starts: Vec<i64> = (0..size as i64).map(|rank| rank * most).collect();
            let in_order = (0..batches).map(|at| {
                let start = &mut starts[at % size];
                let found = all.f_narrow(0, *start, rows(at))?;
                *start += rows(at);
                Ok(found)
            });
            Ok(Tensor::f_cat(&in_order.collect::<Result<Vec<_>>>()?, 0)?)
        };
        parts.iter().map(dealt).collect()
    }

    fn open_run(&self, run: &Path) -> Result<Box<dyn Inference>> {
        let path = RunFolder::resolve(run)?.path().to_owned();
        let key = path.canonicalize().unwrap_or_else(|_| path.clone());
        let known = self.judges.open.borrow().get(&key).cloned();
        let opened = match known {
            Some(opened) => opened,
            None => {
                let opened = Rc::new(open_run(&self.registry, &path, &Which::Last, &[])?);
                self.judges.open.borrow_mut().insert(key, opened.clone());
                opened
            }
        };
        Ok(Box::new(ModelInference::of_run(opened, &self.judges)?))
    }

    fn started_from(&self, run: &Path) -> bool {
        let real = |run: &Path| RunFolder::resolve(run).ok()?.path().canonicalize().ok();
        real(run).is_some_and(|run| self.starts.iter().any(|start| real(start).as_ref() == Some(&run)))
    }
}
