//! Weights in files: safetensors and PyTorch's own format are read, safetensors are written; and changes of names.

pub mod pickle;
mod pytorch;

use crate::files::stream_atomically;
use crate::graph::{Model, Module};
use crate::mistake;
use anyhow::{Context, Result, anyhow, bail};
use indexmap::IndexMap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Tensors by name.
pub type Tensors = IndexMap<String, Tensor>;

/// Reads a safetensors file, or one of `torch.save`, names sorted. Nothing in the file is run.
///
/// # Errors
/// A mistake that names the file and what is wrong with it: missing, cut off, or not of these formats.
pub fn read(path: &Path) -> Result<Tensors> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) => mistake!("cannot open the weights {}: {e}", path.display()),
    };
    // SAFETY: the map is read once, here. A file that another process cuts off meanwhile would end the program
    // with SIGBUS; weights are written under another name and renamed, so that readers never see that.
    let map = match unsafe { memmap2::Mmap::map(&file) } {
        Ok(map) => map,
        Err(e) => mistake!("cannot read the weights {}: {e}", path.display()),
    };
    let mistaken = |what: &str, e: anyhow::Error| {
        let text = format!("{} ({} bytes) is no {what}: {e:#}", path.display(), map.len());
        anyhow::Error::new(crate::diagnostic::Mistake(text))
    };
    if map.starts_with(pytorch::MAGIC) {
        return pytorch::parse(&map).map_err(|e| mistaken("file of weights that can be read here", e));
    }
    if map.starts_with(pytorch::OLD_MAGIC) {
        let old = anyhow!("PyTorch before 1.6 wrote it: load it there and save it again with torch.save");
        return Err(mistaken("file of weights that can be read here", old));
    }
    parse(&map).map_err(|e| mistaken("complete safetensors file", e))
}

/// Reads the bytes of a file of `torch.save`; for tests that make such bytes.
///
/// # Errors
/// What is wrong with them.
pub fn parse_pytorch(bytes: &[u8]) -> Result<Tensors> {
    pytorch::parse(bytes)
}

fn parse(bytes: &[u8]) -> Result<Tensors> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| anyhow!("{e}"))?;
    let mut names = file.names();
    names.sort_unstable();
    let mut out = Tensors::new();
    for name in names {
        let view = file.tensor(name).map_err(|e| anyhow!("{e}"))?;
        let shape: Vec<i64> = view.shape().iter().map(|n| *n as i64).collect();
        out.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind(view.dtype(), name)?)?);
    }
    Ok(out)
}

fn kind(dtype: Dtype, name: &str) -> Result<Kind> {
    Ok(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        other => bail!("`{name}` has the type {other:?}, which is not read here"),
    })
}

fn dtype(kind: Kind) -> Result<Dtype> {
    Ok(match kind {
        Kind::Double => Dtype::F64,
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Int16 => Dtype::I16,
        Kind::Int8 => Dtype::I8,
        Kind::Uint8 => Dtype::U8,
        Kind::Bool => Dtype::BOOL,
        other => bail!("tensors of {other:?} are not written"),
    })
}

/// Writes safetensors into `out`, a tensor at a time, so that what is copied on the way is never more than one of them.
/// The order is that of the reference implementation: wide types first, then by name.
pub fn stream(tensors: &[(String, Tensor)], out: &mut dyn Write) -> Result<()> {
    let mut sorted = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        sorted.push((dtype(tensor.kind())?, name, tensor));
    }
    sorted.sort_by(|(a, x, _), (b, y, _)| b.cmp(a).then(x.cmp(y)));
    let mut end = 0;
    let infos = sorted.iter().map(|(dtype, name, tensor)| {
        let start = end;
        end += tensor.numel() * tensor.kind().elt_size_in_bytes();
        let shape = tensor.size().iter().map(|n| *n as usize).collect();
        ((*name).clone(), TensorInfo { dtype: *dtype, shape, data_offsets: (start, end) })
    });
    let header = Metadata::new(None, infos.collect()).map_err(|e| anyhow!("writing safetensors: {e}"))?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut bytes = Vec::new();
    for (_, name, tensor) in sorted {
        let tensor = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        bytes.resize(tensor.numel() * tensor.kind().elt_size_in_bytes(), 0);
        tensor.f_copy_data_u8(&mut bytes, tensor.numel()).with_context(|| format!("copying `{name}`"))?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Writes a safetensors file, whole or not at all.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    stream_atomically(path, |file| stream(tensors, file))
}

/// A change of parameter names: prefixes that are replaced, the first that fits.
#[derive(Debug, Clone)]
pub struct Rename(Vec<(String, String)>);

impl Rename {
    /// The built-in change of that name, or one from a file of `from = "to"` lines (TOML).
    pub fn named(name: &str) -> Result<Self> {
        // The names of MTLFace's released code, by the modules of the published recipes.
        const MTLFACE: &[(&str, &str)] = &[
            ("backbone.fsm.", "decompose."),
            ("backbone.output_layer.", "embed."),
            ("head.", "identity."),
            ("estimation_network.", "age."),
            ("generator.conv1.", "icm.conv1."),
            ("generator.router.", "icm.router."),
            ("generator.transform.", "icm.transform."),
            ("generator.conv2.", "icm.conv2."),
            ("generator.", "decoder."),
            ("discriminator.", "critic."),
            ("da_discriminator.", "leak."),
        ];
        if name == "mtlface" {
            return Ok(Self(MTLFACE.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()));
        }
        let path = Path::new(name);
        if !path.exists() {
            mistake!(
                "there is no change of names `{name}`: expected `mtlface` or a TOML file of \"from\" = \"to\" lines"
            );
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
        match toml::from_str::<IndexMap<String, String>>(&text) {
            Ok(map) => Ok(Self(map.into_iter().collect())),
            Err(e) => mistake!("{name} is no table of \"from\" = \"to\" lines: {e}"),
        }
    }

    /// The name in our recipes.
    pub fn apply(&self, name: &str) -> String {
        let name = name.strip_prefix("module.").unwrap_or(name);
        for (from, to) in &self.0 {
            if let Some(rest) = name.strip_prefix(from.as_str()) {
                return format!("{to}{rest}");
            }
        }
        name.to_owned()
    }
}

/// What loading did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters and buffers that were filled.
    pub loaded: usize,
    /// Names that the file lacks.
    pub missing: Vec<String>,
    /// Names that nothing takes.
    pub unused: Vec<String>,
}

impl LoadReport {
    /// The names that matter among those that the file lacks: all but counters of batches, which change nothing.
    pub fn lacking(&self) -> Vec<&String> {
        self.missing.iter().filter(|n| !n.ends_with("num_batches_tracked")).collect()
    }

    /// What is missing, with the nearest names among what was left over.
    pub fn explain(&self) -> String {
        let lacking = self.lacking();
        let lines: Vec<String> = lacking
            .iter()
            .take(SHOWN)
            .map(|name| {
                let near = self.unused.iter().map(|u| (strsim::jaro_winkler(name, u), u));
                match near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.8) {
                    Some((_, near)) => format!("  `{name}`; the nearest that is left over is `{near}`"),
                    None => format!("  `{name}`"),
                }
            })
            .collect();
        let more = lacking.len().saturating_sub(SHOWN);
        let rest = if more > 0 { format!("\n  … and {more} more") } else { String::new() };
        format!("{}{rest}", lines.join("\n"))
    }
}

/// How many names a report shows.
const SHOWN: usize = 5;

/// Copies tensors into the model's, by name; kind, device and memory layout of the model stay.
///
/// # Errors
/// A mistake when a shape differs; it names the parameter and both shapes.
pub fn load_into<'m>(targets: impl IntoIterator<Item = (String, &'m Tensor)>, tensors: &Tensors) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    let mut taken = std::collections::HashSet::new();
    let mut wrong = Vec::new();
    let _guard = tch::no_grad_guard();
    for (name, target) in targets {
        let Some(source) = tensors.get(&name) else {
            report.missing.push(name);
            continue;
        };
        taken.insert(name.clone());
        if source.size() != target.size() {
            wrong.push(format!("`{name}` is {:?} in the file and {:?} in the recipe", source.size(), target.size()));
            continue;
        }
        target.shallow_clone().f_copy_(source).with_context(|| format!("loading `{name}`"))?;
        report.loaded += 1;
    }
    if !wrong.is_empty() {
        let more = wrong.len().saturating_sub(SHOWN);
        wrong.truncate(SHOWN);
        let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
        mistake!("weights of wrong shape: {}{rest}", wrong.join("; "));
    }
    report.unused = tensors.keys().filter(|k| !taken.contains(*k)).cloned().collect();
    Ok(report)
}

/// Takes out of `tensors` what the configuration of a module fixes, and compares it.
///
/// # Errors
/// A mistake when one differs: the file is of another configuration.
fn compare_constants(module: &Module, tensors: &mut Tensors) -> Result<()> {
    for (name, constant) in &module.constants {
        let full = format!("{}.{name}", module.name);
        let Some(found) = tensors.shift_remove(&full) else { continue };
        let same = found.size() == constant.size()
            && found.f_to_kind(constant.kind())?.f_to_device(constant.device())?.f_equal(constant)?;
        if !same {
            mistake!(
                "`{full}` is {:?} in the file and {:?} by the recipe, or holds other values: the weights are of another \
                 configuration of `model.{}`",
                found.size(),
                constant.size(),
                module.name
            );
        }
    }
    Ok(())
}

/// Fills the modules whose recipe names weights.
pub fn load_declared(
    model: &Model,
    declared: &[(String, crate::recipe::Weights)],
    say: &mut dyn FnMut(String),
) -> Result<()> {
    // Several modules are often filled from one file.
    let mut read_before: IndexMap<PathBuf, Tensors> = IndexMap::new();
    for (name, weights) in declared {
        let Some(module) = model.modules.iter().find(|m| m.name == *name) else { continue };
        let file = file_of(name, weights)?;
        if !read_before.contains_key(&file) {
            read_before.insert(file.clone(), read(&file)?);
        }
        let rename = weights.rename.as_deref().map(Rename::named).transpose()?;
        let prefix = weights.prefix.clone().unwrap_or_else(|| format!("{name}."));
        let all = &read_before[&file];
        let renamed = |k: &String| rename.as_ref().map_or_else(|| k.clone(), |r| r.apply(k));
        let mut tensors: Tensors = all
            .iter()
            .filter_map(|(k, v)| Some((format!("{name}.{}", renamed(k).strip_prefix(&prefix)?), v.shallow_clone())))
            .collect();
        if tensors.is_empty() {
            let mut starts: Vec<String> = all
                .keys()
                .map(|k| renamed(k).split_once('.').map_or_else(|| renamed(k), |(a, _)| format!("{a}.")))
                .collect();
            starts.sort();
            starts.dedup();
            starts.truncate(12);
            mistake!(
                "{} has no weights under `{prefix}` for `model.{name}`: its names begin with {}. Say prefix = \"…\" \
                 (\"\" takes all names), or rename = \"mtlface\" for released weights",
                file.display(),
                starts.join(", ")
            );
        }
        compare_constants(module, &mut tensors).with_context(|| file.display().to_string())?;
        let targets = module.store.iter().map(|(k, e)| (format!("{name}.{k}"), &e.tensor));
        let report = load_into(targets, &tensors).with_context(|| file.display().to_string())?;
        let lacking = report.lacking().len();
        if lacking > 0 && weights.strict {
            mistake!(
                "{} lacks {lacking} of the weights of `model.{name}`:\n{}\nIs it of another network? strict = false \
                 leaves them as they are drawn",
                file.display(),
                report.explain()
            );
        }
        let missing = if lacking > 0 { format!(", {lacking} missing and drawn") } else { String::new() };
        let left = match report.unused.first() {
            Some(first) => format!(", {} left over, such as `{first}`", report.unused.len()),
            None => String::new(),
        };
        say(format!("model.{name}: {} tensors from {}{missing}{left}", report.loaded, file.display()));
    }
    Ok(())
}

fn file_of(name: &str, weights: &crate::recipe::Weights) -> Result<PathBuf> {
    match (&weights.run, &weights.file) {
        (Some(run), None) => {
            let run = crate::runs::resolve(run).with_context(|| format!("`model.{name}.weights`"))?;
            let file = run.join("weights.safetensors");
            if !file.exists() {
                mistake!(
                    "the run {} has no weights.safetensors yet: it is not finished. Go on with it by --resume, or name \
                     another as model.{name}.weights.run",
                    run.display()
                );
            }
            Ok(file)
        }
        (None, Some(file)) => Ok(file.0.clone()),
        (Some(_), Some(_)) => mistake!(
            "`model.{name}.weights` must say either `run` or `file`, and says both: drop one, such as by --unset \
             model.{name}.weights.run"
        ),
        (None, None) => mistake!("`model.{name}.weights` must say either `run` or `file`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let t = Tensor::from_slice(&[1.0f64, 2.0, 3.0, 4.0]).view([2, 2]).transpose(0, 1);
        write(&path, &[("a.b".into(), t.shallow_clone()), ("n".into(), Tensor::from(7i64))]).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back["a.b"].size(), [2, 2]);
        assert_eq!(back["a.b"].double_value(&[0, 1]), 3.0);
        assert_eq!(back["n"].int64_value(&[]), 7);
    }

    #[test]
    fn the_bytes_are_those_of_the_reference_implementation() {
        let float = |n: i64| Tensor::arange(n, (Kind::Float, tch::Device::Cpu));
        let tensors =
            [("b".to_owned(), float(6).reshape([2, 3])), ("n".into(), Tensor::from(7i64)), ("a".into(), float(3))];
        let mut ours = Vec::new();
        stream(&tensors, &mut ours).unwrap();
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, t)| {
                let mut bytes = vec![0; t.numel() * t.kind().elt_size_in_bytes()];
                t.copy_data_u8(&mut bytes, t.numel());
                bytes
            })
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, t), bytes)| {
            let shape = t.size().iter().map(|n| *n as usize).collect();
            (name, safetensors::tensor::TensorView::new(dtype(t.kind()).unwrap(), shape, bytes).unwrap())
        });
        assert_eq!(ours, safetensors::serialize(views, None).unwrap());
    }

    #[test]
    fn a_truncated_file_is_a_mistake_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let mut bytes = Vec::new();
        stream(&[("a".into(), Tensor::zeros([8], (Kind::Float, tch::Device::Cpu)))], &mut bytes).unwrap();
        for cut in [0, 4, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = read(&path).unwrap_err();
            assert_eq!(crate::diagnostic::exit_code(&error), 2);
            assert!(error.to_string().contains("w.safetensors"), "{error}");
        }
    }

    #[test]
    fn a_wrong_shape_names_both() {
        let target = Tensor::zeros([2, 3], (Kind::Float, tch::Device::Cpu));
        let tensors: Tensors = [("m.w".to_owned(), Tensor::zeros([3, 2], (Kind::Float, tch::Device::Cpu)))].into();
        let error = load_into([("m.w".to_owned(), &target)], &tensors).unwrap_err().to_string();
        assert!(error.contains("[3, 2] in the file and [2, 3] in the recipe"), "{error}");
    }

    #[test]
    fn published_names_become_ours() {
        let r = Rename::named("mtlface").unwrap();
        assert_eq!(r.apply("module.backbone.fsm.channel.0.weight"), "decompose.channel.0.weight");
        assert_eq!(r.apply("backbone.input_layer.0.weight"), "backbone.input_layer.0.weight");
        assert_eq!(r.apply("head.weight"), "identity.weight");
    }
}
