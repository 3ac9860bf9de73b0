//! The SCAF and LCAF list: a picture on each line, `id filename age gender`, separated by spaces or tabs.
//!
//! The identity is a number or a name, the file is relative to a root folder, the age is in years, the gender is
//! 1 for male and 0 for female. An age or a gender that is not known is `-`.

use crate::label::Label;
use mtl_component::files::{read_bounded, read_text};
use mtl_component::{ErrorContext as _, Result, mistake};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Oldest age that a list may hold.
pub const MAX_AGE: f32 = 120.0;
/// The largest list that is read.
pub const MAX_BYTES: u64 = 4 << 30;
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
        Err(e) => mistake!("cannot read the list {}: {e}", path.display()),
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

fn parse(line: &str, root: &Path, number: usize) -> Result<Face, String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [identity, file, age, gender] = fields[..] else {
        return Err(format!("expected 4 fields `id filename age gender`, found {}: {:?}", fields.len(), start(line)));
    };
    let age = match age {
        "-" => None,
        text => {
            let age: f32 =
                text.parse().map_err(|_| format!("expected an age in years or `-`, found {:?}", start(text)))?;
            if !(0.0..=MAX_AGE).contains(&age) {
                return Err(format!("expected an age from 0 to {MAX_AGE}, found {text}"));
            }
            Some(age)
        }
    };
    let gender = match gender {
        "0" => 0,
        "1" => 1,
        "-" => -1,
        other => return Err(format!("expected a gender 1 (male), 0 (female) or `-`, found {:?}", start(other))),
    };
    Ok(Face { identity: identity.to_owned(), file: root.join(file), age, gender, line: number })
}

/// As much of a faulty text as a message shows.
fn start(text: &str) -> String {
    const MOST: usize = 100;
    let cut: String = text.chars().take(MOST).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

/// The identities in the order of their labels: numbers by value if all are numbers, else names by letter.
pub fn identities<'f>(faces: impl IntoIterator<Item = &'f Face>) -> Vec<String> {
    let mut names: Vec<&str> = faces.into_iter().map(|f| f.identity.as_str()).collect();
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

/// The identities, and what is known of each picture with its identity's number.
pub fn labels(faces: &[Face]) -> (Vec<String>, Vec<Label>) {
    let names = identities(faces);
    let numbers: HashMap<&str, i64> = names.iter().map(String::as_str).zip(0..).collect();
    let label = |f: &Face| Label { identity: numbers[f.identity.as_str()], age: f.age, gender: f.gender };
    let labels = faces.iter().map(label).collect();
    (names, labels)
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
        let faces = list("# comment\n7 a/b.jpg 23.5 1\n\n9 c.jpg - -\n").unwrap();
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
