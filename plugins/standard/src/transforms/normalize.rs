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
        let wrong = |values: [f32; 3], least: f32| values.into_iter().find(|value| !(least..=1.0).contains(value));
        let faults: Vec<String> = [("mean", self.mean, 0.0), ("deviation", self.deviation, f32::MIN_POSITIVE)]
            .into_iter()
            .filter_map(|(what, values, least)| {
                wrong(values, least)?;
                // As other programs write it, for pixels of 0 to 255.
                let scaled = values.map(|value| value / 255.0);
                let hint = if wrong(scaled, least).is_none() { format!(": write {what} = {scaled:?}") } else { String::new() };
                Some(format!("its {what} is {values:?}{hint}"))
            })
            .collect();
        if !faults.is_empty() {
            mistake!("pixels are divided by 255 before `normalize`, so that its numbers lie between 0 and 1; {}", faults.join("; "));
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
        assert!(text.contains("its mean is [127.5") && text.contains("write mean = [0.5, 0.5, 0.5]"), "{text}");
        let text = describe(0.5, 128.0).unwrap_err().to_string();
        assert!(text.contains("its deviation is [128.0") && text.contains("write deviation = [0.50"), "{text}");
        for bad in [-0.1, f32::NAN, 300.0] {
            assert!(!describe(bad, 0.5).unwrap_err().to_string().contains("write mean"), "{bad}");
        }
        assert!(describe(0.5, 0.0).is_err());
    }
}
