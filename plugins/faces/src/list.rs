//! The SCAF and LCAF list: a picture on each line, `id filename age gender`, separated by spaces or tabs.
//!
//! The identity is a number or a name, the file is relative to a root folder, the age is in years, the gender is
//! 1 for male and 0 for female. What is not known is `-`. A file name may hold blanks: the identity is
//! the first field, the age and the gender are the last two, and the file is what stands between.

use crate::label::Label;
use mtl_component::files::{read_bounded, read_text};
use mtl_component::{ErrorContext as _, Result, mistake};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Oldest age that a list may hold.
pub const MAX_AGE: f32 = 120.0;
/// The largest list that is read.
pub const MAX_BYTES: u64 = 4 << 30;
/// What stands in the place of an identity, an age or a gender that is not known.
pub const UNKNOWN: &str = "-";
/// How many faulty lines an error shows.
const SHOWN: usize = 10;

/// A picture of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    /// The identity as written.
    pub identity: String,
    /// The picture.
    pub file: PathBuf,
    /// Age in years, if known.
    pub age: Option<f32>,
    /// 1 male, 0 female, -1 not known.
    pub gender: i64,
    /// The line, from 1.
    pub line: usize,
}

/// Reads a list; blank lines and lines that start with `#` do not count.
///
/// # Errors
/// A mistake that shows every faulty line, up to ten of them.
pub fn read(path: &Path, root: &Path) -> Result<Vec<Face>> {
    let text = match read_text(path, MAX_BYTES) {
        Ok(text) => text,
        Err(e) => mistake!(
            "cannot read the list {}: {e}. Name yours as `list`, such as by --set data.faces.list=PATH",
            path.display()
        ),
    };
    let mut faces = Vec::new();
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse(line, root, number + 1) {
            Ok(face) => faces.push(face),
            Err(reason) => faults.push(format!("{}:{}: {reason}", path.display(), number + 1)),
        }
    }
    report(faults, &format!("the list {} has faulty lines", path.display()))?;
    if faces.is_empty() {
        mistake!("the list {} holds no picture: expected lines of `id filename age gender`", path.display());
    }
    Ok(faces)
}

/// Turns faults into one mistake that shows the first of them.
pub fn report(mut faults: Vec<String>, what: &str) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let more = faults.len().saturating_sub(SHOWN);
    faults.truncate(SHOWN);
    let rest = if more > 0 { format!("\n… and {more} more") } else { String::new() };
    mistake!("{what}:\n{}{rest}", faults.join("\n"))
}

/// The faults of pictures whose file is not there.
pub fn missing(faces: &[Face], list: &Path) -> Vec<String> {
    faces
        .iter()
        .filter(|f| !f.file.is_file())
        .map(|f| format!("{}:{}: there is no file {}", list.display(), f.line, f.file.display()))
        .collect()
}

/// A picture and what is said of it.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The source that says it: the place of its list among several.
    pub source: usize,
    /// The picture.
    pub file: &'a Path,
    /// The identity as written.
    pub identity: &'a str,
    /// What is known, with the number of the identity.
    pub label: Label,
}

/// Looks for what contradicts itself in what is said of pictures, of each of which `place` gives the line. Of several
/// sources only that is told in which they contradict each other.
///
/// # Errors
/// A mistake if one file is of two people. Other contradictions are warned of: one file with two ages or genders, and one
/// person of two genders.
pub fn contradictions<'a>(
    said: impl Iterator<Item = Said<'a>>,
    place: &dyn Fn(usize) -> Result<String>,
    several: bool,
) -> Result<()> {
    let mut first_of: HashMap<PathBuf, (usize, Said<'a>)> = HashMap::new();
    let mut gender_of: HashMap<i64, (usize, Said<'a>)> = HashMap::new();
    let (mut people, mut labels, mut genders) = (Vec::new(), Vec::new(), Vec::new());
    for (i, here) in said.enumerate() {
        let counts = |before: &Said<'_>| !several || before.source != here.source;
        let (first, before) = *first_of.entry(tidy(here.file)).or_insert((i, here));
        let shown = here.file.display();
        if counts(&before) && before.label.identity != here.label.identity {
            people.push(format!(
                "{}: {shown} is of `{}` here and of `{}` at {}",
                place(i)?,
                here.identity,
                before.identity,
                place(first)?
            ));
        } else if counts(&before) && (before.label.age, before.label.gender) != (here.label.age, here.label.gender) {
            labels.push(format!(
                "{shown} with {} at {} and with {} at {}",
                known_text(&before.label),
                place(first)?,
                known_text(&here.label),
                place(i)?
            ));
        }
        if here.label.gender >= 0 && here.label.identity >= 0 {
            let (known, before) = *gender_of.entry(here.label.identity).or_insert((i, here));
            if counts(&before) && before.label.gender != here.label.gender {
                genders.push(format!(
                    "the person `{}` with gender {} at {} and {} at {}",
                    here.identity,
                    before.label.gender,
                    place(known)?,
                    here.label.gender,
                    place(i)?
                ));
            }
        }
    }
    report(people, "one picture is of two people")?;
    warn(&labels, "a file is listed again with another age or gender, and both lines are used as they are");
    warn(&genders, "a person has two genders, and the labels are used as they are");
    Ok(())
}

fn warn(found: &[String], what: &str) {
    if let Some(first) = found.first() {
        let times = if found.len() > 1 { format!(" ({} lines)", found.len()) } else { String::new() };
        tracing::warn!("{what}{times}: {first}");
    }
}

/// Age and gender in words.
fn known_text(label: &Label) -> String {
    let age = label.age.map_or("no age".to_owned(), |age| format!("age {age}"));
    if label.gender < 0 { format!("{age}, no gender") } else { format!("{age}, gender {}", label.gender) }
}

/// Warns of numbers of people that are written in several ways.
pub fn warn_of_zeros(faces: &[Face]) {
    warn(&unlike_zeros(faces), "ids that differ in leading zeros alone count as different people");
}

fn unlike_zeros(faces: &[Face]) -> Vec<String> {
    let mut written: HashMap<i128, &str> = HashMap::new();
    let mut found = Vec::new();
    for face in faces {
        let Ok(number) = face.identity.parse() else { continue };
        let first = *written.entry(number).or_insert(&face.identity);
        if first != face.identity {
            found.push(format!("`{first}` and `{}`", face.identity));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// A path without `.` and `..`, as far as its text tells.
pub fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// How many pictures, of how many people, and of how many the age and the gender are known, in words.
pub fn summary(labels: &[Label], people: usize) -> String {
    let known = |of: &dyn Fn(&Label) -> bool| match labels.iter().filter(|label| of(label)).count() {
        0 => "none".to_owned(),
        all if all == labels.len() => "all".to_owned(),
        some => some.to_string(),
    };
    format!(
        "{} pictures of {people} people; age known of {}, gender of {}",
        labels.len(),
        known(&|label| label.age.is_some()),
        known(&|label| label.gender >= 0)
    )
}

/// The fields of a line. Tabs separate where a line has three of them; else blanks do, the first field from the left and
/// `last` ones from the right, so that the one between may hold blanks.
pub fn fields(line: &str, last: usize) -> Option<Vec<&str>> {
    let tabs: Vec<&str> = line.split('\t').map(str::trim).collect();
    if tabs.len() == last + 2 && tabs.iter().all(|field| !field.is_empty()) {
        return Some(tabs.into_iter().map(unquoted).collect());
    }
    let (first, rest) = line.trim().split_once(char::is_whitespace)?;
    let mut right = Vec::new();
    let mut rest = rest.trim();
    for _ in 0..last {
        let (before, field) = rest.rsplit_once(char::is_whitespace)?;
        right.push(field);
        rest = before.trim_end();
    }
    Some([first, unquoted(rest)].into_iter().chain(right.into_iter().rev()).collect())
}

/// Whether a line has the form of an annotated list.
pub fn is_annotated(line: &str) -> bool {
    fields(line, 2).is_some_and(|fields| {
        let known = |text: &str| text == "-" || text.parse::<f32>().is_ok();
        fields.len() == 4 && known(fields[2]) && known(fields[3])
    })
}

/// A name without the quotes around it.
fn unquoted(name: &str) -> &str {
    name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name)
}

fn parse(line: &str, root: &Path, number: usize) -> Result<Face, String> {
    let Some([identity, file, age, gender]) = fields(line, 2).and_then(|found| <[&str; 4]>::try_from(found).ok())
    else {
        let count = line.split_whitespace().count();
        let hint = if line.contains(',') { ": they are separated by tabs or blanks, not by commas" } else { "" };
        return Err(format!("expected 4 fields `id filename age gender`, found {count}: {:?}{hint}", start(line)));
    };
    let (age, gender) = (self::age(age)?, self::gender(gender)?);
    Ok(Face { identity: identity.to_owned(), file: root.join(file), age, gender, line: number })
}

/// An age in years as a list has it, or `-`.
///
/// # Errors
/// What was expected and found.
pub(crate) fn age(text: &str) -> Result<Option<f32>, String> {
    if text == UNKNOWN {
        return Ok(None);
    }
    let Ok(age) = text.parse::<f32>() else {
        return Err(format!("expected an age in years or `-`, found {:?}{}", start(text), unknown(text)));
    };
    if !(0.0..=MAX_AGE).contains(&age) {
        return Err(format!("expected an age from 0 to {MAX_AGE}, found {text}{}", unknown(text)));
    }
    Ok(Some(age))
}

/// A gender as a list has it, or `-`, which is -1.
///
/// # Errors
/// What was expected and found.
pub(crate) fn gender(text: &str) -> Result<i64, String> {
    match text {
        "0" => Ok(0),
        "1" => Ok(1),
        UNKNOWN => Ok(-1),
        other => {
            let meant = match other.to_lowercase().as_str() {
                "m" | "male" | "f" | "female" => ": write 1 for male and 0 for female".to_owned(),
                _ => unknown(other),
            };
            Err(format!("expected a gender 1 (male), 0 (female) or `-`, found {:?}{meant}", start(other)))
        }
    }
}

/// What is said of the ways in which other lists write that something is not known.
fn unknown(text: &str) -> String {
    const WAYS: [&str; 8] = ["none", "nan", "na", "n/a", "null", "?", "unknown", "x"];
    let negative = text.parse::<f32>().is_ok_and(|number| number < 0.0);
    if negative || WAYS.contains(&text.to_lowercase().as_str()) {
        ": where it is not known, write `-`".to_owned()
    } else {
        String::new()
    }
}

/// As much of a faulty text as a message shows.
fn start(text: &str) -> String {
    const MOST: usize = 100;
    let cut: String = text.chars().take(MOST).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

/// The identities in the order of their labels: numbers by value if all are numbers, else names by letter.
pub fn identities<'f>(faces: impl IntoIterator<Item = &'f Face>) -> Vec<String> {
    ordered(faces.into_iter().map(|face| face.identity.as_str()).filter(|name| *name != UNKNOWN).collect())
}

fn ordered(mut names: Vec<&str>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    let numbers: Option<Vec<i128>> = names.iter().map(|n| n.parse().ok()).collect();
    if let Some(numbers) = numbers {
        let mut pairs: Vec<(i128, &str)> = numbers.into_iter().zip(names).collect();
        pairs.sort_unstable();
        return pairs.into_iter().map(|(_, n)| n.to_owned()).collect();
    }
    names.into_iter().map(str::to_owned).collect()
}

/// The identities, and what is known of each picture with its identity's number, -1 where it is not known.
pub fn labels(faces: &[Face]) -> (Vec<String>, Vec<Label>) {
    let people = identities(faces);
    let numbers: HashMap<&str, i64> = people.iter().map(String::as_str).zip(0..).collect();
    let number = |face: &Face| numbers.get(face.identity.as_str()).copied().unwrap_or(-1);
    let label = |face: &Face| Label { identity: number(face), age: face.age, gender: face.gender };
    let labels = faces.iter().map(label).collect();
    (people, labels)
}

/// The people of several sources together, and the numbers that those of each have among them. Either a name means the
/// same person in all of them, or each has people of its own; then those of the second source and the later ones have its
/// number, from 1, before their names.
pub fn together(sources: &[&[String]], shared: bool) -> (Vec<String>, Vec<Vec<i64>>) {
    if shared {
        let names = ordered(sources.iter().flat_map(|people| people.iter().map(String::as_str)).collect());
        let numbers: HashMap<&str, i64> = names.iter().map(String::as_str).zip(0..).collect();
        let of = |people: &&[String]| people.iter().map(|name| numbers[name.as_str()]).collect();
        let all = sources.iter().map(of).collect();
        return (names, all);
    }
    let (mut names, mut all) = (Vec::new(), Vec::new());
    for (source, people) in sources.iter().enumerate() {
        let first = names.len() as i64;
        all.push((first..first + people.len() as i64).collect());
        let own = |name: &String| if source == 0 { name.clone() } else { format!("{source}:{name}") };
        names.extend(people.iter().map(own));
    }
    (names, all)
}

/// A line of a list, with its end. Tabs separate, so that names may hold blanks.
pub fn line(person: &str, file: &str, label: &Label) -> String {
    let age = label.age.map_or(UNKNOWN.to_owned(), |age| age.to_string());
    let gender = if label.gender < 0 { UNKNOWN.to_owned() } else { label.gender.to_string() };
    format!("{person}\t{file}\t{age}\t{gender}\n")
}

/// The folder that the names in a list start from: the one given, or that of the list.
pub fn root(list: &Path, given: Option<&Path>) -> PathBuf {
    given.or(list.parent()).map(Path::to_path_buf).unwrap_or_default()
}

/// A text that changes when the list changes.
pub fn fingerprint(paths: &[&Path]) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(read_bounded(path, MAX_BYTES).with_context(|| format!("reading {}", path.display()))?);
    }
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<Face>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        std::fs::write(&path, text).unwrap();
        read(&path, Path::new("/pictures"))
    }

    #[test]
    fn a_line_is_identity_file_age_and_gender() {
        let faces = list("\u{feff}# comment\n7 a/b.jpg 23.5 1\n\n\u{feff}9 c.jpg - -\n").unwrap();
        assert_eq!(faces[0].file, Path::new("/pictures/a/b.jpg"));
        assert_eq!((faces[0].age, faces[0].gender, faces[0].line), (Some(23.5), 1, 2));
        assert_eq!((faces[1].age, faces[1].gender, faces[1].line), (None, -1, 4));
    }

    #[test]
    fn every_faulty_line_is_named() {
        let error = list("1 a.jpg 20\n2 b.jpg 130 1\n3 c.jpg x 1\n4 d.jpg 20 m\n5 e.jpg 20 1\n").unwrap_err();
        let text = error.to_string();
        for part in ["list.txt:1: expected 4 fields", "list.txt:2: expected an age from 0 to 120", ":3:", ":4:"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains(":5:"), "{text}");
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn file_names_may_hold_blanks() {
        for line in ["7 a b/c d.jpg 23 1", "7\ta b/c d.jpg\t23\t1", "7 \"a b/c d.jpg\" 23 1", "7 \t a b/c d.jpg 23\t1"]
        {
            let face = &list(line).unwrap()[0];
            assert_eq!(
                (face.identity.as_str(), face.file.as_path()),
                ("7", Path::new("/pictures/a b/c d.jpg")),
                "{line}"
            );
            assert_eq!((face.age, face.gender), (Some(23.0), 1));
        }
    }

    #[test]
    fn other_ways_to_write_what_is_not_known_are_told() {
        for line in ["1 a.jpg -1 1", "1 a.jpg 30 -1", "1 a.jpg None 1", "1 a.jpg nan 1", "1 a.jpg 30 unknown"] {
            let text = list(line).unwrap_err().to_string();
            assert!(text.contains("where it is not known, write `-`"), "{text}");
        }
        let text = list("1 a.jpg 30 F").unwrap_err().to_string();
        assert!(text.contains("write 1 for male and 0 for female"), "{text}");
        let text = list("1,a.jpg,30,1").unwrap_err().to_string();
        assert!(text.contains("not by commas"), "{text}");
    }

    #[test]
    fn one_picture_is_of_one_person() {
        let check = |text: &str| {
            let faces = list(text).unwrap();
            let (_, labels) = labels(&faces);
            let said = faces.iter().zip(labels);
            let said = said.map(|(face, label)| Said { source: 0, file: &face.file, identity: &face.identity, label });
            contradictions(said, &|i| Ok(format!("line {}", faces[i].line)), false)
        };
        check("1 a.jpg 30 1\n1 a.jpg 31 1\n1 b.jpg 30 0\n").unwrap();
        let text = check("1 a.jpg 30 1\n2 x/../a.jpg 30 1\n").unwrap_err().to_string();
        assert!(text.contains("line 2") && text.contains("of `2` here and of `1` at line 1"), "{text}");
    }

    #[test]
    fn lists_have_people_of_their_own_unless_they_share_them() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (first, second) = (names(&["9", "10"]), names(&["9", "11"]));
        let people = |shared| together(&[&first, &second], shared);
        assert_eq!(people(true), (names(&["9", "10", "11"]), vec![vec![0, 1], vec![0, 2]]));
        assert_eq!(people(false), (names(&["9", "10", "1:9", "1:11"]), vec![vec![0, 1], vec![2, 3]]));
    }

    #[test]
    fn an_empty_list_is_a_mistake() {
        assert!(list("\n# nothing\n").unwrap_err().to_string().contains("holds no picture"));
    }

    #[test]
    fn numbers_keep_their_order_and_names_are_sorted() {
        let face = |id: &str| Face { identity: id.into(), file: "x".into(), age: None, gender: 0, line: 1 };
        assert_eq!(identities(&[face("10"), face("9"), face("10")]), ["9", "10"]);
        assert_eq!(identities(&[face("b"), face("10"), face("9")]), ["10", "9", "b"]);
    }
}
