//! Made faces as files: a folder with a list, verification pairs and a data card, or a contact sheet.

use crate::card::{Card, Step};
use crate::headings::headed;
use crate::label::Label;
use crate::made::{Cache, MadeFaces};
use crate::pairs;
use image::RgbImage;
use mtl_component::{ErrorContext as _, Picture, Result, mistake};
use mtl_made_faces::{Identity, Sex, render, render_neutral};
use mtl_recipe::files::write_atomically;
use mtl_standard::codec;
use rayon::prelude::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Which faces are rendered, and into which files.
#[derive(Debug, clap::Args)]
pub struct Render {
    /// People
    #[arg(long, default_value_t = 20)]
    identities: u64,
    /// The first person
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Ages in years
    #[arg(long, value_delimiter = ',', default_value = "5,12,20,30,40,52,65,80")]
    ages: Vec<f32>,
    /// Pictures of each person at each age
    #[arg(long, default_value_t = 4)]
    captures: u64,
    /// Width and height in pixels
    #[arg(long, default_value_t = 112)]
    size: i64,
    /// Seed of the collection
    #[arg(long, default_value_t = 1)]
    seed: i64,
    /// The folder to make; it must be empty or not be there
    #[arg(long, required_unless_present = "sheet")]
    out: Option<PathBuf>,
    /// Least difference of the ages in verification pairs, in years
    #[arg(long, default_value_t = 20.0)]
    gap: f32,
    /// Verification pairs; 0 for none
    #[arg(long, default_value_t = 600)]
    pairs: usize,
    /// A contact sheet: each row a person, each column an age, in neutral light
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// The contact sheet shows this capture instead of neutral pictures
    #[arg(long)]
    capture: Option<u64>,
}

/// Checks that a folder may be made, or holds nothing.
///
/// # Errors
/// A mistake if it holds something.
pub fn is_free(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        mistake!("{} is a file: --out names a folder", folder.display());
    }
    if folder.read_dir().is_ok_and(|mut d| d.next().is_some()) {
        mistake!("{} is not empty: name another folder", folder.display());
    }
    Ok(())
}

/// Called with how many of how many pictures are done, from several threads.
pub type Progress<'p> = &'p (dyn Fn(u64, u64) + Sync);

impl Render {
    /// Renders the files; returns a line about each that was made.
    ///
    /// # Errors
    /// A mistake if the numbers do not fit, or a folder is not empty.
    pub fn run(&self, progress: Progress<'_>) -> Result<Vec<String>> {
        let faces = MadeFaces {
            identities: self.identities,
            first: self.first,
            ages: self.ages.clone(),
            ages_each: 1,
            youngest: 0.0,
            oldest: 100.0,
            captures: self.captures,
            size: self.size,
            seed: self.seed,
            cache: Cache::None,
            cache_folder: None,
        };
        let mut problems = faces.problems();
        for (what, value, most) in [
            ("identities", self.identities, 1_000_000),
            ("captures", self.captures, 10_000),
            ("pairs", self.pairs.max(1) as u64, 10_000_000),
            ("size", self.size.max(0) as u64, 1024),
        ] {
            if value == 0 || value > most {
                problems.push(format!("--{what} is from 1 to {most}, found {value}"));
            }
        }
        if !problems.is_empty() {
            mistake!("{}", problems.join("\n"));
        }
        let mut made = Vec::new();
        if let Some(path) = &self.sheet {
            made.push(self.contact_sheet(path)?);
        }
        if let Some(folder) = &self.out {
            made.push(self.folder(&faces, folder, progress)?);
        }
        Ok(made)
    }

    fn contact_sheet(&self, path: &Path) -> Result<String> {
        if path.extension().and_then(|e| e.to_str()) != Some("png") {
            mistake!("--sheet must end in .png, found {}", path.display());
        }
        let size = self.size as usize;
        let columns = self.ages.len();
        let tiles: Vec<(usize, Vec<u8>)> = (0..self.identities as usize * columns)
            .into_par_iter()
            .map(|i| {
                let person = Identity::new(self.seed as u64, self.first + (i / columns) as u64);
                let age = self.ages[i % columns];
                let picture = match self.capture {
                    Some(capture) => render(&person, age, capture, size),
                    None => render_neutral(&person, age, size),
                };
                (i, picture.rgb)
            })
            .collect();
        let mut sheet = RgbImage::new((columns * size) as u32, self.identities as u32 * size as u32);
        for (i, pixels) in tiles {
            let tile = RgbImage::from_raw(size as u32, size as u32, pixels).context("a picture of another size")?;
            let (x, y) = (i % columns * size, i / columns * size);
            image::imageops::replace(&mut sheet, &tile, x as i64, y as i64);
        }
        let picture = Picture::new(sheet.width() as usize, sheet.height() as usize, sheet.into_raw())?;
        let picture = headed(&picture, &self.ages.iter().map(f32::to_string).collect::<Vec<_>>())?;
        write_atomically(path, &codec::png(&picture)?)?;
        Ok(format!("contact sheet of {} people at {columns} ages: {}", self.identities, path.display()))
    }

    fn folder(&self, faces: &MadeFaces, folder: &Path, progress: Progress<'_>) -> Result<String> {
        is_free(folder)?;
        let collection = faces.collection()?;
        let labels: Vec<Label> = (0..collection.shots.len()).map(|i| collection.label(i)).collect();
        // Before anything is written: a mistake in the numbers leaves nothing behind.
        let pairs =
            if self.pairs > 0 { pairs::with_gap(&labels, self.gap, self.pairs, self.seed as u64)? } else { Vec::new() };
        let name = |i: usize| {
            let shot = collection.shots[i];
            let number = collection.people[shot.person].number;
            format!("images/{number:04}/{number:04}_{}_{}.png", shot.age, shot.capture)
        };
        for person in &collection.people {
            let path = folder.join(format!("images/{:04}", person.number));
            if let Err(e) = std::fs::create_dir_all(&path) {
                mistake!("cannot make the folder {}: {e}", path.display());
            }
        }
        let (done, all) = (AtomicU64::new(0), collection.shots.len() as u64);
        (0..collection.shots.len()).into_par_iter().try_for_each(|i| -> Result<()> {
            let bytes = codec::png(&collection.shot(i)?)?;
            let path = folder.join(name(i));
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            Ok(())
        })?;
        let mut list = String::new();
        for i in 0..collection.shots.len() {
            let label = collection.label(i);
            let number = collection.people[label.identity as usize].number;
            writeln!(list, "{number} {} {} {}", name(i), label.age.unwrap_or(0.0), label.gender)?;
        }
        let text: String =
            pairs.iter().map(|p| format!("{} {} {}\n", name(p.a), name(p.b), if p.same { 1 } else { -1 })).collect();
        if !pairs.is_empty() {
            write_atomically(&folder.join("pairs.txt"), text.as_bytes())?;
        }
        self.card(&collection.people, &labels).write(folder)?;
        // The list comes last: with it the folder is whole.
        write_atomically(&folder.join("list.txt"), list.as_bytes())?;
        Ok(format!(
            "{} pictures of {} people, {} pairs: {}",
            collection.shots.len(),
            self.identities,
            pairs.len(),
            folder.join("list.txt").display()
        ))
    }

    /// What the pictures are and what they are not.
    fn card(&self, people: &[Identity], labels: &[Label]) -> Card {
        let men = people.iter().filter(|p| p.sex == Sex::Male).count();
        let ages: Vec<String> = self.ages.iter().map(f32::to_string).collect();
        let command = format!(
            "mtlrun data render --identities {} --first {} --ages {} --captures {} --size {} --seed {} --gap {} --pairs {} --out DIR",
            self.identities,
            self.first,
            ages.join(","),
            self.captures,
            self.size,
            self.seed,
            self.gap,
            self.pairs
        );
        let step = Step::new(command)
            .found("pictures", labels.len())
            .found("people", format!("{} ({men} male, {} female), {} to {}", people.len(), people.len() - men, self.first, self.first + self.identities - 1))
            .found("renderer", format!("version {}, seed {}", mtl_made_faces::VERSION, self.seed))
            .found("the same again", "byte for byte, by this command")
            .found("pairs", format!("{}, the ages at least {} years apart and, for two people, of one sex", self.pairs, self.gap))
            .found(
                "captures",
                "pose, light, expression, background, camera and noise depend on person and capture only: one capture at two \
                 ages differs by age alone",
            )
            .found("alignment", "the five points of ArcFace's template");
        Card {
            name: Some("Made faces".into()),
            origin: Some("rendered by this program; the head is a model under CC0 1.0 (MakeHuman, MPFB2) with drawn features".into()),
            licence: Some("that of this program (MIT or Apache-2.0); the model of the head is under CC0 1.0".into()),
            ages_known_by: Some("the renderer: exact".into()),
            attributes_known_by: Some("the renderer: exact".into()),
            consent: Some("the faces do not depict real people".into()),
            faults: vec![
                "how the model's heads, skins and sexes differ, and how they age here, is drawn by hand and covers neither the \
                 variety of people nor the ways in which they age"
                    .into(),
            ],
            not_for: vec![
                "evidence about real people: accuracy on them says how well a method recovers the factors of this renderer, and \
                 nothing about how well it works on photographs or how fairly it treats anyone"
                    .into(),
            ],
            steps: vec![step],
            ..Card::default()
        }
    }
}
