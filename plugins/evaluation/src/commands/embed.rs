use mtl_component::{ErrorContext as _, Inference, Registry, Result, mistake};
use mtl_engine::device::configure;
use mtl_engine::inference::{Judges, ModelInference, Which, open_run};
use mtl_engine::runs::{RunFolder, is_made};
use mtl_engine::weights;
use mtl_faces::list;
use mtl_faces::source::{self, Pictures};
use mtl_recipe::Override;
use mtl_recipe::files::{read_text, write_atomically};
use std::path::PathBuf;
use std::sync::Arc;
use tch::Tensor;

/// Writes the embeddings, ages and age groups of pictures.
#[derive(Debug, clap::Args)]
pub struct Embed {
    /// The run folder.
    run: PathBuf,
    /// An annotated list (`id filename age gender`), a list of files, or a folder of pictures.
    input: PathBuf,
    /// The result: .safetensors (with the file names beside it, .files.txt) or .csv.
    #[arg(long)]
    out: PathBuf,
    /// The folder that file names in a list start from; without it the folder of the list.
    #[arg(long)]
    root: Option<PathBuf>,
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
    /// Pictures in one pass.
    #[arg(long, default_value_t = 64)]
    batch: usize,
}

impl Embed {
    /// Writes the file; returns what is to be shown.
    ///
    /// # Errors
    /// A mistake if the pictures cannot be read, or the arguments do not fit the run.
    pub fn run(&self, registry: &Arc<Registry>, overrides: &[Override]) -> Result<String> {
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
        let files = self.files()?;
        let pictures = Pictures::Files(files.clone());
        let run = open_run(registry, &self.run, &self.checkpoint, overrides)?;
        configure(&run.recipe)?;
        let model = ModelInference::new(&run.model, &run.recipe, &Judges::default())?;
        let mut wanted = vec![self.embedding.as_str()];
        let (age, groups) = (model.has(&self.age), model.has(&self.groups));
        wanted.extend(age.then_some(self.age.as_str()));
        wanted.extend(groups.then_some(self.groups.as_str()));
        let read = |i: usize| pictures.read(i);
        let mut columns = model.outputs(&self.image, pictures.len(), &read, self.batch, &wanted)?.into_iter();
        let mut next = || columns.next().context("an output is missing");
        let embedding = next()?;
        let age = age.then(&mut next).transpose()?;
        let group = groups.then(&mut next).transpose()?.map(|g| g.f_argmax(1, false)).transpose()?;
        if csv {
            self.write_csv(&files, &embedding, age.as_ref(), group.as_ref())?;
        } else {
            let mut tensors = vec![("embedding".to_owned(), embedding)];
            tensors.extend(age.map(|t| ("age".to_owned(), t)));
            tensors.extend(group.map(|t| ("group".to_owned(), t)));
            weights::write(&self.out, &tensors)?;
            // One name a line, whatever the name holds.
            let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
            let line = |file: &PathBuf| file.to_string_lossy().chars().map(plain).collect::<String>();
            let names: Vec<String> = files.iter().map(line).collect();
            let beside = self.out.with_extension("files.txt");
            write_atomically(&beside, format!("{}\n", names.join("\n")).as_bytes())?;
        }
        Ok(format!("{} pictures, checkpoint of step {}: {}", files.len(), run.step, self.out.display()))
    }

    fn write_csv(
        &self,
        files: &[PathBuf],
        embedding: &Tensor,
        age: Option<&Tensor>,
        group: Option<&Tensor>,
    ) -> Result<()> {
        let width = embedding.size()[1] as usize;
        let flat = Vec::<f32>::try_from(&embedding.f_contiguous()?.f_reshape([-1])?)?;
        let mut out = csv::Writer::from_writer(Vec::new());
        let names = (0..width).map(|i| format!("e{i}"));
        out.write_record(["file", "age", "group"].into_iter().map(str::to_owned).chain(names))?;
        for (i, (file, row)) in files.iter().zip(flat.chunks_exact(width)).enumerate() {
            let age = age.map(|t| t.f_double_value(&[i as i64])).transpose()?.map(|age| age.to_string());
            let group = group.map(|t| t.f_int64_value(&[i as i64])).transpose()?.map(|group| group.to_string());
            let labels = [file.display().to_string(), age.unwrap_or_default(), group.unwrap_or_default()];
            out.write_record(labels.into_iter().chain(row.iter().map(f32::to_string)))?;
        }
        write_atomically(&self.out, &out.into_inner()?)
    }

    /// The pictures of a folder, of an annotated list, or of a plain list of files.
    fn files(&self) -> Result<Vec<PathBuf>> {
        if self.input.is_dir() {
            return source::files(std::slice::from_ref(&self.input));
        }
        let root = list::root(&self.input, self.root.as_deref());
        let text = match read_text(&self.input, list::MAX_BYTES) {
            Ok(text) => text,
            Err(e) => mistake!("cannot read {}: {e}", self.input.display()),
        };
        let counts = |l: &&str| !l.is_empty() && !l.starts_with('#');
        let first = text.lines().map(str::trim).find(counts).unwrap_or_default();
        if first.split_whitespace().count() == 4 {
            let faces = list::read(&self.input, &root)?;
            list::report(list::missing(&faces, &self.input), "pictures are missing")?;
            return Ok(faces.into_iter().map(|f| f.file).collect());
        }
        let files: Vec<PathBuf> = text.lines().map(str::trim).filter(counts).map(|l| root.join(l)).collect();
        if files.is_empty() {
            mistake!("the list {} is empty", self.input.display());
        }
        let absent = files.iter().filter(|f| !f.is_file()).map(|f| format!("there is no file {}", f.display()));
        list::report(absent.collect(), "pictures are missing")?;
        Ok(files)
    }
}
