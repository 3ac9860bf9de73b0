use mtl_component::{
    Better, Draw, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, OpenEvaluator, Picture, Report,
    Result, mistake, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Kind;

/// The mean length of what a wire carries for pictures of noise: a network that knows faces should not be sure of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoiseLength {
    /// The data port that takes the pictures.
    #[serde(default = "image")]
    image: String,
    /// The wire that is measured.
    #[serde(default = "embedding")]
    wire: String,
    /// Pictures of noise.
    #[serde(default = "count")]
    #[schemars(range(min = 1))]
    count: usize,
}

fn image() -> String {
    "faces.image".into()
}
fn embedding() -> String {
    "embedding".into()
}
fn count() -> usize {
    64
}

impl EvaluatorConfig for NoiseLength {
    fn describe(&self) -> Result<EvaluatorDescription> {
        Ok(EvaluatorDescription {
            wires: vec![("image", self.image.clone()), ("wire", self.wire.clone())],
            metrics: vec![Metric::new("length", Better::Smaller)],
            ..EvaluatorDescription::default()
        })
    }

    fn open(&self, _: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(self.clone()))
    }
}

impl Evaluator for NoiseLength {
    fn check(&self, model: &dyn Inference) -> Result<()> {
        let shape = model.sample_shape(&self.wire)?;
        if shape.len() != 1 {
            mistake!("`{}` has the shape {shape:?}, expected one size", self.wire);
        }
        Ok(())
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let shape = model.sample_shape(&self.image)?;
        let (height, width) = (shape[1] as usize, shape[2] as usize);
        let noise = |index: usize| {
            let mut draw = Draw::new(&[0x6e, index as u64]);
            Picture::new(width, height, (0..width * height * 3).map(|_| draw.below(256) as u8).collect())
        };
        let found = model.outputs(&self.image, self.count, &noise, 64, &[&self.wire])?;
        let lengths = found[0].f_square()?.f_sum_dim_intlist(&[1i64][..], false, Kind::Double)?.f_sqrt()?;
        let mean = lengths.f_mean(Kind::Double)?.f_double_value(&[])?;
        Ok(Report { metrics: [("length".to_owned(), mean)].into_iter().collect(), ..Report::default() })
    }
}

register!(Evaluator, "noise_length", NoiseLength);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_reads_and_measures() {
        let config = NoiseLength { image: image(), wire: embedding(), count: 4 };
        let description = config.describe().unwrap();
        assert_eq!(description.wires[1], ("wire", "embedding".to_owned()));
        assert_eq!(description.metrics[0].name, "length");
    }
}
