use crate::ageing_wires::{AgeingWires, TargetAge};
use crate::reading::Reading;
use image::{Delay, Frame, RgbImage, codecs::gif::GifEncoder, codecs::gif::Repeat};
use mtl_component::picture::{pixels, sheet};
use mtl_component::{DType, ErrorContext as _, Inference, Normalization, Registry, Result, mistake};
use mtl_engine::device::configure;
use mtl_engine::graph::{Graph, Target, Wire};
use mtl_engine::inference::{Judges, ModelInference, Progress, Which, open_run};
use mtl_engine::runs::RunFolder;
use mtl_faces::age_groups;
use mtl_faces::headings::headed;
use mtl_faces::picture_files;
use mtl_faces::source::{self, Holds, Pictures};
use mtl_recipe::Override;
use mtl_recipe::files::write_atomically;
use mtl_standard::codec::png;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Tensor;

/// Show faces at other ages.
#[derive(Debug, clap::Args)]
pub struct Age {
    /// The run folder.
    run: PathBuf,
    /// Aligned face crops, folders of them, or one of: an annotated list; a record file of insightface or its folder; a
    /// verification set (.bin).
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// At most so many of the pictures.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// `groups`, ages such as 20,40,60, or a range such as 0..80.
    #[arg(long, default_value = "groups")]
    to: String,
    /// Years between two ages of a range; without it 10, and 2 in an animation.
    #[arg(long)]
    step: Option<u32>,
    /// FILE.png (each row a face, the first column the input), FILE.gif (an animation), or a folder for one strip of each face.
    #[arg(long)]
    out: PathBuf,
    /// last, best, or a step.
    #[arg(long, default_value = "last")]
    checkpoint: Which,
    /// Leave out pictures that cannot be read.
    #[arg(long)]
    skip: bool,
    /// Print the predicted ages as JSON.
    #[arg(long)]
    json: bool,
    /// The data port that pictures are fed to.
    #[arg(long, default_value = "faces.image")]
    image: String,
    /// The data port of the wanted group.
    #[arg(long, default_value = "targets.group")]
    group: String,
    /// The data port of the wanted age in years.
    #[arg(long, default_value = "targets.age")]
    age: String,
    /// The node that gives the aged picture.
    #[arg(long, default_value = "aged")]
    output: String,
    /// The output that is the age seen in an aged picture; left out where the recipe has none.
    #[arg(long, default_value = "seen_years.age")]
    seen: String,
}

/// Where the result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Sheet,
    Animation,
    Folder,
}

/// The oldest age that can be asked for, in years.
const OLDEST: f32 = 100.0;

impl Age {
    /// Ages the pictures and writes the result; returns what is to be shown.
    ///
    /// # Errors
    /// A mistake if the run ages no pictures, or the arguments do not fit.
    pub fn run(&self, registry: &Arc<Registry>, overrides: &[Override], progress: Progress) -> Result<String> {
        let form = match self.out.extension().and_then(|e| e.to_str()) {
            Some("png") => Form::Sheet,
            Some("gif") => Form::Animation,
            None => Form::Folder,
            _ => mistake!("--out must end in .png or .gif, or name a folder, found {}", self.out.display()),
        };
        if form == Form::Folder && self.out.exists() && !self.out.is_dir() {
            mistake!("{} is a file: --out names a folder, or a file that ends in .png or .gif", self.out.display());
        }
        // Mistakes in the command line show before the model is opened.
        let years = self.years(form)?;
        let inputs = self.inputs()?;
        let files: Vec<PathBuf> = inputs.files()?.into_iter().map(Path::to_owned).collect();
        let wires = AgeingWires {
            image: self.image.clone(),
            group: self.group.clone(),
            age: self.age.clone(),
            output: self.output.clone(),
        };
        self.spare(&files, form)?;
        let mut overrides = overrides.to_vec();
        let recipe = RunFolder::resolve(&self.run)?.recipe(registry, &overrides)?;
        let graph = Graph::new(&recipe)?;
        let ages = graph.wire(&self.image).is_ok() && matches!(graph.wire(&self.output), Ok(Wire::Node { .. }));
        if !ages {
            mistake!(
                "the run {} ages no pictures: its graph lacks `{}` or `{}`; train recipes/fas_scaf.toml, or name its \
                 wires with --image and --output",
                self.run.display(),
                self.image,
                self.output
            );
        }
        if years.is_some() {
            overrides.extend(by_years(&graph, &wires));
        }
        let run = open_run(registry, &self.run, &self.checkpoint, &overrides)?;
        configure(&run.recipe)?;
        let model = ModelInference::new(&run.model, &run.recipe, &Judges::default())?.telling(progress);
        let normalization = model.normalization(&self.output)?;
        let edges = age_groups::of_run(&model)?;
        if let Some(years) = &years {
            tell_beyond(years, &age_groups::centres(edges));
        }
        let (names, wanted): (Vec<String>, Vec<TargetAge>) = match years {
            Some(years) => years.into_iter().map(|y| (y.to_string(), TargetAge::Years(y))).unzip(),
            None => age_groups::names(edges).into_iter().zip((0..).map(TargetAge::Group)).unzip(),
        };
        let columns = wanted.len() + 1;
        let shape = model.sample_shape(&self.image)?;
        let reading = Reading::new(&inputs, self.skip);
        let resized = AtomicBool::new(false);
        let read = |i: usize| {
            let picture = reading.read(i)?;
            let fits = [picture.height as i64, picture.width as i64] == shape[1..];
            if !fits && (picture.width, picture.height) != (1, 1) && !resized.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    "{} is {}x{} and is resized to {}x{}, as are others of another size: the network wants aligned crops \
                     of that size",
                    inputs.name(i),
                    picture.width,
                    picture.height,
                    shape[2],
                    shape[1]
                );
            }
            Ok(picture)
        };
        let rows = wires.strips(&model, inputs.len(), &read, &wanted)?;
        let kept = reading.kept()?;
        let rows: Vec<Tensor> = kept.iter().map(|i| rows[*i].shallow_clone()).collect();
        let files: Vec<PathBuf> = kept.iter().map(|i| PathBuf::from(inputs.name(*i))).collect();
        let seen = self.seen(&model, &rows)?;
        let headings: Vec<String> = std::iter::once("input".to_owned()).chain(names.iter().cloned()).collect();
        let grid = |rows: &[Tensor]| {
            let sheet = sheet(&Tensor::f_cat(rows, 0)?, &normalization, columns)?;
            png(&headed(&sheet, &headings)?)
        };
        let written = match form {
            Form::Sheet => {
                write_atomically(&self.out, &grid(&rows)?)?;
                vec![self.out.clone()]
            }
            Form::Animation => {
                write_atomically(&self.out, &animation(&rows, &normalization)?)?;
                vec![self.out.clone()]
            }
            Form::Folder => self.strips(&files, &rows, &grid)?,
        };
        self.summary(&files, &names, seen.as_deref(), &written, run.step)
    }

    /// The pictures among the inputs and in their folders, or those of one list, record file or verification set.
    fn inputs(&self) -> Result<Pictures> {
        let one = |path: &PathBuf| -> Result<Option<Pictures>> {
            if !path.exists() {
                return Ok(None);
            }
            let by_name = picture_files::is_picture(path);
            Ok(match Holds::of(path)? {
                Holds::Records | Holds::Bin | Holds::Mat => Some(source::at(path, None, None)?),
                Holds::Other if !by_name => Some(source::at(path, None, None)?),
                _ => None,
            })
        };
        let pictures = match &self.pictures[..] {
            [path] => one(path)?,
            _ => None,
        };
        let pictures = match pictures {
            Some(pictures) => pictures,
            None => Pictures::of_files(picture_files::files(&self.pictures)?)?,
        };
        match self.limit {
            Some(limit) if limit < pictures.len() => Ok(pictures.only(&(0..limit).collect::<Vec<_>>())),
            _ => Ok(pictures),
        }
    }

    /// Refuses to write over an input.
    fn spare(&self, files: &[PathBuf], form: Form) -> Result<()> {
        let real = |path: &Path| path.canonicalize().ok();
        let folder = real(&self.out).filter(|_| form == Form::Folder);
        let inputs: Vec<PathBuf> = files.iter().filter_map(|f| real(f)).collect();
        let beside = |file: &PathBuf| folder.is_some() && file.parent() == folder.as_deref();
        if let Some(file) = inputs.iter().find(|f| real(&self.out).as_ref() == Some(*f) || beside(f)) {
            mistake!("--out {} would write over the input {}: name another", self.out.display(), file.display());
        }
        if self.out.parent().is_some_and(|p| p.is_file()) {
            mistake!("--out {} is below a file", self.out.display());
        }
        Ok(())
    }

    /// The ages that are asked for; none for the groups.
    fn years(&self, form: Form) -> Result<Option<Vec<f32>>> {
        let text = self.to.trim();
        if text == "groups" {
            return Ok(None);
        }
        let number = |part: &str| -> Result<f32> {
            match part.trim().parse::<f32>() {
                Ok(years) if (0.0..=OLDEST).contains(&years) => Ok(years),
                Ok(years) => mistake!("--to: ages are from 0 to {OLDEST} years, found {years}"),
                Err(_) => {
                    mistake!("--to: expected groups, ages such as 20,40,60, or a range such as 0..80, found `{text}`")
                }
            }
        };
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (number(from)?, number(to)?);
            let step = self.step.unwrap_or(if form == Form::Animation { 2 } else { 10 }) as f32;
            if step < 1.0 || from >= to {
                mistake!("--to: a range goes up by at least a year, found {text} by {step}");
            }
            return Ok(Some((0..).map(|i| from + i as f32 * step).take_while(|y| *y <= to).collect()));
        }
        Ok(Some(text.split(',').map(number).collect::<Result<_>>()?))
    }

    /// The age that the run's own estimator sees in each picture of each row.
    fn seen(&self, model: &dyn Inference, rows: &[Tensor]) -> Result<Option<Vec<Vec<f64>>>> {
        if !model.has(&self.seen) {
            return Ok(None);
        }
        let one = |row: &Tensor| -> Result<Vec<f64>> {
            let ages = model.run(&[(self.output.as_str(), row)], &[&self.seen])?.remove(0);
            Ok(Vec::<f64>::try_from(&ages.f_to_kind(tch::Kind::Double)?)?)
        };
        Ok(Some(rows.iter().map(one).collect::<Result<_>>()?))
    }

    fn strips(
        &self,
        files: &[PathBuf],
        rows: &[Tensor],
        grid: &dyn Fn(&[Tensor]) -> Result<Vec<u8>>,
    ) -> Result<Vec<PathBuf>> {
        let all = self.out.join("grid.png");
        let mut written: Vec<PathBuf> = Vec::new();
        for (file, row) in files.iter().zip(rows) {
            let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            let numbered = (2..).map(|n| format!("{stem}-{n}"));
            let name = std::iter::once(stem.clone()).chain(numbered).map(|n| self.out.join(format!("{n}.png")));
            let Some(path) = name.into_iter().find(|p| !written.contains(p) && *p != all) else { continue };
            write_atomically(&path, &grid(std::slice::from_ref(row))?)?;
            written.push(path);
        }
        if rows.len() > 1 {
            write_atomically(&all, &grid(rows)?)?;
            written.push(all);
        }
        Ok(written)
    }

    /// What is to be shown: the ages that are seen, and the files.
    fn summary(
        &self,
        files: &[PathBuf],
        names: &[String],
        seen: Option<&[Vec<f64>]>,
        written: &[PathBuf],
        step: u64,
    ) -> Result<String> {
        if self.json {
            let faces: Vec<serde_json::Value> = files
                .iter()
                .enumerate()
                .map(|(i, file)| {
                    let row = seen.map(|s| &s[i]);
                    let aged: serde_json::Map<_, _> =
                        names.iter().cloned().zip(row.iter().flat_map(|r| &r[1..]).map(|a| (*a).into())).collect();
                    serde_json::json!({ "file": file, "seen_age": row.map(|r| r[0]), "aged_to": aged })
                })
                .collect();
            let all = serde_json::json!({ "step": step, "wanted": names, "faces": faces, "written": written });
            return Ok(serde_json::to_string_pretty(&all)?);
        }
        let mut out = String::new();
        if let Some(seen) = seen {
            let width = files.iter().map(|f| short(f).len()).max().unwrap_or(0).max(10);
            write!(out, "{:<width$} {:>8}", "seen age", "input")?;
            names.iter().try_for_each(|name| write!(out, " {name:>8}"))?;
            for (file, row) in files.iter().zip(seen) {
                write!(out, "\n{:<width$}", short(file))?;
                row.iter().try_for_each(|age| write!(out, " {age:>8.1}"))?;
            }
            out.push('\n');
        }
        let paths: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        Ok(out + &paths.join("\n"))
    }
}

/// Says which wanted ages lie beyond what the groups reach: they are shown as the nearest that does.
fn tell_beyond(years: &[f32], centres: &[f32]) {
    let (Some(first), Some(last)) = (centres.first(), centres.last()) else { return };
    let beyond: Vec<String> = years.iter().filter(|y| **y < *first || **y > *last).map(f32::to_string).collect();
    if !beyond.is_empty() {
        tracing::warn!(
            "the run knows ages by groups, whose centres reach from {first} to {last}: {} are shown as the nearest of these",
            beyond.join(", ")
        );
    }
}

/// The changes of a recipe that wire the age in years wherever its graph takes the wanted group and could take years.
fn by_years(graph: &Graph, wires: &AgeingWires) -> Vec<Override> {
    let (Ok(group), Ok(_)) = (graph.wire(&wires.group), graph.wire(&wires.age)) else { return Vec::new() };
    let mut out = Vec::new();
    for node in graph.nodes().iter().filter(|node| node.target != Target::Loss) {
        let at = |name: &str| node.ports.inputs.iter().position(|port| port.name == name);
        let (Some(by_group), Some(by_age)) = (at("group"), at("age")) else { continue };
        let years = node.ports.inputs[by_age].dtype == DType::Float && node.inputs[by_age].is_none();
        if years && node.inputs[by_group] == Some(group) {
            out.push(Override::Unset(format!("graph.{}.in.group", node.name)));
            out.push(Override::Set(format!("graph.{}.in.age={:?}", node.name, wires.age)));
        }
    }
    out
}

fn short(file: &Path) -> String {
    file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The faces side by side through the ages and back, as a GIF that repeats.
fn animation(rows: &[Tensor], normalization: &Normalization) -> Result<Vec<u8>> {
    let ages = rows[0].size()[0] - 1;
    let mut bytes = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 5);
        encoder.set_repeat(Repeat::Infinite)?;
        for age in (1..=ages).chain((2..ages).rev()) {
            let faces = rows.iter().map(|r| Ok(r.f_get(age)?)).collect::<Result<Vec<_>>>()?;
            let frame = Tensor::f_cat(&faces, 2)?.f_unsqueeze(0)?;
            let size = frame.size();
            let picture = RgbImage::from_raw(size[3] as u32, size[2] as u32, pixels(&frame, normalization)?)
                .context("a frame of another size")?;
            let frame = image::DynamicImage::ImageRgb8(picture).into_rgba8();
            encoder.encode_frame(Frame::from_parts(frame, 0, 0, Delay::from_numer_denom_ms(80, 1)))?;
        }
    }
    Ok(bytes)
}
