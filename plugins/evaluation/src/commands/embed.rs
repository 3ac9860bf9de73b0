use crate::embedding::rows;
use crate::protocol::{FlipTest, largest};
use crate::reading::Reading;
use mtl_component::{ErrorContext as _, Inference, Registry, Result, mistake};
use mtl_engine::device::configure;
use mtl_engine::inference::{Judges, ModelInference, Progress, Which, open_run};
use mtl_engine::runs::{RunFolder, is_made};
use mtl_engine::weights;
use mtl_faces::list;
use mtl_faces::picture_files;
use mtl_faces::source::{self, Holds, Pictures};
use mtl_recipe::Override;
use mtl_recipe::files::{read_text, write_atomically};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// Write the embeddings, ages and age groups of pictures.
#[derive(Debug, clap::Args)]
pub struct Embed {
    /// The run folder.
    run: PathBuf,
    /// Pictures, folders of them, or one of: a list, annotated (`id filename age gender`) or with a file on each line; a
    /// record file of insightface or its folder; a verification set (.bin).
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// The result: .safetensors (with the file names beside it, .files.txt) or .csv.
    #[arg(long)]
    out: PathBuf,
    /// The folder that file names in a list start from; without it the folder of the list.
    #[arg(long)]
    root: Option<PathBuf>,
    /// A record file that holds the pictures of an annotated list, or its folder.
    #[arg(long)]
    records: Option<PathBuf>,
    /// last, best, or a step.
    #[arg(long, default_value = "last")]
    checkpoint: Which,
    /// The data port that pictures are fed to.
    #[arg(long, default_value = "faces.image")]
    image: String,
    /// The node that gives the embedding.
    #[arg(long, default_value = "embedding")]
    embedding: String,
    /// The output that is the age in years; left out where the recipe has none.
    #[arg(long, default_value = "years.age")]
    age: String,
    /// The output with the logits of the age groups; left out where the recipe has none.
    #[arg(long, default_value = "years.groups")]
    groups: String,
    /// How the embeddings of a picture and its mirror image are joined; all but `none` give unit length. The evaluator
    /// `verification` takes `sum_raw` by default.
    #[arg(long, value_enum, default_value = "none")]
    flip: Flip,
    /// Bring embeddings to unit length.
    #[arg(long)]
    normalise: bool,
    /// Leave out pictures that cannot be read.
    #[arg(long)]
    skip: bool,
    /// Pictures in one pass.
    #[arg(long, default_value_t = 64, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65536))]
    batch: usize,
}

/// How the embeddings of a picture and its mirror image are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[clap(rename_all = "snake_case")]
enum Flip {
    None,
    SumRaw,
    SumNorm,
    Concat,
}

impl Flip {
    fn test(self) -> FlipTest {
        match self {
            Self::None => FlipTest::None,
            Self::SumRaw => FlipTest::SumRaw,
            Self::SumNorm => FlipTest::SumNorm,
            Self::Concat => FlipTest::Concat,
        }
    }
}

impl Embed {
    /// Writes the file; returns what is to be shown.
    ///
    /// # Errors
    /// A mistake if the pictures cannot be read, or the arguments do not fit the run.
    pub fn run(&self, registry: &Arc<Registry>, overrides: &[Override], progress: Progress) -> Result<String> {
        let csv = match self.out.extension().and_then(|e| e.to_str()) {
            Some("csv") => true,
            Some("safetensors") => false,
            _ => mistake!("--out must end in .safetensors or .csv, found {}", self.out.display()),
        };
        if let Some((folder, name)) = self.out.parent().zip(self.out.file_name())
            && RunFolder::at(folder).has_started()
            && is_made(&name.to_string_lossy())
        {
            mistake!("{} is a file of a run: name another with --out", self.out.display());
        }
        let pictures = self.pictures()?;
        let names: Vec<String> = (0..pictures.len()).map(|i| pictures.name(i)).collect();
        let run = open_run(registry, &self.run, &self.checkpoint, overrides)?;
        configure(&run.recipe)?;
        let model = ModelInference::new(&run.model, &run.recipe, &Judges::default())?.telling(progress);
        let mut wanted = vec![self.embedding.as_str()];
        let (age, groups) = (model.has(&self.age), model.has(&self.groups));
        wanted.extend(age.then_some(self.age.as_str()));
        wanted.extend(groups.then_some(self.groups.as_str()));
        let reading = Reading::new(&pictures, self.skip);
        let columns = self.columns(&model, &pictures, &reading, &wanted)?;
        let kept = reading.kept()?;
        let index = Tensor::f_from_slice(&kept.iter().map(|i| *i as i64).collect::<Vec<_>>())?;
        let of_kept = |column: Tensor| -> Result<Tensor> {
            Ok(if kept.len() == names.len() { column } else { column.f_index_select(0, &index)? })
        };
        let names: Vec<String> = kept.iter().map(|i| names[*i].clone()).collect();
        let mut columns = columns.into_iter().map(of_kept);
        let mut next = || columns.next().context("an output is missing")?;
        let embedding = next()?;
        let age = age.then(&mut next).transpose()?;
        let group = groups.then(&mut next).transpose()?.map(|logits| numbers(&logits, &names)).transpose()?;
        if csv {
            self.write_csv(&names, &embedding, age.as_ref(), group.as_ref())?;
        } else {
            let mut tensors = vec![("embedding".to_owned(), embedding)];
            tensors.extend(age.map(|t| ("age".to_owned(), t)));
            tensors.extend(group.map(|t| ("group".to_owned(), t)));
            weights::write(&self.out, &tensors)?;
            // One name a line, whatever the name holds.
            let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
            let line = |name: &String| name.chars().map(plain).collect::<String>();
            let names: Vec<String> = names.iter().map(line).collect();
            let beside = self.out.with_extension("files.txt");
            write_atomically(&beside, format!("{}\n", names.join("\n")).as_bytes())?;
        }
        let plural = if kept.len() == 1 { "" } else { "s" };
        Ok(format!("{} picture{plural}, checkpoint of step {}: {}", kept.len(), run.step, self.out.display()))
    }

    /// The wanted outputs, the first of which is the embedding.
    fn columns(
        &self,
        model: &ModelInference<'_>,
        pictures: &Pictures,
        reading: &Reading<'_>,
        wanted: &[&str],
    ) -> Result<Vec<Tensor>> {
        let feed = self.image.as_str();
        let joined = self.normalise || self.flip != Flip::None;
        let mut parts: Vec<Vec<Tensor>> = wanted.iter().map(|_| Vec::new()).collect();
        let mut first = 0;
        model.pictures(feed, pictures.len(), &|i| reading.read(i), self.batch, &mut |batch| {
            let mut found = model.run(&[(feed, batch)], wanted)?;
            if joined {
                let mirrored = match self.flip {
                    Flip::None => None,
                    _ => Some(rows(&model.run(&[(feed, &batch.f_flip([3])?)], &wanted[..1])?[0])?),
                };
                let mut embeddings: Vec<f32> = Vec::new();
                for (i, row) in rows(&found[0])?.iter().enumerate() {
                    let other = mirrored.as_ref().map(|rows| rows[i].as_slice());
                    let joined = self.flip.test().combine(row, other);
                    embeddings.extend(joined.with_context(|| format!("the picture {}", pictures.name(first + i)))?);
                }
                found[0] = Tensor::f_from_slice(&embeddings)?.f_view([batch.size()[0], -1])?;
            }
            first += batch.size()[0] as usize;
            parts.iter_mut().zip(found).for_each(|(part, tensor)| part.push(tensor));
            Ok(())
        })?;
        parts.iter().map(|part| Ok(Tensor::f_cat(part, 0)?)).collect()
    }

    fn write_csv(
        &self,
        names: &[String],
        embedding: &Tensor,
        age: Option<&Tensor>,
        group: Option<&Tensor>,
    ) -> Result<()> {
        let width = embedding.size()[1] as usize;
        let flat = Vec::<f32>::try_from(&embedding.f_contiguous()?.f_reshape([-1])?)?;
        let mut out = csv::Writer::from_writer(Vec::new());
        let columns = (0..width).map(|i| format!("e{i}"));
        out.write_record(["file", "age", "group"].into_iter().map(str::to_owned).chain(columns))?;
        for (i, (name, row)) in names.iter().zip(flat.chunks_exact(width)).enumerate() {
            let age = age.map(|t| t.f_double_value(&[i as i64])).transpose()?.map(|age| age.to_string());
            let group = group.map(|t| t.f_int64_value(&[i as i64])).transpose()?.map(|group| group.to_string());
            let labels = [name.clone(), age.unwrap_or_default(), group.unwrap_or_default()];
            out.write_record(labels.into_iter().chain(row.iter().map(f32::to_string)))?;
        }
        write_atomically(&self.out, &out.into_inner()?)
    }

    /// The pictures among the inputs and in their folders, or those of one list, record file or verification set.
    fn pictures(&self) -> Result<Pictures> {
        let root = self.root.as_deref();
        let one = match &self.input[..] {
            [one] => one,
            several => return Pictures::of_files(picture_files::files(several)?),
        };
        if !one.exists() {
            return Pictures::of_files(picture_files::files(std::slice::from_ref(one))?);
        }
        let pictures = match Holds::of(one)? {
            Holds::Records | Holds::Bin | Holds::Mat => source::at(one, None, None)?,
            Holds::Other if !picture_files::is_picture(one) => self.listed(one, root)?,
            _ => Pictures::of_files(picture_files::files(std::slice::from_ref(one))?)?,
        };
        if self.skip { Ok(pictures) } else { pictures.complete() }
    }

    /// The pictures of a list, annotated or with a file on each line, which may lie in records.
    fn listed(&self, list: &Path, root: Option<&Path>) -> Result<Pictures> {
        let text = match read_text(list, list::MAX_BYTES) {
            Ok(text) => text,
            Err(e) => mistake!(
                "{} is neither a picture, a record file nor a verification set, and no list: {e}",
                list.display()
            ),
        };
        let counts = |l: &&str| !l.is_empty() && !l.starts_with('#');
        let first = text.lines().map(str::trim).find(counts).unwrap_or_default();
        if list::is_annotated(first) {
            return source::at(list, root, self.records.as_deref());
        }
        let root = list::root(list, root);
        let files: Vec<PathBuf> = text.lines().map(str::trim).filter(counts).map(|l| root.join(l)).collect();
        if files.is_empty() {
            mistake!("the list {} is empty", list.display());
        }
        Pictures::of_files(files)
    }
}

/// The group with the largest of each row of logits, the first of equals.
fn numbers(logits: &Tensor, names: &[String]) -> Result<Tensor> {
    let row = |(row, name): (&Vec<f32>, &String)| -> Result<i64> {
        Ok(largest(row).with_context(|| format!("the age group of {name}"))? as i64)
    };
    let groups = rows(logits)?.iter().zip(names).map(row).collect::<Result<Vec<i64>>>()?;
    Ok(Tensor::f_from_slice(&groups)?)
}
