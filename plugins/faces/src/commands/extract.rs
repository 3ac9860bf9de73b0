//! Pictures of a record file or a verification set as files.

use super::convert::text_of_pairs;
use super::render::Progress;
use crate::card::{Card, Step};
use crate::list;
use crate::source::{self, Holds, Pictures};
use crate::sources::bin::SAME;
use mtl_component::{ErrorContext as _, Result, mistake};
use mtl_recipe::files::write_atomically;
use mtl_standard::picture_header::Format;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Which pictures become files, and where.
#[derive(Debug, clap::Args)]
pub struct Extract {
    /// The record file or its folder, or the verification set
    source: PathBuf,
    /// The folder to make; one that an earlier extraction has begun is gone on with
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How files are named
    #[arg(long = "as", value_enum, default_value_t, value_name = "NAMES")]
    names: Names,
    /// Only these people, by their labels
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    people: Vec<String>,
    /// Only the records of these keys
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    keys: Vec<i64>,
    /// At most so many pictures
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// How files are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Names {
    /// 000012/00000345.jpg, as MTLFace's lists have them
    #[default]
    Mtlface,
    /// A folder of each person: 12/345.jpg
    Folders,
    /// All in one folder: 12_345.jpg
    Flat,
}

impl Names {
    /// The name of a picture of which the first form is known.
    fn of(self, name: &str, ending: &str) -> String {
        let stem = Path::new(name).with_extension("");
        let stem = stem.to_string_lossy();
        let plain = || {
            stem.split('/')
                .map(|part| part.trim_start_matches('0'))
                .map(|part| if part.is_empty() { "0" } else { part })
        };
        match self {
            Self::Mtlface => format!("{stem}.{ending}"),
            Self::Folders => format!("{}.{ending}", plain().collect::<Vec<_>>().join("/")),
            Self::Flat => format!("{}.{ending}", plain().collect::<Vec<_>>().join("_")),
        }
    }
}

impl Extract {
    /// Writes the bytes of the pictures into files, and `list.txt` with a line for each; of a verification set `pairs.txt`.
    /// Returns what was made.
    ///
    /// # Errors
    /// A mistake if the source cannot be read, or holds none of the pictures that are asked for.
    pub fn run(&self, progress: Progress<'_>) -> Result<String> {
        if !matches!(Holds::of(&self.source)?, Holds::Records | Holds::Bin) {
            mistake!("{} holds neither records nor a verification set", self.source.display());
        }
        let pictures = source::at(&self.source, None, None)?;
        let wanted = self.wanted(&pictures)?;
        let is_set = pictures.source.column(SAME).is_some();
        let (mut list, mut there) = (String::new(), 0);
        let mut folders: HashSet<PathBuf> = HashSet::new();
        let mut names = Vec::with_capacity(wanted.len());
        for (n, i) in wanted.iter().enumerate() {
            let Some(bytes) = pictures.source.pictures.encoded(*i)? else { continue };
            let ending = Format::of(&bytes).map_or("jpg", Format::ending);
            let name = self.names.of(&pictures.source.pictures.name(*i)?, ending);
            let path = self.out.join(&name);
            if let Some(folder) = path.parent()
                && folders.insert(folder.to_owned())
            {
                std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
            }
            // What an earlier extraction has written is whole, since it was put in its place as a whole.
            if path.metadata().is_ok_and(|file| file.len() == bytes.len() as u64) {
                there += 1;
            } else {
                write_atomically(&path, &bytes)?;
            }
            let label = pictures.labels[*i];
            let person = pictures.people.get(label.identity as usize).map_or(list::UNKNOWN, String::as_str);
            list.push_str(&list::line(person, &name, &label));
            names.push(name);
            progress(n as u64 + 1, wanted.len() as u64);
        }
        let mut beside = "list.txt";
        if let Some(same) = pictures.source.column(SAME).filter(|_| wanted.len() == pictures.len()) {
            let pairs = names.chunks_exact(2).zip(same.values.chunks_exact(2));
            let pairs = pairs.map(|(names, same)| (names[0].as_str(), names[1].as_str(), same[0] == 1.0));
            write_atomically(&self.out.join("pairs.txt"), text_of_pairs(pairs).as_bytes())?;
            beside = "pairs.txt";
        }
        if !is_set {
            write_atomically(&self.out.join("list.txt"), list.as_bytes())?;
        }
        let step = Step::new(format!("mtlrun data extract {}", self.source.display())).found("pictures", names.len());
        Card::grow(&self.out, step, |_| {})?;
        if self.json {
            return Ok(serde_json::to_string_pretty(&serde_json::json!({
                "out": self.out, "pictures": names.len(), "were_there": there, "beside": beside,
            }))?);
        }
        let before = if there > 0 { format!(", of which {there} were there") } else { String::new() };
        Ok(format!("{}: {} pictures{before}, and {beside}", self.out.display(), names.len()))
    }

    /// The pictures that are asked for.
    fn wanted(&self, pictures: &Pictures) -> Result<Vec<usize>> {
        let mut wanted = Vec::new();
        for (i, label) in pictures.labels.iter().enumerate() {
            let person = pictures.people.get(label.identity as usize);
            let of_people = self.people.is_empty() || person.is_some_and(|person| self.people.contains(person));
            let of_keys = self.keys.is_empty() || {
                let name = pictures.source.pictures.name(i)?;
                let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                stem.parse().is_ok_and(|key: i64| self.keys.contains(&key))
            };
            if of_people && of_keys {
                wanted.push(i);
            }
        }
        wanted.truncate(self.limit.unwrap_or(usize::MAX));
        if wanted.is_empty() {
            mistake!("{} holds no picture of those that are asked for", self.source.display());
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_form() {
        let name = "000012/00000345.jpg";
        assert_eq!(Names::Mtlface.of(name, "png"), "000012/00000345.png");
        assert_eq!(Names::Folders.of(name, "jpg"), "12/345.jpg");
        assert_eq!(Names::Flat.of("000000/00000007.jpg", "jpg"), "0_7.jpg");
    }
}
