//! Verification pairs drawn from a list, so that ages and sexes do not tell the kinds of pairs apart.

use super::convert::text_of_pairs;
use super::split::{people_of, relative};
use crate::card::{Card, Step};
use crate::pairs::Pair;
use crate::perceptual_hash::{FOUND, PerceptualHash};
use crate::source::{self, Pictures};
use mtl_component::{Draw, Result, mistake};
use mtl_recipe::files::write_atomically;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::path::PathBuf;

/// Years of a group of ages that a pair of two people copies from a pair of one.
const GROUP: f32 = 10.0;
/// How often a pair is drawn anew before it is given up.
const TRIES: usize = 2000;

/// Which pairs are drawn, and where they go.
#[derive(Debug, clap::Args)]
pub struct DrawPairs {
    /// The list, or a record file or folder of people
    list: PathBuf,
    /// The folder that its file names start from; without it the folder of the list
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The file for the pairs
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How many pairs, half of them of one person
    #[arg(long, default_value_t = 6000)]
    count: usize,
    /// Folds of people: none is in two
    #[arg(long, default_value_t = 10)]
    folds: usize,
    /// Least years between the pictures of a pair
    #[arg(long, default_value_t = 0.0, value_name = "YEARS")]
    gap: f32,
    /// Most years between the pictures of a pair
    #[arg(long, value_name = "YEARS")]
    gap_max: Option<f32>,
    /// How two people are chosen
    #[arg(long, value_enum, default_value_t)]
    different: Different,
    /// Most pairs of one person
    #[arg(long, value_name = "N")]
    per_person: Option<usize>,
    /// Take near copies of a picture for two pictures, without looking at them
    #[arg(long)]
    copies: bool,
    /// Seed of the draw
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// How two people are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Different {
    /// Of the sex and the groups of ages of a pair of one person
    #[default]
    Matched,
    /// Any two
    Any,
}

impl DrawPairs {
    /// Writes the pairs; returns what was made, and what could not be met.
    ///
    /// # Errors
    /// A mistake if no such pairs can be drawn.
    pub fn run(&self) -> Result<String> {
        if self.folds == 0 || self.count < 2 * self.folds {
            mistake!("{} pairs in {} folds: expected two pairs a fold at least", self.count, self.folds);
        }
        let pictures = source::at(&self.list, self.root.as_deref(), None)?;
        let mut drawn = Drawing {
            asked: self,
            pictures: &pictures,
            draw: Draw::new(&[self.seed, 0x9a15]),
            hashes: HashMap::new(),
            copies: 0,
            lacking: [0, 0],
        };
        let folds = drawn.folds()?;
        let pairs: Vec<Pair> = folds.into_iter().flatten().collect();
        if pairs.is_empty() {
            mistake!(
                "no pair of one person with ages {} {} years apart can be drawn from {} pictures of {} people",
                self.gap,
                self.gap_max.map_or("or more".to_owned(), |most| format!("to {most}")),
                pictures.len(),
                pictures.people.len()
            );
        }
        let (copies, lacking) = (drawn.copies, drawn.lacking);
        let name = |i: usize| pictures.source.pictures.name(i);
        let named: Vec<(String, String, bool)> =
            pairs.iter().map(|pair| Ok((name(pair.a)?, name(pair.b)?, pair.same))).collect::<Result<_>>()?;
        let text = text_of_pairs(named.iter().map(|(a, b, same)| (a.as_str(), b.as_str(), *same)));
        if let Some(folder) = self.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        write_atomically(&self.out, text.as_bytes())?;
        let same = pairs.iter().filter(|pair| pair.same).count();
        let found = [
            ("pairs of one person", same),
            ("pairs of two people", pairs.len() - same),
            ("folds of disjoint people", self.folds),
            ("pairs of one person that could not be drawn", lacking[0]),
            ("pairs of two people that could not be drawn", lacking[1]),
            ("draws left out, since both pictures are near copies", copies),
        ];
        let step =
            Step::new(format!("mtlrun data pairs {} --gap {} --seed {}", self.list.display(), self.gap, self.seed));
        let step = found.iter().fold(step.read(&self.list)?, |step, (name, value)| step.found(name, value));
        let folder = self.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
        Card::grow(folder, step, |_| {})?;
        if self.json {
            let found: BTreeMap<String, usize> = found.iter().map(|(name, n)| (name.replace(' ', "_"), *n)).collect();
            return Ok(serde_json::to_string_pretty(&serde_json::json!({ "out": self.out, "found": found }))?);
        }
        let mut told = format!("{}: {} pairs", self.out.display(), pairs.len());
        for (name, value) in found.iter().filter(|(_, value)| *value > 0) {
            let _ = write!(told, "\n  {name}: {value}");
        }
        let relative = relative(&self.list, self.root.as_deref(), folder);
        Ok(if relative.is_empty() { told } else { format!("{told}\n{relative}") })
    }
}

struct Drawing<'d> {
    asked: &'d DrawPairs,
    pictures: &'d Pictures,
    draw: Draw,
    hashes: HashMap<usize, PerceptualHash>,
    /// Draws that were near copies.
    copies: usize,
    /// Pairs of one person and of two that could not be drawn.
    lacking: [usize; 2],
}

impl Drawing<'_> {
    /// The pairs of each fold: first those of one person, then as many of two.
    fn folds(&mut self) -> Result<Vec<Vec<Pair>>> {
        let mut people = people_of(self.pictures)?;
        for i in (1..people.len()).rev() {
            people.swap(i, self.draw.below(i as u64 + 1) as usize);
        }
        let folds = self.asked.folds;
        let mut of_fold: Vec<Vec<(i64, Vec<usize>)>> = vec![Vec::new(); folds];
        people.into_iter().enumerate().for_each(|(n, person)| of_fold[n % folds].push(person));
        let half = self.asked.count / 2;
        (0..folds)
            .map(|fold| {
                let each = (fold + 1) * half / folds - fold * half / folds;
                self.fold(&of_fold[fold], each)
            })
            .collect()
    }

    fn fold(&mut self, people: &[(i64, Vec<usize>)], each: usize) -> Result<Vec<Pair>> {
        let mut same = Vec::new();
        let mut known = HashSet::new();
        let mut count: HashMap<i64, usize> = HashMap::new();
        let able: Vec<&(i64, Vec<usize>)> = people.iter().filter(|(_, of)| self.spans(of)).collect();
        while same.len() < each && !able.is_empty() {
            let Some(pair) = self.one_person(&able, &mut known, &mut count)? else { break };
            same.push(pair);
        }
        let mut out = same.clone();
        // Which pictures of the fold have a sex and an age in a group.
        let mut by_group: BTreeMap<(i64, i64), Vec<usize>> = BTreeMap::new();
        for i in people.iter().flat_map(|(_, of)| of) {
            by_group.entry(self.group(*i)).or_default().push(*i);
        }
        let all: Vec<usize> = people.iter().flat_map(|(_, of)| of.iter().copied()).collect();
        for pair in &same {
            match self.two_people(pair, &by_group, &all, &mut known)? {
                Some(pair) => out.push(pair),
                None => self.lacking[1] += 1,
            }
        }
        self.lacking[0] += each - same.len();
        self.lacking[1] += each - same.len();
        Ok(out)
    }

    fn gap_fits(&self, a: usize, b: usize) -> bool {
        let age = |i: usize| self.pictures.labels[i].age;
        match age(a).zip(age(b)) {
            Some((a, b)) => (self.asked.gap..=self.asked.gap_max.unwrap_or(f32::INFINITY)).contains(&(a - b).abs()),
            None => self.asked.gap <= 0.0 && self.asked.gap_max.is_none(),
        }
    }

    /// Whether a person has two pictures of such ages.
    fn spans(&self, of: &[usize]) -> bool {
        of.iter().enumerate().any(|(n, a)| of[..n].iter().any(|b| self.gap_fits(*a, *b)))
    }

    /// The sex and the group of ages of a picture, -1 where not known.
    fn group(&self, i: usize) -> (i64, i64) {
        let label = self.pictures.labels[i];
        (label.gender, label.age.map_or(-1, |age| (age / GROUP) as i64))
    }

    fn one_person(
        &mut self,
        able: &[&(i64, Vec<usize>)],
        known: &mut HashSet<(usize, usize)>,
        count: &mut HashMap<i64, usize>,
    ) -> Result<Option<Pair>> {
        for _ in 0..TRIES {
            let (person, of) = able[self.draw.below(able.len() as u64) as usize];
            if count.get(person).copied().unwrap_or(0) >= self.asked.per_person.unwrap_or(usize::MAX) {
                continue;
            }
            let [a, b] = [0; 2].map(|_: i32| of[self.draw.below(of.len() as u64) as usize]);
            let (a, b) = (a.min(b), a.max(b));
            if a == b || !self.gap_fits(a, b) || !self.is_new(a, b, known)? {
                continue;
            }
            *count.entry(*person).or_default() += 1;
            return Ok(Some(Pair { a, b, same: true }));
        }
        Ok(None)
    }

    fn two_people(
        &mut self,
        like: &Pair,
        by_group: &BTreeMap<(i64, i64), Vec<usize>>,
        all: &[usize],
        known: &mut HashSet<(usize, usize)>,
    ) -> Result<Option<Pair>> {
        let matched = self.asked.different == Different::Matched;
        let of = |group| if matched { by_group.get(&group).map_or(&[][..], Vec::as_slice) } else { all };
        let (first, second) = (of(self.group(like.a)), of(self.group(like.b)));
        for _ in 0..TRIES {
            let a = first[self.draw.below(first.len() as u64) as usize];
            let b = second[self.draw.below(second.len() as u64) as usize];
            let person = |i: usize| self.pictures.labels[i].identity;
            // The gap of a matched pair is that of its groups, and of any other the one that is asked for.
            if person(a) == person(b) || (!matched && !self.gap_fits(a, b)) || !self.is_new(a, b, known)? {
                continue;
            }
            return Ok(Some(Pair { a, b, same: false }));
        }
        Ok(None)
    }

    /// Whether a pair was not drawn before, and its pictures are not near copies. From then on it was drawn.
    fn is_new(&mut self, a: usize, b: usize, known: &mut HashSet<(usize, usize)>) -> Result<bool> {
        if !known.insert((a.min(b), a.max(b))) {
            return Ok(false);
        }
        let copies = self.are_copies(a, b)?;
        self.copies += usize::from(copies);
        Ok(!copies)
    }

    /// Whether two pictures are near copies: then they tell nothing of who is on them.
    fn are_copies(&mut self, a: usize, b: usize) -> Result<bool> {
        if self.asked.copies {
            return Ok(false);
        }
        for i in [a, b] {
            if !self.hashes.contains_key(&i) {
                let hash = PerceptualHash::of(&self.pictures.read(i)?);
                self.hashes.insert(i, hash);
            }
        }
        Ok(self.hashes[&a].distance(&self.hashes[&b]) < FOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn asked(list: &Path, out: &Path) -> DrawPairs {
        DrawPairs {
            list: list.to_owned(),
            root: None,
            out: out.to_owned(),
            count: 80,
            folds: 4,
            gap: 15.0,
            gap_max: None,
            different: Different::Matched,
            per_person: Some(10),
            copies: true,
            seed: 1,
            json: false,
        }
    }

    #[test]
    fn folds_share_nobody_and_kinds_share_their_ages() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.txt");
        let mut text = String::new();
        for person in 0..48 {
            for age in [5, 22, 41, 63] {
                text += &format!("{person} {person}_{age}.jpg {age} {}\n", person % 2);
            }
        }
        std::fs::write(&list, text).unwrap();
        let out = dir.path().join("pairs.txt");
        asked(&list, &out).run().unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        // A person and an age.
        type Side = (u32, i32);
        let parse = |name: &str| -> Side {
            let (person, age) = name.trim_end_matches(".jpg").split_once('_').unwrap();
            (person.parse().unwrap(), age.parse().unwrap())
        };
        let pairs: Vec<(Side, Side, bool)> = text
            .lines()
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                (parse(fields[0]), parse(fields[1]), fields[2] == "1")
            })
            .collect();
        assert_eq!(pairs.len(), 80);
        let mut fold_of = HashMap::new();
        let (mut gaps, mut same) = ([0, 0], 0);
        for (n, (a, b, is_same)) in pairs.iter().enumerate() {
            assert_eq!(*is_same, a.0 == b.0);
            assert_eq!(a.0 % 2, b.0 % 2, "two people are of one sex");
            assert!((a.1 - b.1).abs() >= 15);
            same += usize::from(*is_same);
            gaps[usize::from(*is_same)] += (a.1 - b.1).abs();
            for person in [a.0, b.0] {
                assert_eq!(*fold_of.entry(person).or_insert(n / 20), n / 20, "{person} is in two folds");
            }
        }
        assert_eq!((same, gaps[0]), (40, gaps[1]), "the gaps of both kinds are the same");
        let before = text;
        asked(&list, &out).run().unwrap();
        assert_eq!(before, std::fs::read_to_string(&out).unwrap());
        let error = DrawPairs { gap: 80.0, ..asked(&list, &out) }.run().unwrap_err();
        assert!(error.to_string().contains("no pair of one person"), "{error}");
    }
}
