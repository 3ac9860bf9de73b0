//! Tables with a header, as comma-separated values.

use mtl_component::{Result, mistake};
use std::fs::File;
use std::path::{Path, PathBuf};

/// An open table. Blanks around fields do not count.
pub struct Table {
    path: PathBuf,
    /// Its rows.
    pub reader: csv::Reader<File>,
    header: csv::StringRecord,
}

impl Table {
    /// Opens a table and reads its header.
    ///
    /// # Errors
    /// A mistake if it is not there, or has no header that can be read.
    pub fn open(path: &Path) -> Result<Self> {
        // Opening a pipe would wait for somebody to write into it.
        if path.exists() && !path.is_file() {
            mistake!("the table {} is no file", path.display());
        }
        let opened = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).and_then(|mut reader| {
            let header = reader.headers()?.clone();
            Ok((reader, header))
        });
        match opened {
            Ok((reader, header)) => Ok(Self { path: path.to_owned(), reader, header }),
            Err(e) => mistake!("cannot read the table {}: {e}", path.display()),
        }
    }

    /// The place of a column, whose name may be written large or small.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|field| field.eq_ignore_ascii_case(name))
    }

    /// The place of a column that has to be there.
    ///
    /// # Errors
    /// A mistake that names the columns that there are.
    pub fn column(&self, name: &str) -> Result<usize> {
        let Some(at) = self.find(name) else {
            let names: Vec<String> = self.header.iter().map(|name| format!("`{}`", name.escape_debug())).collect();
            mistake!("the table {} has no column `{name}`, but {}", self.path.display(), names.join(", "))
        };
        Ok(at)
    }
}
