//! Weights in files: safetensors and PyTorch's own format are read, safetensors are written.

mod old_pytorch;
pub mod pickle;
mod pytorch;
mod rename;

pub use rename::Rename;

use indexmap::IndexMap;
use mtl_recipe::files::{left_instead, read_bounded, stream_atomically};
use mtl_recipe::{Context, Error, Result, bail, mistake};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use std::io::Write;
use std::path::Path;
use tch::{Kind, Tensor};

/// Tensors by name.
pub type Tensors = IndexMap<String, Tensor>;

/// Reads a safetensors file, or one of `torch.save`, names sorted. Nothing in the file is run.
///
/// # Errors
/// A mistake that names the file and what is wrong with it: missing, cut off, or not of these formats.
pub fn read(path: &Path) -> Result<Tensors> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(e) => mistake!("cannot open the weights {}: {e}", path.display()),
    };
    // The bytes are read, and not mapped: a file that is cut off meanwhile would end the program.
    match read_bounded(path, found.len()) {
        Ok(bytes) => parse(&bytes, path),
        Err(e) => mistake!("cannot read the weights {}: {e}", path.display()),
    }
}

/// Reads the bytes of a file of weights; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8], path: &Path) -> Result<Tensors> {
    let mistaken = |what: &str, e: Error| {
        Error::mistake(format!("{} ({} bytes) is not a {what}: {e:#}", path.display(), bytes.len()))
    };
    if bytes.starts_with(pytorch::MAGIC) {
        return pytorch::parse(bytes).map_err(|e| mistaken("file of weights that can be read here", e));
    }
    if bytes.starts_with(old_pytorch::MAGIC) {
        return old_pytorch::parse(bytes).map_err(|e| mistaken("file of weights that can be read here", e));
    }
    let other = left_instead(bytes).or(match bytes {
        [0x1f, 0x8b, ..] => Some("it is compressed by gzip: unpack it first"),
        [0x89, b'H', b'D', b'F', ..] => Some("it is an HDF5 file, as Keras writes it: save its tensors as safetensors"),
        _ => None,
    });
    if let Some(other) = other {
        return Err(mistaken("file of weights", Error::failure(other)));
    }
    parse_safetensors(bytes).map_err(|e| mistaken("complete safetensors file", e))
}

/// Reads the bytes of a file of `torch.save`; for tests that make such bytes.
///
/// # Errors
/// What is wrong with them.
pub fn parse_pytorch(bytes: &[u8]) -> Result<Tensors> {
    pytorch::parse(bytes)
}

fn parse_safetensors(bytes: &[u8]) -> Result<Tensors> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Error::failure(e.to_string()))?;
    let mut names = file.names();
    names.sort_unstable();
    let mut out = Tensors::new();
    for name in names {
        let view = file.tensor(name).map_err(|e| Error::failure(e.to_string()))?;
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
    let header = Metadata::new(None, infos.collect()).context("writing safetensors")?;
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

    /// What stands before the names of `module` in what was left over, if one of its missing names ends a name there.
    pub fn prefix(&self, module: &str) -> Option<String> {
        let own = format!("{module}.");
        let missing = self.lacking().into_iter().filter_map(|name| name.strip_prefix(&own));
        let left: Vec<&str> = self.unused.iter().filter_map(|name| name.strip_prefix(&own)).collect();
        let before = |name: &str| {
            let prefix = left.iter().find_map(|other| other.strip_suffix(name))?;
            prefix.ends_with('.').then(|| prefix.to_owned())
        };
        missing.take(SHOWN).find_map(before)
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

/// What a tensor holds that is not finite, in words; none if all of it is.
///
/// # Errors
/// If they cannot be read.
pub fn not_finite(tensor: &Tensor) -> Result<Option<String>> {
    if !matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16) {
        return Ok(None);
    }
    let finite = tensor.f_isfinite()?;
    if finite.f_all()?.f_int64_value(&[])? != 0 {
        return Ok(None);
    }
    let bad = finite.f_logical_not()?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    Ok(Some(format!("NaN or infinite values ({bad} of {})", tensor.numel())))
}

/// Copies tensors into the model's, by name; kind, device and memory layout of the model stay.
///
/// # Errors
/// A mistake when a shape differs, which names the parameter and both shapes, or when a number is not finite.
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
        if let Some(what) = not_finite(source)? {
            mistake!(
                "`{name}` holds {what}: training had probably diverged when it was saved. Take an earlier checkpoint"
            );
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
            assert_eq!(error.exit_status(), 2);
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
}
