use crate::defaults;
use crate::protocol::{self, Convention, FlipTest, ReportSettings};
use crate::evaluators::rows;
use mtl_component::files::read_text;
use mtl_component::{
    Better, Cases, ErrorContext as _, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, RecipePath,
    Report, Result, mistake, register,
};
use mtl_faces::list;
use mtl_faces::made::{MadeFaces, Pair};
use mtl_faces::source::{self, Pictures};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Face verification on a list of pairs: k-fold accuracy, AUC, EER, TAR at FAR, and all of it by age gap.
///
/// The pairs are a list, whose lines are `a b 1` (same person) or `a b -1`, or are drawn from made faces. The folds
/// are contiguous.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Verification {
    /// The list of pairs.
    #[serde(default)]
    pairs: Option<RecipePath>,
    /// Made faces that pairs are drawn from: the same person or two of one sex, the ages at least `gap` apart.
    #[serde(default)]
    made: Option<MadeFaces>,
    /// Least difference of the ages in drawn pairs, in years.
    #[serde(default = "gap")]
    #[schemars(range(min = 0.0, max = 100.0))]
    gap: f32,
    /// How many pairs are drawn.
    #[serde(default = "count")]
    #[schemars(range(min = 4, max = 10_000_000))]
    count: usize,
    /// The folder that file names start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
    /// An annotated list with the ages of the pictures, for the results by age gap.
    #[serde(default)]
    list: Option<RecipePath>,
    /// The data port that pictures are fed to.
    #[serde(default = "defaults::image")]
    image: String,
    /// The node whose output is compared.
    #[serde(default = "defaults::embedding")]
    embedding: String,
    /// Which thresholds, distances and deviations.
    #[serde(default)]
    convention: Convention,
    /// How the embeddings of a picture and its mirror image are joined.
    #[serde(default)]
    flip: FlipTest,
    /// Folds.
    #[serde(default = "ten")]
    #[schemars(range(min = 2, max = 1000))]
    folds: usize,
    /// Pictures in one pass.
    #[serde(default = "defaults::batch")]
    #[schemars(range(min = 1, max = 65536))]
    batch_size: usize,
}

/// As many different pairs have to lie beyond a threshold for draws of the pairs to show how sure it is.
const FEWEST: f64 = 10.0;

fn gap() -> f32 {
    20.0
}
fn count() -> usize {
    600
}
fn ten() -> usize {
    10
}

/// Pictures, pairs of them, and their ages where known.
struct Pairs {
    pictures: Pictures,
    pairs: Vec<Pair>,
    ages: Option<Vec<Option<f64>>>,
}

impl Verification {
    /// Which pairs, for messages.
    fn of(&self) -> String {
        match &self.pairs {
            Some(path) => format!("the pairs {}", path.display()),
            None => "the pairs of made faces".to_owned(),
        }
    }

    fn pairs(&self) -> Result<Pairs> {
        if let Some(made) = &self.made {
            let collection = made.open()?;
            let pairs = collection.pairs(self.gap, self.count, made.seed as u64)?;
            let ages = (0..collection.shots.len()).map(|i| collection.label(i).age.map(f64::from)).collect();
            return Ok(Pairs { pictures: Pictures::Made(collection), pairs, ages: Some(ages) });
        }
        let Some(path) = &self.pairs else { mistake!("no pairs are given: name a list as `pairs`, or `made` faces") };
        let (files, pairs) = self.read(path)?;
        let ages = self.ages(&files)?;
        Ok(Pairs { pictures: Pictures::Files(files), pairs, ages })
    }

    /// The pictures, each once, and the pairs as indices into them.
    fn read(&self, path: &Path) -> Result<(Vec<PathBuf>, Vec<Pair>)> {
        let root = list::root(path, self.root.as_deref());
        let text = match read_text(path, list::MAX_BYTES) {
            Ok(text) => text,
            Err(e) => mistake!("cannot read the pairs {}: {e}", path.display()),
        };
        let (mut files, mut pairs, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        let mut known: HashMap<PathBuf, usize> = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let place = format!("{}:{}", path.display(), number + 1);
            let [a, b, same] = fields[..] else {
                faults.push(format!("{place}: expected `a b 1` or `a b -1`, found {} fields", fields.len()));
                continue;
            };
            let same = match same {
                "1" => true,
                "-1" | "0" => false,
                other => {
                    faults.push(format!("{place}: expected 1 (same) or -1 (different), found {other:?}"));
                    continue;
                }
            };
            let mut index = |name: &str| {
                let file = root.join(name);
                *known.entry(file.clone()).or_insert_with(|| {
                    if !file.is_file() {
                        faults.push(format!("{place}: there is no file {}", file.display()));
                    }
                    files.push(file);
                    files.len() - 1
                })
            };
            let (a, b) = (index(a), index(b));
            pairs.push(Pair { a, b, same });
        }
        list::report(faults, &format!("the pairs {} cannot be used", path.display()))?;
        if pairs.is_empty() {
            mistake!("the pairs {} are empty: expected lines of `a b 1` or `a b -1`", path.display());
        }
        Ok((files, pairs))
    }

    /// The age of each picture, where the list says it.
    fn ages(&self, files: &[PathBuf]) -> Result<Option<Vec<Option<f64>>>> {
        let Some(path) = &self.list else { return Ok(None) };
        let root = list::root(path, self.root.as_deref());
        let by_file: HashMap<PathBuf, f64> =
            list::read(path, &root)?.into_iter().filter_map(|f| Some((f.file, f64::from(f.age?)))).collect();
        Ok(Some(files.iter().map(|f| by_file.get(f).copied()).collect()))
    }
}

impl EvaluatorConfig for Verification {
    fn describe(&self) -> Result<EvaluatorDescription> {
        let fars = ReportSettings::default().fars.into_iter().map(|far| format!("tar_at_far_{far}"));
        let mut metrics = vec![
            Metric::new("accuracy", Better::Larger),
            Metric::new("deviation", Better::Neither),
            Metric::new("auc", Better::Larger),
            Metric::new("eer", Better::Smaller),
        ];
        metrics.extend(fars.map(|name| Metric::new(name, Better::Larger)));
        Ok(EvaluatorDescription {
            wires: vec![("image", self.image.clone()), ("embedding", self.embedding.clone())],
            problems: source::problems("pairs", self.pairs.as_ref(), self.made.as_ref()),
            files: self.pairs.iter().chain(&self.list).map(|l| l.0.clone()).collect(),
            metrics,
        })
    }

    fn open(&self) -> Result<Box<dyn Evaluator>> {
        let data = self.pairs()?;
        // Both kinds of pairs, and enough of them for each fold: what the protocol needs is found before training.
        let same: Vec<bool> = data.pairs.iter().map(|pair| pair.same).collect();
        let made_up: Vec<f64> = same.iter().map(|same| if *same { 0.5 } else { 1.5 }).collect();
        let settings = ReportSettings { convention: self.convention, folds: self.folds, ..ReportSettings::default() };
        if let Err(e) = protocol::report(&made_up, &same, None, &settings) {
            mistake!("{} cannot be used: {e:#}", self.of());
        }
        Ok(Box::new(OpenPairs { config: self.clone(), data }))
    }

    fn on_cases(&self, metric: &str, cases: &Cases, picked: &[usize]) -> Result<Option<f64>> {
        Ok(on_cases(metric, cases, picked))
    }
}

/// A metric on some of the pairs.
///
/// The thresholds of the folds stay those of the whole list: fitting them again on a sample would find pairs of the
/// held-out fold among those it is fitted on. A rate that a handful of pairs decides has no bootstrap.
fn on_cases(metric: &str, cases: &Cases, picked: &[usize]) -> Option<f64> {
    let pick = |name: &str| cases.picked(name, picked);
    if metric == "accuracy" {
        return Some(pick("right")?.iter().sum::<f64>() / picked.len() as f64);
    }
    let far = metric.strip_prefix("tar_at_far_").map(str::parse::<f64>);
    let different = cases.column("same")?.iter().filter(|same| **same == 0.0).count();
    if let Some(Ok(far)) = &far
        && far * (different as f64) < FEWEST
    {
        return None;
    }
    let similarity: Vec<f64> = pick("distance")?.iter().map(|d| -d).collect();
    let same: Vec<bool> = pick("same")?.iter().map(|s| *s == 1.0).collect();
    // A sample without one of both kinds determines nothing.
    let roc = || protocol::roc(&similarity, &same).ok();
    match (metric, far) {
        ("auc", _) => Some(roc()?.auc()),
        ("eer", _) => Some(roc()?.eer()),
        (_, Some(far)) => roc()?.tar_at_far(far.ok()?).ok(),
        _ => None,
    }
}

/// The evaluator with its pairs.
struct OpenPairs {
    config: Verification,
    data: Pairs,
}

impl Evaluator for OpenPairs {
    fn files(&self) -> Vec<&Path> {
        self.data.pictures.files()
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let Pairs { pictures, pairs, ages } = &self.data;
        let config = &self.config;
        let mut embeddings: Vec<Vec<f32>> = Vec::with_capacity(pictures.len());
        let read = |i: usize| pictures.read(i);
        model.pictures(&config.image, pictures.len(), &read, config.batch_size, &mut |batch| {
            let plain = rows(&model.run(&[(config.image.as_str(), batch)], &[&config.embedding])?[0])?;
            let flipped = match config.flip {
                FlipTest::None => None,
                _ => Some(rows(&model.run(&[(config.image.as_str(), &batch.f_flip([3])?)], &[&config.embedding])?[0])?),
            };
            for (i, row) in plain.iter().enumerate() {
                let mirrored = flipped.as_ref().map(|f| f[i].as_slice());
                embeddings.push(config.flip.combine(row, mirrored)?);
            }
            Ok(())
        })?;
        let distances: Vec<f64> = pairs
            .iter()
            .map(|p| protocol::squared_distance(&embeddings[p.a], &embeddings[p.b]))
            .collect::<Result<_>>()?;
        let same: Vec<bool> = pairs.iter().map(|p| p.same).collect();
        let gaps: Option<Vec<Option<f64>>> =
            ages.as_ref().map(|ages| pairs.iter().map(|p| Some((ages[p.a]? - ages[p.b]?).abs())).collect());
        let settings = ReportSettings { convention: config.convention, folds: config.folds, ..ReportSettings::default() };
        let found =
            protocol::report(&distances, &same, gaps.as_deref(), &settings).with_context(|| config.of())?;
        let flags = |flags: &[bool]| flags.iter().map(|f| f64::from(*f)).collect::<Vec<f64>>();
        let drawn = config.made.as_ref().map(|_| format!("; {} pairs, gap {}", config.count, config.gap));
        let cases = Cases {
            of: source::fingerprint(config.pairs.as_ref(), config.made.as_ref())? + &drawn.unwrap_or_default(),
            columns: [
                ("same".to_owned(), flags(&same)),
                ("right".to_owned(), flags(&found.right)),
                ("distance".to_owned(), distances),
            ]
            .into_iter()
            .collect(),
        };
        let mut metrics: Vec<(String, f64)> = vec![
            ("accuracy".into(), found.accuracy),
            ("deviation".into(), found.deviation),
            ("auc".into(), found.auc),
            ("eer".into(), found.eer),
        ];
        metrics.extend(found.tar_at_far.iter().map(|(far, tar)| (format!("tar_at_far_{far}"), *tar)));
        Ok(Report {
            metrics: metrics.into_iter().collect(),
            details: serde_json::to_value(&found)?,
            cases: Some(cases),
            ..Report::default()
        })
    }
}

register!(Evaluator, "verification", Verification);
