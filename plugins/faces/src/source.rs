//! Pictures that evaluators look at: files of an annotated list, or made faces.

use crate::label::Label;
use crate::list;
use crate::made::{Collection, MadeFaces, Pair};
use indexmap::IndexMap;
use mtl_component::{Draw, ErrorContext as _, Picture, RecipePath, Result, mistake};
use mtl_standard::codec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Pictures by number.
pub enum Pictures {
    /// Files.
    Files(Vec<PathBuf>),
    /// Made faces.
    Made(Collection),
}

impl Pictures {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Made(collection) => collection.shots.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their files, if they are files.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Files(files) => files.iter().map(PathBuf::as_path).collect(),
            Self::Made(_) => Vec::new(),
        }
    }

    /// One of them in words: its file, or its number.
    pub fn name(&self, index: usize) -> String {
        match self {
            Self::Files(files) => files[index].display().to_string(),
            Self::Made(_) => format!("made picture {index}"),
        }
    }

    /// One of them.
    pub fn read(&self, index: usize) -> Result<Picture> {
        match self {
            Self::Files(files) => match codec::read(&files[index]) {
                Ok(picture) => Ok(picture),
                Err(e) => mistake!("{e:#}"),
            },
            Self::Made(collection) => collection.picture(index),
        }
    }
}

/// A picture of each of the first `count` people: of the first person the first, of the second the second, and so on
/// in turn, so that ages mix where a person's pictures are in their order.
pub fn one_per_identity(labels: &[Label], count: usize) -> Vec<usize> {
    let mut people: IndexMap<i64, Vec<usize>> = IndexMap::new();
    labels.iter().enumerate().for_each(|(i, l)| people.entry(l.identity).or_default().push(i));
    people.values().take(count).enumerate().map(|(n, pictures)| pictures[n % pictures.len()]).collect()
}

/// `count` pairs of pictures, of one person and of two people of the same gender in turn.
///
/// # Errors
/// A mistake if there are no such pairs.
pub fn pairs(labels: &[Label], count: usize, seed: u64) -> Result<Vec<Pair>> {
    let mut draw = Draw::new(&[seed, 0x7a12]);
    let mut people: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(i, l)| people.entry(l.identity).or_default().push(i));
    let several: Vec<&Vec<usize>> = people.values().filter(|p| p.len() > 1).collect();
    let mut genders: BTreeMap<i64, Vec<&Vec<usize>>> = BTreeMap::new();
    people.values().for_each(|p| genders.entry(labels[p[0]].gender).or_default().push(p));
    let alike: Vec<&Vec<&Vec<usize>>> = genders.values().filter(|g| g.len() > 1).collect();
    if several.is_empty() || alike.is_empty() {
        mistake!(
            "real pairs need a person with two pictures and two people of one gender, found {} pictures of {} people",
            labels.len(),
            people.len()
        );
    }
    let mut below = |n: usize| draw.below(n as u64) as usize;
    let mut out = Vec::with_capacity(count);
    for i in 0..count {
        let same = i.is_multiple_of(2);
        let (first, second) = if same {
            let person = several[below(several.len())];
            (person, person)
        } else {
            let group = alike[below(alike.len())];
            let at = below(group.len());
            (group[at], group[(at + 1 + below(group.len() - 1)) % group.len()])
        };
        let at = below(first.len());
        let other = if same { (at + 1 + below(first.len() - 1)) % first.len() } else { below(second.len()) };
        out.push(Pair { a: first[at], b: second[other], same });
    }
    Ok(out)
}

/// The files among the given paths, and the pictures in the folders among them, sorted by name in each.
///
/// # Errors
/// A mistake for a path that is not there, and for a folder without pictures.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut found = Vec::new();
            walk(path, &mut found)?;
            if found.is_empty() {
                mistake!("{} holds no picture ({})", path.display(), ENDINGS.map(|e| format!(".{e}")).join(", "));
            }
            found.sort();
            out.extend(found);
        } else if path.is_file() {
            out.push(path.clone());
        } else {
            mistake!("there is no picture or folder {}", path.display());
        }
    }
    Ok(out)
}

/// The endings of pictures that are looked for in folders.
pub const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];

/// Whether a file is a picture by its name.
pub fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        // Hidden files are not meant, such as those that macOS lays beside each file of an archive.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".") || name == "__MACOSX") {
            continue;
        }
        if path.is_dir() {
            walk(&path, out)?;
        } else if is_picture(&path) {
            out.push(path);
        }
    }
    Ok(())
}

/// What is wrong when not exactly one of a list, named by its key, and `made` faces is given, or with the latter.
pub fn problems(key: &str, list: Option<&RecipePath>, made: Option<&MadeFaces>) -> Vec<String> {
    match (list, made) {
        (None, None) => vec![format!("it needs `{key}`, or `made` faces")],
        (Some(_), Some(_)) => vec![format!("`{key}` and `made` are two sources: give one, and --unset the other")],
        (_, made) => made.map(MadeFaces::problems).unwrap_or_default(),
    }
}

/// A text that changes when a list, or the `made` faces in its place, change.
pub fn fingerprint(list: Option<&RecipePath>, made: Option<&MadeFaces>) -> Result<String> {
    match (made, list) {
        (Some(made), _) => Ok(made.description()),
        (None, Some(path)) => list::fingerprint(&[path]),
        (None, None) => Ok(String::new()),
    }
}

/// The pictures of an annotated list or of made faces with what is known of them; identities are numbered.
pub fn labelled(
    list: Option<&RecipePath>,
    given: Option<&RecipePath>,
    made: Option<&MadeFaces>,
) -> Result<(Pictures, Vec<Label>)> {
    if let Some(made) = made {
        let collection = made.open()?;
        let labels = (0..collection.shots.len()).map(|i| collection.label(i)).collect();
        return Ok((Pictures::Made(collection), labels));
    }
    let Some(path) = list else { mistake!("no pictures are given: name a `list` or `made` faces") };
    let root = &list::root(path, given.map(|g| g.0.as_path()));
    let faces = list::read(path, root)?;
    list::report(list::missing(&faces, path), "pictures are missing")?;
    let (_, labels) = list::labels(&faces);
    let place = |i: usize| format!("{}:{}", path.display(), faces[i].line);
    list::contradictions(&faces, &|i| labels[i].identity, &place, false)?;
    Ok((Pictures::Files(faces.into_iter().map(|f| f.file).collect()), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<Label> {
        let label = |identity, age, gender| Label { identity, age: Some(age), gender };
        vec![label(4, 20.0, 1), label(4, 30.0, 1), label(7, 20.0, 0), label(7, 50.0, 0), label(9, 20.0, 1)]
    }

    #[test]
    fn people_give_their_pictures_in_turn() {
        assert_eq!(one_per_identity(&labels(), 2), [0, 3]);
        assert_eq!(one_per_identity(&labels(), 9), [0, 3, 4]);
    }

    #[test]
    fn real_pairs_are_of_one_person_and_of_two_of_a_gender() {
        let labels = labels();
        let pairs = pairs(&labels, 40, 1).unwrap();
        for (i, p) in pairs.iter().enumerate() {
            let (a, b) = (&labels[p.a], &labels[p.b]);
            assert!(p.a != p.b && p.same == (i % 2 == 0) && (a.identity == b.identity) == p.same);
            assert_eq!(a.gender, b.gender);
        }
        let error = super::pairs(&labels[1..2], 4, 1).unwrap_err();
        assert!(error.to_string().contains("1 pictures of 1 people"), "{error}");
    }
}
