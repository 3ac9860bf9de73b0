use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, ScalarOps, Sizes, register, single};
use crate::network::{Network, conditional};
use crate::condition;
use crate::layers::{Activation, Norm};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The published identity conditional module (MTLFace, section 3.2): residual blocks in which every age group owns
/// some channels and neighbours share a few of them, so that ageing is smooth. A task router lets only the channels
/// of the wanted group pass.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TaskRouter {
    /// Share of a group's channels that its neighbour has as well: the paper's 1/8; the released code has 0.1; 0
    /// shares nothing.
    #[serde(default = "sigma")]
    #[schemars(range(min = 0.0, max = 0.99))]
    sigma: f64,
    /// Channels of each age group.
    #[serde(default = "units")]
    #[schemars(range(min = 1, max = 65536))]
    units: i64,
    /// Residual blocks.
    #[serde(default = "blocks")]
    #[schemars(range(min = 0, max = 64))]
    blocks: u32,
    /// How features are normalised.
    #[serde(default)]
    norm: Norm,
    /// The activation.
    #[serde(default)]
    activation: Activation,
}

fn sigma() -> f64 {
    0.125
}
fn units() -> i64 {
    128
}
fn blocks() -> u32 {
    4
}

/// The channels of all groups together, and the first channel of each group.
///
/// As in the released code: `int((G - (G - 1) sigma) units)` channels, and each start is the one before it plus
/// `(1 - sigma) units`, cut off to an integer each time. For some numbers of groups the last channel belongs to none.
fn layout(groups: i64, sigma: f64, units: i64) -> (i64, Vec<i64>) {
    let width = ((groups as f64 - (groups - 1) as f64 * sigma) * units as f64) as i64;
    let starts = std::iter::successors(Some(0i64), |start| Some((*start as f64 + (1.0 - sigma) * units as f64) as i64));
    (width, starts.take(groups as usize).collect())
}

impl ModuleConfig for TaskRouter {
    fn describe(&self) -> Result<Description> {
        Ok(conditional(self.norm))
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let groups = sizes.global("age_groups")?;
        let (width, starts) = layout(groups, self.sigma, self.units);
        let channels = sizes.get("channels")?;
        let network = Network::new(p, (channels, width, channels), self.blocks, self.norm, self.activation)?;
        let (kind, device) = (p.context().kind, p.context().device);
        let masks = Tensor::f_zeros([groups, width], (kind, device))?;
        for (group, start) in starts.iter().enumerate() {
            let end = (start + self.units).min(width);
            masks.f_get(group as i64)?.f_narrow(0, *start, end - start)?.try_fill_(1.0)?;
        }
        // Released weights hold the masks at every place where they are used.
        p.pp("router").constant("_unit_mapping", &masks);
        for block in 0..self.blocks {
            for router in ["router1", "router2"] {
                p.pp("transform").pp(block).pp(router).constant("_unit_mapping", &masks);
            }
        }
        Ok(Box::new(Routed { network, groups, masks }))
    }
}

struct Routed {
    network: Network,
    groups: i64,
    /// 1 where a channel belongs to the group: `[groups, width]`.
    masks: Tensor,
}

impl Module for Routed {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let shares = condition::shares(call, self.groups, self.masks.kind())?;
        let mask = shares.f_matmul(&self.masks)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        let gate = |x: &Tensor| Ok(x.f_mul(&mask.f_to_kind(x.kind())?)?);
        single(self.network.forward(call.get("features")?, call.train, &gate)?)
    }
}

register!(Module("icm"), "task_router", TaskRouter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_the_paper_and_of_the_released_code() {
        let (width, starts) = layout(7, 0.125, 128);
        assert_eq!((width, starts[1], starts[6]), (800, 112, 672));
        let (width, starts) = layout(7, 0.1, 128);
        assert_eq!((width, starts), (819, vec![0, 115, 230, 345, 460, 575, 690]));
        assert_eq!(layout(7, 0.0, 128).0, 7 * 128);
    }
}
