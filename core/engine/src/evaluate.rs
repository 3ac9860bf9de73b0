//! Evaluators: measuring a model on data of their own.

use crate::data::draw::Draw;
use crate::data::{Transform, image::Picture};
use crate::graph::{Feed, Model, Wire};
use crate::recipe::Recipe;
use anyhow::{Context, Result, anyhow};
use indexmap::IndexMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::Tensor;

/// The configuration of an evaluator; it keeps no state.
pub trait Evaluator: Send {
    /// The wires that it feeds and reads, by the key that names them.
    fn wires(&self) -> Vec<(&'static str, String)>;

    /// Rules between keys that no schema can say.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// The files that must be there; a missing one is a mistake, or leaves out an optional evaluator.
    fn files(&self) -> Vec<PathBuf>;

    /// Measures.
    fn evaluate(&self, context: &Measure<'_>) -> Result<Report>;
}

/// What an evaluator found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// The main numbers by name.
    pub metrics: IndexMap<String, f64>,
    /// Everything else, as JSON.
    pub details: serde_json::Value,
}

/// What an evaluator may use.
pub struct Measure<'a> {
    model: &'a Model,
    threads: usize,
    /// For each data stream, what its recipe does to images also outside of training.
    transforms: Vec<Vec<Arc<dyn Transform>>>,
}

impl<'a> Measure<'a> {
    /// For a model; images are loaded in `threads` threads.
    pub fn new(model: &'a Model, recipe: &Recipe, threads: usize) -> Result<Self> {
        let mut transforms = Vec::new();
        for data in recipe.data.values() {
            let opened: Vec<Arc<dyn Transform>> = data.transforms.iter().map(|t| t.open()).collect::<Result<_>>()?;
            transforms.push(opened.into_iter().filter(|t| t.in_evaluation()).collect());
        }
        Ok(Self { model, threads: threads.max(1), transforms })
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
            return Err(anyhow!("`{feed}` is a node: an evaluator feeds a data port"));
        };
        let [channels, height, width] = self.sample_shape(feed)?[..] else {
            return Err(anyhow!("`{feed}` carries no images"));
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

    /// The sizes of the recipe.
    pub fn dim(&self, name: &str) -> Option<i64> {
        match self.model.graph.dims.get(name) {
            Some(crate::component::Dim::Size(n)) => Some(*n),
            _ => None,
        }
    }

    fn wire(&self, text: &str) -> Result<Wire> {
        self.model.graph.wire(text).map_err(|e| anyhow!("{e}"))
    }

    /// Runs the graph in evaluation mode on a batch for one data port; gives the wanted wires on the CPU.
    ///
    /// `feed` is the data port, such as `faces.image`; the wanted nodes may depend on no other port.
    pub fn run(&self, feed: &str, batch: &Tensor, wanted: &[&str]) -> Result<Vec<Tensor>> {
        let Wire::Data { stream, port } = self.wire(feed)? else {
            return Err(anyhow!("`{feed}` is a node: an evaluator feeds a data port"));
        };
        let wires: Vec<Wire> = wanted.iter().map(|w| self.wire(w)).collect::<Result<_>>()?;
        let graph = &self.model.graph;
        let roots: Vec<usize> =
            wires.iter().filter_map(|w| if let Wire::Node { node, .. } = w { Some(*node) } else { None }).collect();
        for (n, needed) in graph.needed(&roots, true).into_iter().enumerate() {
            for wire in graph.nodes[n].inputs.iter().flatten().filter(|_| needed) {
                if matches!(wire, Wire::Data { .. }) && *wire != (Wire::Data { stream, port }) {
                    return Err(anyhow!(
                        "`{}` needs `{}`, which an evaluator that feeds `{feed}` does not have",
                        graph.nodes[n].name,
                        graph.wire_name(*wire)
                    ));
                }
            }
        }
        let placement = self.model.placement();
        let mut streams: Feed = Vec::new();
        for (s, known) in graph.streams.iter().enumerate() {
            let mut tensors = Vec::new();
            for p in 0..known.ports.outputs.len() {
                tensors.push(if (s, p) == (stream, port) {
                    let batch = if batch.kind() == tch::Kind::Float {
                        batch.f_to_kind(placement.kind)?
                    } else {
                        batch.shallow_clone()
                    };
                    batch.f_to_device(placement.device)?
                } else {
                    Tensor::f_empty([0], (tch::Kind::Float, tch::Device::Cpu))?
                });
            }
            streams.push(vec![crate::data::Batch { tensors, skipped: 0 }]);
        }
        let out = self.model.infer(&streams, &wires).context("evaluating")?;
        out.iter().map(|t| Ok(t.f_to_device(tch::Device::Cpu)?.f_to_kind(tch::Kind::Float)?)).collect()
    }
}
