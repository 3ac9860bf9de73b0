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
