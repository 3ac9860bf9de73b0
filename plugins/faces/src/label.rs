//! What every dataset of faces puts out.

use crate::age_groups;
use mtl_component::{
    Column, DType, Description, Field, Layout, Normalization, Picture, Ports, Result, SampleOut, mistake,
};

/// What a dataset of faces says of itself, for pictures of `size` pixels a side: its outputs, and that its data decides
/// the number of identities.
pub fn description(size: i64) -> Description {
    let ports = Ports::new()
        .output("image", DType::Float, format!("batch 3 {size} {size}"))
        .pictures(Normalization::default())
        .output("identity", DType::Int, "batch")
        .output("age", DType::Float, "batch")
        .output("gender", DType::Int, "batch")
        .output("group", DType::Int, "batch");
    Description::from(ports).declares(&["identities"])
}

/// The same as fields of a sample.
pub fn fields(size: i64) -> Vec<Field> {
    let scalar = |name, layout| Field { name, shape: Vec::new(), layout };
    vec![
        Field { name: "image", shape: vec![3, size, size], layout: Layout::Picture },
        scalar("identity", Layout::Int),
        scalar("age", Layout::Float),
        scalar("gender", Layout::Int),
        scalar("group", Layout::Int),
    ]
}

/// The edges of the recipe's age groups.
pub fn edges(dims: &indexmap::IndexMap<String, i64>, what: &str) -> Result<&'static [f32]> {
    let Some(groups) = dims.get("age_groups") else {
        mistake!("{what} needs the number of age groups: add `age_groups = 7` to [dims]");
    };
    match age_groups::edges(*groups) {
        Ok(edges) => Ok(edges),
        Err(e) => mistake!("{e}"),
    }
}

/// What is known of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// The number of the identity.
    pub identity: i64,
    /// Years; unknown is -1 in the output.
    pub age: Option<f32>,
    /// 1 male, 0 female, -1 not known.
    pub gender: i64,
}

impl Label {
    /// The age group, -1 for an unknown age.
    pub fn group(&self, edges: &[f32]) -> i64 {
        self.age.map_or(-1, |a| age_groups::group_of(a, edges))
    }

    /// A column for balanced sampling.
    pub fn column(labels: &[Self], name: &str, edges: &[f32]) -> Option<Column> {
        let value: &dyn Fn(&Self) -> i64 = match name {
            "identity" => &|l| l.identity,
            "group" => &|l| l.group(edges),
            "age" => &|l| l.age.map_or(-1, |a| a.round() as i64),
            "gender" => &|l| l.gender,
            _ => return None,
        };
        let names = (name == "group").then(|| age_groups::names(edges));
        Some(Column { labels: labels.iter().map(value).collect(), names })
    }

    /// Writes a sample in the order of [`fields`].
    pub fn write(&self, mut picture: Picture, size: usize, edges: &[f32], out: &mut SampleOut<'_>) -> Result<()> {
        picture.resize(size, size)?;
        out.picture(0, &picture)?;
        out.int(1)[0] = self.identity;
        out.float(2)[0] = self.age.unwrap_or(-1.0);
        out.int(3)[0] = self.gender;
        out.int(4)[0] = self.group(edges);
        Ok(())
    }
}
