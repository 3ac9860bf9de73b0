use anyhow::Result;
use mtl_core::evaluate::{Evaluator, Measure, Report};
use mtl_core::log::pictures::sheet;
use mtl_core::recipe::RecipePath;
use mtl_core::register;
use mtl_faces::age_groups;
use mtl_faces::made::MadeFaces;
use mtl_faces::source;
use mtl_synthesis::ageing::{Ager, Wanted};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use tch::Tensor;

/// Faces at every age group: a row a face, a column a group, the first column the input.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgeingGrid {
    /// The annotated list.
    #[serde(default)]
    list: Option<RecipePath>,
    /// The folder that file names start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
    /// Made faces in place of a list.
    #[serde(default)]
    made: Option<MadeFaces>,
    /// Rows: pictures of as many people.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 1000))]
    faces: usize,
    /// The wires of ageing.
    #[serde(default)]
    ager: Ager,
}

fn eight() -> usize {
    8
}

impl Evaluator for AgeingGrid {
    fn wires(&self) -> Vec<(&'static str, String)> {
        self.ager.wires()
    }

    fn problems(&self) -> Vec<String> {
        source::problems("list", self.list.as_ref(), self.made.as_ref())
    }

    fn files(&self) -> Vec<PathBuf> {
        self.list.iter().map(|l| l.0.clone()).collect()
    }

    fn evaluate(&self, measure: &Measure<'_>) -> Result<Report> {
        let (pictures, labels) = source::labelled(self.list.as_ref(), self.root.as_ref(), self.made.as_ref())?;
        let shown = source::one_each(&labels, self.faces);
        let groups = age_groups::of_run(measure)?.len() + 1;
        let rows = self.ager.strips(measure, shown.len(), &|i| pictures.read(shown[i]), &Wanted::groups(groups))?;
        let grid = sheet(&Tensor::f_cat(&rows, 0)?, groups as i64 + 1)?;
        Ok(Report { pictures: vec![("grid".into(), grid)], ..Report::default() })
    }
}

register!(Evaluator, "ageing_grid", AgeingGrid);
