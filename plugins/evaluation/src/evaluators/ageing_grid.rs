use crate::ageing_wires::{AgeingWires, TargetAge, apart};
use mtl_component::{
    Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, OpenEvaluator, Picture, Report, Result, mistake,
    register,
};
use mtl_faces::age_groups;
use mtl_faces::headings::headed;
use mtl_faces::source::{self, KEYS, Pictures};
use mtl_faces::tiles::tiled;
use mtl_faces::with_pictures;
use schemars::JsonSchema;
use serde::Deserialize;

with_pictures! {
    /// A picture of faces at every age group: each row is a face, each column a group, the first column the input. Of made
    /// faces a second row may show the true pictures.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct AgeingGrid {
        /// Rows: pictures of as many people.
        #[serde(default = "eight")]
        #[schemars(range(min = 1, max = 1000))]
        faces: usize,
        /// Below each row the true pictures of that person and capture at the centres of the groups, which made faces have.
        #[serde(default)]
        truth: bool,
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
        Ok(Box::new(Grid { wires: self.ager.clone(), pictures, shown, truth: self.truth }))
    }
}

/// The evaluator with its pictures.
struct Grid {
    wires: AgeingWires,
    pictures: Pictures,
    /// The pictures of the rows.
    shown: Vec<usize>,
    /// Whether true pictures are shown as well.
    truth: bool,
}

impl Grid {
    /// The true pictures of a face at some ages, behind an empty place for the input.
    fn true_row(&self, index: usize, ages: &[f32]) -> Result<Vec<Picture>> {
        let mut row = vec![Picture::new(1, 1, vec![0; 3])?];
        for age in ages {
            match self.pictures.source.pictures.variant(index, "age", f64::from(*age))? {
                Some(picture) => row.push(picture),
                None => mistake!("`truth` shows true pictures at every age, and these faces have none: made faces do"),
            }
        }
        Ok(row)
    }
}

impl Evaluator for Grid {
    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let edges = age_groups::of_run(model)?;
        let (names, centres) = (age_groups::names(edges), age_groups::centres(edges));
        let groups = names.len();
        let read = |i: usize| self.pictures.read(self.shown[i]);
        let rows = self.wires.strips(model, self.shown.len(), &read, &TargetAge::groups(groups))?;
        let normalization = model.normalization(&self.wires.output)?;
        let headings: Vec<String> = std::iter::once("input".to_owned()).chain(names).collect();
        let mut cells = Vec::new();
        for (row, index) in rows.iter().zip(&self.shown) {
            cells.extend(apart(row, &normalization)?);
            if self.truth {
                cells.extend(self.true_row(*index, &centres)?);
            }
        }
        let side = cells.first().map_or(0, |input| input.width);
        let grid = headed(&tiled(&cells, groups + 1, side)?, &headings)?;
        Ok(Report { pictures: vec![("grid".into(), grid)], ..Report::default() })
    }
}

register!(Evaluator, "ageing_grid", AgeingGrid);
