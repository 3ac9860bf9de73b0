//! What was measured at each case of an evaluation, kept so that runs can be compared case by case.

use crate::files::write_atomically;
use anyhow::{Context, Result, bail};
use indexmap::IndexMap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The key of [`Cases::of`] in a file's metadata.
const OF: &str = "cases";

/// Numbers of each case (a pair, a picture) of an evaluation, in an order that is the same for every run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cases {
    /// Which cases they are: a text that changes when they do.
    pub of: String,
    /// The numbers by name, one for each case.
    pub columns: IndexMap<String, Vec<f64>>,
}

impl Cases {
    /// The number of cases.
    pub fn len(&self) -> usize {
        self.columns.values().next().map_or(0, Vec::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of that name.
    pub fn column(&self, name: &str) -> Option<&[f64]> {
        self.columns.get(name).map(Vec::as_slice)
    }

    /// The numbers of that name of the picked cases, each as often as it is picked.
    pub fn picked(&self, name: &str, picked: &[usize]) -> Option<Vec<f64>> {
        let column = self.column(name)?;
        picked.iter().map(|case| column.get(*case).copied()).collect()
    }

    /// Where a run folder keeps the cases of an evaluator at a step.
    pub fn path(run: &Path, evaluator: &str, step: u64) -> PathBuf {
        run.join(format!("eval/{evaluator}.step-{step}.cases.safetensors"))
    }

    /// Writes them as float64 tensors.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes: Vec<(&str, Vec<u8>)> = self
            .columns
            .iter()
            .map(|(name, values)| (name.as_str(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views: Vec<(&str, TensorView<'_>)> = bytes
            .iter()
            .map(|(name, bytes)| Ok((*name, TensorView::new(Dtype::F64, vec![self.len()], bytes)?)))
            .collect::<Result<_>>()?;
        let about = HashMap::from([(OF.to_owned(), self.of.clone())]);
        write_atomically(path, &safetensors::serialize(views, Some(about))?)
    }

    /// Reads what [`Cases::write`] has written.
    ///
    /// # Errors
    /// If the file is not there, or is none of these.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let told = || format!("{} holds no cases of an evaluation", path.display());
        let (_, about) = SafeTensors::read_metadata(&bytes).with_context(told)?;
        let of = about.metadata().as_ref().and_then(|m| m.get(OF)).cloned().with_context(told)?;
        let file = SafeTensors::deserialize(&bytes).with_context(told)?;
        let mut columns = IndexMap::new();
        for name in file.names() {
            let tensor = file.tensor(name)?;
            if tensor.dtype() != Dtype::F64 || tensor.shape().len() != 1 {
                bail!("{}: `{name}` is no list of float64", told());
            }
            let number = |b: &[u8]| b.try_into().map(f64::from_le_bytes).unwrap_or(f64::NAN);
            columns.insert(name.to_string(), tensor.data().chunks_exact(8).map(number).collect());
        }
        columns.sort_keys();
        let found = Self { of, columns };
        if found.columns.values().any(|column| column.len() != found.len()) {
            bail!("{}: lists of different lengths", told());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = Cases::path(dir.path(), "pairs", 7);
        let columns = [("a".to_owned(), vec![1.0, f64::MIN_POSITIVE]), ("b".to_owned(), vec![0.0, -2.5])].into();
        let cases = Cases { of: "two pairs".into(), columns };
        cases.write(&path).unwrap();
        assert_eq!(Cases::read(&path).unwrap(), cases);
        std::fs::write(&path, b"{}").unwrap();
        assert!(Cases::read(&path).unwrap_err().to_string().contains("holds no cases"));
    }
}
