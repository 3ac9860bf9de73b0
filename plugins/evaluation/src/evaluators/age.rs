use crate::defaults;
use crate::protocol;
use crate::evaluators::rows;
use mtl_component::{
    Better, Cases, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, RecipePath, Report, Result,
    mistake, register,
};
use mtl_faces::age_groups;
use mtl_faces::made::MadeFaces;
use mtl_faces::source::{self, Pictures};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::Path;

/// Age estimation on an annotated list or on made faces: mean absolute error in years, and the accuracy of the age
/// group.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Age {
    /// The list; pictures whose age is not known do not count.
    #[serde(default)]
    list: Option<RecipePath>,
    /// Made faces in place of a list.
    #[serde(default)]
    made: Option<MadeFaces>,
    /// The folder that file names start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
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

impl EvaluatorConfig for Age {
    fn describe(&self) -> Result<EvaluatorDescription> {
        Ok(EvaluatorDescription {
            wires: vec![("image", self.image.clone()), ("age", self.age.clone()), ("groups", self.groups.clone())],
            problems: source::problems("list", self.list.as_ref(), self.made.as_ref()),
            files: self.list.iter().map(|l| l.0.clone()).collect(),
            metrics: vec![
                Metric::new("mae", Better::Smaller).unit("years"),
                Metric::new("group_accuracy", Better::Larger),
                Metric::new("group_accuracy_one_off", Better::Larger),
            ],
        })
    }

    fn open(&self) -> Result<Box<dyn Evaluator>> {
        let (pictures, labels) = source::labelled(self.list.as_ref(), self.root.as_ref(), self.made.as_ref())?;
        let known: Vec<(usize, f32)> = labels.iter().enumerate().filter_map(|(i, l)| Some((i, l.age?))).collect();
        if known.is_empty() {
            mistake!("no picture has a known age");
        }
        Ok(Box::new(Ages { config: self.clone(), pictures, known }))
    }

    fn on_cases(&self, metric: &str, cases: &Cases, picked: &[usize]) -> Result<Option<f64>> {
        let of: (&str, fn(f64) -> f64) = match metric {
            "mae" => ("error", |v| v),
            "group_accuracy" => ("groups_off", |v| f64::from(v == 0.0)),
            "group_accuracy_one_off" => ("groups_off", |v| f64::from(v <= 1.0)),
            _ => return Ok(None),
        };
        let Some(values) = cases.picked(of.0, picked) else { return Ok(None) };
        Ok(Some(values.iter().map(|v| of.1(*v)).sum::<f64>() / values.len() as f64))
    }
}

/// The evaluator with its pictures.
struct Ages {
    config: Age,
    pictures: Pictures,
    /// The pictures whose age is known, with it.
    known: Vec<(usize, f32)>,
}

impl Evaluator for Ages {
    fn files(&self) -> Vec<&Path> {
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
        let largest =
            |row: &Vec<f32>| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
        let found_groups: Vec<usize> = logits.iter().map(largest).collect();
        let target: Vec<f64> = known.iter().map(|(_, a)| f64::from(*a)).collect();
        let edges = age_groups::edges(count as i64)?;
        let target_groups: Vec<usize> = known.iter().map(|(_, a)| age_groups::group_of(*a, edges) as usize).collect();
        let mae = protocol::mean_absolute_error(&ages, &target)?;
        let exact = protocol::group_accuracy(&found_groups, &target_groups, 0)?;
        let near = protocol::group_accuracy(&found_groups, &target_groups, 1)?;
        let cases = Cases {
            of: source::fingerprint(config.list.as_ref(), config.made.as_ref())?,
            columns: [
                ("error".to_owned(), ages.iter().zip(&target).map(|(a, b)| (a - b).abs()).collect()),
                (
                    "groups_off".to_owned(),
                    found_groups.iter().zip(&target_groups).map(|(a, b)| a.abs_diff(*b) as f64).collect(),
                ),
            ]
            .into_iter()
            .collect(),
        };
        let by_group: Vec<serde_json::Value> = (0..count)
            .map(|g| {
                let of: Vec<usize> = (0..target.len()).filter(|i| target_groups[*i] == g).collect();
                let pick = |v: &[f64]| of.iter().map(|i| v[*i]).collect::<Vec<f64>>();
                let mae = protocol::mean_absolute_error(&pick(&ages), &pick(&target)).ok();
                serde_json::json!({ "group": g, "pictures": of.len(), "mae": mae })
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
            details: serde_json::json!({ "pictures": target.len(), "by_group": by_group }),
            cases: Some(cases),
            ..Report::default()
        })
    }
}

register!(Evaluator, "age", Age);
