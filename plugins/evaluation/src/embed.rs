use crate::verification::rows;
use anyhow::{Context, Result};
use clap::{Args, FromArgMatches};
use mtl_core::command::{self, Command};
use mtl_core::evaluate::Measure;
use mtl_core::mistake;
use mtl_core::recipe::Override;
use mtl_core::session::{Which, configure, open_run, threads};
use mtl_faces::list;
use mtl_faces::source::{self, Pictures};
use std::fmt::Write;
use std::path::PathBuf;
use tch::Tensor;

/// Writes the embeddings, ages and age groups of pictures.
#[derive(Debug, Args)]
struct Embed {
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

mtl_core::inventory::submit! {
    Command {
        describe: || Embed::augment_args(clap::Command::new("embed").about("Write the embeddings of pictures")),
        run: |matches| Embed::from_arg_matches(matches)?.run(&command::overrides(matches)),
    }
}

impl Embed {
    fn run(&self, overrides: &[Override]) -> Result<()> {
        let csv = match self.out.extension().and_then(|e| e.to_str()) {
            Some("csv") => true,
            Some("safetensors") => false,
            _ => mistake!("--out must end in .safetensors or .csv, found {}", self.out.display()),
        };
        let files = self.files()?;
        let pictures = Pictures::Files(files.clone());
        let run = open_run(&self.run, &self.checkpoint, overrides)?;
        configure(&run.recipe)?;
        let measure = Measure::new(&run.model, &run.recipe, threads(&run.recipe))?;
        let has = |wire: &str| run.model.graph.wire(wire).is_ok();
        let mut wanted = vec![self.embedding.as_str()];
        let (age, groups) = (has(&self.age), has(&self.groups));
        wanted.extend(age.then_some(self.age.as_str()));
        wanted.extend(groups.then_some(self.groups.as_str()));
        let mut parts: Vec<Vec<Tensor>> = wanted.iter().map(|_| Vec::new()).collect();
        let read = |i: usize| pictures.read(i);
        measure.pictures(&self.image, pictures.len(), &read, self.batch, &mut |batch| {
            for (part, tensor) in parts.iter_mut().zip(measure.run(&[(self.image.as_str(), batch)], &wanted)?) {
                part.push(tensor);
            }
            Ok(())
        })?;
        let mut columns = parts.into_iter().map(|p| Tensor::f_cat(&p, 0).context("joining batches"));
        let mut next = || columns.next().context("an output is missing")?;
        let embedding = next()?;
        let age = age.then(&mut next).transpose()?;
        let group = groups.then(&mut next).transpose()?.map(|g| g.f_argmax(1, false)).transpose()?;
        if csv {
            self.write_csv(&files, &embedding, age.as_ref(), group.as_ref())?;
        } else {
            let mut tensors = vec![("embedding".to_owned(), embedding)];
            tensors.extend(age.map(|t| ("age".to_owned(), t)));
            tensors.extend(group.map(|t| ("group".to_owned(), t)));
            mtl_core::weights::write(&self.out, &tensors)?;
            let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            let beside = self.out.with_extension("files.txt");
            mtl_core::files::write_atomically(&beside, format!("{}\n", names.join("\n")).as_bytes())?;
        }
        println!("{} pictures, checkpoint of step {}: {}", files.len(), run.step, self.out.display());
        Ok(())
    }

    fn write_csv(
        &self,
        files: &[PathBuf],
        embedding: &Tensor,
        age: Option<&Tensor>,
        group: Option<&Tensor>,
    ) -> Result<()> {
        let embedding = rows(embedding)?;
        let mut text = String::from("file,age,group");
        for i in 0..embedding.first().map_or(0, Vec::len) {
            write!(text, ",e{i}")?;
        }
        for (i, (file, row)) in files.iter().zip(&embedding).enumerate() {
            let age = age.map(|t| t.f_double_value(&[i as i64])).transpose()?;
            let group = group.map(|t| t.f_int64_value(&[i as i64])).transpose()?;
            let name = file.display().to_string().replace('"', "\"\"");
            let number = |v: Option<String>| v.unwrap_or_default();
            write!(
                text,
                "\n\"{name}\",{},{}",
                number(age.map(|a| a.to_string())),
                number(group.map(|g| g.to_string()))
            )?;
            for v in row {
                write!(text, ",{v}")?;
            }
        }
        text.push('\n');
        mtl_core::files::write_atomically(&self.out, text.as_bytes())
    }

    /// The pictures of a folder, of an annotated list, or of a plain list of files.
    fn files(&self) -> Result<Vec<PathBuf>> {
        if self.input.is_dir() {
            return source::files(std::slice::from_ref(&self.input));
        }
        let root = list::root(&self.input, self.root.as_deref());
        let text = match std::fs::read_to_string(&self.input) {
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
