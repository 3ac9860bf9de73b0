//! Ageing pictures with a trained graph.

use anyhow::Result;
use mtl_core::component::DType;
use mtl_core::data::image::Picture;
use mtl_core::evaluate::Measure;
use mtl_core::graph::{Graph, Wire};
use mtl_core::mistake;
use mtl_faces::age_groups;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

/// Where a graph takes pictures and wanted ages, and where it gives the aged pictures.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ager {
    /// The data port that pictures are fed to.
    pub image: String,
    /// The data port of the wanted age group.
    pub group: String,
    /// The data port of the wanted age in years.
    pub age: String,
    /// The output that is the aged picture.
    pub output: String,
}

impl Default for Ager {
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
pub enum Wanted {
    /// The number of an age group.
    Group(i64),
    /// Years.
    Years(f32),
}

impl Wanted {
    /// Every one of so many groups, in order.
    pub fn groups(count: usize) -> Vec<Self> {
        (0..count as i64).map(Self::Group).collect()
    }
}

impl Ager {
    /// Ages `[batch, 3, height, width]`, each picture to its own wanted age.
    ///
    /// # Errors
    /// A mistake if the graph takes groups and years are wanted; see [`by_years`](Self::by_years).
    pub fn run(&self, measure: &Measure<'_>, pictures: &Tensor, wanted: &[Wanted]) -> Result<Tensor> {
        let output = [self.output.as_str()];
        let (by_group, by_age) = (measure.needs(&output, &self.group)?, measure.needs(&output, &self.age)?);
        let edges = age_groups::of_run(measure)?;
        let centres = age_groups::centres(edges);
        let years = |w: &Wanted| match w {
            Wanted::Group(g) => centres.get(*g as usize).copied().unwrap_or(0.0),
            Wanted::Years(y) => *y,
        };
        let mut given = vec![(self.image.as_str(), pictures)];
        let (groups, ages);
        if by_group {
            let numbers: Option<Vec<i64>> =
                wanted.iter().map(|w| if let Wanted::Group(g) = w { Some(*g) } else { None }).collect();
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
        let mut out = measure.run(&given, &output)?;
        Ok(out.remove(0))
    }

    /// The pictures of 0..count, each followed by itself at every wanted age: `[1 + wanted, 3, height, width]` a
    /// picture. `read` is called in other threads.
    pub fn strips(
        &self,
        measure: &Measure<'_>,
        count: usize,
        read: &(dyn Fn(usize) -> Result<Picture> + Sync),
        wanted: &[Wanted],
    ) -> Result<Vec<Tensor>> {
        let mut strips = Vec::with_capacity(count);
        measure.pictures(&self.image, count, read, 1, &mut |input| {
            let many = input.f_expand([wanted.len() as i64, -1, -1, -1], false)?;
            strips.push(Tensor::f_cat(&[input.shallow_clone(), self.run(measure, &many, wanted)?], 0)?);
            Ok(())
        })?;
        Ok(strips)
    }

    /// Wires the age in years wherever the graph takes the wanted group and could take years.
    pub fn by_years(&self, graph: &mut Graph) {
        let (Ok(group), Ok(age)) = (graph.wire(&self.group), graph.wire(&self.age)) else { return };
        for node in &mut graph.nodes {
            let Some(at) = node.ports.inputs.iter().position(|p| p.name == "age" && p.dtype == DType::Float) else {
                continue;
            };
            for i in 0..node.inputs.len() {
                if node.ports.inputs[i].name == "group" && node.inputs[i] == Some(group) && node.inputs[at].is_none() {
                    node.inputs[i] = None;
                    node.inputs[at] = Some(age);
                }
            }
        }
    }

    /// The wires by the keys that name them where an evaluator holds this as `ager`.
    pub fn wires(&self) -> Vec<(&'static str, String)> {
        let named = [("ager.image", &self.image), ("ager.group", &self.group), ("ager.output", &self.output)];
        named.into_iter().map(|(key, wire)| (key, wire.clone())).collect()
    }

    /// Whether the graph has the parts that ageing needs.
    pub fn fits(&self, graph: &Graph) -> bool {
        graph.wire(&self.image).is_ok() && matches!(graph.wire(&self.output), Ok(Wire::Node { .. }))
    }
}
