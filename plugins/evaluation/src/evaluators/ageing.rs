use crate::ageing_wires::{AgeingWires, TargetAge, apart};
use crate::embedding::{Embedding, rows};
use crate::likeness::{Change, psnr, rank_correlation, sharpness, ssim};
use crate::protocol::{self, Course, FlipTest, GAP_EDGES, cosine, gap_label};
use indexmap::IndexMap;
use mtl_component::{
    Axis, Better, Cases, Cell, ErrorContext as _, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, OpenEvaluator,
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

    fn on_cases(&self, metric: &str, cases: &Cases, weights: &[f64]) -> Result<Option<f64>> {
        Ok(figure(metric, cases, weights))
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

        let wanted: Vec<f64> = centres.iter().map(|centre| f64::from(*centre)).collect();
        let people = faces.iter().map(|f| pictures.labels[*f].identity as f64).collect::<Vec<_>>();
        let mut found = Found::new(&pictures.source.fingerprint, faces.len(), groups);
        found.faces("person", &people);
        let error = |seen: f64, i: usize| (seen - wanted[i % groups]).abs();
        let right = |seen: usize, i: usize| flag(seen == i % groups);
        // Above the edge before and up to its own; the last group is open.
        let outside = |i: usize| {
            let group = i % groups;
            let low = group.checked_sub(1).map_or(f64::NEG_INFINITY, |before| f64::from(edges[before]));
            protocol::beyond(seen[i], low, edges.get(group).map_or(f64::INFINITY, |edge| f64::from(*edge)))
        };
        found.pictures("seen_age", |i| seen[i]);
        found.pictures("bias", |i| seen[i] - wanted[i % groups]);
        found.pictures("age_mae", |i| error(seen[i], i));
        found.pictures("age_mae_interval", outside);
        found.pictures("group_accuracy", |i| right(seen_groups[i], i));
        found.pictures("cosine", |i| cosines[i]);
        found.pictures("verified", |i| flag(cosines[i] >= threshold));
        let own = found.courses("", &wanted, &seen);
        let truth = self.against_truth(recogniser, &faces, &aged, [&looks, &inputs], &centres)?;
        if let Some(truth) = &truth {
            for (k, (name, ..)) in Truth::FIGURES.iter().enumerate() {
                found.pictures(name, |i| truth.each[i].figures[k]);
            }
            found.pictures("change_both", |i| truth.each[i].change.both);
            found.pictures("change_own", |i| truth.each[i].change.own);
            found.pictures("change_true", |i| truth.each[i].change.truth);
            for (k, name) in ["sharpness_own", "sharpness_true", "sharpness_before"].into_iter().enumerate() {
                found.pictures(name, |i| truth.each[i].sharpness[k]);
            }
            // What the judges say of the true pictures, and of those before ageing.
            let (true_ages, true_groups) = config.estimator.judge(estimator, aged.len(), &|i| Ok(truth.pictures[i].clone()))?;
            let (own_ages, own_groups) = config.estimator.judge(estimator, faces.len(), &|f| pictures.read(faces[f]))?;
            found.pictures("age_mae_truth", |i| error(true_ages[i], i));
            found.pictures("age_mae_unchanged", |i| error(own_ages[i / groups], i));
            found.pictures("group_accuracy_truth", |i| right(true_groups[i], i));
            found.pictures("group_accuracy_unchanged", |i| right(own_groups[i / groups], i));
            found.courses("_truth", &wanted, &true_ages);
            found.pictures("cosine_truth", |i| truth.cosines[i]);
            found.pictures("verified_truth", |i| flag(truth.cosines[i] >= threshold));
        } else {
            let references = self.against_references(recogniser, &faces, &looks, &inputs, &centres)?;
            for (k, (name, ..)) in REFERENCES.iter().enumerate() {
                found.pictures(name, |i| references[i].map_or(f64::NAN, |cosines| cosines[k]));
            }
        }
        let cases = found.cases;
        let all = vec![1.0; aged.len()];
        let mut metrics: IndexMap<String, f64> = IndexMap::new();
        for (name, ..) in JUDGED.iter().chain(&Truth::FIGURES).chain(&CHANGES).chain(&OF_TRUTH).chain(&REFERENCES) {
            let figure = match *name {
                "real_verified" => Some(real),
                "threshold" => Some(threshold),
                name => figure(name, &cases, &all),
            };
            metrics.extend(figure.map(|value| ((*name).to_owned(), value)));
        }
        let true_cosines = truth.as_ref().map_or(&[][..], |truth| &truth.cosines);
        let by_gap = self.by_gap(&real_cosines, &faces, [&cosines, true_cosines], &centres);
        let years = |name: &str| Axis::new(name).unit("years");
        let mut columns = vec![Axis::new("group"), years("wanted_age"), years("seen_age"), years("age_mae")];
        columns.extend([years("age_mae_interval"), years("bias")]);
        columns.extend(["group_accuracy", "cosine", "verified"].map(Axis::new));
        let of_truth = Truth::FIGURES.iter().chain(&CHANGES).filter(|_| truth.is_some());
        columns.extend(of_truth.map(|(name, unit, _)| Axis::new(*name).unit(*unit)));
        let of_group = |g: usize| (0..aged.len()).map(|i| flag(i % groups == g)).collect::<Vec<f64>>();
        let row = |g: usize| {
            let weights = of_group(g);
            let figures = columns[2..].iter().map(|column| Cell::from(figure(&column.label, &cases, &weights)));
            [names[g].as_str().into(), wanted[g].into()].into_iter().chain(figures).collect::<Vec<Cell>>()
        };
        let rows = (0..groups).map(row).collect();
        let tables = vec![
            ReportTable { name: "by_group".into(), columns, rows },
            ReportTable {
                name: "by_gap".into(),
                columns: std::iter::once(years("gap"))
                    .chain(["aged", "real_different", "threshold", "verified", "true_verified", "real_verified"].map(Axis::new))
                    .collect(),
                rows: by_gap,
            },
        ];
        let mean_seen = |g: usize| figure("seen_age", &cases, &of_group(g)).unwrap_or(f64::NAN);
        let curves = vec![ReportCurve {
            name: "seen_ages".into(),
            x: years("wanted age"),
            y: years("seen age, mean over the faces"),
            points: (0..groups).map(|g| (wanted[g], mean_seen(g))).collect(),
        }];
        Ok(Report {
            metrics,
            tables,
            curves,
            details: serde_json::json!({
                "faces": faces.len(),
                "real_pairs": config.pairs,
                "judges_taught": teachers,
                "flip": config.recogniser.flip(recogniser),
                "bias": figure("bias", &cases, &all),
                "courses": own,
                "seen_ages": seen.chunks(groups).collect::<Vec<_>>(),
            }),
            cases: Some(cases),
            ..Report::default()
        })
    }
}

/// What was found of each aged picture, face by face and group by group.
struct Found {
    groups: usize,
    cases: Cases,
}

impl Found {
    fn new(pictures: &str, faces: usize, groups: usize) -> Self {
        Self { groups, cases: Cases { of: format!("{faces} faces at {groups} ages of {pictures}"), columns: IndexMap::new() } }
    }

    /// A number of each face.
    fn faces(&mut self, name: &str, of: &[f64]) {
        let each = of.iter().flat_map(|value| std::iter::repeat_n(*value, self.groups)).collect();
        self.cases.columns.insert(name.into(), each);
    }

    /// A number of each picture; `person` stands already.
    fn pictures(&mut self, name: &str, of: impl Fn(usize) -> f64) {
        let each = (0..self.cases.len()).map(of).collect();
        self.cases.columns.insert(name.into(), each);
    }

    /// The course of each face through the wanted ages, with that end to the names.
    fn courses(&mut self, end: &str, wanted: &[f64], seen: &[f64]) -> Vec<Course> {
        let courses: Vec<Course> = seen.chunks(self.groups).map(|seen| Course::of(wanted, seen)).collect();
        let each = |of: &dyn Fn(&Course) -> f64| courses.iter().map(of).collect::<Vec<f64>>();
        let ranks: Vec<f64> = seen.chunks(self.groups).map(|seen| rank_correlation(wanted, seen)).collect();
        self.faces(&format!("rank_correlation{end}"), &ranks);
        self.faces(&format!("rising{end}"), &each(&|course| flag(course.rising)));
        self.faces(&format!("slope{end}"), &each(&|course| course.slope));
        self.faces(&format!("roughness{end}"), &each(&|course| course.roughness));
        courses
    }
}

/// A figure of aged pictures, each of which counts as often as its weight says; none where they do not determine it. The
/// threshold of identity stays as it is, and so do the real pairs that set it.
fn figure(name: &str, cases: &Cases, weights: &[f64]) -> Option<f64> {
    let sum = |column: &str| -> Option<f64> {
        Some(cases.column(column)?.iter().zip(weights).map(|(value, weight)| value * weight).sum())
    };
    let change = || Some(Change { both: sum("change_both")?, own: sum("change_own")?, truth: sum("change_true")? });
    let value = match name {
        "change_share" => change()?.share(),
        "change_direction" => change()?.direction(),
        "change_size" => change()?.size(),
        "sharpness" => sum("sharpness_own")? / sum("sharpness_true")?,
        "sharpness_unchanged" => sum("sharpness_before")? / sum("sharpness_true")?,
        _ => {
            // Where no person has a picture near a wanted age there is nothing to compare with.
            let known = cases.column(name)?.iter().zip(weights).filter(|(value, _)| value.is_finite());
            let (mut sum, mut all) = (0.0, 0.0);
            known.for_each(|(value, weight)| (sum, all) = (sum + value * weight, all + weight));
            sum / all
        }
    };
    value.is_finite().then_some(value)
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
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

    /// Each aged picture beside real pictures of the person near the wanted age: its best cosine, and that of the picture
    /// before ageing. None where the person has no such picture.
    fn against_references(
        &self,
        judge: &dyn Inference,
        faces: &[usize],
        looks: &[Vec<f32>],
        inputs: &[Vec<f32>],
        centres: &[f32],
    ) -> Result<Vec<Option<[f64; 2]>>> {
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
        let one = |(i, references): (usize, &Vec<usize>)| {
            let both = || Ok([best(&looks[i], references)?, best(&inputs[i / groups], references)?]);
            if references.is_empty() { Ok(None) } else { both().map(Some) }
        };
        references.iter().enumerate().map(one).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two faces at two ages; nobody has a picture near the last age.
    fn found() -> Cases {
        let mut found = Found::new("pictures", 2, 2);
        found.faces("person", &[4.0, 9.0]);
        found.pictures("age_mae", |i| [1.0, 2.0, 3.0, 6.0][i]);
        found.pictures("reference_cosine", |i| [0.5, f64::NAN, 0.9, f64::NAN][i]);
        found.pictures("change_both", |i| [1.0, 2.0, 3.0, 0.0][i]);
        found.pictures("change_own", |i| [1.0, 1.0, 9.0, 5.0][i]);
        found.pictures("change_true", |i| [2.0, 6.0, 4.0, 0.0][i]);
        for (name, sharp) in [("sharpness_own", 3.0), ("sharpness_true", 4.0), ("sharpness_before", 5.0)] {
            found.pictures(name, |i| sharp + i as f64);
        }
        found.courses("", &[20.0, 40.0], &[30.0, 40.0, 50.0, 20.0]);
        found.cases
    }

    #[test]
    fn pictures_count_as_often_as_their_weight_says() {
        let cases = found();
        assert_eq!(cases.column("person"), Some(&[4.0, 4.0, 9.0, 9.0][..]));
        let of = |name: &str, weights: [f64; 4]| figure(name, &cases, &weights);
        let (all, second, twice) = ([1.0; 4], [0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0]);
        assert_eq!((of("age_mae", all), of("age_mae", second), of("age_mae", twice)), (Some(3.0), Some(4.5), Some(2.5)));
        // Sums over pixels of all pictures: not a mean over pictures.
        assert_eq!((of("change_share", all), of("change_share", second)), (Some(0.5), Some(0.75)));
        assert_eq!(of("change_direction", all), Some(6.0 / (16.0f64 * 12.0).sqrt()));
        assert_eq!(of("change_size", all), Some(4.0 / 12f64.sqrt()));
        assert_eq!((of("sharpness", all), of("sharpness_unchanged", all)), (Some(18.0 / 22.0), Some(26.0 / 22.0)));
        // One face is seen older where it should be, the other younger.
        assert_eq!((of("rank_correlation", all), of("rank_correlation", twice)), (Some(0.0), Some(1.0 / 3.0)));
        assert_eq!((of("slope", all), of("slope", second), of("rising", all)), (Some(-0.5), Some(-1.5), Some(0.5)));
    }

    #[test]
    fn what_no_picture_determines_is_none() {
        let cases = found();
        assert_eq!(figure("reference_cosine", &cases, &[1.0; 4]), Some(0.7));
        assert_eq!(figure("reference_cosine", &cases, &[0.0, 1.0, 0.0, 1.0]), None);
        assert_eq!((figure("psnr", &cases, &[1.0; 4]), figure("threshold", &cases, &[1.0; 4])), (None, None));
        assert_eq!(figure("age_mae", &cases, &[0.0; 4]), None);
    }
}
