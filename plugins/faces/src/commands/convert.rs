//! Published sets as lists that recipes name.

use super::render::Progress;
use crate::card::{Card, Step};
use crate::facts::Facts;
use crate::file_names::{NameForm, Told, age_at};
use crate::label::Label;
use crate::landmarks::{self, Landmarks, Nose};
use crate::list::{self, UNKNOWN};
use crate::lst::{self, Entry};
use crate::pair_forms;
use crate::picture_files::{self, folder_text};
use crate::source::Pictures;
use crate::sources;
use crate::table::Table;
use jiff::Span;
use jiff::civil::date;
use mtl_component::{ErrorContext as _, Result, mistake};
use mtl_recipe::files::write_atomically;
use mtl_standard::mat::{self, Mat};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Which set is converted, and where its list goes.
#[derive(Debug, clap::Args)]
pub struct Convert {
    /// The set
    #[arg(value_enum)]
    kind: Kind,
    /// Its folder, or the file that describes it
    source: PathBuf,
    /// The folder for list.txt, rejected.txt, and what else the set gives; without it that of the set
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The terms under which the set may be used, for its data card
    #[arg(long, value_name = "TEXT")]
    licence: Option<String>,
    /// IMDB-WIKI: take pictures without a clear single face as well
    #[arg(long)]
    all_faces: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// A published set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[clap(rename_all = "kebab-case")]
enum Kind {
    /// FG-NET: names such as 001A43a.JPG, points/*.pts
    Fgnet,
    /// MORPH, album 2: names such as 040198_0F49.JPG
    Morph,
    /// MORPH by its table: a csv with id_num, dob, gender, age and photo, and perhaps doa
    MorphCsv,
    /// CACD: names such as 14_Ben_Corvin_0001.jpg
    Cacd,
    /// CACD-VS: 4,000 pairs, names such as 0012_1.jpg
    CacdVs,
    /// AgeDB: names such as 0_AdaMarlow_35_f.jpg
    Agedb,
    /// UTKFace: names such as 26_1_3_20170117175041574.jpg; people are not known
    Utkface,
    /// IMDB of IMDB-WIKI: imdb.mat, or names such as nm0000001_rm124825600_1899-5-10_1968.jpg
    Imdb,
    /// WIKI of IMDB-WIKI: wiki.mat, or names such as 10000217_1981-05-05_2009.jpg
    Wiki,
    /// LFW: a folder of each person
    Lfw,
    /// ECAF: names such as Karl_Lindt_adult_001.png, image_pairs/*.txt
    Ecaf,
    /// A folder of each person, such as CASIA-WebFace
    Folders,
    /// A list of insightface or mxnet (.lst), or CVLface's train.tsv
    Lst,
}

impl Kind {
    /// The form of its file names, if they tell what is known.
    fn form(self) -> Option<NameForm> {
        Some(match self {
            Self::Fgnet => NameForm::Fgnet,
            Self::Morph => NameForm::Morph,
            Self::Cacd => NameForm::Cacd,
            Self::CacdVs => NameForm::CacdVs,
            Self::Agedb => NameForm::Agedb,
            Self::Utkface => NameForm::Utkface,
            Self::Imdb | Self::Wiki => NameForm::ImdbWiki,
            Self::Lfw => NameForm::Lfw,
            Self::Ecaf => NameForm::Ecaf,
            Self::MorphCsv | Self::Folders | Self::Lst => return None,
        })
    }

    /// Its name in papers, and how its ages are known.
    fn about(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Fgnet => ("FG-NET", Some("dates on photographs, in the file names")),
            Self::Morph | Self::MorphCsv => ("MORPH, album 2", Some("dates of birth and of the picture")),
            Self::Cacd => ("CACD", Some("years of birth and of the search: weak labels")),
            Self::CacdVs => ("CACD-VS", None),
            Self::Agedb => ("AgeDB", Some("the accurate year of the picture, by hand")),
            Self::Utkface => ("UTKFace", Some("an estimator, double checked by annotators")),
            Self::Imdb => ("IMDB (IMDB-WIKI)", Some("dates of birth and years of pictures: weak labels")),
            Self::Wiki => ("WIKI (IMDB-WIKI)", Some("dates of birth and years of pictures: weak labels")),
            Self::Lfw => ("LFW", None),
            Self::Ecaf => ("ECAF", None),
            Self::Folders => ("A folder of people", None),
            Self::Lst => ("A list of insightface", None),
        }
    }
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    person: String,
    file: String,
    age: Option<f32>,
    sex: Option<i64>,
}

/// What a set gives.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    /// Names that are in pairs and not in the list.
    in_pairs: usize,
    /// Names that are left out, with the reason.
    rejected: Vec<(String, String)>,
    /// Files of pairs, by name.
    pairs: BTreeMap<String, String>,
    /// Points, by the file of the picture.
    landmarks: Vec<(String, crate::alignment::Points)>,
    /// What is told, and kept in the card.
    notes: Vec<(String, String)>,
}

impl Found {
    fn reject(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.rejected.push((name.into(), reason.into()));
    }
}

impl Convert {
    /// Writes `list.txt`, and `pairs.txt` and `landmarks.csv` where the set gives them; `rejected.txt` has a line for each name
    /// that does not fit. Returns what was made.
    ///
    /// # Errors
    /// A mistake if the set cannot be read, or no name fits.
    pub fn run(&self, progress: Progress<'_>) -> Result<String> {
        let mut found = match self.kind {
            Kind::MorphCsv => self.morph_csv()?,
            Kind::Folders => self.folders()?,
            Kind::Lst => self.lst()?,
            Kind::Imdb | Kind::Wiki if self.mat().is_some() => self.imdb_wiki()?,
            _ => self.by_names(progress)?,
        };
        let all = found.rows.len() + found.rejected.len() + found.in_pairs;
        checked(&mut found);
        if found.rows.is_empty() && found.pairs.is_empty() {
            let (first, reason) = found.rejected.first().cloned().unwrap_or_default();
            mistake!("none of {all} names in {} fits: the first, {first:?}, {reason}", self.source.display());
        }
        self.write(&found, all)
    }

    /// The folder of the pictures.
    fn root(&self) -> &Path {
        if self.source.is_dir() { &self.source } else { self.source.parent().unwrap_or(Path::new("")) }
    }

    fn by_names(&self, progress: Progress<'_>) -> Result<Found> {
        let Some(form) = self.kind.form() else { return Ok(Found::default()) };
        let files = picture_files::files(std::slice::from_ref(&self.source))?;
        let mut found = Found::default();
        let mut odd = 0;
        let mut pairs: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
        let count = files.len() as u64;
        for (i, file) in files.iter().enumerate() {
            progress(i as u64 + 1, count);
            let path = file.strip_prefix(self.root()).unwrap_or(file);
            let Some((path, name)) = path.to_str().zip(file.file_name().and_then(|name| name.to_str())) else {
                found.reject(path.to_string_lossy(), "is no UTF-8");
                continue;
            };
            let Some(told) = form.read(name) else {
                found.reject(path, format!("is no name such as {}", form.example()));
                continue;
            };
            odd += usize::from(told.is_odd);
            let Told { person, age, sex, side, .. } = told;
            if let (Kind::CacdVs, Some(pair), Some(side)) = (self.kind, &person, side) {
                pairs.entry(pair.clone()).or_default()[side] = Some(path.to_owned());
            } else {
                let person = person.unwrap_or_else(|| UNKNOWN.to_owned());
                found.rows.push(Row { person, file: path.to_owned(), age, sex });
            }
        }
        if odd > 0 {
            found.notes.push(("names that lack a field, read all the same".into(), odd.to_string()));
        }
        match self.kind {
            Kind::CacdVs => cacd_vs(pairs, &mut found),
            Kind::Fgnet => self.points(&mut found)?,
            Kind::Ecaf => self.ecaf_pairs(&mut found)?,
            _ => {}
        }
        Ok(found)
    }

    /// FG-NET's points, in a folder beside that of the pictures.
    fn points(&self, found: &mut Found) -> Result<()> {
        let folder = [self.root().join("points"), self.root().join("../points")].into_iter().find(|path| path.is_dir());
        let Some(folder) = folder else { return Ok(()) };
        let landmarks = Landmarks::read(&folder, Nose::Tip)?;
        for row in &found.rows {
            if let Some(points) = landmarks.of(&row.file)? {
                found.landmarks.push((row.file.clone(), points));
            }
        }
        Ok(())
    }

    fn ecaf_pairs(&self, found: &mut Found) -> Result<()> {
        let folder = self.root().join("image_pairs");
        let Ok(entries) = folder.read_dir() else { return Ok(()) };
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
        files.sort();
        for file in files {
            let entries = pair_forms::entries(&file)?;
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            found.pairs.insert(format!("pairs_{name}"), text_of_pairs(entries.iter().map(|e| (&*e.a, &*e.b, e.same))));
        }
        Ok(())
    }

    fn folders(&self) -> Result<Found> {
        let pictures = Pictures::of(sources::folder::open(&self.source)?)?;
        let mut found = Found::default();
        for (i, label) in pictures.labels.iter().enumerate() {
            let file = pictures.source.pictures.name(i)?;
            match pictures.people.get(label.identity as usize) {
                Some(person) => found.rows.push(Row { person: person.clone(), file, age: None, sex: None }),
                None => found.reject(file, "lies in no folder of a person"),
            }
        }
        Ok(found)
    }

    fn lst(&self) -> Result<Found> {
        let mut found = Found::default();
        for (line, entry) in lst::read(&self.source)? {
            let Some(Entry { label, file, points }) = entry else {
                found.reject(
                    format!("line {line}"),
                    "is none of `aligned path label …` (insightface), `index label path` (mxnet) and `idx path label` (CVLface)",
                );
                continue;
            };
            found.landmarks.extend(points.map(|points| (file.clone(), points)));
            found.rows.push(Row { person: label.to_string(), file, age: None, sex: None });
        }
        Ok(found)
    }

    fn morph_csv(&self) -> Result<Found> {
        let mut table = Table::open(&self.source)?;
        let column = |name| table.column(name);
        let columns = [column("id_num")?, column("dob")?, column("gender")?, column("age")?, column("photo")?];
        let taken = table.find("doa");
        let mut found = Found::default();
        let mut rows: Vec<(usize, [String; 5], Option<String>)> = Vec::new();
        for (n, record) in table.reader.records().enumerate() {
            let place = format!("line {}", n + 2);
            match record {
                Ok(record) => {
                    let field = |at: usize| record.get(at).unwrap_or_default().to_owned();
                    rows.push((n + 2, columns.map(field), taken.map(field).filter(|date| !date.is_empty())));
                }
                Err(e) => found.reject(place, format!("cannot be read: {e}")),
            }
        }
        // Some people have several dates of birth: the commonest is kept.
        let mut births: HashMap<&str, BTreeMap<&str, usize>> = HashMap::new();
        for (_, [id, birth, ..], _) in &rows {
            *births.entry(id).or_default().entry(birth).or_default() += 1;
        }
        let commonest: HashMap<&str, &str> = births
            .iter()
            .filter_map(|(id, dates)| {
                Some((*id, *dates.iter().max_by_key(|(date, n)| (**n, std::cmp::Reverse(**date)))?.0))
            })
            .collect();
        // The first picture of a person on a day tells the age on that day.
        let mut on_day: HashMap<(&str, &str), f32> = HashMap::new();
        for (line, [id, birth, gender, age, photo], taken) in &rows {
            let name = if photo.is_empty() { format!("line {line}") } else { photo.clone() };
            let sex = match gender.as_str() {
                "M" | "m" => Some(1),
                "F" | "f" => Some(0),
                _ => None,
            };
            if commonest.get(id.as_str()) != Some(&birth.as_str()) {
                found.reject(
                    name,
                    format!("has the date of birth {birth}, and most rows of {id} have {}", commonest[id.as_str()]),
                );
            } else if photo.is_empty() || id.is_empty() {
                found.reject(name, "has no picture or no person");
            } else if let Ok(age) = age.parse::<f32>() {
                if let Some(day) = taken {
                    let first = *on_day.entry((id, day)).or_insert(age);
                    if first != age {
                        found.reject(name, format!("has the age {age}, and another picture of {day} the age {first}"));
                        continue;
                    }
                }
                found.rows.push(Row { person: id.clone(), file: photo.clone(), age: Some(age), sex });
            } else {
                found.reject(name, format!("has the age {age:?}"));
            }
        }
        Ok(found)
    }

    /// The file of MATLAB that describes IMDB or WIKI.
    fn mat(&self) -> Option<PathBuf> {
        let name = if self.kind == Kind::Imdb { "imdb.mat" } else { "wiki.mat" };
        let is_mat = self.source.extension().is_some_and(|ending| ending == "mat");
        let beside = [self.source.join(name), self.source.join("..").join(name)];
        let given = is_mat.then(|| self.source.clone());
        given.into_iter().chain(beside).find(|path| path.is_file())
    }

    fn imdb_wiki(&self) -> Result<Found> {
        let Some(path) = self.mat() else { return Ok(Found::default()) };
        let variables = mat::read(&path)?;
        let name = if self.kind == Kind::Imdb { "imdb" } else { "wiki" };
        let Some(table) = variables.get(name) else { mistake!("{} has no variable `{name}`", path.display()) };
        let numbers = |field: &str| match table.field(field).and_then(Mat::numbers) {
            Some(numbers) => Ok(numbers),
            None => mistake!("`{name}` in {} has no numbers `{field}`", path.display()),
        };
        let Some(files) = table.field("full_path").and_then(Mat::cells) else {
            mistake!("`{name}` in {} has no `full_path`", path.display())
        };
        let (born, taken, gender) = (numbers("dob")?, numbers("photo_taken")?, numbers("gender")?);
        let (score, second) = (numbers("face_score")?, numbers("second_face_score")?);
        if [born, taken, gender, score, second].iter().any(|column| column.len() != files.len()) {
            mistake!("the fields of `{name}` in {} are of different lengths", path.display());
        }
        let mut found = Found::default();
        for (i, file) in files.iter().enumerate() {
            let Some(file) = file.text() else {
                found.reject(format!("entry {}", i + 1), "has no path");
                continue;
            };
            let last = Path::new(file).file_name().and_then(|last| last.to_str()).unwrap_or(file);
            let person = last.split('_').next().unwrap_or(last).to_owned();
            let single = score[i].is_finite() && score[i] >= 1.0 && second[i].is_nan();
            if !single && !self.all_faces {
                found.reject(file, "shows no clear face, or several (--all-faces takes it)");
                continue;
            }
            // MATLAB counts days from year 0: 366 more than from the first of January of year 1.
            let days = born[i] - 366.0;
            let born = (1.0..4e6).contains(&days).then(|| Span::new().try_days(days as i64 - 1).ok()).flatten();
            let born = born.and_then(|days| date(1, 1, 1).checked_add(days).ok());
            let age = born.and_then(|born| age_at(born.year().into(), born.month().into(), taken[i] as f32));
            let Some(age) = age else {
                found.reject(
                    file,
                    format!("has a date of birth {} and a year {} that give no age", born_text(born), taken[i]),
                );
                continue;
            };
            if !(0.0..=100.0).contains(&age) {
                found.reject(file, format!("gives the age {age}, expected 0 to 100"));
                continue;
            }
            let sex = [0.0, 1.0].iter().position(|sex| *sex == gender[i]).map(|sex| sex as i64);
            found.rows.push(Row { person, file: file.to_owned(), age: Some(age), sex });
        }
        Ok(found)
    }

    fn write(&self, found: &Found, all: usize) -> Result<String> {
        let out = self.out.as_deref().unwrap_or_else(|| self.root());
        std::fs::create_dir_all(out).with_context(|| format!("making the folder {}", out.display()))?;
        let mut text = String::new();
        for Row { person, file, age, sex } in &found.rows {
            let label = Label { identity: 0, age: *age, gender: sex.unwrap_or(-1) };
            text.push_str(&list::line(person, file, &label));
        }
        let rejected: String =
            found.rejected.iter().map(|(name, reason)| format!("{}\t{reason}\n", name.escape_debug())).collect();
        for (name, pairs) in &found.pairs {
            write_atomically(&out.join(name), pairs.as_bytes())?;
        }
        if !found.landmarks.is_empty() {
            let mut table = csv::Writer::from_writer(Vec::new());
            table.write_record(landmarks::header(false))?;
            for (file, points) in &found.landmarks {
                table.write_record(landmarks::line(file, points, None))?;
            }
            write_atomically(&out.join("landmarks.csv"), &table.into_inner()?)?;
        }
        write_atomically(&out.join("rejected.txt"), rejected.as_bytes())?;
        if !found.rows.is_empty() {
            write_atomically(&out.join("list.txt"), text.as_bytes())?;
        }
        let (name, ages) = self.kind.about();
        let accepted = all - found.rejected.len();
        let mut step = Step::new(format!("mtlrun data convert {} {}", kind_name(self.kind), self.source.display()))
            .found("found", all)
            .found("accepted", accepted)
            .found("rejected", found.rejected.len());
        step = found.notes.iter().fold(step, |step, (name, value)| step.found(name, value));
        let step = if self.source.is_file() { step.read(&self.source)? } else { step };
        let facts = if found.rows.is_empty() {
            None
        } else {
            Some(Facts::of(&Pictures::of(sources::list::open(&out.join("list.txt"), Some(self.root()), None)?)?)?)
        };
        Card::grow(out, step, |card| {
            card.name.get_or_insert(name.to_owned());
            card.ages_known_by = card.ages_known_by.take().or(ages.map(str::to_owned));
            card.licence = self.licence.clone().or(card.licence.take());
            card.facts = facts.clone().or(card.facts.take());
        })?;
        let mut files: Vec<String> = found.pairs.keys().cloned().collect();
        files.extend((!found.landmarks.is_empty()).then(|| "landmarks.csv".to_owned()));
        files.insert(0, if found.rows.is_empty() { "rejected.txt" } else { "list.txt" }.to_owned());
        if self.json {
            return Ok(serde_json::to_string_pretty(&serde_json::json!({
                "set": name, "found": all, "accepted": accepted, "rejected": found.rejected.len(), "out": out,
                "root": self.root(), "files": files, "notes": found.notes.iter().cloned().collect::<BTreeMap<_, _>>(),
            }))?);
        }
        Ok(self.told(found, all, out, &files))
    }

    fn told(&self, found: &Found, all: usize, out: &Path, files: &[String]) -> String {
        const SHOWN: usize = 10;
        let mut text = format!(
            "{}: {all} found, {} accepted, {} rejected; {} in {}",
            self.kind.about().0,
            all - found.rejected.len(),
            found.rejected.len(),
            files.join(", "),
            folder_text(out)
        );
        for (name, value) in &found.notes {
            let _ = write!(text, "\n{name}: {value}");
        }
        for (name, reason) in found.rejected.iter().take(SHOWN) {
            let _ = write!(text, "\n  {} {reason}", name.escape_debug());
        }
        if found.rejected.len() > SHOWN {
            let _ = write!(text, "\n  … and {} more in rejected.txt", found.rejected.len() - SHOWN);
        }
        if !found.rows.is_empty() && out != self.root() {
            let _ = write!(
                text,
                "\nIts names are relative to {}: name that as `root` beside the list",
                folder_text(self.root())
            );
        }
        text
    }
}

fn kind_name(kind: Kind) -> String {
    use clap::ValueEnum as _;
    kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn born_text(born: Option<jiff::civil::Date>) -> String {
    born.map_or("that is none".to_owned(), |born| born.to_string())
}

/// The pairs of CACD-VS: ten folds of 400, of each the first 200 of one person.
fn cacd_vs(pairs: BTreeMap<String, [Option<String>; 2]>, found: &mut Found) {
    let mut both = Vec::new();
    for (number, sides) in pairs {
        let same = number.parse::<u32>().is_ok_and(|number| number % 400 < 200);
        match sides {
            [Some(a), Some(b)] => both.push((a, b, same)),
            [Some(one), None] | [None, Some(one)] => found.reject(one, "has no other side of its pair"),
            [None, None] => {}
        }
    }
    let text = text_of_pairs(both.iter().map(|(a, b, same)| (a.as_str(), b.as_str(), *same)));
    found.in_pairs = 2 * both.len();
    if !both.is_empty() {
        found.notes.push(("pairs".into(), both.len().to_string()));
        found.pairs.insert("pairs.txt".into(), text);
    }
}

/// Lines of `a b 1` and `a b -1`.
pub(super) fn text_of_pairs<'p>(pairs: impl Iterator<Item = (&'p str, &'p str, bool)>) -> String {
    pairs.map(|(a, b, same)| format!("{a}\t{b}\t{}\n", if same { 1 } else { -1 })).collect()
}

/// Sorts the rows, and rejects what no list may hold: ages beyond its range, and files that are named twice.
fn checked(found: &mut Found) {
    let mut rows = std::mem::take(&mut found.rows);
    let age = |row: &Row| row.age.unwrap_or(-1.0);
    rows.sort_by(|a, b| a.person.cmp(&b.person).then(age(a).total_cmp(&age(b))).then_with(|| a.file.cmp(&b.file)));
    let mut known: HashMap<PathBuf, usize> = HashMap::new();
    for row in rows {
        if row.age.is_some_and(|age| !(0.0..=list::MAX_AGE).contains(&age)) {
            let age = age(&row);
            found.reject(row.file, format!("has the age {age}, expected 0 to {}", list::MAX_AGE));
        } else if format!("{}{}", row.file, row.person).contains(['\t', '\n', '\r']) || row.person.starts_with('#') {
            found.reject(row.file, "has a tab or a line break in its name, or a person that begins with #");
        } else if known.insert(list::tidy(Path::new(&row.file)), found.rows.len()).is_some() {
            found.reject(row.file, "is named a second time");
        } else {
            found.rows.push(row);
        }
    }
    found.rejected.sort();
    found.landmarks.retain(|(file, _)| known.contains_key(&list::tidy(Path::new(file))));
    found.landmarks.sort_by(|a, b| a.0.cmp(&b.0));
}
