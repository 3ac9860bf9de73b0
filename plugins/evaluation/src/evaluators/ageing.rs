use crate::ageing_wires::{AgeingWires, TargetAge, apart};
use crate::embedding::{Embedding, rows};
use crate::likeness::{Change, psnr, rank_correlation, sharpness, ssim};
use crate::protocol::{self, Course, FlipTest, GAP_EDGES, cosine, gap_label};
use mtl_component::{
    Axis, Better, Cell, ErrorContext as _, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, OpenEvaluator,
    Picture, ReadPicture, RecipePath, Report, ReportCurve, ReportTable, Result, SourceUse, mistake, register,
};
use mtl_faces::age_groups;
use mtl_faces::pairs::{self, Pair};
use mtl_faces::source::{self, KEYS, Pictures};
use mtl_faces::with_pictures;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use tch::Kind;

with_pictures! {
    /// Aged faces before judges: an age estimator says how old they look, a recogniser whether they are still the same
    /// person. The judges are other runs, which the generator was not trained against.
    ///
    /// The recogniser's threshold is set on real pairs, at a given rate of false accepts. On made faces the aged picture
    /// is compared with the true one of that person, age and capture as well, next to what doing nothing would give.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Ageing {
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
    /// How the embeddings of a picture and its mirror image are joined; without it as the run's own `verification` does, or
    /// `sum_raw` if it has none.
    #[serde(default)]
    flip: Option<FlipTest>,
}

fn twenty() -> usize {
    20
}
fn far() -> f64 {
    0.01
}
fn pairs() -> usize {
    2000
}

/// Pictures that a judge looks at in one pass.
const BATCH: usize = 64;

impl Estimator {
    /// Ages in years, and age groups.
    fn judge(&self, run: &dyn Inference, count: usize, read: ReadPicture<'_>) -> Result<(Vec<f64>, Vec<usize>)> {
        let out = run.outputs(&self.image, count, read, BATCH, &[&self.age, &self.groups])?;
        let ages = Vec::<f64>::try_from(&out[0].f_to_kind(Kind::Double)?)?;
        if let Some(i) = ages.iter().position(|age| !age.is_finite()) {
            mistake!("the run {} sees the age {} in picture {i}: its weights are not sound", self.run.display(), ages[i]);
        }
        let groups = rows(&out[1])?.iter().map(|row| protocol::largest(row)).collect::<Result<_>>()?;
        Ok((ages, groups))
    }
}

impl Recogniser {
    /// Embeddings.
    fn judge(&self, run: &dyn Inference, count: usize, read: ReadPicture<'_>) -> Result<Vec<Vec<f32>>> {
        let embedding = Embedding { image: &self.image, node: &self.embedding, flip: self.flip(run), batch: BATCH };
        let mut out = Vec::with_capacity(count);
        embedding.each(run, count, read, &mut |_, found| {
            out.push(found.with_context(|| format!("the run {} that judges identity", self.run.display()))?);
            Ok(())
        })?;
        Ok(out)
    }

    /// The flip test that the run's own figures are made with.
    fn flip(&self, run: &dyn Inference) -> FlipTest {
        let own = || {
            let evaluators = run.setting("evaluate")?;
            let verification = evaluators.as_object()?.values().find(|e| e["component"] == "verification")?;
            serde_json::from_value(verification.get("flip")?.clone()).ok()
        };
        self.flip.or_else(own).unwrap_or_default()
    }
}

/// The figures of aged faces before judges, and which way they are better.
const JUDGED: [(&str, &str, Better); 11] = [
    ("age_mae", "years", Better::Smaller),
    ("age_mae_interval", "years", Better::Smaller),
    ("group_accuracy", "", Better::Larger),
    ("rank_correlation", "", Better::Larger),
    ("rising", "", Better::Larger),
    ("slope", "", Better::Neither),
    ("roughness", "years", Better::Neither),
    ("cosine", "", Better::Larger),
    ("verified", "", Better::Larger),
    ("real_verified", "", Better::Neither),
    ("threshold", "", Better::Neither),
];

impl EvaluatorConfig for Ageing {
    fn describe(&self) -> Result<EvaluatorDescription> {
        let metric = |(name, unit, better): &(&str, &'static str, Better)| Metric::new(*name, *better).unit(unit);
        // Made faces have true pictures, others may have real ones near an age; what a `source` has is known later.
        let usage = self.given().usage(KEYS);
        let figures = Truth::FIGURES.iter().chain(&CHANGES).chain(&OF_TRUTH);
        let truth = figures.filter(|_| matches!(usage, SourceUse::Own("made") | SourceUse::Needed(_)));
        let truth = truth.chain(REFERENCES.iter().filter(|_| usage != SourceUse::Own("made")));
        let files = self.given().files().into_iter();
        Ok(EvaluatorDescription {
            wires: self.ager.wires(),
            problems: self.given().problems(),
            source: usage,
            files: files.chain([self.estimator.run.0.clone(), self.recogniser.run.0.clone()]).collect(),
            metrics: JUDGED.iter().chain(truth).map(metric).collect(),
        })
    }

    fn open(&self, open: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        let pictures = self.given().open(open.source.as_ref())?.complete()?;
        let labels = &pictures.labels;
        let pairs = pairs::of_any_age(labels, self.pairs, 1)?;
        let different = pairs.iter().filter(|pair| !pair.same).count() as f64;
        const MOST: f64 = 1e6;
        let wanted = |accepted: f64| match (2.0 * accepted / self.far).ceil() {
            pairs if pairs <= MOST => format!("pairs = {pairs}"),
            _ => format!("pairs = {MOST} and far = {}", 2.0 * accepted / MOST),
        };
        if self.far * different < 1.0 {
            mistake!(
                "`far` = {} of {different} real pairs of two people is none of them: say {} or more",
                self.far,
                wanted(1.0)
            );
        }
        if self.far * different < FEWEST {
            tracing::warn!(
                "the threshold of identity is decided by {:.0} of {different} real pairs of two people: with {} \
                 it would be {FEWEST}",
                self.far * different,
                wanted(FEWEST)
            );
        }
        Ok(Box::new(Aged { config: self.clone(), pictures, pairs }))
    }
}

/// The evaluator with its pictures.
struct Aged {
    config: Ageing,
    pictures: Pictures,
    /// The real pairs that set the threshold of identity.
    pairs: Vec<Pair>,
}

impl Evaluator for Aged {
    fn files(&self) -> Result<Vec<&Path>> {
        self.pictures.files()
    }

    fn check(&self, model: &dyn Inference) -> Result<()> {
        let edges = age_groups::of_run(model)?;
        self.judges(model, age_groups::centres(edges).len()).map(|_| ())
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let Self { config, pictures, pairs } = self;
        let edges = age_groups::of_run(model)?;
        let (centres, names) = (age_groups::centres(edges), age_groups::names(edges));
        let groups = centres.len();
        let faces = source::one_per_identity(&pictures.labels, config.faces);
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
        let (real_looks, place) = self.looks_of_pairs(recogniser, pairs)?;
        let of_pair = |pair: &Pair| cosine(&real_looks[place(pair.a)], &real_looks[place(pair.b)]);
        let real_cosines: Vec<f64> = pairs.iter().map(of_pair).collect::<Result<_>>()?;
        let (threshold, real) = self.threshold(&real_cosines)?;
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
        // Above the edge before and up to its own; the last group is open.
        let outside = |i: usize| {
            let group = i % groups;
            let low = group.checked_sub(1).map_or(f64::NEG_INFINITY, |before| f64::from(edges[before]));
            protocol::beyond(seen[i], low, edges.get(group).map_or(f64::INFINITY, |edge| f64::from(*edge)))
        };
        let all = 0..aged.len();
        let wanted: Vec<f64> = centres.iter().map(|centre| f64::from(*centre)).collect();
        let courses = |ages: &[f64]| -> Vec<Course> { ages.chunks(groups).map(|seen| Course::of(&wanted, seen)).collect() };
        let slope = |of: &[Course]| mean(&mut of.iter().map(|course| course.slope));
        let roughness = |of: &[Course]| mean(&mut of.iter().map(|course| course.roughness));
        let own = courses(&seen);
        let mut metrics: Vec<(&str, f64)> = vec![
            ("age_mae", mean(&mut all.clone().map(error))),
            ("age_mae_interval", mean(&mut all.clone().map(outside))),
            ("group_accuracy", mean(&mut all.clone().map(|i| flag(seen_groups[i] == i % groups)))),
            ("rank_correlation", mean(&mut (0..faces.len()).map(|f| rank_correlation(&order, by_face(f))))),
            ("rising", mean(&mut own.iter().map(|course| flag(course.rising)))),
            ("slope", slope(&own)),
            ("roughness", roughness(&own)),
            ("cosine", mean(&mut cosines.iter().copied())),
            ("verified", mean(&mut cosines.iter().map(|c| flag(*c >= threshold)))),
            ("real_verified", real),
            ("threshold", threshold),
        ];
        let truth = self.against_truth(recogniser, &faces, &aged, [&looks, &inputs], &centres)?;
        if let Some(truth) = &truth {
            for (k, (name, ..)) in Truth::FIGURES.iter().enumerate() {
                metrics.push((name, mean(&mut truth.each.iter().map(|t| t.figures[k]))));
            }
            metrics.extend(CHANGES.iter().map(|(name, ..)| *name).zip(changes(&mut truth.each.iter())));
            // What the judges say of the true pictures, and of those before ageing.
            let (true_ages, true_groups) = config.estimator.judge(estimator, aged.len(), &|i| Ok(truth.pictures[i].clone()))?;
            let (own_ages, own_groups) = config.estimator.judge(estimator, faces.len(), &|f| pictures.read(faces[f]))?;
            let off = |age: f64, i: usize| (age - f64::from(centres[i % groups])).abs();
            let true_course = |f: usize| rank_correlation(&order, &true_ages[f * groups..(f + 1) * groups]);
            let true_courses = courses(&true_ages);
            metrics.extend([
                ("age_mae_truth", mean(&mut all.clone().map(|i| off(true_ages[i], i)))),
                ("age_mae_unchanged", mean(&mut all.clone().map(|i| off(own_ages[i / groups], i)))),
                ("group_accuracy_truth", mean(&mut all.clone().map(|i| flag(true_groups[i] == i % groups)))),
                ("group_accuracy_unchanged", mean(&mut all.clone().map(|i| flag(own_groups[i / groups] == i % groups)))),
                ("rank_correlation_truth", mean(&mut (0..faces.len()).map(true_course))),
                ("slope_truth", slope(&true_courses)),
                ("roughness_truth", roughness(&true_courses)),
                ("cosine_truth", mean(&mut truth.cosines.iter().copied())),
                ("verified_truth", mean(&mut truth.cosines.iter().map(|c| flag(*c >= threshold)))),
            ]);
        }
        if truth.is_none() {
            let found = self.against_references(recogniser, &faces, &looks, &inputs, &centres)?;
            // Where no person has a picture near a wanted age there is nothing to compare with.
            let known = REFERENCES.iter().map(|(name, ..)| *name).zip(found).filter(|(_, value)| value.is_finite());
            metrics.extend(known);
        }
        let true_cosines = truth.as_ref().map_or(&[][..], |truth| &truth.cosines);
        let by_gap = self.by_gap(&real_cosines, &faces, [&cosines, true_cosines], &centres);
        let of_group = |g: usize| (0..faces.len()).map(move |f| f * groups + g);
        let mean_of = |g: usize, value: &dyn Fn(usize) -> f64| mean(&mut of_group(g).map(value));
        let row = |g: usize| {
            let mut row: Vec<Cell> = vec![
                names[g].as_str().into(),
                f64::from(centres[g]).into(),
                mean_of(g, &|i| seen[i]).into(),
                mean_of(g, &error).into(),
                mean_of(g, &outside).into(),
                mean_of(g, &|i| seen[i] - f64::from(centres[g])).into(),
                mean_of(g, &|i| flag(seen_groups[i] == g)).into(),
                mean_of(g, &|i| cosines[i]).into(),
                mean_of(g, &|i| flag(cosines[i] >= threshold)).into(),
            ];
            if let Some(truth) = &truth {
                let figure = |k: usize| mean(&mut of_group(g).map(|i| truth.each[i].figures[k]));
                row.extend((0..Truth::FIGURES.len()).map(|k| Cell::from(figure(k))));
                row.extend(changes(&mut of_group(g).map(|i| &truth.each[i])).map(Cell::from));
            }
            row
        };
        let years = |name: &str| Axis::new(name).unit("years");
        let mut columns = vec![Axis::new("group"), years("wanted_age"), years("seen_age"), years("age_mae")];
        columns.extend([years("age_mae_interval"), years("bias")]);
        columns.extend(["group_accuracy", "cosine", "verified"].map(Axis::new));
        let of_truth = Truth::FIGURES.iter().chain(&CHANGES).filter(|_| truth.is_some());
        columns.extend(of_truth.map(|(name, unit, _)| Axis::new(*name).unit(*unit)));
        let tables = vec![
            ReportTable { name: "by_group".into(), columns, rows: (0..groups).map(row).collect() },
            ReportTable {
                name: "by_gap".into(),
                columns: std::iter::once(years("gap"))
                    .chain(["aged", "real_different", "threshold", "verified", "true_verified", "real_verified"].map(Axis::new))
                    .collect(),
                rows: by_gap,
            },
        ];
        let curves = vec![ReportCurve {
            name: "seen_ages".into(),
            x: years("wanted age"),
            y: years("seen age, mean over the faces"),
            points: (0..groups).map(|g| (f64::from(centres[g]), mean_of(g, &|i| seen[i]))).collect(),
        }];
        let strips: Vec<&[f64]> = (0..faces.len()).map(by_face).collect();
        Ok(Report {
            metrics: metrics.into_iter().map(|(n, v)| (n.to_owned(), v)).collect(),
            tables,
            curves,
            details: serde_json::json!({
                "faces": faces.len(),
                "real_pairs": config.pairs,
                "judges_taught": teachers,
                "flip": config.recogniser.flip(recogniser),
                "bias": mean(&mut all.clone().map(|i| seen[i] - f64::from(centres[i % groups]))),
                "courses": own,
                "seen_ages": strips,
            }),
            ..Report::default()
        })
    }
}

/// The cosine that at most a rate of the pairs of two people reach; none of no pairs.
fn strictest(different: &mut [f64], far: f64) -> Option<f64> {
    different.sort_by(f64::total_cmp);
    let accepted = (far * different.len() as f64 * (1.0 + 1e-9)).floor() as usize;
    let highest_refused = different.len().checked_sub(accepted + 1).and_then(|i| different.get(i))?;
    Some(highest_refused.next_up())
}

/// As many real pairs of two people have to reach the threshold of identity for it to be sure.
const FEWEST: f64 = 10.0;
/// Real pictures of a person are references for a wanted age that is no further away, in years, as in the
/// protocol of MyTimeMachine (Qi et al. 2024).
const NEAR: f32 = 3.0;
/// The figures of aged faces beside real pictures of the person near the wanted age.
const REFERENCES: [(&str, &str, Better); 2] =
    [("reference_cosine", "", Better::Larger), ("reference_cosine_unchanged", "", Better::Neither)];

/// The change of the pictures beside the true one, over all of them together: a share of 1 is all of the true change and
/// as much more beside it as the size says; the direction is the cosine of both changes. And how sharp aged pictures are,
/// as a ratio to the true ones, next to that of the pictures before.
const CHANGES: [(&str, &str, Better); 5] = [
    ("change_share", "", Better::Larger),
    ("change_direction", "", Better::Larger),
    ("change_size", "", Better::Neither),
    ("sharpness", "", Better::Neither),
    ("sharpness_unchanged", "", Better::Neither),
];

/// What the judges say of the true pictures themselves, and of doing nothing: a figure that aged pictures reach as well as
/// true ones tells nothing more.
const OF_TRUTH: [(&str, &str, Better); 9] = [
    ("age_mae_truth", "years", Better::Neither),
    ("age_mae_unchanged", "years", Better::Neither),
    ("group_accuracy_truth", "", Better::Neither),
    ("group_accuracy_unchanged", "", Better::Neither),
    ("rank_correlation_truth", "", Better::Neither),
    ("slope_truth", "", Better::Neither),
    ("roughness_truth", "years", Better::Neither),
    ("cosine_truth", "", Better::Neither),
    ("verified_truth", "", Better::Neither),
];

/// [`CHANGES`] of some pictures.
fn changes(of: &mut dyn Iterator<Item = &Truth>) -> [f64; 5] {
    let mut change = Change::default();
    let mut sharp = [0.0; 3];
    for one in of {
        change.add(&one.change);
        sharp.iter_mut().zip(one.sharpness).for_each(|(sum, value)| *sum += value);
    }
    let [aged, truth, source] = sharp;
    [change.share(), change.direction(), change.size(), aged / truth, source / truth]
}

/// The true pictures of all aged ones.
struct Truths {
    pictures: Vec<Picture>,
    /// The cosine of each and the picture before ageing.
    cosines: Vec<f64>,
    /// What was found of each.
    each: Vec<Truth>,
}

/// An aged picture and the picture before it beside the true one.
struct Truth {
    /// For each figure, aged and unchanged.
    figures: [f64; 6],
    /// The change beside the true one.
    change: Change,
    /// The sharpness of the aged picture, the true one and the one before.
    sharpness: [f64; 3],
}

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
            out.extend(apart(&strip.f_narrow(0, 1, groups as i64)?, &normalization)?);
        }
        Ok(out)
    }

    /// The cosine that at most the given rate of real pairs of different people reach, and how many real pairs of
    /// one person do.
    fn threshold(&self, real_cosines: &[f64]) -> Result<(f64, f64)> {
        let (mut same, mut different) = (Vec::new(), Vec::new());
        for (pair, cosine) in self.pairs.iter().zip(real_cosines) {
            if pair.same { &mut same } else { &mut different }.push(*cosine);
        }
        let Some(threshold) = strictest(&mut different, self.config.far) else {
            mistake!("there are no real pairs of different people to set a threshold")
        };
        Ok((threshold, same.iter().filter(|c| **c >= threshold).count() as f64 / same.len().max(1) as f64))
    }

    /// Identity at thresholds of real pairs whose ages lie as far apart as those of the aged picture and its source: a
    /// threshold of pairs of any gap is too strict across decades and too lax within years. A row for each gap, with what
    /// true pictures of those ages and real pairs get at the same threshold; gaps with too few real pairs for the rate have
    /// none.
    fn by_gap(
        &self,
        real_cosines: &[f64],
        faces: &[usize],
        [cosines, true_cosines]: [&[f64]; 2],
        centres: &[f32],
    ) -> Vec<Vec<Cell>> {
        let row = |gap: f32| GAP_EDGES.partition_point(|edge| f64::from(*edge) <= f64::from(gap)).saturating_sub(1);
        let age = |picture: usize| self.pictures.labels[picture].age;
        let mut real: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); GAP_EDGES.len()];
        for (pair, found) in self.pairs.iter().zip(real_cosines) {
            let Some(gap) = age(pair.a).zip(age(pair.b)).map(|(a, b)| (a - b).abs()) else { continue };
            let (same, different) = &mut real[row(gap)];
            if pair.same { same } else { different }.push(*found);
        }
        let by_row = |of: &[f64]| {
            let mut rows: Vec<Vec<f64>> = vec![Vec::new(); GAP_EDGES.len()];
            for (i, cosine) in of.iter().enumerate() {
                let Some(source) = age(faces[i / centres.len()]) else { continue };
                rows[row((centres[i % centres.len()] - source).abs())].push(*cosine);
            }
            rows
        };
        let rows = GAP_EDGES.iter().enumerate().zip(real).zip(by_row(cosines)).zip(by_row(true_cosines));
        rows.map(|((((row, from), (same, mut different)), aged), truth)| {
                let resolved = self.config.far * different.len() as f64 >= 1.0;
                let threshold = resolved.then(|| strictest(&mut different, self.config.far)).flatten();
                let share = |of: &[f64]| {
                    let threshold = threshold.filter(|_| !of.is_empty())?;
                    Some(of.iter().filter(|c| **c >= threshold).count() as f64 / of.len() as f64)
                };
                vec![
                    gap_label(*from, GAP_EDGES.get(row + 1).copied()).as_str().into(),
                    aged.len().into(),
                    different.len().into(),
                    threshold.into(),
                    share(&aged).into(),
                    share(&truth).into(),
                    share(&same).into(),
                ]
            })
            .collect()
    }

    /// Each aged picture beside real pictures of the person near the wanted age: the mean of its best cosine, and that of
    /// the picture before ageing. Not numbers where no person has such a picture.
    fn against_references(
        &self,
        judge: &dyn Inference,
        faces: &[usize],
        looks: &[Vec<f32>],
        inputs: &[Vec<f32>],
        centres: &[f32],
    ) -> Result<[f64; 2]> {
        let groups = centres.len();
        let mut of_person: HashMap<i64, Vec<usize>> = HashMap::new();
        let labels = &self.pictures.labels;
        labels.iter().enumerate().for_each(|(i, label)| of_person.entry(label.identity).or_default().push(i));
        let near = |i: usize| {
            let (face, wanted) = (faces[i / groups], centres[i % groups]);
            let fits = |other: &usize| {
                *other != face && labels[*other].age.is_some_and(|age| (age - wanted).abs() <= NEAR)
            };
            of_person[&labels[face].identity].iter().copied().filter(fits).collect::<Vec<usize>>()
        };
        let references: Vec<Vec<usize>> = (0..looks.len()).map(near).collect();
        let mut used: Vec<usize> = references.iter().flatten().copied().collect();
        used.sort_unstable();
        used.dedup();
        let found = self.config.recogniser.judge(judge, used.len(), &|i| self.pictures.read(used[i]))?;
        let best = |own: &[f32], references: &[usize]| -> Result<f64> {
            let mut each = references.iter().map(|r| cosine(own, &found[used.binary_search(r).unwrap_or(0)]));
            each.try_fold(f64::NEG_INFINITY, |best, next| Ok(best.max(next?)))
        };
        let (mut sums, mut count) = ([0.0; 2], 0.0);
        for (i, references) in references.iter().enumerate().filter(|(_, references)| !references.is_empty()) {
            sums[0] += best(&looks[i], references)?;
            sums[1] += best(&inputs[i / groups], references)?;
            count += 1.0;
        }
        Ok(sums.map(|sum| sum / count))
    }

    /// The embeddings of the pictures of pairs, and where each picture's is.
    fn looks_of_pairs(&self, judge: &dyn Inference, pairs: &[Pair]) -> Result<(Vec<Vec<f32>>, impl Fn(usize) -> usize)> {
        let mut used: Vec<usize> = pairs.iter().flat_map(|p| [p.a, p.b]).collect();
        used.sort_unstable();
        used.dedup();
        let found = self.config.recogniser.judge(judge, used.len(), &|i| self.pictures.read(used[i]))?;
        Ok((found, move |i: usize| used.binary_search(&i).unwrap_or(0)))
    }

    /// Made faces: each aged picture and its source beside the true picture at the centre of the group.
    fn against_truth(
        &self,
        judge: &dyn Inference,
        faces: &[usize],
        aged: &[Picture],
        [looks, inputs]: [&[Vec<f32>]; 2],
        centres: &[f32],
    ) -> Result<Option<Truths>> {
        let recogniser = &self.config.recogniser;
        let groups = centres.len();
        let resized = |mut picture: Picture| -> Result<Picture> {
            picture.resize(aged[0].width, aged[0].height)?;
            Ok(picture)
        };
        let source = &self.pictures.source.pictures;
        let at_age = |i: usize| source.variant(faces[i / groups], "age", centres[i % groups].into())?.map(resized).transpose();
        let truth: Option<Vec<Picture>> = (0..aged.len()).map(|i| at_age(i).transpose()).collect::<Option<Result<_>>>().transpose()?;
        let Some(truth) = truth else { return Ok(None) };
        let sources: Vec<Picture> = faces.iter().map(|f| resized(self.pictures.read(*f)?)).collect::<Result<_>>()?;
        let true_looks = recogniser.judge(judge, truth.len(), &|i| Ok(truth[i].clone()))?;
        let source_looks = recogniser.judge(judge, sources.len(), &|i| Ok(sources[i].clone()))?;
        let sharp_sources: Vec<f64> = sources.iter().map(sharpness).collect();
        let one = |i: usize| -> Result<Truth> {
            let (source, true_look) = (&sources[i / groups], &true_looks[i]);
            let figures = [
                psnr(&aged[i], &truth[i])?,
                psnr(source, &truth[i])?,
                ssim(&aged[i], &truth[i])?,
                ssim(source, &truth[i])?,
                cosine(&looks[i], true_look)?,
                cosine(&source_looks[i / groups], true_look)?,
            ];
            let sharpness = [sharpness(&aged[i]), sharpness(&truth[i]), sharp_sources[i / groups]];
            Ok(Truth { figures, change: Change::of(source, &aged[i], &truth[i])?, sharpness })
        };
        let each = (0..aged.len()).map(one).collect::<Result<_>>()?;
        let cosines = (0..aged.len()).map(|i| cosine(&true_looks[i], &inputs[i / groups])).collect::<Result<_>>()?;
        Ok(Some(Truths { pictures: truth, cosines, each }))
    }
}

register!(Evaluator, "ageing", Ageing);
