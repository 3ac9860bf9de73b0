//! Steps whose forward and backward passes are captured once as CUDA graphs and then started as a whole.
//!
//! A graph repeats the same kernels on the same memory: batches are copied into those that it was captured with, and
//! gradients and losses are found where they were. Updates, moving averages and all that depends on the step stay
//! outside, so that any optimizer and schedule may be used.

use super::step::{LossValue, Trainer};
use crate::data::Batch;
use crate::graph::{Op, Plan};
use crate::model::{Feed, Values};
use mtl_component::{Result, mistake};
use mtl_recipe::Context;
use mtl_torch::Graph;
use tch::Tensor;

/// Steps that run directly before anything is captured: libraries choose their kernels in the first, and optimizers make
/// their state.
const WARM_UP: u32 = 3;

/// The steps of one set of phases.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// How many have run directly.
    warm: u32,
    /// The batches whose memory the graphs read.
    feed: Feed,
    /// What lies between updates; none before it has been captured.
    stretches: Vec<Stretch>,
    losses: Vec<LossValue>,
}

#[derive(Debug, Default)]
struct Stretch {
    /// Nothing where nothing is computed.
    graph: Option<Graph>,
    /// Parameters with the gradients that the graph leaves.
    gradients: Vec<(Tensor, Tensor)>,
}

impl Stretch {
    /// Computes it on the present weights and batches.
    fn run(&self) -> Result<()> {
        let Some(graph) = &self.graph else { return Ok(()) };
        graph.replay()?;
        Ok(self.gradients.iter().try_for_each(|(param, grad)| mtl_torch::set_grad(param, grad))?)
    }
}

impl Course {
    /// Whether these batches fit into those that the graphs read, or into any before there are graphs.
    fn fits(&self, feed: &Feed) -> bool {
        let shapes = |feed: &Feed| -> Vec<Vec<i64>> {
            feed.iter().flatten().flat_map(|batch| &batch.tensors).map(Tensor::size).collect()
        };
        self.stretches.is_empty() || shapes(&self.feed) == shapes(feed)
    }

    fn take(&mut self, feed: &Feed) -> Result<()> {
        let _guard = tch::no_grad_guard();
        if self.stretches.is_empty() {
            let copy = |batch: &Batch| -> Result<Batch> {
                let tensors = batch.tensors.iter().map(|t| Ok(t.f_detach_copy()?)).collect::<Result<_>>()?;
                Ok(Batch { tensors, pixels: batch.pixels.clone(), skipped: Vec::new(), replaced: batch.replaced })
            };
            let copies = |batches: &Vec<Batch>| batches.iter().map(copy).collect::<Result<_>>();
            self.feed = feed.iter().map(copies).collect::<Result<_>>()?;
            return Ok(());
        }
        let tensors = |feed: &'_ Feed| -> Vec<Tensor> {
            feed.iter().flatten().flat_map(|batch| &batch.tensors).map(Tensor::shallow_clone).collect()
        };
        for (mut to, from) in tensors(&self.feed).into_iter().zip(tensors(feed)) {
            to.f_copy_(&from)?;
        }
        Ok(())
    }
}

impl Trainer<'_> {
    /// The graphs that a step runs by, if it does: they are made when the phases have run a few times directly.
    ///
    /// # Errors
    /// A mistake if a component computes with the number of the step.
    pub(super) fn course(&mut self, feed: &Feed, step: u64) -> Result<Option<Course>> {
        let active = self.active(step);
        let rising = self.rises(&active, step);
        let Some(graphs) = &mut self.graphs else { return Ok(None) };
        let course = graphs.entry(active.clone()).or_default();
        if course.warm < WARM_UP || rising || !course.fits(feed) {
            course.warm += 1;
            return Ok(None);
        }
        let course = graphs.remove(&active);
        if let Some(node) = self.model.depends_on_the_step() {
            mistake!(
                "run.cuda_graphs repeats what one step has computed, and `{}` ({}) computes with the number of the step: \
                 take run.cuda_graphs out",
                node.label(),
                node.component
            );
        }
        Ok(course)
    }

    /// One stretch after the other, each as a whole, with updates between them.
    pub(super) fn by_graphs(&mut self, mut course: Course, plan: &Plan, feed: &Feed, step: u64) -> Result<()> {
        course.take(feed)?;
        let captures = course.stretches.is_empty();
        let mut values: Values = plan.instances.iter().map(|_| None).collect();
        for (at, (ops, updated)) in plan.stretches().enumerate() {
            if captures {
                let stretch = self.stretch(plan, ops, &course.feed, &mut values, step)?;
                course.stretches.push(stretch);
            }
            let begun = self.begin()?;
            course.stretches[at].run()?;
            self.end_as(begun, || format!("graph {at}"))?;
            if let Some(phase) = updated {
                let begun = self.begin()?;
                self.update(phase, step)?;
                let name = self.phases[phase].name;
                self.end_as(begun, || format!("{name}: update"))?;
            }
        }
        let kept = |loss: &LossValue| LossValue { name: loss.name.clone(), value: loss.value.shallow_clone(), ..*loss };
        match captures {
            true => course.losses = self.losses.iter().map(kept).collect(),
            false => self.losses = course.losses.iter().map(kept).collect(),
        }
        let active = self.active(step);
        if let Some(graphs) = &mut self.graphs {
            graphs.insert(active, course);
        }
        Ok(())
    }

    /// Captures what lies between two updates.
    fn stretch(&mut self, plan: &Plan, ops: &[Op], feed: &Feed, values: &mut Values, step: u64) -> Result<Stretch> {
        let passes: Vec<usize> =
            ops.iter().filter_map(|op| if let Op::Backward { phase, .. } = op { Some(*phase) } else { None }).collect();
        if passes.is_empty() {
            ops.iter().try_for_each(|op| self.compute(plan, op, feed, values, step))?;
            return Ok(Stretch::default());
        }
        let graph = Graph::capture(|| ops.iter().try_for_each(|op| self.compute(plan, op, feed, values, step)));
        let graph = graph.context("capturing a step for run.cuda_graphs; without that key it is not captured")?;
        let mut gradients = Vec::new();
        for param in passes.iter().flat_map(|phase| self.phases[*phase].leaves()) {
            let grad = mtl_torch::take_grad(param)?;
            if grad.defined() {
                gradients.push((param.shallow_clone(), grad));
            }
        }
        Ok(Stretch { graph: Some(graph), gradients })
    }

    /// Whether the weight of a loss of these phases has not come to its end.
    fn rises(&self, active: &[usize], step: u64) -> bool {
        let phases = self.model.graph.phases();
        let losses = active.iter().flat_map(|phase| &phases[*phase].losses);
        losses.map(|(node, _)| &self.model.graph.nodes()[*node].name).any(|loss| self.share(loss, step) < 1.0)
    }
}
