//! Pictures of faces brought to a template.

use crate::detector::{Detector, Face};
use crate::named::detector;
use mtl_component::{ErrorContext as _, Picture, Result, mistake};
use mtl_faces::alignment::{AlignedSize, MOST_RESIDUAL, Points, Similarity, warp};
use mtl_faces::card::{Card, Step};
use mtl_faces::facts::{Facts, Spread};
use mtl_faces::landmarks::{self, Landmarks, Nose};
use mtl_faces::list;
use mtl_faces::source::{self, Pictures};
use mtl_faces::{Progress, is_free};
use mtl_recipe::files::write_atomically;
use mtl_standard::codec;
use rayon::prelude::*;
use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Which pictures are aligned, and how.
#[derive(Debug, clap::Args)]
pub struct Align {
    /// The list, or a folder of pictures, a record file or a verification set
    list: PathBuf,
    /// The folder that its file names start from; without it the folder of the list
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The folder to make; it must be empty or not be there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Pixels a side: a multiple of 112, or of 128 with more around the face; or 96x112
    #[arg(long, default_value = "112", value_name = "SIZE", value_parser = size)]
    size: AlignedSize,
    /// A file or folder that says where eyes, nose and mouth are: landmarks.csv, ldmk_5points.csv, .lst, .pts
    #[arg(long, value_name = "PATH", conflicts_with = "detector")]
    landmarks: Option<PathBuf>,
    /// The nose among 68 points
    #[arg(long, value_enum, default_value_t)]
    nose: Nose,
    /// A detector that finds them: mtcnn
    #[arg(long, value_name = "NAME", required_unless_present = "landmarks")]
    detector: Option<String>,
    /// The folder of the detector's weights; without it where `cargo xtask setup --detector NAME` puts them
    #[arg(long, value_name = "DIR")]
    detector_weights: Option<PathBuf>,
    /// Which face, where the detector finds several
    #[arg(long, value_enum, default_value_t)]
    faces: Choice,
    /// Take points that do not fit a face as well
    #[arg(long)]
    force: bool,
    /// Round places to 1/32 of a pixel, as OpenCV 4 does
    #[arg(long)]
    opencv4: bool,
    /// Write JPEG files of this quality, and no PNG
    #[arg(long, value_name = "1..100", value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: Option<u8>,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// Which of several faces is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Choice {
    /// The largest, less twice the squared distance of its centre from that of the picture
    #[default]
    Largest,
    /// The one nearest to the centre
    Centre,
    /// Each, into files of their own
    All,
    /// The only one: pictures with several are left out
    One,
}

fn size(text: &str) -> std::result::Result<AlignedSize, String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let number = |text: &str| text.parse::<usize>().map_err(|_| "expected pixels a side, or 96x112".to_owned());
    let size = AlignedSize { width: number(width)?, height: number(height)? };
    if size.width > 4096 || size.height > 4096 {
        return Err("expected at most 4096 pixels a side".into());
    }
    size.template().map(|_| size).map_err(|e| e.to_string())
}

/// Eyes nearer than this, in pixels, are told: the picture is enlarged several times.
const NEAR_EYES: f64 = 10.0;

/// The names of files that are written.
type Taken = Mutex<HashSet<String>>;

/// The points of a face, and the box and score of a detector.
type Chosen = (Points, Option<([f64; 4], f64)>);

/// A picture that was aligned.
struct Aligned {
    /// Its number.
    index: usize,
    /// The file that was written, relative to the folder.
    file: String,
    points: Points,
    /// The box and the score of a detector.
    found: Option<([f64; 4], f64)>,
    residual: f64,
    near_eyes: bool,
}

/// Where points come from.
enum Finder {
    Landmarks(Landmarks),
    /// One picture at a time is looked at: libtorch has threads of its own.
    Detector(Mutex<Box<dyn Detector>>),
}

impl Align {
    /// Writes the aligned pictures with `list.txt`, `landmarks.csv` (the points in the source), `faces.csv` (residuals, boxes) and
    /// `failed.txt`. Returns what was made.
    ///
    /// # Errors
    /// A mistake if there are no points, or nothing can be aligned.
    pub fn run(&self, progress: Progress<'_>) -> Result<String> {
        let finder = match (&self.landmarks, &self.detector) {
            (Some(path), _) => Finder::Landmarks(Landmarks::read(path, self.nose)?),
            (None, Some(name)) => Finder::Detector(Mutex::new(detector(name, self.detector_weights.as_deref())?)),
            (None, None) => mistake!("name --landmarks, or a --detector that finds them"),
        };
        let pictures = source::at(&self.list, self.root.as_deref(), None)?;
        is_free(&self.out)?;
        let (done, all) = (AtomicU64::new(0), pictures.len() as u64);
        let taken: Taken = Mutex::default();
        let made: Vec<Result<Vec<Aligned>>> = (0..pictures.len())
            .into_par_iter()
            .map(|i| {
                let aligned = self.align(&pictures, &finder, &taken, i);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
                aligned
            })
            .collect();
        let (mut aligned, mut failed) = (Vec::new(), Vec::new());
        for (i, made) in made.into_iter().enumerate() {
            match made {
                Ok(faces) => aligned.extend(faces),
                Err(e) if e.code() == mtl_component::Code::Mistake => failed.push((i, e.to_string())),
                Err(e) => return Err(e.context(format!("aligning {}", pictures.name(i)))),
            }
        }
        if aligned.is_empty() {
            let (first, why) = failed.first().map(|(i, why)| (pictures.name(*i), why.clone())).unwrap_or_default();
            mistake!("none of {} pictures could be aligned: the first, {first}: {why}", pictures.len());
        }
        self.write(&pictures, &aligned, &failed)
    }

    /// The faces of a picture, written. What keeps a picture from being aligned is a mistake.
    fn align(&self, pictures: &Pictures, finder: &Finder, taken: &Taken, index: usize) -> Result<Vec<Aligned>> {
        let name = pictures.source.pictures.name(index)?;
        let picture = pictures.decoded(index)?;
        let found: Vec<Chosen> = match finder {
            Finder::Landmarks(landmarks) => match landmarks.of(&name)? {
                Some(points) => vec![(points, None)],
                None => mistake!("there are no points of it"),
            },
            Finder::Detector(detector) => {
                let detector = detector.lock().unwrap_or_else(PoisonError::into_inner);
                self.chosen(detector.faces(&picture)?, &picture)?
            }
        };
        let several = found.len() > 1;
        let mut out = Vec::new();
        for (n, (points, found)) in found.into_iter().enumerate() {
            let number = several.then_some(n);
            let (file, residual) = self.written(&picture, &name, number, &points, taken)?;
            let [left, right, ..] = points;
            let near_eyes = (left[0] - right[0]).hypot(left[1] - right[1]) < NEAR_EYES;
            out.push(Aligned { index, file, points, found, residual, near_eyes });
        }
        Ok(out)
    }

    fn chosen(&self, mut faces: Vec<Face>, picture: &Picture) -> Result<Vec<Chosen>> {
        if faces.is_empty() {
            mistake!("no face was found");
        }
        let rank = |face: &Face| match self.faces {
            Choice::Centre => -face.off_centre(picture),
            _ => face.area() - 2.0 * face.off_centre(picture),
        };
        faces.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
        if self.faces == Choice::One && faces.len() > 1 {
            mistake!("{} faces were found", faces.len());
        }
        if self.faces != Choice::All {
            faces.truncate(1);
        }
        Ok(faces.into_iter().map(|face| (face.points, Some((face.bounds, face.score)))).collect())
    }

    /// The aligned face in its file, and how far its points stay away from the template.
    fn written(
        &self,
        picture: &Picture,
        name: &str,
        number: Option<usize>,
        points: &Points,
        taken: &Taken,
    ) -> Result<(String, f64)> {
        let to = self.size.template()?;
        let Some(similarity) = Similarity::between(points, &to) else { mistake!("all its points are one") };
        // In pixels of the template of 112, whatever the size.
        let residual = similarity.residual(points, &to) / self.size.scale();
        if residual > MOST_RESIDUAL && !self.force {
            mistake!(
                "its points do not fit a face: they stay {residual:.1} pixels away from those of the template (--force takes it)"
            );
        }
        let aligned = warp(picture, &similarity, self.size, self.opencv4)?;
        let (bytes, ending) = match self.quality {
            Some(quality) => (codec::jpeg(&aligned, quality)?, "jpg"),
            None => (codec::png(&aligned)?, "png"),
        };
        let stem = Path::new(name).with_extension("");
        if !stem.components().all(|part| matches!(part, Component::Normal(_))) {
            mistake!("its name leaves the folder");
        }
        let number = number.map_or(String::new(), |number| format!("_{number}"));
        let file = format!("{}{number}.{ending}", stem.display());
        if !taken.lock().unwrap_or_else(PoisonError::into_inner).insert(file.clone()) {
            mistake!("another picture has become {file} already");
        }
        let path = self.out.join(&file);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
        }
        write_atomically(&path, &bytes)?;
        Ok((file, residual))
    }

    fn write(&self, pictures: &Pictures, aligned: &[Aligned], failed: &[(usize, String)]) -> Result<String> {
        let (mut text, mut table) = (String::new(), csv::Writer::from_writer(Vec::new()));
        let scored = aligned.iter().any(|face| face.found.is_some());
        let mut faces = csv::Writer::from_writer(Vec::new());
        faces.write_record(["file", "residual", "left", "top", "right", "bottom", "score"])?;
        table.write_record(landmarks::header(scored))?;
        for face in aligned {
            let label = pictures.labels[face.index];
            let person = pictures.people.get(label.identity as usize).map_or(list::UNKNOWN, String::as_str);
            text.push_str(&list::line(person, &face.file, &label));
            table.write_record(landmarks::line(&face.file, &face.points, face.found.map(|(_, score)| score)))?;
            let [left, top, right, bottom] = face.found.map_or([f64::NAN; 4], |(bounds, _)| bounds);
            let numbers = [face.residual, left, top, right, bottom, face.found.map_or(f64::NAN, |(_, score)| score)];
            let number = |value: f64| if value.is_nan() { String::new() } else { format!("{value:.3}") };
            faces.write_record(std::iter::once(face.file.clone()).chain(numbers.map(number)))?;
        }
        let mut lost = String::new();
        for (i, why) in failed {
            let name = pictures.source.pictures.name(*i)?;
            let _ = writeln!(lost, "{}\t{}", name.escape_debug(), why.replace('\n', " "));
        }
        write_atomically(&self.out.join("landmarks.csv"), &table.into_inner()?)?;
        write_atomically(&self.out.join("faces.csv"), &faces.into_inner()?)?;
        write_atomically(&self.out.join("failed.txt"), lost.as_bytes())?;
        write_atomically(&self.out.join("list.txt"), text.as_bytes())?;
        let of: HashSet<usize> = aligned.iter().map(|face| face.index).collect();
        let near = aligned.iter().filter(|face| face.near_eyes).count();
        let residuals = Spread::of(aligned.iter().map(|face| (face.residual * 100.0).round() / 100.0).collect());
        let residuals = residuals.map_or(String::new(), |spread| spread.to_string());
        let points = match (&self.landmarks, &self.detector) {
            (Some(path), _) => format!("points of {}", path.display()),
            (None, name) => format!("points by the detector {}", name.as_deref().unwrap_or_default()),
        };
        let step = Step::new(format!(
            "mtlrun data align {} --size {}x{}",
            self.list.display(),
            self.size.width,
            self.size.height
        ))
        .read(&self.list)?
        .found("template", "ArcFace's five points, least squares, bilinear")
        .found("points", &points)
        .found("pictures", pictures.len())
        .found("aligned", of.len())
        .found("not aligned", failed.len())
        .found("residual in pixels of 112", &residuals)
        .found("eyes nearer than 10 pixels", near);
        // The card of the source goes on here.
        let before = self.list.parent().map(Card::in_folder).transpose()?.unwrap_or_default();
        let facts = Facts::of(&source::at(&self.out.join("list.txt"), None, None)?)?;
        if before != Card::default() {
            before.write(&self.out)?;
        }
        Card::grow(&self.out, step, |card| card.facts = Some(facts))?;
        if self.json {
            return Ok(serde_json::to_string_pretty(&serde_json::json!({
                "out": self.out, "pictures": pictures.len(), "aligned": of.len(), "faces": aligned.len(),
                "failed": failed.len(), "residuals": residuals, "near_eyes": near,
            }))?);
        }
        const SHOWN: usize = 10;
        let mut told = format!(
            "{}: {} of {} pictures aligned, {} faces; residual {residuals} pixels",
            self.out.display(),
            of.len(),
            pictures.len(),
            aligned.len()
        );
        for (i, why) in failed.iter().take(SHOWN) {
            let _ = write!(told, "\n  {}: {why}", pictures.source.pictures.name(*i)?.escape_debug());
        }
        if failed.len() > SHOWN {
            let _ = write!(told, "\n  … and {} more in failed.txt", failed.len() - SHOWN);
        }
        if near > 0 {
            let _ = write!(told, "\n{near} faces are small: their eyes are less than {NEAR_EYES} pixels apart");
        }
        Ok(told)
    }
}
