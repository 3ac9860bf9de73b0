//! People shared out to training and test, or pictures to a gallery and probes.

use crate::card::{Card, Step};
use crate::list;
use crate::picture_files::folder_text;
use crate::source::{self, Pictures};
use mtl_component::{Draw, ErrorContext as _, Result, mistake};
use mtl_recipe::files::write_atomically;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// What is shared out, and how.
#[derive(Debug, clap::Args)]
pub struct Split {
    /// The list, or a record file or folder of people
    list: PathBuf,
    /// The folder that its file names start from; without it the folder of the list
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The folder for the lists
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Share of the people that are tested
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = share)]
    test: f64,
    /// What is shared out evenly to both sides
    #[arg(long, value_delimiter = ',', value_enum)]
    stratify: Vec<Stratum>,
    /// Years between the youngest and the oldest picture from which a person counts as seen over years
    #[arg(long, default_value_t = 20.0, value_name = "YEARS")]
    span: f32,
    /// Cross-validation: so many parts of the people, each tested once, as train_1.txt and test_1.txt and so on; as many as
    /// there are people leaves one out at a time, as FG-NET is used
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["test", "gallery"])]
    folds: Option<usize>,
    /// In place of people: of each person the youngest picture into gallery.txt and the oldest into probe.txt, as MORPH is
    /// used
    #[arg(long, conflicts_with_all = ["test", "stratify"])]
    gallery: bool,
    /// Seed of the draw
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// What may be shared out evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[clap(rename_all = "snake_case")]
enum Stratum {
    /// People who are seen over years, and others
    AgeSpan,
    /// Sexes
    Sex,
}

pub(super) fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a share between 0 and 1".into()),
    }
}

/// The most folds: each has a list of nearly all pictures.
const MOST_FOLDS: usize = 100;

/// A person and the numbers of the pictures.
type Person = (i64, Vec<usize>);

impl Split {
    /// Writes the lists; returns what was made.
    ///
    /// # Errors
    /// A mistake if there are too few people.
    pub fn run(&self) -> Result<String> {
        let pictures = source::at(&self.list, self.root.as_deref(), None)?;
        let people = people_of(&pictures)?;
        let sides = if self.gallery { gallery(&pictures, &people)? } else { self.shared(&pictures, &people)? };
        std::fs::create_dir_all(&self.out).with_context(|| format!("making the folder {}", self.out.display()))?;
        let mut made = BTreeMap::new();
        for (name, of) in &sides {
            write_atomically(&self.out.join(name), text_of(&pictures, of)?.as_bytes())?;
            let shown: BTreeSet<i64> = of.iter().map(|i| pictures.labels[*i].identity).collect();
            made.insert(name.to_owned(), serde_json::json!({ "pictures": of.len(), "people": shown.len() }));
        }
        let step = Step::new(format!("mtlrun data split {}", self.list.display())).read(&self.list)?;
        let how = if self.gallery {
            "the youngest picture of each person, and the oldest".to_owned()
        } else {
            let folds = self.folds.map_or(String::new(), |folds| format!("{folds} folds of "));
            format!("{folds}people, seed {}; no person is on both sides", self.seed)
        };
        let step = made.iter().fold(step.found("split by", how), |step, (name, of)| step.found(name, of));
        Card::grow(&self.out, step, |_| {})?;
        if self.json {
            return Ok(serde_json::to_string_pretty(&serde_json::json!({ "out": self.out, "lists": made }))?);
        }
        let told =
            made.iter().map(|(name, of)| format!("{name}: {} pictures of {} people", of["pictures"], of["people"]));
        let mut told: Vec<String> = told.collect();
        told.push(relative(&self.list, self.root.as_deref(), &self.out));
        Ok(told.join("\n").trim_end().to_owned())
    }

    /// The lists for training and test: two of them, or two for each fold.
    fn shared(&self, pictures: &Pictures, people: &[Person]) -> Result<Vec<(String, Vec<usize>)>> {
        let Some(folds) = self.folds else {
            let [train, test] = self.sides(pictures, people)?;
            return Ok(vec![("train.txt".into(), train), ("test.txt".into(), test)]);
        };
        let most = people.len().min(MOST_FOLDS);
        if folds < 2 || folds > most {
            mistake!("expected 2 to {most} folds of {} people, found {folds}", people.len());
        }
        // One person after another of each stratum goes to the next fold.
        let strata = self.strata(pictures, people);
        let fold_of: HashMap<i64, usize> =
            strata.iter().flatten().enumerate().map(|(n, (person, _))| (*person, n % folds)).collect();
        let mut lists = Vec::new();
        for fold in 0..folds {
            let (tested, trained): (Vec<&Person>, Vec<&Person>) =
                people.iter().partition(|(person, _)| fold_of[person] == fold);
            for (side, of) in [("train", trained), ("test", tested)] {
                let mut of: Vec<usize> = of.iter().flat_map(|(_, of)| of.iter().copied()).collect();
                of.sort_unstable();
                lists.push((format!("{side}_{}.txt", fold + 1), of));
            }
        }
        Ok(lists)
    }

    /// The people who are alike in what is shared out evenly, in an order that is drawn.
    fn strata<'p>(&self, pictures: &Pictures, people: &'p [Person]) -> Vec<Vec<&'p Person>> {
        let stratum = |(_, of): &Person| -> (bool, i64) {
            let ages = of.iter().filter_map(|i| pictures.labels[*i].age);
            let (low, high) = ages.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), age| (l.min(age), h.max(age)));
            let spans = self.stratify.contains(&Stratum::AgeSpan) && high - low >= self.span;
            let sex = if self.stratify.contains(&Stratum::Sex) { pictures.labels[of[0]].gender } else { -1 };
            (spans, sex)
        };
        let mut strata: BTreeMap<(bool, i64), Vec<&Person>> = BTreeMap::new();
        people.iter().for_each(|person| strata.entry(stratum(person)).or_default().push(person));
        let mut draw = Draw::new(&[self.seed, 0x5917]);
        for people in strata.values_mut() {
            for i in (1..people.len()).rev() {
                people.swap(i, draw.below(i as u64 + 1) as usize);
            }
        }
        strata.into_values().collect()
    }

    /// The pictures for training and for test.
    fn sides(&self, pictures: &Pictures, people: &[Person]) -> Result<[Vec<usize>; 2]> {
        let (mut train, mut test) = (Vec::new(), Vec::new());
        // What one stratum has too much by rounding, the next has less.
        let mut owed = 0.0;
        for people in self.strata(pictures, people) {
            owed += people.len() as f64 * self.test;
            let tested = (owed.round().max(0.0) as usize).min(people.len());
            owed -= tested as f64;
            people[..tested].iter().for_each(|(_, of)| test.extend(of));
            people[tested..].iter().for_each(|(_, of)| train.extend(of));
        }
        if train.is_empty() || test.is_empty() {
            mistake!("{} people are too few to test {} of them: take another share", people.len(), self.test);
        }
        train.sort_unstable();
        test.sort_unstable();
        Ok([train, test])
    }
}

/// The pictures of each person.
///
/// # Errors
/// A mistake if it is not known whom a picture shows.
pub(super) fn people_of(pictures: &Pictures) -> Result<Vec<Person>> {
    let mut people: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (i, label) in pictures.labels.iter().enumerate() {
        if label.identity >= pictures.people.len() as i64 {
            mistake!("it is not known whom {} shows", pictures.name(i));
        }
        people.entry(label.identity).or_default().push(i);
    }
    Ok(people.into_iter().collect())
}

/// Of each person with several ages the youngest picture, and the oldest; of equal ages the first by name.
fn gallery(pictures: &Pictures, people: &[Person]) -> Result<Vec<(String, Vec<usize>)>> {
    let (mut gallery, mut probe) = (Vec::new(), Vec::new());
    for (_, of) in people {
        let mut known: Vec<(f32, String, usize)> = Vec::new();
        for i in of {
            if let Some(age) = pictures.labels[*i].age {
                known.push((age, pictures.source.pictures.name(*i)?, *i));
            }
        }
        known.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let (Some(first), Some(last)) = (known.first(), known.last()) else { continue };
        let oldest = known.iter().find(|of| of.0 == last.0).unwrap_or(last);
        if oldest.2 != first.2 {
            gallery.push(first.2);
            probe.push(oldest.2);
        }
    }
    if gallery.is_empty() {
        mistake!("nobody has two pictures whose ages are known");
    }
    gallery.sort_unstable();
    probe.sort_unstable();
    Ok(vec![("gallery.txt".into(), gallery), ("probe.txt".into(), probe)])
}

/// An annotated list of these pictures.
///
/// # Errors
/// If a picture has no name.
pub fn text_of(pictures: &Pictures, of: &[usize]) -> Result<String> {
    let mut text = String::new();
    for i in of {
        let label = pictures.labels[*i];
        let person = pictures.people.get(label.identity as usize).map_or(list::UNKNOWN, String::as_str);
        text.push_str(&list::line(person, &pictures.source.pictures.name(*i)?, &label));
    }
    Ok(text)
}

/// Where the names of written lists start, if that is not where the lists are.
pub(super) fn relative(list: &Path, root: Option<&Path>, out: &Path) -> String {
    if list.is_dir() {
        return format!("Its names are relative to {}: name that as `root` beside the list", list.display());
    }
    let root = list::root(list, root);
    if root == out {
        return String::new();
    }
    format!("Its names are relative to {}: name that as `root` beside the list", folder_text(&root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_on_one_side_and_strata_on_both() {
        let dir = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for person in 0..40 {
            // Every fourth is seen over thirty years, every second is a man.
            let oldest = if person % 4 == 0 { 50 } else { 25 };
            text += &format!("{person} {person}/a.jpg 20 {0}\n{person} {person}/b.jpg {oldest} {0}\n", person % 2);
        }
        let list = dir.path().join("list.txt");
        std::fs::write(&list, text).unwrap();
        let split_by = |out: &str, stratify, folds| {
            let out = dir.path().join(out);
            let split = Split {
                list: list.clone(),
                root: None,
                out: out.clone(),
                test: 0.25,
                stratify,
                span: 20.0,
                folds,
                gallery: false,
                seed: 3,
                json: false,
            };
            split.run().map(|_| out)
        };
        let split = |out: &str, stratify| {
            let out = split_by(out, stratify, None).unwrap();
            ["train.txt", "test.txt"].map(|name| std::fs::read_to_string(out.join(name)).unwrap())
        };
        let [train, test] = split("a", vec![Stratum::AgeSpan, Stratum::Sex]);
        let people = |text: &str| -> std::collections::BTreeSet<String> {
            text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
        };
        assert!(people(&train).is_disjoint(&people(&test)));
        assert_eq!((people(&train).len(), people(&test).len(), test.lines().count()), (30, 10, 20));
        let number = |name: &String| name.parse::<u32>().unwrap();
        let spans = people(&test).iter().filter(|person| number(person) % 4 == 0).count();
        assert!((2..=3).contains(&spans), "{spans}");
        assert_eq!(split("b", vec![Stratum::AgeSpan, Stratum::Sex]), [train, test]);

        let folds = split_by("c", vec![Stratum::Sex], Some(3)).unwrap();
        let read = |name: String| std::fs::read_to_string(folds.join(name)).unwrap();
        let mut tested = BTreeSet::new();
        for fold in 1..=3 {
            let (train, test) = (people(&read(format!("train_{fold}.txt"))), people(&read(format!("test_{fold}.txt"))));
            assert!(train.is_disjoint(&test) && train.len() + test.len() == 40);
            let men = test.iter().filter(|person| number(person) % 2 == 1).count();
            assert!((6..=7).contains(&men) && (13..=14).contains(&test.len()), "{men} of {}", test.len());
            tested.extend(test);
        }
        assert_eq!(tested.len(), 40);
        let error = split_by("d", vec![], Some(41)).unwrap_err().to_string();
        assert!(error.contains("expected 2 to 40 folds"), "{error}");
    }
}
