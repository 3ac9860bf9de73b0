//! Files that say where the eyes, the nose and the corners of the mouth are.
//!
//! | form | content |
//! |---|---|
//! | `landmarks.csv` | this project's: `file,x0,y0,…,x4,y4` with a header, and a score behind if there is one |
//! | `ldmk_5points.csv` | CVLface: `idx,ldmk_0,…,ldmk_9` |
//! | `…_name_5pts_score.txt` | IJB: `name x1 y1 … x5 y5 score` |
//! | `.lst` | insightface: `aligned path label x1 y1 x2 y2` and five x, five y |
//! | a folder | `NAME.pts` of 68 points (AgeDB, FG-NET), or `NAME_5loc_attri.txt` (CALFW, CPLFW) |

use crate::alignment::{Points, Similarity, TEMPLATE};
use mtl_component::files::read_text;
use mtl_component::{Result, mistake};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The largest file of landmarks that is read.
const MAX_BYTES: u64 = 1 << 30;
/// The largest file of one picture's landmarks.
const MAX_ONE: u64 = 1 << 16;

/// Which of the points along the nose is the nose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Nose {
    /// The tip
    #[default]
    Tip,
    /// The middle of its base
    Base,
}

/// The five points of pictures.
#[derive(Debug, Clone)]
pub enum Landmarks {
    /// By the names of the pictures, and by their last parts where these are of one picture alone.
    Table(HashMap<String, Points>),
    /// A file for each picture in a folder.
    Folder(PathBuf, Nose),
}

impl Landmarks {
    /// Reads a file of any form, or takes a folder.
    ///
    /// # Errors
    /// A mistake that names file and line.
    pub fn read(path: &Path, nose: Nose) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned(), nose));
        }
        let text = match read_text(path, MAX_BYTES) {
            Ok(text) => text,
            Err(e) => mistake!("cannot read the landmarks {}: {e}", path.display()),
        };
        let mut found = HashMap::new();
        let mut faults = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            let header = number == 0 && (line.starts_with("file,") || line.starts_with("idx,"));
            if line.trim().is_empty() || line.starts_with('#') || header {
                continue;
            }
            match row(line) {
                Some((name, points)) => drop(found.insert(name, points)),
                None => faults.push(format!(
                    "{}:{}: expected a name and five points, such as `file,x0,y0,…,x4,y4` or `name x1 y1 … x5 y5 score`",
                    path.display(),
                    number + 1
                )),
            }
        }
        crate::list::report(faults, &format!("the landmarks {} cannot be used", path.display()))?;
        if found.is_empty() {
            mistake!("the landmarks {} name no picture", path.display());
        }
        Ok(Self::Table(found))
    }

    /// The points of a picture, by its name; none if there are none.
    ///
    /// # Errors
    /// A mistake if its file cannot be read.
    pub fn of(&self, name: &str) -> Result<Option<Points>> {
        let path = Path::new(name);
        match self {
            Self::Table(table) => {
                let last = path.file_name().and_then(|last| last.to_str()).unwrap_or(name);
                let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
                // CVLface counts pictures, and its names are those numbers.
                let number = stem.trim_start_matches('0');
                let keys = [name, last, stem, if number.is_empty() { "0" } else { number }];
                Ok(keys.into_iter().find_map(|key| table.get(key)).copied())
            }
            Self::Folder(folder, nose) => {
                let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
                let lower = stem.replace('A', "a");
                let files = [format!("{stem}.pts"), format!("{lower}.pts"), format!("{stem}_5loc_attri.txt")];
                let Some(file) = files.iter().map(|file| folder.join(file)).find(|file| file.is_file()) else {
                    return Ok(None);
                };
                let text = match read_text(&file, MAX_ONE) {
                    Ok(text) => text,
                    Err(e) => mistake!("cannot read the landmarks {}: {e}", file.display()),
                };
                match points(&text, *nose) {
                    Ok(points) => Ok(Some(points)),
                    Err(reason) => mistake!("the landmarks {} cannot be used: {reason}", file.display()),
                }
            }
        }
    }
}

/// A line of a table: the name of the picture and its points.
fn row(line: &str) -> Option<(String, Points)> {
    let tabs: Vec<&str> = line.split('\t').collect();
    // insightface: five values of x, then five of y, behind a label and a box.
    if tabs.len() == 17 {
        let numbers: Vec<f64> = tabs[7..].iter().map(|text| number(text)).collect::<Option<_>>()?;
        return Some((tabs[1].to_owned(), std::array::from_fn(|i| [numbers[i], numbers[i + 5]])));
    }
    let fields: Vec<&str> =
        if line.contains(',') { line.split(',').collect() } else { line.split_whitespace().collect() };
    if !(11..=12).contains(&fields.len()) {
        return None;
    }
    let numbers: Vec<f64> = fields[1..11].iter().map(|text| number(text)).collect::<Option<_>>()?;
    Some((fields[0].trim().to_owned(), std::array::from_fn(|i| [numbers[2 * i], numbers[2 * i + 1]])))
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite() && number.abs() < 1e6)
}

/// The points of one picture: five lines `x y`, or a `.pts` of 68 points.
///
/// # Errors
/// What is wrong with them.
pub fn points(text: &str, nose: Nose) -> std::result::Result<Points, String> {
    let pair = |line: &str| -> Option<[f64; 2]> {
        let mut fields = line.split_whitespace().map(number);
        Some([fields.next()??, fields.next()??]).filter(|_| fields.next().is_none())
    };
    // The header of a .pts is words; a brace stands around the points.
    let found: Vec<[f64; 2]> = text.lines().filter_map(pair).collect();
    match found.len() {
        5 => Ok(std::array::from_fn(|i| found[i])),
        68 => Ok(five_of_68(&found, nose)),
        other => Err(format!("expected 5 or 68 points, found {other}")),
    }
}

/// Five of 68 points. Two markings are in use: that of iBUG (AgeDB) and that of FG-NET; the one whose points fit a face is
/// taken.
fn five_of_68(points: &[[f64; 2]], nose: Nose) -> Points {
    let middle = |a: usize, b: usize| [(points[a][0] + points[b][0]) / 2.0, (points[a][1] + points[b][1]) / 2.0];
    let ibug =
        [middle(36, 39), middle(42, 45), points[if nose == Nose::Tip { 30 } else { 33 }], points[48], points[54]];
    // The pupils, the tip of the nose or the middle of its base, and the corners of the mouth.
    let fgnet =
        [points[31], points[36], if nose == Nose::Tip { points[67] } else { points[41] }, points[48], points[54]];
    let sided = |points: Points| {
        let pair = |a: [f64; 2], b: [f64; 2]| if a[0] <= b[0] { [a, b] } else { [b, a] };
        let ([left, right], [from, to]) = (pair(points[0], points[1]), pair(points[3], points[4]));
        [left, right, points[2], from, to]
    };
    let left = |points: &Points| {
        Similarity::between(points, &TEMPLATE).map_or(f64::INFINITY, |found| found.residual(points, &TEMPLATE))
    };
    let (ibug, fgnet) = (sided(ibug), sided(fgnet));
    if left(&ibug) <= left(&fgnet) { ibug } else { fgnet }
}

/// A line of `landmarks.csv`.
pub fn line(name: &str, points: &Points, score: Option<f64>) -> Vec<String> {
    let numbers = points.iter().flatten().map(|v| format!("{v:.3}"));
    std::iter::once(name.to_owned()).chain(numbers).chain(score.map(|score| format!("{score:.4}"))).collect()
}

/// The header of `landmarks.csv`.
pub fn header(score: bool) -> Vec<String> {
    let names = (0..5).flat_map(|i| [format!("x{i}"), format!("y{i}")]);
    std::iter::once("file".to_owned()).chain(names).chain(score.then(|| "score".to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: Points = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.5]];

    #[test]
    fn tables_of_every_form_are_read() {
        for line in [
            "a/b.jpg,1,2,3,4,5,6,7,8,9,10.5",
            "a/b.jpg,1,2,3,4,5,6,7,8,9,10.5,0.99",
            "a/b.jpg 1 2 3 4 5 6 7 8 9 10.5 0.99",
            "1\ta/b.jpg\t7\t0\t0\t9\t9\t1\t3\t5\t7\t9\t2\t4\t6\t8\t10.5",
        ] {
            assert_eq!(row(line), Some(("a/b.jpg".to_owned(), POINTS)), "{line}");
        }
        assert_eq!(row("a/b.jpg 1 2"), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ldmk_5points.csv");
        std::fs::write(&path, "idx,ldmk_0,ldmk_1\n12,1,2,3,4,5,6,7,8,9,10.5\nbad\n").unwrap();
        let error = Landmarks::read(&path, Nose::Tip).unwrap_err().to_string();
        assert!(error.contains("ldmk_5points.csv:3: expected a name and five points"), "{error}");
        std::fs::write(&path, "idx,ldmk_0,ldmk_1\n12,1,2,3,4,5,6,7,8,9,10.5\n").unwrap();
        let found = Landmarks::read(&path, Nose::Tip).unwrap();
        assert_eq!(found.of("000003/00000012.jpg").unwrap(), Some(POINTS));
        assert_eq!(found.of("000003/00000013.jpg").unwrap(), None);
    }

    #[test]
    fn five_of_68_are_those_that_fit_a_face() {
        // Points of both markings that lie on the template, and the others far away.
        let mut ibug = vec![[500.0, -300.0]; 68];
        for (at, to) in [(36, 0), (39, 0), (42, 1), (45, 1), (30, 2), (48, 3), (54, 4)] {
            ibug[at] = TEMPLATE[to];
        }
        let mut fgnet = vec![[500.0, -300.0]; 68];
        for (at, to) in [(31, 1), (36, 0), (67, 2), (48, 4), (54, 3)] {
            fgnet[at] = TEMPLATE[to];
        }
        for points in [ibug, fgnet] {
            let text: String = points.iter().map(|[x, y]| format!("{x} {y}\n")).collect();
            let found = super::points(&format!("version: 1\nn_points: 68\n{{\n{text}}}\n"), Nose::Tip).unwrap();
            assert_eq!(found, TEMPLATE);
        }
        assert!(super::points("1 2\n3 4\n", Nose::Tip).unwrap_err().contains("found 2"));
    }

    #[test]
    fn a_folder_has_a_file_for_each_picture() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Ann_5loc_attri.txt"), "1 2\n3 4\n5 6\n7 8\n9 10.5\n").unwrap();
        let found = Landmarks::read(dir.path(), Nose::Tip).unwrap();
        assert_eq!(found.of("x/Ann.jpg").unwrap(), Some(POINTS));
        assert_eq!(found.of("x/Bob.jpg").unwrap(), None);
    }
}
