//! The forms in which lists of pairs are published.
//!
//! | form | lines | folds |
//! |---|---|---|
//! | plain | `a b 1` (one person), `a b -1` or `a b 0` | as they stand |
//! | LFW, RFW | `name i j` and `name i other j`, for `name/name_0001.jpg`; LFW's first line is `folds number` or `number` | as they stand |
//! | CALFW, CPLFW | two lines a pair, `file k`: k from 1 is the fold of a pair of one person, 0 is of two | pairs of two people are dealt out in order, equally many to each fold |
//! | AgeDB | a file of MATLAB, `splits`: of each fold the names and ages of pairs, and labels of 1 and -1 | as they stand |

use crate::list;
use mtl_component::files::read_text;
use mtl_component::{Result, mistake};
use mtl_standard::mat::{self, Mat};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// A pair as a list writes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// One picture.
    pub a: String,
    /// The other.
    pub b: String,
    /// Whether they show the same person.
    pub same: bool,
    /// The line, from 1.
    pub line: usize,
    /// The names of the people, where the form tells them.
    pub people: Option<[String; 2]>,
    /// Their ages in years, where the form tells them.
    pub ages: Option<[f32; 2]>,
}

/// A fault, and the line where it is, if it is in one.
pub type Fault = (Option<usize>, String);

/// The pairs of a file, in the order of their folds, and what is wrong with it.
///
/// # Errors
/// A mistake if it cannot be read at all.
pub fn read(path: &Path) -> Result<(Vec<Entry>, Vec<Fault>)> {
    let mut start = [0; 8];
    // Opening a pipe would wait for somebody to write into it.
    let is_mat = path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && mat::is_mat(&start);
    if is_mat {
        let variables = mat::read(path)?;
        return match variables.get("splits").map(agedb) {
            Some(Some(entries)) => Ok((entries, Vec::new())),
            _ => mistake!(
                "{} is a file of MATLAB, and not AgeDB's protocol: expected `splits`, cells of names and ages with labels \
                 of 1 and -1, found {}",
                path.display(),
                variables.keys().map(|name| format!("`{}`", name.escape_debug())).collect::<Vec<_>>().join(", ")
            ),
        };
    }
    match read_text(path, list::MAX_BYTES) {
        Ok(text) => Ok(parse(&text)),
        Err(e) => mistake!("cannot read the pairs {}: {e}", path.display()),
    }
}

/// The pairs of a file of which nothing is wrong.
///
/// # Errors
/// A mistake that names the faulty lines, or says that there is no pair.
pub fn entries(path: &Path) -> Result<Vec<Entry>> {
    let (entries, faults) = read(path)?;
    let place =
        |line: Option<usize>| line.map_or(path.display().to_string(), |line| format!("{}:{line}", path.display()));
    let faults = faults.into_iter().map(|(line, text)| format!("{}: {text}", place(line))).collect();
    list::report(faults, &format!("the pairs {} cannot be used", path.display()))?;
    if entries.is_empty() {
        mistake!("the pairs {} are empty: expected lines of `a b 1` or `a b -1`", path.display());
    }
    Ok(entries)
}

/// The pairs of AgeDB's protocol. The person is what stands before the first `_` of a name.
fn agedb(splits: &Mat) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for split in splits.cells()? {
        let Mat::Structures(fields) = split else { return None };
        let mut parts = fields.values().map(|values| values.first());
        let (pictures, labels) = (parts.next()??.cells()?, parts.next()??.numbers()?);
        if pictures.len() != 2 * labels.len() {
            return None;
        }
        for (pair, label) in pictures.chunks_exact(2).zip(labels) {
            let picture = |of: &Mat| -> Option<(String, f32)> {
                Some((of.field("name")?.text()?.to_owned(), *of.field("age")?.numbers()?.first()? as f32))
            };
            let (a, b) = (picture(&pair[0])?, picture(&pair[1])?);
            let person = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
            let file = |name: String| if name.contains('.') { name } else { format!("{name}.jpg") };
            entries.push(Entry {
                people: Some([person(&a.0), person(&b.0)]),
                ages: Some([a.1, b.1]),
                a: file(a.0),
                b: file(b.0),
                same: *label == 1.0,
                line: entries.len() + 1,
            });
        }
    }
    (!entries.is_empty()).then_some(entries)
}

/// The form that the lines of a list are of.
pub fn form(text: &str) -> &'static str {
    match shape(text) {
        Shape::Lfw(..) => "LFW or RFW",
        Shape::Calfw(_) => "CALFW or CPLFW",
        Shape::Plain(_) => "`a b 1`",
    }
}

/// The lines of a list by their form.
enum Shape<'t> {
    /// The numbers of the first line, if it has some, and the others.
    Lfw(Option<Vec<&'t str>>, Vec<(usize, Vec<&'t str>)>),
    Calfw(Vec<(usize, Vec<&'t str>)>),
    Plain(Vec<(usize, &'t str)>),
}

fn shape(text: &str) -> Shape<'_> {
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| counts(line)).collect();
    let mut rows: Vec<(usize, Vec<&str>)> =
        lines.iter().map(|(n, line)| (*n, line.split_whitespace().collect())).collect();
    let header = rows.first().is_some_and(|(_, row)| row.len() <= 2 && row.iter().all(|field| is_number(field)));
    let body = if header { &rows[1..] } else { &rows[..] };
    if !body.is_empty() && body.iter().take(20).all(|(_, row)| of_lfw(row).is_some()) {
        let header = header.then(|| rows.remove(0).1);
        return Shape::Lfw(header, rows);
    }
    if rows.len() > 1 && rows.iter().take(20).all(|(_, row)| of_calfw(row).is_some()) {
        return Shape::Calfw(rows);
    }
    Shape::Plain(lines)
}

/// The pairs of a list, in the order of their folds, and what is wrong with it.
pub fn parse(text: &str) -> (Vec<Entry>, Vec<Fault>) {
    match shape(text) {
        Shape::Lfw(header, rows) => lfw(header.as_deref(), &rows),
        Shape::Calfw(rows) => calfw(&rows),
        Shape::Plain(lines) => plain(&lines),
    }
}

fn counts(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

fn is_number(field: &str) -> bool {
    field.parse::<u32>().is_ok()
}

fn plain(lines: &[(usize, &str)]) -> (Vec<Entry>, Vec<Fault>) {
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in lines {
        let mut fault = |text: String| faults.push((Some(*number), text));
        let found = line.split_whitespace().count();
        let Some([a, b, same]) = list::fields(line, 1).and_then(|fields| <[&str; 3]>::try_from(fields).ok()) else {
            let hint = if line.contains(',') { ": they are separated by tabs or blanks, not by commas" } else { "" };
            fault(format!("expected `a b 1` or `a b -1`, found {found} fields{hint}"));
            continue;
        };
        let same = match same {
            "1" => true,
            "-1" | "0" => false,
            other => {
                fault(format!("expected 1 (same) or -1 (different), found {other:?}"));
                continue;
            }
        };
        if !line.contains('\t') && b.contains(char::is_whitespace) {
            fault(format!(
                "expected `a b 1` or `a b -1`, found {found} fields: where names hold blanks, separate by tabs"
            ));
            continue;
        }
        entries.push(Entry { a: a.to_owned(), b: b.to_owned(), same, line: *number, people: None, ages: None });
    }
    (entries, faults)
}

/// The two people and the numbers of their pictures.
fn of_lfw<'r>(row: &[&'r str]) -> Option<[(&'r str, u32); 2]> {
    let named = |name: &'r str, number: &str| Some((name, number.parse().ok()?)).filter(|_| !is_number(name));
    match row {
        [name, a, b] => Some([named(name, a)?, named(name, b)?]),
        [one, a, other, b] => Some([named(one, a)?, named(other, b)?]),
        _ => None,
    }
}

fn lfw(header: Option<&[&str]>, rows: &[(usize, Vec<&str>)]) -> (Vec<Entry>, Vec<Fault>) {
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for (line, row) in rows {
        let Some([one, other]) = of_lfw(row) else {
            faults.push((
                Some(*line),
                "expected `name number number` or `name number name number`, as in LFW's pairs.txt".into(),
            ));
            continue;
        };
        let file = |(name, number): (&str, u32)| format!("{name}/{name}_{number:04}.jpg");
        let people = Some([one.0.to_owned(), other.0.to_owned()]);
        entries.push(Entry { a: file(one), b: file(other), same: row.len() == 3, line: *line, people, ages: None });
    }
    // `10 300` are ten folds of 300 pairs of either kind; a number alone is that of one fold.
    let numbers: Vec<usize> = header.unwrap_or_default().iter().filter_map(|field| field.parse().ok()).collect();
    let expected = match numbers[..] {
        [folds, each] => Some(folds.saturating_mul(each).saturating_mul(2)),
        [each] => Some(each.saturating_mul(2)),
        _ => None,
    };
    if let Some(expected) = expected.filter(|expected| *expected != rows.len()) {
        faults.push((
            None,
            format!(
                "its first line promises {expected} pairs, and it has {}: it was cut, or lines were lost",
                rows.len()
            ),
        ));
    }
    (entries, faults)
}

/// The file and its token.
fn of_calfw<'r>(row: &[&'r str]) -> Option<(&'r str, usize)> {
    match row {
        [file, token] if file.contains('.') => Some((file, token.parse().ok()?)),
        _ => None,
    }
}

fn calfw(rows: &[(usize, Vec<&str>)]) -> (Vec<Entry>, Vec<Fault>) {
    let mut faults: Vec<Fault> = Vec::new();
    let mut found: Vec<(usize, Entry)> = Vec::new();
    for pair in rows.chunks(2) {
        let line = pair[0].0;
        let both: Option<Vec<(&str, usize)>> = pair.iter().map(|(_, row)| of_calfw(row)).collect();
        match both.as_deref() {
            Some([(a, token), (b, other)]) if token == other => {
                let entry =
                    Entry { a: (*a).to_owned(), b: (*b).to_owned(), same: *token > 0, line, people: None, ages: None };
                found.push((*token, entry));
            }
            _ => faults.push((
                Some(line),
                "expected two lines `file number` with the same number, as in CALFW's and CPLFW's lists".into(),
            )),
        }
    }
    let folds = found.iter().map(|(token, _)| *token).max().unwrap_or(0);
    let (same, different): (Vec<_>, Vec<_>) = found.into_iter().partition(|(token, _)| *token > 0);
    if folds == 0 || different.len() % folds.max(1) != 0 {
        faults.push((
            None,
            format!(
                "{} pairs of two people cannot be dealt out to {folds} folds, which the pairs of one person name",
                different.len()
            ),
        ));
        return (Vec::new(), faults);
    }
    let each = different.len() / folds;
    let mut entries = Vec::new();
    for fold in 1..=folds {
        entries.extend(same.iter().filter(|(token, _)| *token == fold).map(|(_, entry)| entry.clone()));
        entries.extend(different[(fold - 1) * each..fold * each].iter().map(|(_, entry)| entry.clone()));
    }
    (entries, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (Vec<String>, Vec<String>) {
        let (entries, faults) = parse(text);
        let entry = |e: &Entry| format!("{} {} {} at {}", e.a, e.b, u8::from(e.same), e.line);
        let fault = |(line, text): &Fault| format!("{line:?}: {text}");
        (entries.iter().map(entry).collect(), faults.iter().map(fault).collect())
    }

    #[test]
    fn lists_of_lfw_name_files_and_people() {
        let text = "1\t2\nAnn_Ames\t1\t12\nBob\t2\t3\nAnn_Ames\t1\tBob\t2\nBob\t3\tCy\t1\n";
        let (entries, faults) = shown(text);
        assert_eq!(entries[0], "Ann_Ames/Ann_Ames_0001.jpg Ann_Ames/Ann_Ames_0012.jpg 1 at 2");
        assert_eq!(entries[3], "Bob/Bob_0003.jpg Cy/Cy_0001.jpg 0 at 5");
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(parse(text).0[2].people, Some(["Ann_Ames".to_owned(), "Bob".to_owned()]));
        // RFW has no first line, and LFW's training view has the number of one fold.
        assert_eq!(shown(&text[4..]).1, Vec::<String>::new());
        assert_eq!(shown(&text.replace("1\t2\n", "2\n")).1, Vec::<String>::new());
        let (_, faults) = shown(&text.replace("1\t2\n", "1\t3\n"));
        assert!(faults[0].contains("promises 6 pairs, and it has 4"), "{faults:?}");
    }

    #[test]
    fn the_protocol_of_agedb_tells_people_and_ages() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/mat/agedb_protocol.mat");
        let (entries, faults) = read(Path::new(path)).unwrap();
        let ages: Vec<[f32; 2]> = entries.iter().filter_map(|entry| entry.ages).collect();
        assert_eq!(ages, [[35.0, 5.0], [60.0, 30.0], [20.0, 50.0], [20.0, 50.0]]);
        assert_eq!(entries.iter().map(|entry| entry.same).collect::<Vec<_>>(), [true, false, true, false]);
        assert_eq!((entries[0].a.as_str(), faults.len()), ("AdaMarlow_1_35_f_x.jpg", 0));
        assert_eq!(entries[0].people.as_ref().unwrap()[0], "AdaMarlow");
        let other = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/mat/cacd_v5.mat");
        assert!(read(Path::new(other)).unwrap_err().to_string().contains("found `celebrityImageData`"));
    }

    #[test]
    fn lists_of_calfw_are_put_in_the_order_of_folds() {
        // As published: all pairs of one person with their folds, then all of two people.
        let same = [1, 2].map(|fold| format!("s{fold}_1.jpg {fold}\ns{fold}_2.jpg {fold}\n")).concat();
        let different = (1..=4).map(|n| format!("d{n}_1.jpg 0\nd{n}_2.jpg 0\n")).collect::<String>();
        let (entries, faults) = shown(&(same.clone() + &different));
        let first: Vec<&str> = entries.iter().map(|entry| entry.split('_').next().unwrap()).collect();
        assert_eq!((first, faults), (vec!["s1", "d1", "d2", "s2", "d3", "d4"], vec![]));
        let (_, faults) = shown(&(same + &different[..different.len() / 4]));
        assert!(faults[0].contains("1 pairs of two people cannot be dealt out to 2 folds"), "{faults:?}");
        let (_, faults) = shown("a.jpg 1\nb.jpg 2\n");
        assert!(faults[0].contains("two lines `file number` with the same number"), "{faults:?}");
    }
}
