//! Evaluators: measuring a model on data of their own.

mod cases;

pub use cases::Cases;

use crate::data::draw::Draw;
use crate::data::{Transform, image::Picture};
use crate::files::write_atomically;
use crate::graph::{Feed, Model, Wire};
use crate::log::tensorboard::Image;
use crate::mistake;
use crate::recipe::Recipe;
use anyhow::{Context, Result, anyhow};
use indexmap::IndexMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::Tensor;

/// The configuration of an evaluator; it keeps no state.
pub trait Evaluator: Send + Sync {
    /// The wires that it feeds and reads, by the key that names them.
    fn wires(&self) -> Vec<(&'static str, String)>;

    /// Rules between keys that no schema can say.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// The files that must be there; a missing one is a mistake, or leaves out an optional evaluator.
    fn files(&self) -> Vec<PathBuf>;

    /// The names of the metrics that a report has, as far as the configuration tells them.
    fn metrics(&self) -> Vec<String> {
        Vec::new()
    }

    /// Measures.
    fn evaluate(&self, context: &Measure<'_>) -> Result<Report>;

    /// A metric on some of the cases of a report, each as often as it is picked; none where the cases do not tell it.
    /// Whether runs differ is tested with it.
    fn on_cases(&self, metric: &str, cases: &Cases, picked: &[usize]) -> Option<f64> {
        let _ = (metric, cases, picked);
        None
    }
}

/// What an evaluator found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// The main numbers by name.
    pub metrics: IndexMap<String, f64>,
    /// Everything else, as JSON.
    pub details: serde_json::Value,
    /// Pictures by name, for the run folder and TensorBoard.
    #[serde(skip)]
    pub pictures: Vec<(String, Image)>,
    /// What was measured at each case, to compare runs by.
    #[serde(skip)]
    pub cases: Option<Cases>,
}

impl Report {
    /// Where a run folder keeps the report of an evaluator at a step.
    pub fn path(run: &Path, evaluator: &str, step: u64) -> PathBuf {
        run.join(format!("eval/{evaluator}.step-{step}.json"))
    }

    /// Writes the report, its cases and its pictures, `eval/NAME.PICTURE.step-STEP.png`, into a run folder; returns the
    /// files of the pictures, in order.
    pub fn write(&self, folder: &Path, name: &str, step: u64) -> Result<Vec<PathBuf>> {
        write_atomically(&Self::path(folder, name, step), &serde_json::to_vec_pretty(self)?)?;
        if let Some(cases) = &self.cases {
            cases.write(&Cases::path(folder, name, step))?;
        }
        let write = |(picture, image): &(String, Image)| {
            let path = folder.join(format!("eval/{name}.{picture}.step-{step}.png"));
            write_atomically(&path, &image.png()?)?;
            Ok(path)
        };
        self.pictures.iter().map(write).collect()
    }
}

/// What an evaluator may use.
pub struct Measure<'a> {
    model: &'a Model,
    threads: usize,
    /// For each data stream, what its recipe does to images also outside of training.
    transforms: Vec<Vec<Arc<dyn Transform>>>,
    /// The runs whose weights modules started from.
    starts: Vec<PathBuf>,
}

impl<'a> Measure<'a> {
    /// For a model; images are loaded in `threads` threads.
    pub fn new(model: &'a Model, recipe: &Recipe, threads: usize) -> Result<Self> {
        let mut transforms = Vec::new();
        for data in recipe.data.values() {
            let opened: Vec<Arc<dyn Transform>> = data.transforms.iter().map(|t| t.open()).collect::<Result<_>>()?;
            transforms.push(opened.into_iter().filter(|t| t.in_evaluation()).collect());
        }
        let weights = recipe.model.values().filter_map(|slot| slot.common.weights.as_ref()?.run.as_ref());
        let starts = weights.map(|run| run.0.clone()).collect();
        Ok(Self { model, threads: threads.max(1), transforms, starts })
    }

    /// Whether a module of the model started from the weights of that run.
    pub fn starts_from(&self, run: &Path) -> bool {
        let real = |run: &Path| crate::runs::resolve(run).ok()?.canonicalize().ok();
        real(run).is_some_and(|run| self.starts.iter().any(|start| real(start).as_ref() == Some(&run)))
    }

    /// Prepares pictures as the recipe's data port takes them and hands them on in batches, in order.
    ///
    /// A batch is `[n, 3, height, width]`; `read` is called for 0..count in other threads meanwhile.
    pub fn pictures(
        &self,
        feed: &str,
        count: usize,
        read: &(dyn Fn(usize) -> Result<Picture> + Sync),
        batch_size: usize,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let Wire::Data { stream, .. } = self.wire(feed)? else {
            mistake!("`{feed}` is a node: pictures are fed to a data port");
        };
        let [channels, height, width] = self.sample_shape(feed)?[..] else {
            mistake!("`{feed}` carries no images [3, height, width]");
        };
        let transforms = &self.transforms[stream];
        let load = |range: Range<usize>| -> Result<Tensor> {
            let size = (channels * height * width) as usize;
            let mut data = vec![0f32; range.len() * size];
            let n = range.len() as i64;
            for (i, out) in range.zip(data.chunks_exact_mut(size)) {
                let mut picture = read(i)?;
                let mut draw = Draw::new(&[]);
                for transform in transforms {
                    transform.apply(&mut picture, &mut draw)?;
                }
                picture.resize(width as usize, height as usize)?;
                picture.write(out)?;
            }
            Ok(Tensor::f_from_slice(&data)?.f_view([n, height, width, channels])?.f_permute([0, 3, 1, 2])?)
        };
        let batch_size = batch_size.max(1);
        let batches = count.div_ceil(batch_size);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (send, receive) = crossbeam_channel::bounded(2 * self.threads);
            for _ in 0..self.threads {
                let (send, next, load) = (send.clone(), &next, &load);
                scope.spawn(move || {
                    let _ = mtl_torch::stay_serial();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let range = at * batch_size..count.min((at + 1) * batch_size);
                        if at >= batches || send.send((at, load(range))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut waiting = std::collections::BTreeMap::new();
            for at in 0..batches {
                let batch = loop {
                    if let Some(batch) = waiting.remove(&at) {
                        break batch;
                    }
                    let (number, batch) = receive.recv().context("a loading thread ended early")?;
                    waiting.insert(number, batch);
                };
                each(&batch?)?;
            }
            Ok(())
        })
    }

    /// The shape of one sample on a wire, without the batch.
    pub fn sample_shape(&self, wire: &str) -> Result<Vec<i64>> {
        let wire = self.wire(wire)?;
        self.model
            .graph
            .shape(wire)
            .iter()
            .skip(1)
            .map(|d| match d {
                crate::component::Dim::Size(n) => Ok(*n),
                crate::component::Dim::Named(n) => Err(anyhow!("the size `{n}` is not known")),
            })
            .collect()
    }

    /// Whether the graph has that wire.
    pub fn has(&self, wire: &str) -> bool {
        self.model.graph.wire(wire).is_ok()
    }

    /// Whether the wanted wires depend on a data port; a port that is not there is none that they need.
    pub fn needs(&self, wanted: &[&str], port: &str) -> Result<bool> {
        let Ok(port) = self.wire(port) else { return Ok(false) };
        let wires: Vec<Wire> = wanted.iter().map(|w| self.wire(w)).collect::<Result<_>>()?;
        let graph = &self.model.graph;
        let needed = graph.needed_beyond(&wires, &[]);
        Ok(graph.nodes.iter().zip(needed).any(|(node, needed)| needed && node.inputs.contains(&Some(port))))
    }

    /// The sizes of the recipe.
    pub fn dim(&self, name: &str) -> Option<i64> {
        match self.model.graph.dims.get(name) {
            Some(crate::component::Dim::Size(n)) => Some(*n),
            _ => None,
        }
    }

    fn wire(&self, text: &str) -> Result<Wire> {
        match self.model.graph.wire(text) {
            Ok(wire) => Ok(wire),
            Err(e) => mistake!("`{text}`: {e}"),
        }
    }

    /// Runs the graph in evaluation mode on given values; gives the wanted wires on the CPU.
    ///
    /// Each value is for a data port, such as `faces.image`, or stands in the place of a node's output, which then is
    /// not computed. The wanted wires may depend on no other data port.
    pub fn run(&self, given: &[(&str, &Tensor)], wanted: &[&str]) -> Result<Vec<Tensor>> {
        let wires: Vec<Wire> = wanted.iter().map(|w| self.wire(w)).collect::<Result<_>>()?;
        let placement = self.model.placement();
        let mut values: Vec<(Wire, Tensor)> = Vec::new();
        for (name, value) in given {
            let value =
                if value.kind() == tch::Kind::Float { value.f_to_kind(placement.kind)? } else { value.shallow_clone() };
            values.push((self.wire(name)?, value.f_to_device(placement.device)?));
        }
        let graph = &self.model.graph;
        let known: Vec<Wire> = values.iter().map(|(w, _)| *w).collect();
        for (n, needed) in graph.needed_beyond(&wires, &known).into_iter().enumerate() {
            for wire in graph.nodes[n].inputs.iter().flatten().filter(|_| needed) {
                if matches!(wire, Wire::Data { .. }) && !known.contains(wire) {
                    let names: Vec<&str> = given.iter().map(|(n, _)| *n).collect();
                    mistake!(
                        "`{}` needs `{}`, but the evaluation feeds {} only",
                        graph.nodes[n].name,
                        graph.wire_name(*wire),
                        names.join(", ")
                    );
                }
            }
        }
        let out = self.model.infer(&Feed::new(), &wires, &values).context("evaluating")?;
        out.iter().map(|t| Ok(t.f_to_device(tch::Device::Cpu)?.f_to_kind(tch::Kind::Float)?)).collect()
    }
}
