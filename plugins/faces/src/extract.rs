//! Pictures of a record file as files.

use crate::records::FaceRecords;
use crate::render::Progress;
use mtl_component::{ErrorContext as _, Result, mistake};
use mtl_recipe::files::write_atomically;
use std::fmt::Write;
use std::path::PathBuf;

/// Which records become files, and where.
#[derive(Debug, clap::Args)]
pub struct Extract {
    /// The record file, or its folder
    records: PathBuf,
    /// The folder to make; one that an earlier extraction has begun is gone on with
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only these people, by their labels
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    people: Vec<i64>,
    /// At most so many pictures
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Extract {
    /// Writes the bytes of the pictures into files named by label and key, such as `000012/00000345.jpg`, and `list.txt`
    /// with a line for each. Returns a line about what was made.
    ///
    /// # Errors
    /// A mistake if the records cannot be read, or hold none of the pictures that are asked for.
    pub fn run(&self, progress: Progress<'_>) -> Result<String> {
        let records = FaceRecords::open(&self.records)?;
        let mut images = records.images()?;
        images.retain(|image| self.people.is_empty() || self.people.contains(&image.label));
        images.truncate(self.limit.unwrap_or(usize::MAX));
        if images.is_empty() {
            mistake!("{} holds no picture of the people {:?}", records.path().display(), self.people);
        }
        let (mut list, mut there, mut folder_of) = (String::new(), 0, None);
        for (n, image) in images.iter().enumerate() {
            let bytes = records.bytes(image.key)?;
            let ending = if bytes.starts_with(b"\x89PNG") { "png" } else { "jpg" };
            let name = format!("{:06}/{:08}.{ending}", image.label, image.key);
            let path = self.out.join(&name);
            if folder_of != Some(image.label) {
                let folder = self.out.join(format!("{:06}", image.label));
                std::fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
                folder_of = Some(image.label);
            }
            // What an earlier extraction has written is whole, since it was put in its place as a whole.
            if path.metadata().is_ok_and(|file| file.len() == bytes.len() as u64) {
                there += 1;
            } else {
                write_atomically(&path, &bytes)?;
            }
            let _ = writeln!(list, "{} {name} - -", image.label);
            progress(n as u64 + 1, images.len() as u64);
        }
        write_atomically(&self.out.join("list.txt"), list.as_bytes())?;
        let before = if there > 0 { format!(", of which {there} were there") } else { String::new() };
        Ok(format!("{}: {} pictures{before}, and list.txt", self.out.display(), images.len()))
    }
}
