//! The cases of an evaluation in files.

use indexmap::IndexMap;
use mtl_component::Cases;
use mtl_recipe::files::{read_bounded, write_atomically};
use mtl_recipe::{Context, Result, bail};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// The largest file of cases that is read.
const MAX_BYTES: u64 = 4 << 30;
/// The key of [`Cases::of`] in a file's metadata.
const OF: &str = "cases";

/// Writes cases as float64 tensors.
///
/// # Errors
/// If the file cannot be written.
pub fn write_cases(cases: &Cases, path: &Path) -> Result<()> {
    let bytes: Vec<(&str, Vec<u8>)> = cases
        .columns
        .iter()
        .map(|(name, values)| (name.as_str(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views: Vec<(&str, TensorView<'_>)> = bytes
        .iter()
        .map(|(name, bytes)| Ok((*name, TensorView::new(Dtype::F64, vec![cases.len()], bytes)?)))
        .collect::<Result<_>>()?;
    let about = HashMap::from([(OF.to_owned(), cases.of.clone())]);
    write_atomically(path, &safetensors::serialize(views, Some(about))?)
}

/// Reads what [`write_cases`] has written.
///
/// # Errors
/// If the file does not exist, or is none of these.
pub fn read_cases(path: &Path) -> Result<Cases> {
    let bytes = read_bounded(path, MAX_BYTES).with_context(|| format!("reading {}", path.display()))?;
    let wrong = || format!("{} holds no cases of an evaluation", path.display());
    let (_, about) = SafeTensors::read_metadata(&bytes).with_context(wrong)?;
    let of = about.metadata().as_ref().and_then(|m| m.get(OF)).cloned().with_context(wrong)?;
    let file = SafeTensors::deserialize(&bytes).with_context(wrong)?;
    let mut columns = IndexMap::new();
    for name in file.names() {
        let tensor = file.tensor(name)?;
        if tensor.dtype() != Dtype::F64 || tensor.shape().len() != 1 {
            bail!("{}: `{name}` is not a list of float64", wrong());
        }
        let number = |b: &[u8]| b.try_into().map(f64::from_le_bytes).unwrap_or(f64::NAN);
        columns.insert(name.to_string(), tensor.data().chunks_exact(8).map(number).collect());
    }
    columns.sort_keys();
    let found = Cases { of, columns };
    if found.columns.values().any(|column| column.len() != found.len()) {
        bail!("{}: lists of different lengths", wrong());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.safetensors");
        let columns = [("a".to_owned(), vec![1.0, f64::MIN_POSITIVE]), ("b".to_owned(), vec![0.0, -2.5])].into();
        let cases = Cases { of: "two pairs".into(), columns };
        write_cases(&cases, &path).unwrap();
        assert_eq!(read_cases(&path).unwrap(), cases);
        std::fs::write(&path, b"{}").unwrap();
        assert!(read_cases(&path).unwrap_err().to_string().contains("holds no cases"));
    }
}
