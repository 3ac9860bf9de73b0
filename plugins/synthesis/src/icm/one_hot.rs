use mtl_component::{Call, Description, Module, ModuleConfig, Params, Result, Sizes, register, single};
use crate::network::{Network, conditional};
use crate::condition;
use crate::layers::{Activation, Norm};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// The baseline without routing: the wanted group as one-hot planes beside the features, and the same residual
/// network. All groups share all channels.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OneHot {
    /// Channels of the residual blocks; 800 is the width of the published router.
    #[serde(default = "width")]
    #[schemars(range(min = 1, max = 65536))]
    width: i64,
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

fn width() -> i64 {
    800
}
fn blocks() -> u32 {
    4
}

impl ModuleConfig for OneHot {
    fn describe(&self) -> Result<Description> {
        Ok(conditional(self.norm))
    }

    fn build(&self, p: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        let (groups, channels) = (sizes.global("age_groups")?, sizes.get("channels")?);
        let widths = (channels + groups, self.width, channels);
        Ok(Box::new(Routed { network: Network::new(p, widths, self.blocks, self.norm, self.activation)?, groups }))
    }
}

struct Routed {
    network: Network,
    groups: i64,
}

impl Module for Routed {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = call.get("features")?;
        let size = x.size();
        let code = condition::shares(call, self.groups, x.kind())?.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        let planes = code.f_expand([size[0], self.groups, size[2], size[3]], false)?;
        let x = Tensor::f_cat(&[x.shallow_clone(), planes], 1)?;
        single(self.network.forward(&x, call.train, &|x| Ok(x.shallow_clone()))?)
    }
}

register!(Module("icm"), "one_hot", OneHot);
