use mtl_component::{
    DType, Dataset, DatasetConfig, Description, Draw, Field, Layout, Open, OpenDataset, Ports, Result, SampleOut,
    register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Pictures of one colour each, whose brightness is the age: data whose answer is known.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PlainColours {
    /// Number of pictures.
    #[schemars(range(min = 1))]
    pictures: usize,
    /// Width and height in pixels.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 1, max = 1024))]
    size: i64,
    /// The deviation of the noise on each pixel, which has a range of -1 to 1.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    noise: f64,
}

fn sixteen() -> i64 {
    16
}

impl DatasetConfig for PlainColours {
    fn describe(&self) -> Result<Description> {
        let ports = Ports::new().output("image", DType::Float, format!("batch 3 {0} {0}", self.size));
        Ok(ports.output("age", DType::Float, "batch").into())
    }

    fn open(&self, _: &Open<'_>) -> Result<OpenDataset> {
        let fields = vec![
            Field { name: "image", shape: vec![3, self.size, self.size], layout: Layout::Image },
            Field { name: "age", shape: Vec::new(), layout: Layout::Float },
        ];
        let fingerprint = format!("plain colours {} {}", self.pictures, self.size);
        Ok(OpenDataset::new(Arc::new(self.clone()), self.pictures, fields, fingerprint))
    }
}

impl Dataset for PlainColours {
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
        let age = (index * 7 % 80) as f32;
        for value in out.float(0) {
            // Uniform noise of that deviation.
            let noise = draw.range(-1.0, 1.0) * 3f64.sqrt() * self.noise;
            *value = age / 40.0 - 1.0 + noise as f32;
        }
        out.float(1)[0] = age;
        Ok(())
    }
}

register!(Dataset, "plain_colours", PlainColours);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::Place;

    #[test]
    fn brightness_is_the_age() {
        let config = PlainColours { pictures: 20, size: 2, noise: 0.0 };
        let (mut image, mut age) = ([0f32; 12], [0f32]);
        let mut out = SampleOut::new(vec![Place::Floats(&mut image), Place::Floats(&mut age)]);
        config.sample(10, &mut Draw::new(&[1]), &mut out).unwrap();
        assert_eq!((age[0], image[0], image[11]), (70.0, 0.75, 0.75));
    }
}
