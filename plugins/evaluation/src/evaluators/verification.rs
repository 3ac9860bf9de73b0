use crate::defaults;
use crate::embedding::Embedding;
use crate::pairs::{self, Listed};
use crate::protocol::{self, Convention, FlipTest, FoldChoice, INDEPENDENT, PairReport, Reading, ReportSettings, Rule};
use mtl_component::{
    Axis, Better, Cases, Cell, ErrorContext as _, Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, Metric, OpenEvaluator, OpenSource, RecipePath,
    Report, ReportCurve, ReportTable, Result, SourceUse, mistake, register,
};
use mtl_faces::label::Label;
use mtl_faces::list;
use mtl_faces::made::MadeFaces;
use mtl_faces::pair_forms;
use mtl_faces::pairs::Pair;
use mtl_faces::source::{Given, Pictures};
use mtl_faces::sources::bin;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Face verification on pairs of pictures: k-fold accuracy, AUC, EER, false non-match rates at false match rates, and
/// accuracy and AUC by age gap.
///
/// The pairs are a list, whose lines are `a b 1` (same person) or `a b -1`, separated by tabs or blanks, or a published list
/// of LFW, RFW, CALFW, CPLFW or AgeDB; or a verification set of insightface; or are drawn from pictures whose people are
/// known. FNMR and FMR are the terms of ISO/IEC 19795-1; papers call 1 - FNMR also TAR, and FMR also FAR.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Verification {
    /// The list of pairs. Its pictures are files, or those of `records`, a `folder` or a `source` of these names.
    #[serde(default)]
    pairs: Option<RecipePath>,
    /// A verification set of insightface, such as `agedb_30.bin`, with its own pairs.
    #[serde(default)]
    bin: Option<RecipePath>,
    /// A list of the pairs of `bin` in its order, which names their pictures and people; AgeDB's protocol,
    /// `04_FINAL_protocol_30_years.mat`, tells ages as well.
    #[serde(default)]
    names: Option<RecipePath>,
    /// A record file of insightface, or its folder: the pictures of `pairs`, or those that pairs are drawn from.
    #[serde(default)]
    records: Option<RecipePath>,
    /// A folder of people, each a folder of pictures: the pictures of `pairs`, or those that pairs are drawn from.
    #[serde(default)]
    folder: Option<RecipePath>,
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
    /// An annotated list of the pictures, for their ages (results by age gap) and people (intervals by person).
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
    /// How the list is cut into folds: so many contiguous ones, which must mix both kinds of pairs; `"interleaved"`; or
    /// `"list"`, contiguous ones whatever they hold.
    #[serde(default)]
    folds: FoldChoice,
    /// The number of folds of a named order; without it ten.
    #[serde(default)]
    #[schemars(range(min = 2, max = 1000))]
    fold_count: Option<usize>,
    /// False non-match rates that are read off: a rule and a false match rate each.
    #[serde(default = "readings")]
    readings: Vec<Reading>,
    /// What happens where a picture cannot be read or its embedding has no direction.
    #[serde(default)]
    on_bad_embedding: OnBadEmbedding,
    /// Pictures in one pass.
    #[serde(default = "defaults::batch")]
    #[schemars(range(min = 1, max = 65536))]
    batch_size: usize,
}

/// What happens where a picture cannot be read or its embedding has no direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OnBadEmbedding {
    /// The evaluation ends and names the picture.
    #[default]
    Error,
    /// It counts as a failure to enrol: all its pairs are taken for different people. How many there are is reported.
    Worst,
}

/// As many different pairs have to lie beyond a threshold for draws to show how sure it is.
const FEWEST: f64 = 10.0;
/// The squared distance of opposite embeddings: no pair is less alike.
const OPPOSITE: f64 = 4.0;
/// How many failed pictures a report names.
const NAMED: usize = 10;

fn gap() -> f32 {
    20.0
}
fn count() -> usize {
    600
}
fn readings() -> Vec<Reading> {
    ReportSettings::default().readings
}

/// Pictures, pairs of them, and what is known of each.
struct Pairs {
    pictures: Pictures,
    pairs: Vec<Pair>,
    labels: Option<Vec<Option<Label>>>,
    /// A text that changes when the pairs change.
    of: String,
}

/// Pairs whose names are those of a source's pictures.
fn of_names(path: &Path, pictures: Pictures) -> Result<Pairs> {
    let entries = pair_forms::entries(path)?;
    let wanted: HashSet<PathBuf> =
        entries.iter().flat_map(|entry| [&entry.a, &entry.b]).map(|name| list::tidy(Path::new(name))).collect();
    let mut known: HashMap<PathBuf, usize> = HashMap::new();
    for i in 0..pictures.len() {
        let name = list::tidy(Path::new(&pictures.source.pictures.name(i)?));
        if wanted.contains(&name) {
            known.insert(name, i);
        }
    }
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for entry in &entries {
        let mut find = |name: &str| {
            let index = known.get(&list::tidy(Path::new(name))).copied();
            if index.is_none() {
                faults.push(format!(
                    "{}:{}: the source has no picture {name}; its names are such as {}",
                    path.display(),
                    entry.line,
                    pictures.source.pictures.name(0).unwrap_or_default()
                ));
            }
            index
        };
        if let (Some(a), Some(b)) = (find(&entry.a), find(&entry.b)) {
            found.push(Pair { a, b, same: entry.same });
        }
    }
    list::report(faults, &format!("the pairs {} cannot be used", path.display()))?;
    // Pictures that no pair needs are not looked at.
    let mut used: Vec<usize> = found.iter().flat_map(|pair| [pair.a, pair.b]).collect();
    used.sort_unstable();
    used.dedup();
    let place = |i: usize| used.binary_search(&i).unwrap_or_default();
    let pairs = found.iter().map(|pair| Pair { a: place(pair.a), b: place(pair.b), same: pair.same }).collect();
    let of = format!("{}; {}", list::fingerprint(&[path])?, pictures.source.fingerprint);
    let knows = pictures.source.column("identity").is_some();
    let pictures = pictures.only(&used);
    let labels = knows.then(|| pictures.labels.iter().copied().map(Some).collect());
    Ok(Pairs { pairs, labels, of, pictures })
}

impl Pairs {
    fn same(&self) -> Vec<bool> {
        self.pairs.iter().map(|pair| pair.same).collect()
    }

    fn label(&self, picture: usize) -> Option<Label> {
        self.labels.as_ref()?[picture]
    }

    /// The two people of each pair, if all are known.
    fn people(&self) -> Option<Vec<(i64, i64)>> {
        let person = |picture: usize| Some(self.label(picture)?.identity);
        self.pairs.iter().map(|pair| Some((person(pair.a)?, person(pair.b)?))).collect()
    }

    /// The years between the two pictures of each pair, where known.
    fn gaps(&self) -> Option<Vec<Option<f64>>> {
        self.labels.as_ref()?;
        let age = |picture: usize| self.label(picture)?.age.map(f64::from);
        Some(self.pairs.iter().map(|pair| Some((age(pair.a)? - age(pair.b)?).abs())).collect())
    }
}

/// The keys that a source of pictures may stand for.
const KEYS: &str = "`pairs`, `bin`, or `records`, a `folder` or `made` faces to draw pairs from";

impl Verification {
    /// Which pairs, for messages.
    fn of(&self) -> String {
        match (&self.pairs, &self.bin, &self.made) {
            (Some(path), ..) => format!("the pairs {}", path.display()),
            (_, Some(path), _) => format!("the verification set {}", path.display()),
            (_, _, Some(_)) => "the pairs of made faces".to_owned(),
            _ => "the pairs of the source".to_owned(),
        }
    }

    /// The pictures that a key names, but for those of a verification set and of made faces.
    fn pictures(&self) -> Given<'_> {
        Given { records: self.records.as_ref(), folder: self.folder.as_ref(), ..Given::default() }
    }

    /// The keys that stand for a source.
    fn given(&self) -> Given<'_> {
        Given { bin: self.bin.as_ref(), made: self.made.as_ref(), ..self.pictures() }
    }

    fn problems(&self) -> Vec<String> {
        let mut out = self.given().problems();
        for (key, is_given) in [("bin", self.bin.is_some()), ("made", self.made.is_some())] {
            if is_given && self.pairs.is_some() {
                out.push(format!("`pairs` and `{key}` are two sources: give one, and --unset the other"));
            }
        }
        if self.names.is_some() && self.bin.is_none() {
            out.push("`names` is a list of the pairs of `bin`, and there is none".into());
        }
        out
    }

    fn usage(&self) -> SourceUse {
        match self.given().usage(KEYS) {
            SourceUse::Needed(_) if self.pairs.is_some() => SourceUse::Optional,
            usage => usage,
        }
    }

    fn settings(&self) -> ReportSettings {
        ReportSettings {
            convention: self.convention,
            folds: self.folds,
            fold_count: self.fold_count.unwrap_or(10),
            readings: self.readings.clone(),
            ..ReportSettings::default()
        }
    }

    fn pairs(&self, beside: Option<&OpenSource>) -> Result<Pairs> {
        let no_pictures = self.records.is_none() && self.folder.is_none() && beside.is_none();
        let data = match &self.pairs {
            Some(path) if no_pictures => self.of_files(path)?,
            Some(path) => of_names(path, self.pictures().open(beside)?)?,
            None => self.of_source(beside)?,
        };
        let labels = match &self.list {
            Some(list) => Some(self.labels(list, &data.pictures)?),
            None => data.labels,
        };
        let data = Pairs { labels, ..data };
        self.agrees(&data)?;
        Ok(data)
    }

    /// Pairs of files.
    fn of_files(&self, path: &Path) -> Result<Pairs> {
        let root = list::root(path, self.root.as_ref().map(|root| root.0.as_path()));
        let Listed { files, pairs, people } = pairs::read(path, &root)?;
        let label = |(identity, age)| Some(Label { identity, age, gender: -1 });
        let labels = people.map(|people| people.into_iter().map(label).collect());
        let of = list::fingerprint(&[path])?;
        Ok(Pairs { pictures: Pictures::of_files(files)?, pairs, labels, of })
    }

    /// The pairs that a source has, or that are drawn from it.
    fn of_source(&self, beside: Option<&OpenSource>) -> Result<Pairs> {
        let (pictures, seed) = match (&self.bin, &self.made) {
            (Some(bin), _) => {
                (Pictures::of(bin::open(bin, self.names.as_ref().map(|names| names.0.as_path()))?)?, 1)
            }
            (_, Some(made)) => (Given { made: Some(made), ..Given::default() }.open(None)?, made.seed as u64),
            _ => (self.pictures().open(beside)?.complete()?, 1),
        };
        let mut of = pictures.source.fingerprint.clone();
        let known = |name: &str| pictures.source.column(name).is_some();
        if let Some(same) = pictures.source.column(bin::SAME) {
            // Two pictures in turn are a pair.
            let pair = |(i, same): (usize, &[f64])| Pair { a: 2 * i, b: 2 * i + 1, same: same[0] == 1.0 };
            let pairs = same.values.chunks(2).enumerate().map(pair).collect();
            let labels = known("identity").then(|| pictures.labels.iter().copied().map(Some).collect());
            return Ok(Pairs { pairs, labels, of, pictures });
        }
        if !known("identity") {
            mistake!("it is not known whom the pictures show, such as {}: give their `pairs`", pictures.name(0));
        }
        let pairs = mtl_faces::pairs::with_gap(&pictures.labels, self.gap, self.count, seed)?;
        of.push_str(&format!("; {} pairs, gap {}", self.count, self.gap));
        let labels = Some(pictures.labels.iter().copied().map(Some).collect());
        Ok(Pairs { pairs, labels, of, pictures })
    }

    /// What the list knows of each picture.
    fn labels(&self, path: &Path, pictures: &Pictures) -> Result<Vec<Option<Label>>> {
        let root = list::root(path, self.root.as_ref().map(|root| root.0.as_path()));
        let listed = Pictures::of(mtl_faces::sources::list::open(path, Some(&root), None)?)?;
        let by_file: HashMap<PathBuf, Label> = listed.files()?.into_iter().map(list::tidy).zip(listed.labels.iter().copied()).collect();
        let find = |i: usize| -> Result<Option<Label>> {
            Ok(match pictures.source.pictures.file(i)? {
                Some(file) => by_file.get(&list::tidy(file)),
                // What is no file has the name of one.
                None => by_file.get(&list::tidy(&root.join(pictures.source.pictures.name(i)?))),
            }
            .copied())
        };
        let found: Vec<Option<Label>> = (0..pictures.len()).map(find).collect::<Result<_>>()?;
        let known = found.iter().flatten().count();
        if known == 0 {
            mistake!(
                "the list {} names none of the {} pictures of {}, such as {}: its names are relative to {}. Set \
                 `root` to the folder that the names of both are relative to, or name another list",
                path.display(),
                pictures.len(),
                self.of(),
                pictures.source.pictures.name(0)?,
                root.display()
            );
        }
        if known < pictures.len() {
            tracing::warn!(
                "the list {} names {known} of the {} pictures of {}: ages of the others are not known, and intervals treat \
                 pairs as independent",
                path.display(),
                pictures.len(),
                self.of()
            );
        }
        Ok(found)
    }

    /// Checks that a list says the same people as the pairs.
    fn agrees(&self, data: &Pairs) -> Result<()> {
        let mut faults = Vec::new();
        for pair in &data.pairs {
            let Some((a, b)) = data.label(pair.a).zip(data.label(pair.b)) else { continue };
            if (a.identity == b.identity) != pair.same {
                faults.push(format!(
                    "{} and {} are {} by the pairs, and {} by the list",
                    data.pictures.name(pair.a),
                    data.pictures.name(pair.b),
                    if pair.same { "one person" } else { "two people" },
                    if pair.same { "two people" } else { "one person" }
                ));
            }
        }
        list::report(faults, &format!("{} and the list contradict each other", self.of()))
    }
}

impl EvaluatorConfig for Verification {
    fn describe(&self) -> Result<EvaluatorDescription> {
        let mut metrics = vec![
            Metric::new("accuracy", Better::Larger),
            Metric::new("deviation", Better::Neither),
            Metric::new("auc", Better::Larger),
            Metric::new("eer", Better::Smaller),
        ];
        metrics.extend(self.readings.iter().map(|reading| Metric::new(reading.metric(), Better::Smaller)));
        for reading in self.readings.iter().filter(|reading| reading.rule == Rule::AtMost) {
            let older = Metric::new(format!("tar_at_far_{}", reading.target), Better::Larger);
            metrics.push(older.complement_of(reading.metric()));
        }
        let mut problems = self.problems();
        if self.fold_count.is_some() && matches!(self.folds, FoldChoice::Count(_)) {
            problems.push("`fold_count` is the number of folds of a named order, and `folds` is a number itself".into());
        }
        Ok(EvaluatorDescription {
            wires: vec![("image", self.image.clone()), ("embedding", self.embedding.clone())],
            problems,
            files: [&self.pairs, &self.bin, &self.names, &self.records, &self.folder, &self.list]
                .into_iter()
                .flatten()
                .map(|path| path.0.clone())
                .collect(),
            metrics,
            source: self.usage(),
        })
    }

    fn open(&self, open: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        let data = self.pairs(open.source.as_ref())?;
        // Both kinds of pairs, and folds that mix them: what the protocol needs is found before training.
        let same = data.same();
        let made_up: Vec<f64> = same.iter().map(|same| if *same { 0.5 } else { 1.5 }).collect();
        if let Err(e) = protocol::report(&made_up, &same, None, None, &self.settings()) {
            mistake!("{} cannot be used: {e:#}", self.of());
        }
        Ok(Box::new(OpenPairs { config: self.clone(), data }))
    }

    fn on_cases(&self, metric: &str, cases: &Cases, weights: &[f64]) -> Result<Option<f64>> {
        Ok(on_cases(metric, cases, weights))
    }
}

/// A metric on pairs of which each counts as often as its weight says.
///
/// The thresholds of the folds stay those of the whole list: fitting them again on a sample would find pairs of the
/// held-out fold among those it is fitted on. A rate that a handful of pairs decides has no bootstrap.
fn on_cases(metric: &str, cases: &Cases, weights: &[f64]) -> Option<f64> {
    if metric == "accuracy" {
        let (right, folds) = (cases.column("right")?, cases.column("fold")?);
        let count = folds.iter().fold(0.0, |most: f64, fold| most.max(*fold)) as usize + 1;
        let mut sums = vec![(0.0, 0.0); count];
        for ((right, fold), weight) in right.iter().zip(folds).zip(weights) {
            let sum = sums.get_mut(*fold as usize)?;
            *sum = (sum.0 + right * weight, sum.1 + weight);
        }
        // As in the whole list, every fold has the same weight.
        let folds: Vec<f64> = sums.into_iter().filter(|(_, all)| *all > 0.0).map(|(right, all)| right / all).collect();
        return (!folds.is_empty()).then(|| folds.iter().sum::<f64>() / folds.len() as f64);
    }
    let same: Vec<bool> = cases.column("same")?.iter().map(|same| *same == 1.0).collect();
    let reading = Reading::of_metric(metric);
    if let Some(reading) = reading
        && reading.target * (same.iter().filter(|same| !**same).count() as f64) < FEWEST
    {
        return None;
    }
    let similarity: Vec<f64> = cases.column("distance")?.iter().map(|d| -d).collect();
    // A sample without one of both kinds determines nothing.
    let roc = || protocol::weighted_roc(&similarity, &same, weights).ok();
    match (metric, reading) {
        ("auc", _) => Some(roc()?.auc()),
        ("eer", _) => Some(roc()?.eer()),
        (_, Some(reading)) => Some(roc()?.read(reading).fnmr),
        _ => None,
    }
}

/// The evaluator with its pairs.
struct OpenPairs {
    config: Verification,
    data: Pairs,
}

impl OpenPairs {
    /// The embedding of each picture; none of one that has failed, where that is allowed.
    fn embeddings(&self, model: &dyn Inference) -> Result<Vec<Option<Vec<f32>>>> {
        let (config, pictures) = (&self.config, &self.data.pictures);
        let worst = config.on_bad_embedding == OnBadEmbedding::Worst;
        let reading = crate::reading::Reading::new(pictures, worst);
        let read = |i: usize| reading.read(i);
        let mut embeddings: Vec<Option<Vec<f32>>> = Vec::with_capacity(pictures.len());
        let embedding = Embedding {
            image: &config.image,
            node: &config.embedding,
            flip: config.flip,
            batch: config.batch_size,
        };
        embedding.each(model, pictures.len(), &read, &mut |i, found| {
            embeddings.push(match found {
                Ok(embedding) => Some(embedding),
                Err(_) if worst => None,
                Err(e) => return Err(e.context(format!("the picture {}", pictures.name(i)))),
            });
            Ok(())
        })?;
        for i in reading.failed().into_keys() {
            embeddings[i] = None;
        }
        Ok(embeddings)
    }

    fn cases(&self, distances: Vec<f64>, found: &PairReport) -> Result<Cases> {
        let (config, data) = (&self.config, &self.data);
        let mut of = data.of.clone();
        if let Some(list) = config.list.as_ref().filter(|_| config.made.is_none()) {
            of.push_str(&format!("; people and ages of {}", list::fingerprint(&[list])?));
        }
        let flags = |flags: &[bool]| flags.iter().map(|f| f64::from(u8::from(*f))).collect::<Vec<f64>>();
        let each = |of: &dyn Fn(&Pair) -> Option<f64>| {
            data.pairs.iter().map(|pair| of(pair).unwrap_or(f64::NAN)).collect::<Vec<f64>>()
        };
        let mut columns = vec![
            ("same", flags(&data.same())),
            ("right", flags(&found.right)),
            ("distance", distances),
            ("fold", (0..data.pairs.len()).map(|i| found.folds.of(i) as f64).collect()),
        ];
        if let Some(people) = data.people() {
            let (a, b): (Vec<f64>, Vec<f64>) = people.into_iter().map(|(a, b)| (a as f64, b as f64)).unzip();
            columns.extend([("a", a), ("b", b)]);
        }
        if data.labels.is_some() {
            let age = |picture: usize| data.label(picture)?.age.map(f64::from);
            let sex = |picture: usize| Some(data.label(picture)?.gender as f64).filter(|sex| *sex >= 0.0);
            columns.extend([
                ("gap", each(&|pair| Some((age(pair.a)? - age(pair.b)?).abs()))),
                ("age_a", each(&|pair| age(pair.a))),
                ("age_b", each(&|pair| age(pair.b))),
                ("sex_a", each(&|pair| sex(pair.a))),
                ("sex_b", each(&|pair| sex(pair.b))),
            ]);
        }
        Ok(Cases { of, columns: columns.into_iter().map(|(name, values)| (name.to_owned(), values)).collect() })
    }
}

impl Evaluator for OpenPairs {
    fn files(&self) -> Result<Vec<&Path>> {
        self.data.pictures.files()
    }

    fn unresolved(&self) -> Result<Vec<(String, String)>> {
        let different = self.data.pairs.iter().filter(|pair| !pair.same).count();
        let beyond = |reading: &&Reading| reading.rule == Rule::AtMost && reading.target * different as f64 + 1e-9 < 1.0;
        let reason = || format!("{} has {different} different pairs, and tells no rate below 1/{different}", self.config.of());
        let names = |reading: &Reading| [reading.metric(), format!("tar_at_far_{}", reading.target)];
        let beyond = self.config.readings.iter().filter(beyond);
        Ok(beyond.flat_map(names).map(|name| (name, reason())).collect())
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        let Self { config, data } = self;
        let embeddings = self.embeddings(model)?;
        let failed: Vec<usize> = (0..embeddings.len()).filter(|i| embeddings[*i].is_none()).collect();
        let distance = |pair: &Pair| match (&embeddings[pair.a], &embeddings[pair.b]) {
            (Some(a), Some(b)) => protocol::squared_distance(a, b),
            _ => Ok(OPPOSITE),
        };
        let distances: Vec<f64> = data.pairs.iter().map(distance).collect::<Result<_>>()?;
        let (same, gaps, people) = (data.same(), data.gaps(), data.people());
        let found = protocol::report(&distances, &same, gaps.as_deref(), people.as_deref(), &config.settings())
            .with_context(|| config.of())?;
        let mut metrics: Vec<(String, f64)> = vec![
            ("accuracy".into(), found.accuracy),
            ("deviation".into(), found.deviation),
            ("auc".into(), found.auc),
            ("eer".into(), found.eer),
        ];
        metrics.extend(found.readings.iter().map(|row| (row.reading.metric(), row.fnmr.unwrap_or(f64::NAN))));
        let mut details = serde_json::to_value(&found)?;
        if !failed.is_empty() {
            let names: Vec<String> = failed.iter().take(NAMED).map(|i| data.pictures.name(*i)).collect();
            details["failed_pictures"] = serde_json::json!({ "count": failed.len(), "such_as": names });
        }
        Ok(Report {
            metrics: metrics.into_iter().collect(),
            notes: notes(&found, failed.len()),
            tables: tables(&found),
            curves: curves(&found),
            details,
            cases: Some(self.cases(distances, &found)?),
            ..Report::default()
        })
    }
}

/// The readings, and the pairs by age gap where ages are known.
fn tables(found: &PairReport) -> Vec<ReportTable> {
    let names = |names: &[&str]| names.iter().map(|name| Axis::new(*name)).collect::<Vec<_>>();
    let reading = |row: &protocol::ReadingRow| {
        let of = |rate: Option<protocol::Rate>, what: fn(protocol::Rate) -> f64| Cell::from(rate.map(what));
        vec![
            row.reading.to_string().as_str().into(),
            row.fnmr.into(),
            of(row.non_matches, |rate| rate.low),
            of(row.non_matches, |rate| rate.high),
            row.reached.into(),
            of(row.matches, |rate| rate.low),
            of(row.matches, |rate| rate.high),
            row.resolution.into(),
        ]
    };
    let columns = ["reading", "FNMR", "FNMR from", "FNMR to", "FMR reached", "FMR from", "FMR to", "resolution"];
    let mut out = vec![ReportTable {
        name: "readings".into(),
        columns: names(&columns),
        rows: found.readings.iter().map(reading).collect(),
    }];
    if !found.by_gap.is_empty() {
        let row = |row: &protocol::GapRow| {
            vec![row.label.as_str().into(), row.pairs.into(), row.same.into(), row.accuracy.into(), row.auc.into()]
        };
        let mut columns = names(&["gap", "pairs", "same", "accuracy", "AUC"]);
        columns[0] = Axis::new("gap").unit("years");
        out.push(ReportTable { name: "by_gap".into(), columns, rows: found.by_gap.iter().map(row).collect() });
    }
    out
}

/// The receiver operating characteristic, and the same as the errors of either kind.
fn curves(found: &PairReport) -> Vec<ReportCurve> {
    const MOST: usize = 1000;
    let points = found.roc.thinned(MOST);
    let fmr = || Axis::new("false match rate").logarithmic();
    vec![
        ReportCurve {
            name: "roc".into(),
            x: fmr(),
            y: Axis::new("true match rate"),
            points: points.iter().map(|point| (point.fmr, point.tmr)).collect(),
        },
        ReportCurve {
            name: "det".into(),
            x: fmr(),
            y: Axis::new("false non-match rate").logarithmic(),
            points: points.iter().map(|point| (point.fmr, 1.0 - point.tmr)).collect(),
        },
    ]
}

/// What stands beside the metrics: how sure the rates are, and what the list cannot tell.
fn notes(found: &PairReport, failed: usize) -> Vec<(String, String)> {
    let mut notes = Vec::new();
    for row in &found.readings {
        let name = row.reading.metric();
        let Some(rate) = row.non_matches else {
            notes.push((name, format!("not resolved (1/{})", found.pairs - found.same)));
            continue;
        };
        let few = if rate.few_errors { ", fewer than 30 errors" } else { "" };
        let small = |rate: f64| if rate == 0.0 || rate >= 1e-3 { format!("{rate:.4}") } else { format!("{rate:.1e}") };
        let reached = row.matches.map_or(String::new(), |rate| {
            format!("; FMR {} [{}, {}]", small(rate.rate), small(rate.low), small(rate.high))
        });
        notes.push((
            name,
            format!("[{:.4}, {:.4}], {} errors of {}{few}{reached}", rate.low, rate.high, rate.errors, rate.trials),
        ));
    }
    if found.intervals == INDEPENDENT {
        notes.push(("intervals".into(), INDEPENDENT.into()));
    }
    if failed > 0 {
        notes.push(("failures".into(), format!("{failed} pictures failed and count as unlike all others")));
    }
    notes.push(("deviation".into(), format!("{} over the folds", found.deviation_is.replace('_', " "))));
    notes
}

register!(Evaluator, "verification", Verification);
