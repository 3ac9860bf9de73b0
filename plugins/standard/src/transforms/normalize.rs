use mtl_component::{
    Draw, Normalization, Picture, Result, Transform, TransformConfig, TransformDescription, mistake, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Maps pixels to `(x / 255 - mean) / deviation` on their way into the network.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Normalize {
    /// Mean of red, green and blue.
    #[serde(default = "half")]
    mean: [f32; 3],
    /// Deviation of red, green and blue.
    #[serde(default = "half")]
    deviation: [f32; 3],
}

fn half() -> [f32; 3] {
    [0.5; 3]
}

impl Transform for Normalize {
    fn apply(&self, picture: &mut Picture, _draw: &mut Draw) -> Result<()> {
        picture.normalization = self.normalization();
        Ok(())
    }
}

impl Normalize {
    fn normalization(&self) -> Normalization {
        Normalization { mean: self.mean, deviation: self.deviation }
    }
}

impl TransformConfig for Normalize {
    fn describe(&self) -> Result<TransformDescription> {
        for (what, values, least) in [("mean", self.mean, 0.0), ("deviation", self.deviation, f32::MIN_POSITIVE)] {
            if let Some(value) = values.into_iter().find(|value| !(least..=1.0).contains(value)) {
                let hint = match values.into_iter().all(|value| (least..=255.0).contains(&value)) {
                    true => format!(": divide by 255, so that {value} becomes {:.4}", value / 255.0),
                    false => String::new(),
                };
                mistake!(
                    "the {what} of `normalize` is {value}, and pixels are divided by 255 before it is used, so that it \
                     lies between 0 and 1{hint}"
                );
            }
        }
        let normalization = Some(self.normalization());
        Ok(TransformDescription { in_evaluation: true, normalization, ..TransformDescription::default() })
    }

    fn open(&self) -> Result<Arc<dyn Transform>> {
        Ok(Arc::new(self.clone()))
    }
}

register!(Transform, "normalize", Normalize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_0_to_255_are_refused_with_what_is_meant() {
        let describe = |mean: f32, deviation: f32| Normalize { mean: [mean; 3], deviation: [deviation; 3] }.describe();
        assert!(describe(0.5, 0.25).is_ok());
        let text = describe(127.5, 0.5).unwrap_err().to_string();
        assert!(text.contains("the mean") && text.contains("127.5 becomes 0.5000"), "{text}");
        let text = describe(0.5, 128.0).unwrap_err().to_string();
        assert!(text.contains("the deviation") && text.contains("0.5020"), "{text}");
        for bad in [-0.1, f32::NAN, 300.0] {
            assert!(!describe(bad, 0.5).unwrap_err().to_string().contains("divide by"), "{bad}");
        }
        assert!(describe(0.5, 0.0).is_err());
    }
}
