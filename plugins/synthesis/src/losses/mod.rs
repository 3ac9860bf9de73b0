//! Losses of synthesis.

mod adversarial;
mod cosine_identity;
mod feature_mse;
mod group_cross_entropy;
mod pixel_l1;
mod total_variation;

use mtl_core::component::{DType, Ports};

/// The ports of a loss that compares two tensors of one shape, the second of which is held constant.
fn against_reference(input: &str, pattern: &str) -> Ports {
    Ports::new().input(input, DType::Float, pattern).input("reference", DType::Float, pattern).output(
        "loss",
        DType::Float,
        "",
    )
}
