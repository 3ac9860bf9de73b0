use crate::defaults;
use crate::protocol;
use crate::embedding::rows;
use mtl_component::{
    Axis, Better, Cases, Cell, ErrorContext as _, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, OpenEvaluator, Report, ReportTable, Result,
    mistake, register,
};
use mtl_faces::age_groups;
use mtl_faces::source::{KEYS, Pictures};
use mtl_faces::with_pictures;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::Path;

with_pictures! {
    /// Age estimation: mean absolute error in years, and the accuracy of the age group. Pictures whose age is not known do
    /// not count.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Age {
        /// The data port that pictures are fed to.
        #[serde(default = "defaults::image")]
        image: String,
        /// The output that is the age in years.
        #[serde(default = "defaults::age")]
        age: String,
        /// The output with the logits of the age groups.
        #[serde(default = "defaults::groups")]
        groups: String,
        /// Pictures in one pass.
        #[serde(default = "defaults::batch")]
        #[schemars(range(min = 1, max = 65536))]
        batch_size: usize,
    }
}

impl EvaluatorConfig for Age {
    fn describe(&self) -> Result<EvaluatorDescription> {
        Ok(EvaluatorDescription {
            wires: vec![("image", self.image.clone()), ("age", self.age.clone()), ("groups", self.groups.clone())],
            problems: self.given().problems(),
            source: self.given().usage(KEYS),
            files: self.given().files(),
            metrics: vec![
                Metric::new("mae", Better::Smaller).unit("years"),
                Metric::new("group_accuracy", Better::Larger),
                Metric::new("group_accuracy_one_off", Better::Larger),
            ],
        })
    }

    fn open(&self, open: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        let pictures = self.given().open(open.source.as_ref())?.complete()?;
        let labels = &pictures.labels;
        let known: Vec<(usize, f32)> = labels.iter().enumerate().filter_map(|(i, l)| Some((i, l.age?))).collect();
        if known.is_empty() {
            mistake!("no picture has a known age");
        }
        let people = labels.iter().map(|label| label.identity).collect();
        Ok(Box::new(Ages { config: self.clone(), known, people, pictures }))
    }

    fn on_cases(&self, metric: &str, cases: &Cases, weights: &[f64]) -> Result<Option<f64>> {
        let of: (&str, fn(f64) -> f64) = match metric {
            "mae" => ("error", |v| v),
            "group_accuracy" => ("groups_off", |v| f64::from(v == 0.0)),
            "group_accuracy_one_off" => ("groups_off", |v| f64::from(v <= 1.0)),
            _ => return Ok(None),
        };
        let Some(values) = cases.column(of.0) else { return Ok(None) };
        let all: f64 = weights.iter().sum();
        let sum: f64 = values.iter().zip(weights).map(|(value, weight)| of.1(*value) * weight).sum();
        Ok((all > 0.0).then(|| sum / all))
    }
}

/// The evaluator with its pictures.
struct Ages {
    config: Age,
    pictures: Pictures,
    /// The pictures whose age is known, with it.
    known: Vec<(usize, f32)>,
    /// Whose picture each is.
    people: Vec<i64>,
}

impl Evaluator for Ages {
    fn files(&self) -> Result<Vec<&Path>> {
        self.pictures.files()
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let (config, known) = (&self.config, &self.known);
        let read = |i: usize| self.pictures.read(known[i].0);
        let wanted = [config.age.as_str(), config.groups.as_str()];
        let out = model.outputs(&config.image, known.len(), &read, config.batch_size, &wanted)?;
        let ages = Vec::<f64>::try_from(&out[0].f_to_kind(tch::Kind::Double)?)?;
        let logits = rows(&out[1])?;
        let count = logits.first().map_or(0, Vec::len);
        let named = |i: usize| format!("the picture {}", self.pictures.name(known[i].0));
        if let Some(i) = ages.iter().position(|age| !age.is_finite()) {
            mistake!("the age of {} is {}: the weights of the run are not sound", named(i), ages[i]);
        }
        let group = |(i, row): (usize, &Vec<f32>)| protocol::largest(row).with_context(|| named(i));
        let found_groups: Vec<usize> = logits.iter().enumerate().map(group).collect::<Result<_>>()?;
        let target: Vec<f64> = known.iter().map(|(_, a)| f64::from(*a)).collect();
        let edges = age_groups::edges(count as i64)?;
        let target_groups: Vec<usize> = known.iter().map(|(_, a)| age_groups::group_of(*a, edges) as usize).collect();
        let mae = protocol::mean_absolute_error(&ages, &target)?;
        let exact = protocol::group_accuracy(&found_groups, &target_groups, 0)?;
        let near = protocol::group_accuracy(&found_groups, &target_groups, 1)?;
        let cases = Cases {
            of: self.pictures.source.fingerprint.clone(),
            columns: [
                ("person".to_owned(), known.iter().map(|(i, _)| self.people[*i] as f64).collect()),
                ("error".to_owned(), ages.iter().zip(&target).map(|(a, b)| (a - b).abs()).collect()),
                (
                    "groups_off".to_owned(),
                    found_groups.iter().zip(&target_groups).map(|(a, b)| a.abs_diff(*b) as f64).collect(),
                ),
            ]
            .into_iter()
            .collect(),
        };
        let names = age_groups::names(edges);
        let by_group: Vec<Vec<Cell>> = (0..count)
            .map(|g| {
                let of: Vec<usize> = (0..target.len()).filter(|i| target_groups[*i] == g).collect();
                let pick = |v: &[f64]| of.iter().map(|i| v[*i]).collect::<Vec<f64>>();
                let mae = protocol::mean_absolute_error(&pick(&ages), &pick(&target)).ok();
                vec![names[g].as_str().into(), of.len().into(), mae.into()]
            })
            .collect();
        Ok(Report {
            metrics: [
                ("mae".to_owned(), mae),
                ("group_accuracy".to_owned(), exact),
                ("group_accuracy_one_off".to_owned(), near),
            ]
            .into_iter()
            .collect(),
            details: serde_json::json!({
                "pictures": target.len(),
                "figures": protocol::AgeFigures::of(&ages, &target)?,
            }),
            tables: vec![ReportTable {
                name: "by_group".into(),
                columns: vec![Axis::new("group"), Axis::new("pictures"), Axis::new("mae").unit("years")],
                rows: by_group,
            }],
            cases: Some(cases),
            ..Report::default()
        })
    }
}

register!(Evaluator, "age", Age);
