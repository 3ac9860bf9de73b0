//! Weights in safetensors files: reading by memory map, writing whole or not at all, and changes of names.

use crate::files::write_atomically;
use crate::graph::Model;
use crate::mistake;
use anyhow::{Context, Result, anyhow, bail};
use indexmap::IndexMap;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::path::Path;
use tch::{Kind, Tensor};

/// Tensors by name.
pub type Tensors = IndexMap<String, Tensor>;

/// Reads a safetensors file, names sorted.
///
/// # Errors
/// A mistake that names the file and what is wrong with it: missing, cut off, or not of this format.
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
    parse(&map).map_err(|e| {
        anyhow::Error::new(crate::diagnostic::Mistake(format!(
            "{} ({} bytes) is no complete safetensors file: {e}",
            path.display(),
            map.len()
        )))
    })
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

/// The bytes of a safetensors file.
pub fn to_bytes(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut buffers = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let tensor = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let kind = tensor.kind();
        let mut bytes = vec![0u8; tensor.numel() * kind.elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel()).with_context(|| format!("copying `{name}`"))?;
        let shape: Vec<usize> = tensor.size().iter().map(|n| *n as usize).collect();
        buffers.push((name.as_str(), dtype(kind)?, shape, bytes));
    }
    let views: Vec<(&str, TensorView<'_>)> = buffers
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| anyhow!("`{name}`: {e}"))?))
        })
        .collect::<Result<_>>()?;
    safetensors::serialize(views, None).map_err(|e| anyhow!("writing safetensors: {e}"))
}

/// Writes a safetensors file, whole or not at all.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    write_atomically(path, &to_bytes(tensors)?)
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
        let more = wrong.len().saturating_sub(5);
        wrong.truncate(5);
        let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
        mistake!("weights of wrong shape: {}{rest}", wrong.join("; "));
    }
    report.unused = tensors.keys().filter(|k| !taken.contains(*k)).cloned().collect();
    Ok(report)
}

/// Fills the modules whose recipe names weights.
pub fn load_declared(
    model: &Model,
    declared: &[(String, crate::recipe::Weights)],
    say: &mut dyn FnMut(String),
) -> Result<()> {
    for (name, weights) in declared {
        let file = match (&weights.run, &weights.file) {
            (Some(run), None) => run.join("weights.safetensors"),
            (None, Some(file)) => file.0.clone(),
            _ => mistake!("`model.{name}.weights` must say either `run` or `file`"),
        };
        let mut tensors = read(&file)?;
        if let Some(rename) = &weights.rename {
            let rename = Rename::named(rename)?;
            tensors = tensors.into_iter().map(|(k, v)| (rename.apply(&k), v)).collect();
        }
        let prefix = weights.prefix.clone().unwrap_or_else(|| format!("{name}."));
        let tensors: Tensors = tensors
            .into_iter()
            .filter_map(|(k, v)| k.strip_prefix(&prefix).map(|rest| (format!("{name}.{rest}"), v)))
            .collect();
        if tensors.is_empty() {
            mistake!("{} has no weights under `{prefix}` for `model.{name}`", file.display());
        }
        let Some(module) = model.modules.iter().find(|m| m.name == *name) else { continue };
        let targets = module.store.iter().map(|(k, e)| (format!("{name}.{k}"), &e.tensor));
        let report = load_into(targets, &tensors)?;
        let missing: Vec<&String> = report.missing.iter().filter(|n| !n.ends_with("num_batches_tracked")).collect();
        if !missing.is_empty() {
            mistake!(
                "{} lacks {} of the weights of `model.{name}`, such as `{}`",
                file.display(),
                missing.len(),
                missing[0]
            );
        }
        say(format!(
            "model.{name}: {} tensors from {}, {} left over",
            report.loaded,
            file.display(),
            report.unused.len()
        ));
    }
    Ok(())
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
    fn a_truncated_file_is_a_mistake_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let bytes = to_bytes(&[("a".into(), Tensor::zeros([8], (Kind::Float, tch::Device::Cpu)))]).unwrap();
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
