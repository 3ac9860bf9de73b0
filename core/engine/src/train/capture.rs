//! What a trace records of training.

use indexmap::IndexMap;
use tch::Tensor;

/// Numbers that a trace wants of a step, by parameter name.
#[derive(Default)]
pub struct Captured {
    /// Also the gradient of each loss alone.
    pub per_loss: bool,
    /// Gradients before decay and clipping, by phase.
    pub grad: IndexMap<String, IndexMap<String, Tensor>>,
    /// Gradients with coupled decay added, by phase.
    pub decayed: IndexMap<String, IndexMap<String, Tensor>>,
    /// Gradients of single losses.
    pub alone: IndexMap<String, IndexMap<String, Tensor>>,
    /// Outputs of the nodes.
    pub outputs: IndexMap<String, Tensor>,
    /// Every output is computed, also those that nothing reads.
    pub everything: bool,
}
