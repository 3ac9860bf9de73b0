use crate::defaults;
use crate::embedding::rows;
use mtl_component::{
    Better, Cases, ErrorContext as _, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, OpenEvaluator,
    Report, Result, ScalarOps, mistake, register,
};
use mtl_faces::age_groups;
use mtl_faces::label::Label;
use mtl_faces::source::{KEYS, Pictures};
use mtl_faces::with_pictures;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::Path;
use tch::{Kind, Tensor};

with_pictures! {
    /// How much of the age is left in the identity features, and how much of the identity in the age features: linear
    /// probes on frozen features (Alain and Bengio 2016, "Understanding intermediate layers using linear classifier
    /// probes").
    ///
    /// The age probe is a ridge regression fitted on half of the people and tested on the others: R2 of the age, and
    /// accuracy of its age group against that of the commonest group. The identity probe is a ridge regression on
    /// one-hot identities, fitted on half of everyone's pictures and tested on the others. The penalty is chosen within
    /// the fitted part.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Leakage {
        /// The data port that pictures are fed to.
        #[serde(default = "defaults::image")]
        image: String,
        /// The identity features; maps `[batch, channels, height, width]` are averaged over their places.
        #[serde(default = "defaults::embedding")]
        identity_features: String,
        /// The age features; without them only the identity features are probed.
        #[serde(default)]
        age_features: Option<String>,
        /// Pictures in one pass.
        #[serde(default = "defaults::batch")]
        #[schemars(range(min = 1, max = 65536))]
        batch_size: usize,
    }
}

/// The features that are probed, by the keys that name them.
const FEATURES: [&str; 2] = ["identity_features", "age_features"];

impl EvaluatorConfig for Leakage {
    fn describe(&self) -> Result<EvaluatorDescription> {
        let mut wires = vec![("image", self.image.clone()), ("identity_features", self.identity_features.clone())];
        wires.extend(self.age_features.iter().map(|wire| ("age_features", wire.clone())));
        // What a probe reads from features is good or bad as the experiment will have it.
        let metric = |name: String| Metric::new(name, Better::Neither);
        let mut metrics = Vec::new();
        for features in FEATURES.iter().take(wires.len() - 1) {
            metrics.push(metric(format!("{features}_age_r2")));
            metrics.push(metric(format!("{features}_age_group_accuracy")));
            if metrics.len() == 2 {
                metrics.push(metric("commonest_age_group".into()));
            }
            metrics.push(metric(format!("{features}_identity_accuracy")));
        }
        Ok(EvaluatorDescription {
            wires,
            problems: self.given().problems(),
            source: self.given().usage(KEYS),
            files: self.given().files(),
            metrics,
        })
    }

    fn open(&self, open: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        let pictures = self.given().open(open.source.as_ref())?.complete()?;
        let labels = &pictures.labels;
        let known: Vec<&Label> = labels.iter().filter(|label| label.age.is_some()).collect();
        let people: Vec<i64> = known.iter().map(|label| label.identity).collect();
        let ages: Vec<f64> = known.iter().filter_map(|label| label.age).map(f64::from).collect();
        ages_differ(&ages, &people)?;
        Ok(Box::new(Probes { config: self.clone(), pictures }))
    }

    fn on_cases(&self, metric: &str, cases: &Cases, weights: &[f64]) -> Result<Option<f64>> {
        let both = || Some((cases.column("age")?, cases.column(metric.strip_suffix("_r2")?)?));
        Ok(both().and_then(|(truth, found)| r2(truth, found, weights)))
    }
}

/// The evaluator with its pictures.
struct Probes {
    config: Leakage,
    pictures: Pictures,
}

impl Evaluator for Probes {
    fn files(&self) -> Result<Vec<&Path>> {
        self.pictures.files()
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let (config, labels) = (&self.config, &self.pictures.labels);
        let edges = age_groups::of_run(model)?;
        let known: Vec<usize> = (0..labels.len()).filter(|i| labels[*i].age.is_some()).collect();
        let mut wanted = vec![config.identity_features.as_str()];
        wanted.extend(config.age_features.as_deref());
        let read = |i: usize| self.pictures.read(known[i]);
        let features = model.map_pictures(&config.image, known.len(), &read, config.batch_size, &mut |batch| {
            let flat = |tensor: Tensor| match tensor.dim() {
                4 => Ok(tensor.f_mean_dim(&[2i64, 3][..], false, Kind::Float)?),
                _ => Ok(tensor),
            };
            model.run(&[(config.image.as_str(), batch)], &wanted)?.into_iter().map(flat).collect()
        })?;
        let features: Vec<Vec<Vec<f32>>> = features.iter().map(rows).collect::<Result<_>>()?;
        let ages: Vec<f64> = known.iter().map(|i| f64::from(labels[*i].age.unwrap_or_default())).collect();
        let people: Vec<i64> = known.iter().map(|i| labels[*i].identity).collect();
        let mut metrics = indexmap::IndexMap::new();
        let mut cases = Cases { of: self.pictures.source.fingerprint.clone(), ..Cases::default() };
        for (what, features) in FEATURES.iter().zip(&features) {
            if let Some(i) = features.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
                mistake!(
                    "the {what} features of {} are not finite: the weights of the run are not sound",
                    self.pictures.name(known[i])
                );
            }
            let x = matrix(features)?;
            let age = probe_age(&x, &ages, &people, edges)?;
            cases.columns.insert("person".into(), age.people);
            cases.columns.insert("age".into(), age.truth);
            cases.columns.insert(format!("{what}_age"), age.found);
            metrics.insert(format!("{what}_age_r2"), age.r2);
            metrics.insert(format!("{what}_age_group_accuracy"), age.group_accuracy);
            metrics.insert("commonest_age_group".into(), age.commonest);
            metrics.insert(format!("{what}_identity_accuracy"), probe_identity(&x, &people)?);
        }
        let details = serde_json::json!({ "pictures": known.len() });
        Ok(Report { metrics, details, cases: Some(cases), ..Report::default() })
    }
}

fn matrix(rows: &[Vec<f32>]) -> Result<Tensor> {
    let width = rows.first().map_or(0, Vec::len) as i64;
    let flat: Vec<f32> = rows.iter().flatten().copied().collect();
    Ok(Tensor::f_from_slice(&flat)?.f_view([-1, width])?.f_to_kind(Kind::Double)?)
}

struct AgeProbe {
    /// The ages of the pictures that it is tested on, and what it finds.
    truth: Vec<f64>,
    found: Vec<f64>,
    /// Whose pictures they are.
    people: Vec<f64>,
    r2: f64,
    group_accuracy: f64,
    commonest: f64,
}

/// The share of the spread of `truth` that `found` explains, where each counts as often as its weight says; none where
/// the truth does not differ.
fn r2(truth: &[f64], found: &[f64], weights: &[f64]) -> Option<f64> {
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        truth.iter().zip(found).zip(weights).map(|((t, f), weight)| weight * of(*t, *f)).sum()
    };
    let mean = sum(&|t, _| t) / weights.iter().sum::<f64>();
    let spread = sum(&|t, _| (t - mean).powi(2));
    (spread > 0.0).then(|| 1.0 - sum(&|t, f| (t - f).powi(2)) / spread)
}

/// The people, each once; those that the age probe is fitted on and those that it is tested on.
fn enough_people(people: &[i64]) -> Result<Vec<i64>> {
    let mut all = people.to_vec();
    all.sort_unstable();
    all.dedup();
    if all.len() < 4 {
        mistake!(
            "the age probe is fitted on some people and tested on others: it needs at least 4 with known ages, found {}",
            all.len()
        );
    }
    Ok(all)
}

/// The pictures of the first half of the people and those of the second.
fn halves(people: &[i64]) -> Result<(Vec<usize>, Vec<usize>)> {
    let all = enough_people(people)?;
    let half = all[all.len() / 2];
    Ok((0..people.len()).partition(|i| people[*i] < half))
}

/// Ages that do not differ have nothing to be explained.
fn ages_differ(ages: &[f64], people: &[i64]) -> Result<()> {
    let (fit, test) = halves(people)?;
    for (pictures, what) in [(test, "tested"), (fit, "fitted")] {
        if let Some(first) = pictures.first().filter(|first| pictures.iter().all(|i| ages[*i] == ages[**first])) {
            mistake!(
                "all {} {what} pictures have one age, {}: whether features tell ages can only be measured where ages \
                 differ",
                pictures.len(),
                ages[*first]
            );
        }
    }
    Ok(())
}

fn probe_age(x: &Tensor, ages: &[f64], people: &[i64], edges: &[f32]) -> Result<AgeProbe> {
    let (fit, test) = halves(people)?;
    let y = Tensor::f_from_slice(ages)?.f_view([-1, 1])?;
    // Within the fitted people, every third one chooses the penalty.
    let found = ridge(x, &y, &fit, &test, |i| people[i] % 3 == 0)?;
    let found = Vec::<f64>::try_from(&found.f_view([-1])?)?;
    let truth: Vec<f64> = test.iter().map(|i| ages[*i]).collect();
    let group = |age: f64| age_groups::group_of(age as f32, edges);
    let right = truth.iter().zip(&found).filter(|(t, f)| group(**t) == group(**f)).count();
    let mut counts = vec![0usize; edges.len() + 1];
    truth.iter().for_each(|t| counts[group(*t) as usize] += 1);
    let count = truth.len() as f64;
    Ok(AgeProbe {
        r2: r2(&truth, &found, &vec![1.0; truth.len()]).context("all tested pictures have one age")?,
        group_accuracy: right as f64 / count,
        people: test.iter().map(|i| people[*i] as f64).collect(),
        commonest: counts.into_iter().max().unwrap_or(0) as f64 / count,
        truth,
        found,
    })
}

fn probe_identity(x: &Tensor, people: &[i64]) -> Result<f64> {
    let count = people.iter().max().map_or(0, |m| m + 1);
    let (mut seen, mut place) = (vec![0usize; count as usize], Vec::new());
    for person in people {
        place.push(seen[*person as usize]);
        seen[*person as usize] += 1;
    }
    let (fit, test): (Vec<usize>, Vec<usize>) = (0..people.len()).partition(|i| place[*i].is_multiple_of(2));
    let labels = Tensor::f_from_slice(people)?;
    let y = labels.f_one_hot(count)?.f_to_kind(Kind::Double)?;
    // Of the fitted pictures, every third one chooses the penalty.
    let found = ridge(x, &y, &fit, &test, |i| place[i] % 6 == 0)?.f_argmax(1, false)?;
    let found = Vec::<i64>::try_from(&found)?;
    let right = test.iter().zip(&found).filter(|(i, f)| people[**i] == **f).count();
    Ok(right as f64 / test.len().max(1) as f64)
}

fn squared_error(found: &Tensor, truth: &Tensor) -> Result<f64> {
    Ok(found.f_sub(truth)?.f_square()?.f_mean(Kind::Double)?.f_double_value(&[])?)
}

/// Predictions for `test` of a ridge regression with intercept on standardised features, fitted on `fit`; the samples
/// of `fit` that `held` names choose the penalty.
fn ridge(x: &Tensor, y: &Tensor, fit: &[usize], test: &[usize], held: impl Fn(usize) -> bool) -> Result<Tensor> {
    let pick = |t: &Tensor, of: &[usize]| -> Result<Tensor> {
        let index: Vec<i64> = of.iter().map(|i| *i as i64).collect();
        Ok(t.f_index_select(0, &Tensor::f_from_slice(&index)?)?)
    };
    let (inner_test, inner_fit): (Vec<usize>, Vec<usize>) = fit.iter().partition(|i| held(**i));
    let solve = |fit: &[usize], test: &[usize], penalty: f64| -> Result<Tensor> {
        let (x_fit, y_fit) = (pick(x, fit)?, pick(y, fit)?);
        let mean = x_fit.f_mean_dim(&[0i64][..], true, Kind::Double)?;
        let deviation = x_fit.f_std_dim(&[0i64][..], false, true)?.try_clamp_min(1e-9)?;
        let centre = y_fit.f_mean_dim(&[0i64][..], true, Kind::Double)?;
        let standard = |x: &Tensor| x.f_sub(&mean)?.f_div(&deviation);
        let z = standard(&x_fit)?;
        let n = fit.len() as f64;
        let width = z.size()[1];
        let penalty = Tensor::f_eye(width, (Kind::Double, z.device()))?.try_mul_scalar(penalty)?;
        let normal = z.f_tr()?.f_mm(&z)?.try_div_scalar(n)?.f_add(&penalty)?;
        let right = z.f_tr()?.f_mm(&y_fit.f_sub(&centre)?)?.try_div_scalar(n)?;
        let weights = Tensor::f_linalg_solve(&normal, &right, true)?;
        Ok(standard(&pick(x, test)?)?.f_mm(&weights)?.f_add(&centre)?)
    };
    let mut best = (f64::INFINITY, 1.0);
    if !inner_test.is_empty() && !inner_fit.is_empty() {
        let truth = pick(y, &inner_test)?;
        for penalty in [1e-3, 1e-2, 1e-1, 1.0, 10.0] {
            let found = squared_error(&solve(&inner_fit, &inner_test, penalty)?, &truth)?;
            if found < best.0 {
                best = (found, penalty);
            }
        }
    }
    solve(fit, test, best.1)
}

register!(Evaluator, "leakage", Leakage);

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Features of 20 people with 12 pictures each: noise, plus the age where `age` is 1, plus a code of the person
    /// where `person` is 1.
    fn made(age: f64, person: f64) -> (Tensor, Vec<f64>, Vec<i64>) {
        mtl_torch::seed(4).unwrap();
        let (people, each, width) = (20i64, 12i64, 30i64);
        let options = (Kind::Double, Device::Cpu);
        let who: Vec<i64> = (0..people * each).map(|i| i / each).collect();
        let ages: Vec<f64> = (0..people * each).map(|i| 5.0 + 6.0 * (i % each) as f64).collect();
        let codes = Tensor::randn([people, width], options).index_select(0, &Tensor::from_slice(&who));
        let direction = Tensor::randn([1, width], options);
        let years = (Tensor::from_slice(&ages).view([-1, 1]) - 38.0) / 20.0;
        let x = Tensor::randn([people * each, width], options) * 0.3 + codes * person + years.matmul(&direction) * age;
        (x, ages, who)
    }

    #[test]
    fn probes_find_what_is_there_and_nothing_else() {
        let edges = age_groups::edges(7).unwrap();
        let (x, ages, who) = made(1.0, 0.0);
        let found = probe_age(&x, &ages, &who, edges).unwrap();
        assert!(found.r2 > 0.95 && found.group_accuracy > 0.6, "{} {}", found.r2, found.group_accuracy);
        assert!(probe_identity(&x, &who).unwrap() < 0.2);

        let (x, ages, who) = made(0.0, 1.0);
        let found = probe_age(&x, &ages, &who, edges).unwrap();
        assert!(found.r2 < 0.1 && found.group_accuracy <= found.commonest + 0.1, "{}", found.r2);
        assert!(probe_identity(&x, &who).unwrap() > 0.95);
    }

    #[test]
    fn too_few_people_are_a_mistake() {
        let (x, ages, _) = made(1.0, 0.0);
        let who = vec![1; ages.len()];
        let error = probe_age(&x, &ages, &who, age_groups::edges(7).unwrap()).err().unwrap();
        assert!(error.to_string().contains("at least 4"), "{error}");
    }
}
