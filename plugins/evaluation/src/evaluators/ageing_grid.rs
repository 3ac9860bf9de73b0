use crate::ageing_wires::{AgeingWires, TargetAge};
use mtl_component::picture::sheet;
use mtl_component::{
    Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, OpenEvaluator, Report, Result, register,
};
use mtl_faces::age_groups;
use mtl_faces::headings::headed;
use mtl_faces::source::{self, KEYS, Pictures};
use mtl_faces::with_pictures;
use schemars::JsonSchema;
use serde::Deserialize;
use tch::Tensor;

with_pictures! {
    /// A picture of faces at every age group: each row is a face, each column a group, the first column the input.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct AgeingGrid {
        /// Rows: pictures of as many people.
        #[serde(default = "eight")]
        #[schemars(range(min = 1, max = 1000))]
        faces: usize,
        /// The wires of ageing.
        #[serde(default)]
        ager: AgeingWires,
    }
}

fn eight() -> usize {
    8
}

impl EvaluatorConfig for AgeingGrid {
    fn describe(&self) -> Result<EvaluatorDescription> {
        Ok(EvaluatorDescription {
            wires: self.ager.wires(),
            problems: self.given().problems(),
            source: self.given().usage(KEYS),
            files: self.given().files(),
            metrics: Vec::new(),
        })
    }

    fn open(&self, open: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        let pictures = self.given().open(open.source.as_ref())?.complete()?;
        let labels = &pictures.labels;
        let shown = source::one_per_identity(labels, self.faces);
        Ok(Box::new(Grid { wires: self.ager.clone(), pictures, shown }))
    }
}

/// The evaluator with its pictures.
struct Grid {
    wires: AgeingWires,
    pictures: Pictures,
    /// The pictures of the rows.
    shown: Vec<usize>,
}

impl Evaluator for Grid {
    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let names = age_groups::names(age_groups::of_run(model)?);
        let groups = names.len();
        let read = |i: usize| self.pictures.read(self.shown[i]);
        let rows = self.wires.strips(model, self.shown.len(), &read, &TargetAge::groups(groups))?;
        let normalization = model.normalization(&self.wires.output)?;
        let headings: Vec<String> = std::iter::once("input".to_owned()).chain(names).collect();
        let grid = headed(&sheet(&Tensor::f_cat(&rows, 0)?, &normalization, groups + 1)?, &headings)?;
        Ok(Report { pictures: vec![("grid".into(), grid)], ..Report::default() })
    }
}

register!(Evaluator, "ageing_grid", AgeingGrid);
