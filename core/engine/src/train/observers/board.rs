//! TensorBoard: curves, the graph, sheets of input pictures, histograms of weights.

use super::{Ending, Event, Observer, is_due};
use crate::data::Batch;
use crate::drawing::draw;
use crate::graph::{Graph, Wire};
use crate::log::histogram::Histogram;
use crate::log::outline::{hparams, outline};
use crate::log::tensorboard::TensorBoard;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::runs::RunFolder;
use mtl_component::picture::sheet;
use mtl_recipe::files::write_atomically;
use mtl_recipe::{Result, to_toml};
use tch::{Device, Kind, Tensor};

/// The pictures of a batch that a sheet shows, and those in one row of it.
const SHEET: (i64, usize) = (16, 8);

pub(super) struct Board {
    /// None once the run has ended.
    board: Option<TensorBoard>,
    images_every: u64,
    histogram_every: u64,
}

impl Board {
    pub fn open(recipe: &Recipe, graph: &Graph, folder: &RunFolder, step: u64) -> Result<Self> {
        let board = TensorBoard::create(&folder.tensorboard(), (step > 0).then_some(step as i64 + 1))?;
        if step == 0 {
            board.text("recipe", &format!("```toml\n{}```", to_toml(&recipe.recorded())?), 0)?;
            board.graph(&outline(graph))?;
            let path = folder.drawing();
            write_atomically(&path, draw(recipe, graph, &path)?.as_bytes())?;
            let watched: Vec<String> =
                recipe.run.checkpoint.best.iter().map(|m| format!("eval/{}", m.replace('.', "/"))).collect();
            board.hparams(&hparams(recipe), &watched)?;
        }
        Ok(Self {
            board: Some(board),
            images_every: recipe.run.images_every,
            histogram_every: recipe.run.histogram_every,
        })
    }
}

/// Sheets of the input pictures of a step.
fn pictures(board: &TensorBoard, model: &Model, feed: &[Vec<Batch>], step: i64) -> Result<()> {
    for (n, (stream, batches)) in model.graph.streams().iter().zip(feed).enumerate() {
        let Some(batch) = batches.first() else { continue };
        for (port, (field, tensor)) in stream.ports.outputs.iter().zip(&batch.tensors).enumerate() {
            if let Some(normalization) = model.graph.normalization(Wire::Data { stream: n, port }) {
                let first = tensor.f_narrow(0, 0, tensor.size()[0].min(SHEET.0))?;
                let sheet = sheet(&first, &normalization, SHEET.1)?;
                board.image(&format!("{}/{}", stream.name, field.name), &sheet, step)?;
            }
        }
    }
    Ok(())
}

/// The distributions of all weights.
fn histograms(board: &TensorBoard, model: &Model, step: i64) -> Result<()> {
    let weights = model.tensors().into_iter().filter(|(_, tensor)| tensor.dim() > 0 && tensor.kind() != Kind::Int64);
    let (names, weights): (Vec<String>, Vec<&Tensor>) = weights.unzip();
    if model.context().device == Device::Cpu {
        // Counted by the thread that writes.
        for (name, tensor) in names.iter().zip(weights) {
            let flat = tensor.f_detach()?.f_to_kind(Kind::Float)?.f_reshape([-1])?;
            board.histogram(name, &Vec::<f32>::try_from(&flat)?, step)?;
        }
        return Ok(());
    }
    let counted = Histogram::on_device(&weights.into_iter().map(Tensor::shallow_clone).collect::<Vec<_>>())?;
    for (name, histogram) in names.iter().zip(&counted) {
        board.counted(name, histogram, step)?;
    }
    Ok(())
}

impl Observer for Board {
    fn name(&self) -> String {
        "TensorBoard".into()
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Ended { ending, .. } = *event {
            let Some(board) = self.board.take() else { return Ok(()) };
            if ending == Ending::Finished {
                board.session_end(true)?;
            }
            return Ok(board.finish()?);
        }
        let Some(board) = &self.board else { return Ok(()) };
        match *event {
            Event::Stepped { step, model, feed } => {
                if step == 1 || is_due(self.images_every, step) {
                    pictures(board, model, feed, step as i64)?;
                }
                if is_due(self.histogram_every, step) {
                    histograms(board, model, step as i64)?;
                }
            }
            Event::Logged { step, numbers, seconds_per_step } => {
                for (name, value) in numbers {
                    board.scalar(name, *value, step as i64)?;
                }
                board.scalar("time/seconds_per_step", seconds_per_step, step as i64)?;
            }
            Event::Evaluated { step, evaluator, report } => {
                for (picture, pixels) in &report.pictures {
                    board.image(&format!("eval/{evaluator}/{picture}"), pixels, step as i64)?;
                }
                for (metric, value) in report.metrics.iter().filter(|(_, value)| value.is_finite()) {
                    board.scalar(&format!("eval/{evaluator}/{metric}"), *value, step as i64)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
