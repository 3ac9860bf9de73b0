//! Faults of data sets: unreadable pictures, copies, people in training and test, labels that contradict each other.

mod copies;
mod page;
mod people;
mod scan;

use crate::protocol::FlipTest;
use copies::{Copies, Kind};
use mtl_component::{Registry, Result, mistake};
use mtl_engine::inference::{Progress as ModelProgress, Which};
use mtl_faces::Progress;
use mtl_faces::card::{Card, Step};
use mtl_faces::facts::Facts;
use mtl_faces::file_names::NameForm;
use mtl_faces::picture_files::folder_text;
use mtl_faces::source::{self, Pictures};
use mtl_recipe::files::write_atomically;
use people::{Judged, Seen, Thresholds};
use scan::Scanned;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Look for faults of data sets.
#[derive(Debug, clap::Args)]
pub struct Audit {
    /// What is trained on: lists, record files, folders of people
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// What is tested on: lists, verification sets, record files, folders
    #[arg(long, num_args = 1.., value_name = "PATH")]
    against: Vec<PathBuf>,
    /// The folder that the file names of a list start from; without it the folder of the list
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A run whose recogniser looks for people in both, for wrong labels, and for ages that do not fit
    #[arg(long, value_name = "FOLDER")]
    run: Option<PathBuf>,
    /// last, best, or a step of the run
    #[arg(long, default_value = "last")]
    checkpoint: Which,
    /// The run's data port that pictures are fed to
    #[arg(long, default_value = "faces.image")]
    image: String,
    /// The run's node that gives the embedding
    #[arg(long, default_value = "embedding")]
    embedding: String,
    /// The run's output that is the age in years; left out where there is none
    #[arg(long, default_value = "years.age")]
    age: String,
    /// The folder for audit.json, audit.html and keep.txt
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// End with the exit code 3 where copies, contradictions or people in both are found
    #[arg(long)]
    strict: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// A data set and what its pictures are.
pub(super) struct Set {
    /// Its path.
    pub path: PathBuf,
    /// Its pictures.
    pub pictures: Pictures,
    /// What was found of each.
    pub scanned: Vec<Scanned>,
    /// Whether it is tested on.
    pub is_test: bool,
}

/// The number of a set, and of a picture in it.
pub(super) type Place = (usize, usize);

/// Pictures that show a fault.
pub(super) struct Example {
    /// What is wrong with them.
    pub text: String,
    /// The pictures.
    pub pictures: Vec<Place>,
}

/// A kind of fault.
pub(super) struct Finding {
    /// Its name.
    pub code: &'static str,
    /// What it is.
    pub what: String,
    /// What is advised.
    pub advice: &'static str,
    /// How often it was found.
    pub count: usize,
    /// Some of them, the clearest first.
    pub examples: Vec<Example>,
    /// Whether `--strict` minds it.
    pub is_strict: bool,
}

impl Finding {
    /// A kind of fault that was not found yet, and that `--strict` does not mind.
    fn none(code: &'static str, what: &str, advice: &'static str) -> Self {
        Self { code, what: what.into(), advice, count: 0, examples: Vec::new(), is_strict: false }
    }

    /// Counts a fault, and keeps the first as examples.
    fn add(&mut self, text: String, pictures: Vec<Place>) {
        self.count += 1;
        if self.examples.len() < KEPT {
            self.examples.push(Example { text, pictures });
        }
    }
}

/// Examples that a finding keeps.
pub(super) const KEPT: usize = 100;
/// Age differences, in years, from which an estimate contradicts the label.
const FAR_OFF: f64 = 20.0;
/// Pictures of fewer pixels a side are small.
const SMALL: usize = 64;

impl Audit {
    /// Writes the audit; returns what is to be shown, and whether `--strict` ends with an exit code of its own.
    ///
    /// # Errors
    /// A mistake if the data or the run cannot be opened.
    pub fn run(
        &self,
        registry: &Arc<Registry>,
        progress: Progress<'_>,
        of_model: ModelProgress,
    ) -> Result<(String, bool)> {
        let mut sets = Vec::new();
        let opened = self.data.iter().map(|path| (path, false)).chain(self.against.iter().map(|path| (path, true)));
        for (path, is_test) in opened {
            let pictures = source::at(path, self.root.as_deref(), None)?;
            sets.push(Set { path: path.clone(), pictures, scanned: Vec::new(), is_test });
        }
        let all: u64 = sets.iter().map(|set| set.pictures.len() as u64).sum();
        let mut done = 0;
        for set in &mut sets {
            let before = done;
            set.scanned = scan::scanned(&set.pictures, &|n| progress(before + n, all));
            done += set.pictures.len() as u64;
        }
        let seen = match &self.run {
            Some(run) => {
                let asked = people::Asked {
                    run,
                    checkpoint: &self.checkpoint,
                    image: &self.image,
                    embedding: &self.embedding,
                    age: &self.age,
                    flip: FlipTest::SumRaw,
                };
                Some(Seen::of(registry, &asked, &sets, of_model)?)
            }
            None => None,
        };
        let copies = Copies::among(&sets, seen.as_ref())?;
        let mut findings = readable(&sets);
        findings.extend(copied(&sets, &copies));
        findings.extend(ages(&sets));
        let judged = seen.as_ref().map(|seen| people::judged(seen, &sets)).transpose()?;
        findings.extend(judged.iter().flat_map(|judged| judged_findings(&sets, judged)));
        findings.retain(|finding| finding.count > 0);
        let dropped = dropped(&sets, &copies, judged.as_ref());
        self.write(&sets, &findings, judged.as_ref().map(|judged| &judged.thresholds), &dropped)
    }

    fn write(
        &self,
        sets: &[Set],
        findings: &[Finding],
        thresholds: Option<&Thresholds>,
        dropped: &[BTreeSet<usize>],
    ) -> Result<(String, bool)> {
        std::fs::create_dir_all(&self.out)?;
        let mut kept = Vec::new();
        for (n, (set, dropped)) in sets.iter().zip(dropped).filter(|(set, _)| !set.is_test).enumerate() {
            let name = if n == 0 { "keep.txt".to_owned() } else { format!("keep-{}.txt", n + 1) };
            let of: Vec<usize> = (0..set.pictures.len()).filter(|i| !dropped.contains(i)).collect();
            write_atomically(&self.out.join(&name), mtl_faces::text_of(&set.pictures, &of)?.as_bytes())?;
            kept.push((name, of.len(), dropped.len(), set));
        }
        let facts: Vec<Facts> = sets.iter().map(|set| Facts::of(&set.pictures)).collect::<Result<_>>()?;
        let text_of = |finding: &Finding| -> Vec<String> { finding.examples.iter().map(|e| e.text.clone()).collect() };
        let all = json!({
            "sets": sets.iter().zip(&facts).map(|(set, facts)| json!({
                "path": set.path, "tested": set.is_test, "facts": facts,
            })).collect::<Vec<_>>(),
            "findings": findings.iter().map(|finding| json!({
                "code": finding.code, "what": finding.what, "advice": finding.advice, "count": finding.count,
                "examples": text_of(finding),
            })).collect::<Vec<_>>(),
            "thresholds": thresholds,
            "kept": kept.iter().map(|(name, kept, dropped, set)| json!({
                "list": name, "of": set.path, "kept": kept, "dropped": dropped,
            })).collect::<Vec<_>>(),
        });
        write_atomically(&self.out.join("audit.json"), (serde_json::to_string_pretty(&all)? + "\n").as_bytes())?;
        write_atomically(&self.out.join("audit.html"), page::page(sets, &facts, findings, thresholds)?.as_bytes())?;
        let names: Vec<String> = self.data.iter().map(|path| path.display().to_string()).collect();
        let mut step = Step::new(format!("mtlrun data audit {}", names.join(" ")));
        for finding in findings {
            step = step.found(finding.code, finding.count);
        }
        // The card of the data is where the data is; a folder that only holds a list has one as well.
        if let Some(folder) = self.data[0].parent().filter(|folder| folder.join("card.json").is_file()) {
            Card::grow(folder, step.clone(), |_| {})?;
        }
        let minded = findings.iter().any(|finding| finding.is_strict);
        if self.json {
            return Ok((serde_json::to_string_pretty(&all)?, self.strict && minded));
        }
        let mut told = String::new();
        for finding in findings {
            let _ = writeln!(told, "{:<24} {:>8}  {}", finding.code, finding.count, finding.what);
        }
        if findings.is_empty() {
            told.push_str("nothing was found\n");
        }
        for (name, kept, dropped, set) in &kept {
            let _ = writeln!(told, "{name}: {kept} of {} pictures, {dropped} left out", kept + dropped);
            let root = if set.path.is_dir() {
                set.path.clone()
            } else {
                mtl_faces::list::root(&set.path, self.root.as_deref())
            };
            if root != self.out {
                let _ = writeln!(
                    told,
                    "  its names are relative to {}: name that as `root` beside the list",
                    folder_text(&root)
                );
            }
        }
        let _ = write!(told, "{}", self.out.join("audit.html").display());
        Ok((told, self.strict && minded))
    }
}

impl Set {
    /// A picture in words, with whom it shows.
    fn told(&self, index: usize) -> String {
        let label = self.pictures.labels[index];
        let person = self.pictures.people.get(label.identity as usize);
        let age = label.age.map(|age| format!("{age} years"));
        let known: Vec<String> = person.map(|person| format!("`{person}`")).into_iter().chain(age).collect();
        let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
        let name = self.pictures.source.pictures.name(index).unwrap_or_else(|_| format!("picture {index}"));
        let plain: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        format!("{plain}{known}")
    }
}

/// A finding of pictures one by one.
fn of_pictures(
    sets: &[Set],
    code: &'static str,
    what: &str,
    advice: &'static str,
    found: &dyn Fn(&Scanned) -> Option<String>,
) -> Finding {
    let mut finding = Finding::none(code, what, advice);
    for (s, set) in sets.iter().enumerate() {
        for (i, scanned) in set.scanned.iter().enumerate() {
            if let Some(text) = found(scanned) {
                let text = if text.is_empty() { set.told(i) } else { format!("{}: {text}", set.told(i)) };
                finding.add(text, vec![(s, i)]);
            }
        }
    }
    finding
}

/// Pictures that cannot be used, or may not be what is expected.
fn readable(sets: &[Set]) -> Vec<Finding> {
    let is = |fault: bool, text: String| fault.then_some(text);
    vec![
        of_pictures(sets, "unreadable", "pictures that cannot be read", "left out of keep.txt", &|s| s.failure.clone()),
        of_pictures(sets, "constant", "pictures of one colour", "left out of keep.txt", &|s| {
            is(s.failure.is_none() && s.is_constant, String::new())
        }),
        of_pictures(sets, "not-square", "pictures that are not square: aligned crops are", "align them", &|s| {
            is(s.failure.is_none() && s.width != s.height, format!("{}x{}", s.width, s.height))
        }),
        of_pictures(sets, "grey", "pictures without colours", "none; know that they are there", &|s| {
            is(s.failure.is_none() && s.is_grey, String::new())
        }),
        of_pictures(sets, "small", "pictures of fewer than 64 pixels a side", "none; know that they are there", &|s| {
            is(s.failure.is_none() && s.width.min(s.height) < SMALL, format!("{}x{}", s.width, s.height))
        }),
    ]
}

/// Copies, and what they say of labels and of the test.
fn copied(sets: &[Set], copies: &Copies) -> Vec<Finding> {
    let finding = |code, what: &str, advice, is_strict, of: &dyn Fn(&copies::Pair) -> bool| {
        let mut found: Vec<&copies::Pair> = copies.pairs.iter().filter(|pair| of(pair)).collect();
        found.sort_by_key(|pair| pair.distance);
        let example = |pair: &&copies::Pair| {
            let told = |(s, i): Place| sets[s].told(i);
            Example {
                text: format!("{} and {}: {}", told(pair.a), told(pair.b), pair.told()),
                pictures: vec![pair.a, pair.b],
            }
        };
        let examples = found.iter().take(KEPT).map(example).collect();
        Finding { code, what: what.into(), advice, count: found.len(), examples, is_strict }
    };
    let tested = |pair: &copies::Pair| [pair.a, pair.b].map(|(s, _)| sets[s].is_test);
    let in_training = |pair: &copies::Pair| tested(pair) == [false, false];
    let label = |(s, i): Place| sets[s].pictures.labels[i];
    // People are known to be different only within a set.
    let differ = |pair: &copies::Pair| pair.a.0 == pair.b.0 && label(pair.a).identity != label(pair.b).identity;
    let ages = |pair: &copies::Pair| label(pair.a).age.zip(label(pair.b).age);
    let one = "of each, keep.txt has the first";
    vec![
        finding("same-file", "pairs of pictures with the same bytes", one, true, &|p| {
            in_training(p) && p.kind == Kind::Bytes
        }),
        finding("same-picture", "pairs of pictures with the same pixels in other files", one, true, &|p| {
            in_training(p) && p.kind == Kind::Pixels
        }),
        finding("near-copy", "pairs of near copies: encoded anew, resized, brightened or moved", one, true, &|p| {
            in_training(p) && p.kind == Kind::Near
        }),
        finding("mirrored-copy", "pairs of which one is the mirror image of the other", one, true, &|p| {
            in_training(p) && p.kind == Kind::Mirrored
        }),
        finding("two-people", "copies that are labelled as two people", "both are left out of keep.txt", true, &|p| {
            in_training(p) && differ(p)
        }),
        finding(
            "two-ages",
            "copies of one person with different ages",
            "look at them; keep.txt has the first",
            true,
            &|p| in_training(p) && !differ(p) && ages(p).is_some_and(|(a, b)| (a - b).abs() >= 1.0),
        ),
        finding("tested-picture", "pictures of the test that are trained on", "left out of keep.txt", true, &|p| {
            tested(p)[0] != tested(p)[1]
        }),
        finding(
            "one-capture",
            "pairs of a verification set whose pictures are copies",
            "the pair tells nothing",
            true,
            &|p| {
                let same = |(s, _): Place| sets[s].pictures.source.column(mtl_faces::sources::bin::SAME).is_some();
                p.a.0 == p.b.0 && same(p.a) && p.a.1 / 2 == p.b.1 / 2
            },
        ),
    ]
}

/// Ages that tell nothing of ageing, and those that cannot be true.
fn ages(sets: &[Set]) -> Vec<Finding> {
    let mut one = Finding::none(
        "one-age",
        "people of several pictures whose ages are all the same",
        "none; they tell nothing of ageing",
    );
    let mut two = Finding::none(
        "ages-in-one-year",
        "people with pictures of one year, by their names, whose ages are more than a year apart",
        "look at them: one of the dates is wrong",
    );
    for (s, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_test) {
        let mut of_person: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        set.pictures.labels.iter().enumerate().for_each(|(i, l)| of_person.entry(l.identity).or_default().push(i));
        for pictures in of_person.values().filter(|pictures| pictures.len() > 1) {
            let known: Option<Vec<f32>> = pictures.iter().map(|i| set.pictures.labels[*i].age).collect();
            if known.is_some_and(|ages| ages.iter().all(|age| *age == ages[0])) {
                let text = format!("{} and {} more", set.told(pictures[0]), pictures.len() - 1);
                one.add(text, pictures.iter().take(4).map(|i| (s, *i)).collect());
            }
            for (year, a, b) in ages_in_one_year(set, pictures) {
                two.add(format!("{} and {}: both of {year}", set.told(a), set.told(b)), vec![(s, a), (s, b)]);
            }
        }
    }
    vec![one, two]
}

/// Of a person's pictures of each year, which their file names tell, the youngest and the oldest, if no birthday lies between.
fn ages_in_one_year(set: &Set, pictures: &[usize]) -> Vec<(i32, usize, usize)> {
    let mut years: BTreeMap<i32, Vec<(f32, usize)>> = BTreeMap::new();
    for i in pictures {
        let name = set.pictures.source.pictures.name(*i).ok();
        let name = name.as_deref().and_then(|name| Path::new(name).file_name()?.to_str());
        let year = name.and_then(|name| NameForm::ImdbWiki.read(name)?.year);
        if let Some((year, age)) = year.zip(set.pictures.labels[*i].age) {
            years.entry(year).or_default().push((age, *i));
        }
    }
    let by_age = |a: &&(f32, usize), b: &&(f32, usize)| a.0.total_cmp(&b.0);
    let ends =
        years.iter().filter_map(|(year, of)| Some((*year, *of.iter().min_by(by_age)?, *of.iter().max_by(by_age)?)));
    ends.filter(|(_, young, old)| old.0 - young.0 > 1.0).map(|(year, young, old)| (year, young.1, old.1)).collect()
}

/// What a recogniser and an estimator of ages find.
fn judged_findings(sets: &[Set], judged: &Judged) -> Vec<Finding> {
    let told = |(s, i): Place| sets[s].told(i);
    let limits = &judged.thresholds;
    let overlap = judged.overlap.iter().map(|(cosine, train, test)| Example {
        text: format!("{} and, in the test, {}: cosine {cosine:.3}", told(*train), told(*test)),
        pictures: vec![*train, *test],
    });
    let outliers = judged.outliers.iter().map(|(cosine, place)| Example {
        text: format!("{}: cosine {cosine:.3} to the others of that person", told(*place)),
        pictures: std::iter::once(*place).chain(others(sets, *place)).collect(),
    });
    let mistaken = judged.mistaken.iter().map(|(own, best, place, other)| Example {
        text: format!("{}: cosine {own:.3} to that person, and {best:.3} to that of {}", told(*place), told(*other)),
        pictures: std::iter::once(*place).chain(others(sets, *place)).take(3).chain([*other]).collect(),
    });
    let mixed = judged.mixed.iter().map(|(cosine, one, other)| Example {
        text: format!(
            "{} pictures like {} and {} like {}, cosine {cosine:.3}",
            one.len(),
            told(one[0]),
            other.len(),
            told(other[0])
        ),
        pictures: one.iter().take(3).chain(other.iter().take(3)).copied().collect(),
    });
    let ages = judged.ages.iter().map(|(estimate, place)| Example {
        text: format!("{}: looks {estimate:.0}", told(*place)),
        pictures: vec![*place],
    });
    vec![
        Finding {
            code: "tested-person",
            what: format!(
                "people of the test who are trained on: centres with a cosine of {:.3} or more",
                limits.people
            ),
            advice: "left out of keep.txt; look at the pairs",
            count: judged.overlap.len(),
            examples: overlap.take(KEPT).collect(),
            is_strict: true,
        },
        Finding {
            code: "like-another-person",
            what: "pictures unlike the others of their person and like another person's".into(),
            advice: "look at them: wrong labels",
            count: judged.mistaken.len(),
            examples: mistaken.take(KEPT).collect(),
            is_strict: false,
        },
        Finding {
            code: "unlike-its-label",
            what: format!(
                "the pictures least like the others of their person, with a cosine below {:.3}",
                limits.pictures
            ),
            advice: "look at them: wrong labels, or pictures that show little",
            count: judged.outliers.len(),
            examples: outliers.take(KEPT).collect(),
            is_strict: false,
        },
        Finding {
            code: "mixed-person",
            what: "people whose pictures fall into two unlike groups".into(),
            advice: "look at them: two people under one name, or one over many years",
            count: judged.mixed.len(),
            examples: mixed.take(KEPT).collect(),
            is_strict: false,
        },
        Finding {
            code: "unlikely-age",
            what: format!("pictures whose age the run estimates more than {FAR_OFF} years away"),
            advice: "look at them",
            count: judged.ages.len(),
            examples: ages.take(KEPT).collect(),
            is_strict: false,
        },
    ]
}

/// Some other pictures of the same person.
fn others(sets: &[Set], (s, index): Place) -> Vec<Place> {
    let labels = &sets[s].pictures.labels;
    let same = |i: &usize| *i != index && labels[*i].identity == labels[index].identity;
    (0..labels.len()).filter(same).take(3).map(|i| (s, i)).collect()
}

/// What is not kept of each set.
fn dropped(sets: &[Set], copies: &Copies, judged: Option<&Judged>) -> Vec<BTreeSet<usize>> {
    let mut out = vec![BTreeSet::new(); sets.len()];
    for (set, out) in sets.iter().zip(&mut out) {
        let bad = |scanned: &Scanned| scanned.failure.is_some() || scanned.is_constant;
        out.extend(set.scanned.iter().enumerate().filter(|(_, scanned)| bad(scanned)).map(|(i, _)| i));
    }
    for pair in &copies.pairs {
        let [a, b] = [pair.a, pair.b];
        let label = |(s, i): Place| sets[s].pictures.labels[i];
        match [sets[a.0].is_test, sets[b.0].is_test] {
            [true, true] => {}
            [true, false] => drop(out[b.0].insert(b.1)),
            [false, true] => drop(out[a.0].insert(a.1)),
            [false, false] if a.0 == b.0 && label(a).identity != label(b).identity => {
                out[a.0].insert(a.1);
                out[b.0].insert(b.1);
            }
            [false, false] => drop(out[b.0].insert(b.1)),
        }
    }
    for (_, (s, index), _) in judged.iter().flat_map(|judged| &judged.overlap) {
        let person = sets[*s].pictures.labels[*index].identity;
        let labels = sets[*s].pictures.labels.iter().enumerate();
        out[*s].extend(labels.filter(|(_, label)| label.identity == person).map(|(i, _)| i));
    }
    out
}

/// What a path is called where there is little room.
pub(super) fn short(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Refuses an unknown wire of the run by name.
pub(super) fn refuse(run: &Path, wire: &str) -> Result<()> {
    mistake!("the run {} has no wire `{wire}`: name its own by --image and --embedding", run.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_that_cannot_be_true_are_found_by_the_year_in_names() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.txt");
        let of = |year: u32, shot: u32| format!("01/nm0000001_rm{shot}_1950-5-10_{year}.jpg");
        let lines = [(of(1990, 1), 40), (of(1990, 2), 43), (of(1991, 3), 41), (of(1991, 4), 40)];
        let text: String = lines.iter().map(|(name, age)| format!("7 {name} {age} 1\n")).collect();
        std::fs::write(&list, text + "8 a.jpg 30 0\n8 b.jpg 30 0\n").unwrap();
        let pictures = source::at(&list, None, None).unwrap();
        let set = Set { path: list, pictures, scanned: Vec::new(), is_test: false };
        let found = ages(&[set]);
        let told: Vec<(&str, usize)> = found.iter().map(|finding| (finding.code, finding.count)).collect();
        assert_eq!(told, [("one-age", 1), ("ages-in-one-year", 1)]);
        let example = &found[1].examples[0];
        assert_eq!(example.pictures, [(0, 0), (0, 1)]);
        assert!(example.text.ends_with("both of 1990"), "{}", example.text);
    }
}
