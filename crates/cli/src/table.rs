//! Tables for people: plain columns, numbers to the right.

use comfy_table::{CellAlignment, ContentArrangement, Table};

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

/// A line under the heading, and no other.
const ONE_LINE: &str = "     ──            ";

/// Rows under headings, as wide as they need to be.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(ONE_LINE);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|c| match c {
        Column::Left(name) | Column::Right(name) => *name,
    }));
    table.add_rows(rows);
    for (cells, column) in table.column_iter_mut().zip(columns) {
        cells.set_padding((0, 1));
        if let Column::Right(_) = column {
            cells.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// A number with so many digits after the point; `–` where there is none.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"))
}

/// 1234567 as `1,234,567`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
