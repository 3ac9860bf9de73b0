//! Tables of text.

use crate::messages::printable;
use comfy_table::{Table, presets};

/// Columns as wide as their widest cell.
pub fn aligned(head: &[String], rows: &[Vec<String>]) -> String {
    let mut table = filled(head, rows);
    table.load_style(presets::NOTHING);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// [`aligned`], or rows and columns exchanged where that is wider than a usual terminal and the other is narrower.
pub fn readable(head: &[String], rows: &[Vec<String>]) -> String {
    const WIDE: usize = 120;
    let width = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let plain = aligned(head, rows);
    if width(&plain) <= WIDE {
        return plain;
    }
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let column = |c: usize| std::iter::once(head[c].clone()).chain(rows.iter().map(|row| cell(row, c))).collect();
    let mut exchanged: Vec<Vec<String>> = (0..head.len()).map(column).collect();
    let first = exchanged.remove(0);
    let exchanged = aligned(&first, &exchanged);
    if width(&exchanged) < width(&plain) { exchanged } else { plain }
}

/// The table as Markdown has it.
pub fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let mut table = filled(head, rows);
    table.load_style(presets::ASCII_MARKDOWN);
    format!("{table}\n")
}

fn filled(head: &[String], rows: &[Vec<String>]) -> Table {
    let shown = |cells: &[String]| cells.iter().map(|cell| printable(cell).into_owned()).collect::<Vec<_>>();
    let mut table = Table::new();
    table.set_header(shown(head)).add_rows(rows.iter().map(|row| shown(row)));
    table
}
