//! Ageing pictures with a trained graph: where it takes pictures and ages, and where it gives the aged pictures.

use mtl_component::picture::pixels;
use mtl_component::{Inference, Normalization, Picture, ReadPicture, Result, mistake};
use mtl_faces::age_groups;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Where a graph takes pictures and wanted ages, and where it gives the aged pictures.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgeingWires {
    /// The data port that pictures are fed to.
    pub image: String,
    /// The data port of the wanted age group.
    pub group: String,
    /// The data port of the wanted age in years.
    pub age: String,
    /// The output that is the aged picture.
    pub output: String,
}

impl Default for AgeingWires {
    fn default() -> Self {
        Self {
            image: "faces.image".into(),
            group: "targets.group".into(),
            age: "targets.age".into(),
            output: "aged".into(),
        }
    }
}

/// The age that a picture is to have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TargetAge {
    /// The number of an age group.
    Group(i64),
    /// Years.
    Years(f32),
}

impl TargetAge {
    /// Every one of so many groups, in order.
    pub fn groups(count: usize) -> Vec<Self> {
        (0..count as i64).map(Self::Group).collect()
    }
}

impl AgeingWires {
    /// Ages `[batch, 3, height, width]`, each picture to its own wanted age.
    ///
    /// # Errors
    /// A mistake if the graph takes groups and years are wanted; the recipe has to wire years then.
    pub fn run(&self, model: &dyn Inference, pictures: &Tensor, wanted: &[TargetAge]) -> Result<Tensor> {
        let output = [self.output.as_str()];
        let (by_group, by_age) = (model.needs(&output, &self.group)?, model.needs(&output, &self.age)?);
        let edges = age_groups::of_run(model)?;
        let centres = age_groups::centres(edges);
        let years = |w: &TargetAge| match w {
            TargetAge::Group(g) => centres.get(*g as usize).copied().unwrap_or(0.0),
            TargetAge::Years(y) => *y,
        };
        let mut given = vec![(self.image.as_str(), pictures)];
        let (groups, ages);
        if by_group {
            let numbers: Option<Vec<i64>> =
                wanted.iter().map(|w| if let TargetAge::Group(g) = w { Some(*g) } else { None }).collect();
            let Some(numbers) = numbers else {
                mistake!("`{}` is made from age groups (`{}`), not from years", self.output, self.group)
            };
            groups = Tensor::f_from_slice(&numbers)?;
            given.push((&self.group, &groups));
        }
        if by_age {
            ages = Tensor::f_from_slice(&wanted.iter().map(years).collect::<Vec<_>>())?;
            given.push((&self.age, &ages));
        }
        let mut out = model.run(&given, &output)?;
        Ok(out.remove(0))
    }

    /// The pictures of 0..count, each followed by itself at every wanted age: `[1 + wanted, 3, height, width]` a
    /// picture. `read` is called in other threads.
    pub fn strips(
        &self,
        model: &dyn Inference,
        count: usize,
        read: ReadPicture<'_>,
        wanted: &[TargetAge],
    ) -> Result<Vec<Tensor>> {
        let mut strips = Vec::with_capacity(count);
        model.pictures(&self.image, count, read, 1, &mut |input| {
            let many = input.f_expand([wanted.len() as i64, -1, -1, -1], false)?;
            strips.push(Tensor::f_cat(&[input.shallow_clone(), self.run(model, &many, wanted)?], 0)?);
            Ok(())
        })?;
        Ok(strips)
    }

    /// The wires by the keys that name them where an evaluator holds this as `ager`.
    pub fn wires(&self) -> Vec<(&'static str, String)> {
        let named = [("ager.image", &self.image), ("ager.group", &self.group), ("ager.output", &self.output)];
        named.into_iter().map(|(key, wire)| (key, wire.clone())).collect()
    }
}

/// The pictures of a batch `[n, 3, height, width]` one by one.
///
/// # Errors
/// If the batch holds no pictures.
pub fn apart(batch: &Tensor, normalization: &Normalization) -> Result<Vec<Picture>> {
    let (height, width) = (batch.size()[2] as usize, batch.size()[3] as usize);
    let all = pixels(batch, normalization)?;
    all.chunks_exact(height * width * 3).map(|one| Picture::new(width, height, one.to_vec())).collect()
}
