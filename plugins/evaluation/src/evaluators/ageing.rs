use crate::ageing_wires::{AgeingWires, TargetAge};
use crate::evaluators::rows;
use crate::likeness::{psnr, rank_correlation, ssim};
use crate::protocol::cosine;
use mtl_component::picture::pixels;
use mtl_component::{
    Better, ErrorContext as _, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, Picture,
    ReadPicture, RecipePath, Report, Result, mistake, register,
};
use mtl_faces::age_groups;
use mtl_faces::label::Label;
use mtl_faces::made::{MadeFaces, Pair};
use mtl_faces::source::{self, Pictures};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::Path;
use tch::Kind;

/// Aged faces before judges: an age estimator says how old they look, a recogniser whether they are still the same
/// person. The judges are other runs, which the generator was not trained against.
///
/// The recogniser's threshold is set on real pairs, at a given rate of false accepts. On made faces the aged picture
/// is compared with the true one of that person, age and capture as well, next to what doing nothing would give.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ageing {
    /// The annotated list.
    #[serde(default)]
    list: Option<RecipePath>,
    /// The folder that file names start from; without it the folder of the list.
    #[serde(default)]
    root: Option<RecipePath>,
    /// Made faces in place of a list.
    #[serde(default)]
    made: Option<MadeFaces>,
    /// Faces that are aged: pictures of as many people.
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 100_000))]
    faces: usize,
    /// The run that judges ages.
    estimator: Estimator,
    /// The run that judges identity.
    recogniser: Recogniser,
    /// Rate of false accepts among real pairs of different people at the threshold of identity.
    #[serde(default = "far")]
    #[schemars(range(min = 1e-6, max = 0.5))]
    far: f64,
    /// Real pairs that set the threshold.
    #[serde(default = "pairs")]
    #[schemars(range(min = 4, max = 1_000_000))]
    pairs: usize,
    /// The wires of ageing.
    #[serde(default)]
    ager: AgeingWires,
}

/// A run that judges ages.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Estimator {
    /// The run folder, or a folder of runs, of which the newest counts.
    run: RecipePath,
    /// The data port that pictures are fed to.
    #[serde(default = "crate::defaults::image")]
    image: String,
    /// The output that is the age in years.
    #[serde(default = "crate::defaults::age")]
    age: String,
    /// The output with the logits of the age groups.
    #[serde(default = "crate::defaults::groups")]
    groups: String,
}

/// A run that judges identity.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Recogniser {
    /// The run folder, or a folder of runs, of which the newest counts.
    run: RecipePath,
    /// The data port that pictures are fed to.
    #[serde(default = "crate::defaults::image")]
    image: String,
    /// The node that gives the embedding.
    #[serde(default = "crate::defaults::embedding")]
    embedding: String,
}

fn twenty() -> usize {
    20
}
fn far() -> f64 {
    0.01
}
fn pairs() -> usize {
    600
}

/// Pictures that a judge looks at in one pass.
const BATCH: usize = 64;

impl Estimator {
    /// Ages in years, and age groups.
    fn judge(&self, run: &dyn Inference, count: usize, read: ReadPicture<'_>) -> Result<(Vec<f64>, Vec<usize>)> {
        let out = run.outputs(&self.image, count, read, BATCH, &[&self.age, &self.groups])?;
        let groups = Vec::<i64>::try_from(&out[1].f_argmax(1, false)?)?;
        Ok((Vec::<f64>::try_from(&out[0].f_to_kind(Kind::Double)?)?, groups.into_iter().map(|g| g as usize).collect()))
    }
}

impl Recogniser {
    /// Embeddings.
    fn judge(&self, run: &dyn Inference, count: usize, read: ReadPicture<'_>) -> Result<Vec<Vec<f32>>> {
        rows(&run.outputs(&self.image, count, read, BATCH, &[&self.embedding])?[0])
    }
}

/// The figures of aged faces before judges, and which way they are better.
const JUDGED: [(&str, &str, Better); 8] = [
    ("age_mae", "years", Better::Smaller),
    ("group_accuracy", "", Better::Larger),
    ("rank_correlation", "", Better::Larger),
    ("rising", "", Better::Larger),
    ("cosine", "", Better::Larger),
    ("verified", "", Better::Larger),
    ("real_verified", "", Better::Neither),
    ("threshold", "", Better::Neither),
];

impl EvaluatorConfig for Ageing {
    fn describe(&self) -> Result<EvaluatorDescription> {
        let list = self.list.iter().map(|l| l.0.clone());
        let metric = |(name, unit, better): &(&str, &'static str, Better)| Metric::new(*name, *better).unit(unit);
        let truth = Truth::FIGURES.iter().filter(|_| self.made.is_some());
        Ok(EvaluatorDescription {
            wires: self.ager.wires(),
            problems: source::problems("list", self.list.as_ref(), self.made.as_ref()),
            files: list.chain([self.estimator.run.0.clone(), self.recogniser.run.0.clone()]).collect(),
            metrics: JUDGED.iter().chain(truth).map(metric).collect(),
        })
    }

    fn open(&self) -> Result<Box<dyn Evaluator>> {
        let (pictures, labels) = source::labelled(self.list.as_ref(), self.root.as_ref(), self.made.as_ref())?;
        let pairs = source::pairs(&labels, self.pairs, 1)?;
        Ok(Box::new(Aged { config: self.clone(), pictures, labels, pairs }))
    }
}

/// The evaluator with its pictures.
struct Aged {
    config: Ageing,
    pictures: Pictures,
    labels: Vec<Label>,
    /// The real pairs that set the threshold of identity.
    pairs: Vec<Pair>,
}

impl Evaluator for Aged {
    fn files(&self) -> Vec<&Path> {
        self.pictures.files()
    }

    fn check(&self, model: &dyn Inference) -> Result<()> {
        let edges = age_groups::of_run(model)?;
        self.judges(model, age_groups::centres(edges).len()).map(|_| ())
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let Self { config, pictures, labels, pairs } = self;
        let edges = age_groups::of_run(model)?;
        let (centres, names) = (age_groups::centres(edges), age_groups::names(edges));
        let groups = centres.len();
        let faces = source::one_per_identity(labels, config.faces);
        let (estimator, recogniser) = self.judges(model, groups)?;
        let (estimator, recogniser) = (&*estimator, &*recogniser);
        let teachers: Vec<String> = [&config.estimator.run, &config.recogniser.run]
            .into_iter()
            .filter(|run| model.started_from(run))
            .map(|run| run.display().to_string())
            .collect();
        if !teachers.is_empty() {
            tracing::warn!(
                "the generator was trained against {}, which judges it here: its figures flatter it",
                teachers.join(" and ")
            );
        }

        let aged = self.age(model, &faces, groups)?;
        let (seen, seen_groups) = config.estimator.judge(estimator, aged.len(), &|i| Ok(aged[i].clone()))?;
        let inputs = config.recogniser.judge(recogniser, faces.len(), &|i| pictures.read(faces[i]))?;
        let looks = config.recogniser.judge(recogniser, aged.len(), &|i| Ok(aged[i].clone()))?;
        let (threshold, real) = self.threshold(recogniser, pairs)?;
        let cosines: Vec<f64> =
            looks.iter().enumerate().map(|(i, e)| cosine(e, &inputs[i / groups])).collect::<Result<_>>()?;

        let by_face = |f: usize| &seen[f * groups..(f + 1) * groups];
        let order: Vec<f64> = (0..groups).map(|g| g as f64).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| -> f64 {
            let all: Vec<f64> = values.collect();
            all.iter().sum::<f64>() / all.len().max(1) as f64
        };
        let flag = |b: bool| f64::from(u8::from(b));
        let error = |i: usize| (seen[i] - f64::from(centres[i % groups])).abs();
        let all = 0..aged.len();
        let mut metrics: Vec<(&str, f64)> = vec![
            ("age_mae", mean(&mut all.clone().map(error))),
            ("group_accuracy", mean(&mut all.clone().map(|i| flag(seen_groups[i] == i % groups)))),
            ("rank_correlation", mean(&mut (0..faces.len()).map(|f| rank_correlation(&order, by_face(f))))),
            ("rising", mean(&mut (0..faces.len()).map(|f| flag(by_face(f).windows(2).all(|w| w[1] > w[0]))))),
            ("cosine", mean(&mut cosines.iter().copied())),
            ("verified", mean(&mut cosines.iter().map(|c| flag(*c >= threshold)))),
            ("real_verified", real),
            ("threshold", threshold),
        ];
        let truth = self.against_truth(recogniser, &faces, &aged, &looks, &centres)?;
        if let Some(truth) = &truth {
            for (k, (name, ..)) in Truth::FIGURES.iter().enumerate() {
                metrics.push((name, mean(&mut truth.iter().map(|t| t.0[k]))));
            }
        }
        let by_group: Vec<serde_json::Value> = (0..groups)
            .map(|g| {
                let of = (0..faces.len()).map(|f| f * groups + g);
                let mut row = serde_json::json!({
                    "group": names[g],
                    "wanted_age": centres[g],
                    "seen_age": mean(&mut of.clone().map(|i| seen[i])),
                    "age_mae": mean(&mut of.clone().map(error)),
                    "group_accuracy": mean(&mut of.clone().map(|i| flag(seen_groups[i] == g))),
                    "cosine": mean(&mut of.clone().map(|i| cosines[i])),
                    "verified": mean(&mut of.clone().map(|i| flag(cosines[i] >= threshold))),
                });
                for (k, (name, ..)) in Truth::FIGURES.iter().enumerate().filter(|_| truth.is_some()) {
                    row[*name] = mean(&mut of.clone().filter_map(|i| Some(truth.as_ref()?[i].0[k]))).into();
                }
                row
            })
            .collect();
        let strips: Vec<&[f64]> = (0..faces.len()).map(by_face).collect();
        Ok(Report {
            metrics: metrics.into_iter().map(|(n, v)| (n.to_owned(), v)).collect(),
            details: serde_json::json!({
                "faces": faces.len(),
                "real_pairs": config.pairs,
                "judges_taught": teachers,
                "by_group": by_group,
                "seen_ages": strips,
            }),
            ..Report::default()
        })
    }
}

/// An aged picture and the picture before it beside the true one: for each figure, aged and unchanged.
struct Truth([f64; 6]);

impl Truth {
    const FIGURES: [(&str, &str, Better); 6] = [
        ("psnr", "dB", Better::Larger),
        ("psnr_unchanged", "dB", Better::Neither),
        ("ssim", "", Better::Larger),
        ("ssim_unchanged", "", Better::Neither),
        ("truth_cosine", "", Better::Larger),
        ("truth_cosine_unchanged", "", Better::Neither),
    ];
}

impl Aged {
    /// The runs that judge ages and identity.
    fn judges(&self, model: &dyn Inference, groups: usize) -> Result<(Box<dyn Inference>, Box<dyn Inference>)> {
        let config = &self.config;
        let estimator = model.open_run(&config.estimator.run).context("the run that judges ages")?;
        let recogniser = model.open_run(&config.recogniser.run).context("the run that judges identity")?;
        let judged = estimator.dim("age_groups");
        if judged != Some(groups as i64) {
            mistake!(
                "the run {} distinguishes {} age groups and this one has {groups}: judge by a run with as many",
                config.estimator.run.display(),
                judged.map_or("no".into(), |n| n.to_string())
            );
        }
        for (judge, run, wires) in [
            (&estimator, &config.estimator.run, [&config.estimator.age, &config.estimator.groups]),
            (&recogniser, &config.recogniser.run, [&config.recogniser.embedding, &config.recogniser.image]),
        ] {
            if let Some(wire) = wires.into_iter().find(|wire| !judge.has(wire)) {
                mistake!("the run {} has no wire `{wire}` to judge by", run.display());
            }
        }
        Ok((estimator, recogniser))
    }

    /// Every face at every group, face by face.
    fn age(&self, model: &dyn Inference, faces: &[usize], groups: usize) -> Result<Vec<Picture>> {
        let read = |i: usize| self.pictures.read(faces[i]);
        let wires = &self.config.ager;
        let strips = wires.strips(model, faces.len(), &read, &TargetAge::groups(groups))?;
        let normalization = model.normalization(&wires.output)?;
        let mut out = Vec::new();
        for strip in strips {
            let aged = strip.f_narrow(0, 1, groups as i64)?;
            let (height, width) = (aged.size()[2] as usize, aged.size()[3] as usize);
            for one in pixels(&aged, &normalization)?.chunks_exact(height * width * 3) {
                out.push(Picture::new(width, height, one.to_vec())?);
            }
        }
        Ok(out)
    }

    /// The cosine that at most the given rate of real pairs of different people reach, and how many real pairs of
    /// one person do.
    fn threshold(&self, judge: &dyn Inference, pairs: &[Pair]) -> Result<(f64, f64)> {
        let mut used: Vec<usize> = pairs.iter().flat_map(|p| [p.a, p.b]).collect();
        used.sort_unstable();
        used.dedup();
        let recogniser = &self.config.recogniser;
        let found = recogniser.judge(judge, used.len(), &|i| self.pictures.read(used[i]))?;
        let place = |i: usize| used.binary_search(&i).unwrap_or(0);
        let (mut same, mut different) = (Vec::new(), Vec::new());
        for pair in pairs {
            let c = cosine(&found[place(pair.a)], &found[place(pair.b)])?;
            if pair.same { &mut same } else { &mut different }.push(c);
        }
        different.sort_by(f64::total_cmp);
        let accepted = (self.config.far * different.len() as f64).floor() as usize;
        let threshold = match different.len().checked_sub(accepted + 1).and_then(|i| different.get(i)) {
            Some(highest_refused) => highest_refused.next_up(),
            None => mistake!("there are no real pairs of different people to set a threshold"),
        };
        Ok((threshold, same.iter().filter(|c| **c >= threshold).count() as f64 / same.len().max(1) as f64))
    }

    /// Made faces: each aged picture and its source beside the true picture at the centre of the group.
    fn against_truth(
        &self,
        judge: &dyn Inference,
        faces: &[usize],
        aged: &[Picture],
        looks: &[Vec<f32>],
        centres: &[f32],
    ) -> Result<Option<Vec<Truth>>> {
        let Pictures::Made(collection) = &self.pictures else { return Ok(None) };
        let recogniser = &self.config.recogniser;
        let groups = centres.len();
        let resized = |mut picture: Picture| -> Result<Picture> {
            picture.resize(aged[0].width, aged[0].height)?;
            Ok(picture)
        };
        let truth: Vec<Picture> = (0..aged.len())
            .map(|i| resized(collection.at_age(faces[i / groups], centres[i % groups])?))
            .collect::<Result<_>>()?;
        let sources: Vec<Picture> = faces.iter().map(|f| resized(collection.picture(*f)?)).collect::<Result<_>>()?;
        let true_looks = recogniser.judge(judge, truth.len(), &|i| Ok(truth[i].clone()))?;
        let source_looks = recogniser.judge(judge, sources.len(), &|i| Ok(sources[i].clone()))?;
        (0..aged.len())
            .map(|i| {
                let (source, true_look) = (&sources[i / groups], &true_looks[i]);
                Ok(Truth([
                    psnr(&aged[i], &truth[i])?,
                    psnr(source, &truth[i])?,
                    ssim(&aged[i], &truth[i])?,
                    ssim(source, &truth[i])?,
                    cosine(&looks[i], true_look)?,
                    cosine(&source_looks[i / groups], true_look)?,
                ]))
            })
            .collect::<Result<Vec<_>>>()
            .map(Some)
    }
}

register!(Evaluator, "ageing", Ageing);
