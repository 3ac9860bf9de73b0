//! Lists of pairs of pictures: `a b 1` for one person, `a b -1` for two.

use mtl_component::files::read_text;
use mtl_component::{Result, mistake};
use mtl_faces::list;
use mtl_faces::made::Pair;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The pictures, each once, and the pairs as indices into them. Blank lines and lines that start with `#` do not count.
///
/// # Errors
/// A mistake that names faulty lines, files that are not there, and pairs that are listed as both kinds.
pub(crate) fn read(path: &Path, root: &Path) -> Result<(Vec<PathBuf>, Vec<Pair>)> {
    let text = match read_text(path, list::MAX_BYTES) {
        Ok(text) => text,
        Err(e) => mistake!("cannot read the pairs {}: {e}", path.display()),
    };
    if let Some(form) = other_form(&text) {
        mistake!("the list of pairs {} cannot be used: {form}", path.display());
    }
    let (mut files, mut pairs, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let mut known: HashMap<PathBuf, usize> = HashMap::new();
    let mut lines: HashMap<(usize, usize), (usize, bool)> = HashMap::new();
    let (mut repeated, mut alone) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate().filter(|(_, l)| counts(l)) {
        let place = format!("{}:{}", path.display(), number + 1);
        let Some([a, b, same]) = list::fields(line, 1).and_then(|fields| <[&str; 3]>::try_from(fields).ok()) else {
            let hint = if line.contains(',') { ": they are separated by tabs or blanks, not by commas" } else { "" };
            let found = line.split_whitespace().count();
            faults.push(format!("{place}: expected `a b 1` or `a b -1`, found {found} fields{hint}"));
            continue;
        };
        let same = match same {
            "1" => true,
            "-1" | "0" => false,
            other => {
                faults.push(format!("{place}: expected 1 (same) or -1 (different), found {other:?}"));
                continue;
            }
        };
        if !line.contains('\t') && b.contains(char::is_whitespace) {
            let found = line.split_whitespace().count();
            faults.push(format!(
                "{place}: expected `a b 1` or `a b -1`, found {found} fields: where names hold blanks, separate by tabs"
            ));
            continue;
        }
        let mut index = |name: &str| {
            let file = root.join(name);
            *known.entry(list::tidy(&file)).or_insert_with(|| {
                if !file.is_file() {
                    faults.push(format!("{place}: there is no file {}", file.display()));
                }
                files.push(file);
                files.len() - 1
            })
        };
        let (a, b) = (index(a), index(b));
        if a == b {
            alone.push(place.clone());
        }
        match lines.get(&(a.min(b), a.max(b))) {
            Some((first, before)) if *before != same => {
                faults.push(format!("{place}: line {} says the opposite of the same two pictures", first + 1));
            }
            Some(_) => repeated.push(place),
            None => {
                lines.insert((a.min(b), a.max(b)), (number, same));
            }
        }
        pairs.push(Pair { a, b, same });
    }
    list::report(faults, &format!("the pairs {} cannot be used", path.display()))?;
    if pairs.is_empty() {
        mistake!("the pairs {} are empty: expected lines of `a b 1` or `a b -1`", path.display());
    }
    for (found, what) in [(alone, "pairs are of a picture with itself"), (repeated, "pairs are listed more than once")]
    {
        if let Some(first) = found.first() {
            tracing::warn!("{} {what}, such as {first}", found.len());
        }
    }
    Ok((files, pairs))
}

fn counts(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

/// Which other form a list has, and what to do, if it is one of those that are often met.
fn other_form(text: &str) -> Option<String> {
    let number = |field: &str| field.parse::<u32>().is_ok();
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|line| counts(line)).take(20).map(|line| line.split_whitespace().collect()).collect();
    let header = rows.first().is_some_and(|row| row.len() <= 2 && row.iter().all(|field| number(field)));
    let of_lfw = |row: &Vec<&str>| match row[..] {
        [name, a, b] => !number(name) && number(a) && number(b),
        [a, first, b, second] => !number(a) && number(first) && !number(b) && number(second),
        _ => false,
    };
    let body = if header { rows.get(1..)? } else { &rows[..] };
    (!body.is_empty() && body.iter().all(of_lfw)).then(|| {
        "it has the form of LFW's pairs.txt (`name number number` or `name number name number`, with folds of same and then \
         different pairs). Write a line `name/name_0001.jpg name/name_0002.jpg 1` for each pair, in the same order, with -1 for \
         different people"
            .to_owned()
    })
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
            Ok((files, pairs)) => format!("{} files, {} pairs", files.len(), pairs.len()),
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
            ("10 300\nAnn_Ames 1 2\nAnn_Ames 1 Bob_Bell 1\n", "LFW's pairs.txt"),
            ("10\t300\nAnn_Ames\t1\t2\n", "LFW's pairs.txt"),
            ("", "are empty"),
        ] {
            let found = told(text);
            assert!(found.contains(word), "{word}: {found}");
        }
    }
}
