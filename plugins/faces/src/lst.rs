//! Lists with tabs, from which record files are packed.
//!
//! | line | written by |
//! |---|---|
//! | `aligned path label`, and perhaps a box, or a box and five x and five y of points | insightface (`.lst`) |
//! | `index label… path` | mxnet's im2rec (`.lst`) |
//! | `idx path label` | CVLface (`train.tsv`) |

use crate::alignment::Points;
use crate::list;
use mtl_component::files::read_text;
use mtl_component::{Result, mistake};
use std::path::Path;

/// A picture of such a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The label of the person.
    pub label: i64,
    /// The picture.
    pub file: String,
    /// Eyes, nose and corners of the mouth, where the list has them.
    pub points: Option<Points>,
}

/// The lines of a list by number, from 1, and what each tells; none if it has no such form. Blank lines do not count.
///
/// # Errors
/// A mistake if the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<(usize, Option<Entry>)>> {
    let text = match read_text(path, list::MAX_BYTES) {
        Ok(text) => text,
        Err(e) => mistake!("cannot read the list {}: {e}", path.display()),
    };
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    Ok(lines.map(|(line, number)| (number, entry(line))).collect())
}

/// What a line tells.
pub fn entry(line: &str) -> Option<Entry> {
    let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
    let is_name = |text: &str| !text.is_empty() && text.parse::<f64>().is_err();
    match fields[..] {
        [_, file, label, ..] if is_name(file) => {
            let points = match fields.len() {
                3 | 7 => None,
                17 => {
                    let numbers: Option<Vec<f64>> = fields[7..].iter().map(|text| finite(text)).collect();
                    let numbers = numbers?;
                    Some(std::array::from_fn(|i| [numbers[i], numbers[i + 5]]))
                }
                _ => return None,
            };
            Some(Entry { label: whole(label)?, file: file.to_owned(), points })
        }
        [_, label, .., file] if is_name(file) => {
            Some(Entry { label: whole(label)?, file: file.to_owned(), points: None })
        }
        _ => None,
    }
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A label: they are written as floats.
fn whole(text: &str) -> Option<i64> {
    finite(text).filter(|label| label.fract() == 0.0 && label.abs() < 1e15).map(|label| label as i64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_of_every_tool_are_read() {
        let entry = |line: &str| super::entry(line).map(|entry| (entry.label, entry.file, entry.points.is_some()));
        let found = |label, points| Some((label, "a b/1.jpg".to_owned(), points));
        assert_eq!(entry("1\ta b/1.jpg\t7"), found(7, false));
        assert_eq!(entry("0\ta b/1.jpg\t7\t0\t0\t9\t9"), found(7, false));
        assert_eq!(entry("0\ta b/1.jpg\t7\t0\t0\t9\t9\t1\t3\t5\t7\t9\t2\t4\t6\t8\t10"), found(7, true));
        assert_eq!(entry("12\t7.000000\ta b/1.jpg"), found(7, false));
        assert_eq!(entry("12\t7.0\t3.0\ta b/1.jpg"), found(7, false));
        for line in ["", "1", "1\t2\t3", "1\ta.jpg", "1\ta.jpg\tx", "1\ta.jpg\t1.5", "1\ta.jpg\tnan", "1\ta.jpg\t1\t2"]
        {
            assert_eq!(entry(line), None, "{line:?}");
        }
        let points = super::entry("0\ta.jpg\t7\t0\t0\t9\t9\t1\t3\t5\t7\t9\t2\t4\t6\t8\t10").unwrap().points.unwrap();
        assert_eq!(points, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]);
    }
}
