//! Lists of pairs of pictures, of which each picture stands there once.

use mtl_component::Result;
use mtl_faces::list;
use mtl_faces::pair_forms;
use mtl_faces::pairs::Pair;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a list of pairs names.
pub(crate) struct Listed {
    /// The pictures.
    pub files: Vec<PathBuf>,
    /// The pairs, as places among them.
    pub pairs: Vec<Pair>,
    /// A number for the person of each picture, and the age in years, where the form of the list tells people.
    pub people: Option<Vec<(i64, Option<f32>)>>,
}

/// Reads a list of any form. Blank lines and lines that start with `#` do not count.
///
/// # Errors
/// A mistake that names faulty lines, files that are not there, and pairs that are listed as both kinds.
pub(crate) fn read(path: &Path, root: &Path) -> Result<Listed> {
    let entries = pair_forms::entries(path)?;
    let place = |line: usize| format!("{}:{line}", path.display());
    let mut faults: Vec<String> = Vec::new();
    let (mut files, mut pairs, mut people) = (Vec::new(), Vec::new(), Vec::new());
    let mut known: HashMap<PathBuf, usize> = HashMap::new();
    let mut names: HashMap<String, i64> = HashMap::new();
    let mut lines: HashMap<(usize, usize), (usize, bool)> = HashMap::new();
    let (mut repeated, mut alone) = (Vec::new(), Vec::new());
    for entry in entries {
        let here = place(entry.line);
        let mut index = |name: &str, person: Option<&String>, age: Option<f32>| {
            let file = root.join(name);
            *known.entry(list::tidy(&file)).or_insert_with(|| {
                if !file.is_file() {
                    faults.push(format!("{here}: there is no file {}", file.display()));
                }
                files.push(file);
                let next = names.len() as i64;
                people.push(person.map(|name| (*names.entry(name.clone()).or_insert(next), age)));
                files.len() - 1
            })
        };
        let [one, other] = match &entry.people {
            Some([one, other]) => [Some(one), Some(other)],
            None => [None, None],
        };
        let age = |side: usize| entry.ages.map(|ages| ages[side]);
        let (a, b) = (index(&entry.a, one, age(0)), index(&entry.b, other, age(1)));
        if a == b {
            alone.push(here.clone());
        }
        match lines.get(&(a.min(b), a.max(b))) {
            Some((first, before)) if *before != entry.same => {
                faults.push(format!("{here}: line {first} says the opposite of the same two pictures"));
            }
            Some(_) => repeated.push(here),
            None => {
                lines.insert((a.min(b), a.max(b)), (entry.line, entry.same));
            }
        }
        pairs.push(Pair { a, b, same: entry.same });
    }
    list::report(faults, &format!("the pairs {} cannot be used", path.display()))?;
    for (found, what) in [(alone, "pairs are of a picture with itself"), (repeated, "pairs are listed more than once")]
    {
        if let Some(first) = found.first() {
            tracing::warn!("{} {what}, such as {first}", found.len());
        }
    }
    Ok(Listed { files, pairs, people: people.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.jpg", "b.jpg", "c d.jpg"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let path = dir.path().join("pairs.txt");
        std::fs::write(&path, text).unwrap();
        match read(&path, dir.path()) {
            Ok(found) => format!("{} files, {} pairs", found.files.len(), found.pairs.len()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn pairs_are_read_and_faults_are_named() {
        assert_eq!(
            told("\u{feff}# pairs\na.jpg b.jpg 1\na.jpg\tc d.jpg\t-1\n./a.jpg \"b.jpg\" 1\n"),
            "3 files, 3 pairs"
        );
        for (text, word) in [
            ("a.jpg b.jpg 1\nb.jpg a.jpg -1\n", "line 1 says the opposite"),
            ("a.jpg c d.jpg 1\n", "where names hold blanks, separate by tabs"),
            ("a.jpg,b.jpg,1\n", "not by commas"),
            ("a.jpg gone.jpg 1\n", "there is no file"),
            ("a.jpg b.jpg 2\n", "found \"2\""),
            ("10 300\nAnn_Ames 1 2\nAnn_Ames 1 Bob_Bell 1\n", "pairs.txt: its first line promises 6000 pairs"),
            ("Ann_Ames\t1\t2\n", "pairs.txt:1: there is no file"),
            ("", "are empty"),
        ] {
            let found = told(text);
            assert!(found.contains(word), "{word}: {found}");
        }
    }
}
