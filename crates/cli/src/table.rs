//! Tables for people: plain columns, numbers to the right, no line longer than the terminal.

use std::io::{stderr, stdout};
use std::os::fd::AsFd;

use comfy_table::{CellAlignment, ContentArrangement, Table};
use terminal_size::{Height, Width, terminal_size_of};

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column<'h> {
    Left(&'h str),
    Right(&'h str),
    /// To the left; where the terminal is too narrow, its cells lose their middle.
    Name(&'h str),
}

impl<'h> Column<'h> {
    fn heading(self) -> &'h str {
        match self {
            Self::Left(heading) | Self::Right(heading) | Self::Name(heading) => heading,
        }
    }
}

/// A line under the heading, and no other.
const ONE_LINE: &str = "     ──            ";

/// Between columns.
const GAP: usize = 2;

/// What is left of a name at least.
const MIN_NAME: usize = 12;

/// Notes beside their rows have so many characters a line at least, where they are that long.
const MIN_NOTE: usize = 32;

/// How far notes below their rows stand in.
const INDENT: usize = 2;

/// Characters in a line of standard output; `None` where it is no terminal.
pub(crate) fn width() -> Option<usize> {
    size(&stdout()).map(|(columns, _)| columns)
}

/// Characters in a line of standard error, and lines; `None` where it is no terminal.
pub(crate) fn stderr_size() -> Option<(usize, usize)> {
    size(&stderr())
}

fn size(stream: &impl AsFd) -> Option<(usize, usize)> {
    let (Width(columns), Height(lines)) = terminal_size_of(stream)?;
    (columns > 0 && lines > 0).then_some((columns.into(), lines.into()))
}

/// Rows under headings.
pub(crate) fn table(columns: &[Column<'_>], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    lines(columns, &rows, width()).join("\n")
}

/// Rows under headings, each with a note: beside it where there is room, else below it.
pub(crate) fn table_with_notes(
    columns: &[Column<'_>],
    heading: &'static str,
    rows: impl IntoIterator<Item = (Vec<String>, String)>,
) -> String {
    let rows: Vec<(Vec<String>, String)> = rows.into_iter().collect();
    with_notes(columns, heading, rows, width())
}

fn with_notes(
    columns: &[Column<'_>],
    heading: &'static str,
    rows: Vec<(Vec<String>, String)>,
    width: Option<usize>,
) -> String {
    let (mut rows, notes): (Vec<Vec<String>>, Vec<String>) = rows.into_iter().unzip();
    for cell in rows.iter_mut().flatten() {
        *cell = printable(cell).collect();
    }
    let longest = notes.iter().map(|note| note.chars().count()).max();
    let longest = longest.unwrap_or(0);
    if longest == 0 {
        return lines(columns, &rows, width).join("\n");
    }
    let own = total(&widths(columns, &rows)) + GAP;
    let beside = width.map_or(usize::MAX, |width| width.saturating_sub(own));
    if beside >= longest.max(heading.chars().count()).min(MIN_NOTE) {
        for (row, note) in rows.iter_mut().zip(notes) {
            row.push(wrap(&note, beside).join("\n"));
        }
        let columns = [columns, &[Column::Left(heading)]].concat();
        return lines(&columns, &rows, width).join("\n");
    }
    let below = width.map_or(usize::MAX, |width| width.saturating_sub(INDENT));
    let mut text = lines(columns, &rows, width);
    let body = text.split_off(text.len() - rows.len());
    for (line, note) in body.into_iter().zip(notes) {
        text.push(line);
        let note = wrap(&note, below).into_iter();
        text.extend(note.map(|line| format!("{:INDENT$}{line}", "")));
    }
    text.join("\n")
}

/// The characters that each column takes.
fn widths(columns: &[Column<'_>], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |cell: &String| cell.lines().map(|line| line.chars().count()).max();
    let cells = |i: usize| rows.iter().filter_map(move |row| width(&row[i]));
    (columns.iter().enumerate())
        .map(|(i, column)| {
            let heading = column.heading().chars().count();
            cells(i).chain([heading]).max().unwrap_or(0)
        })
        .collect()
}

/// The characters of the line under the heading, which is the longest.
fn total(widths: &[usize]) -> usize {
    (widths.iter().map(|w| w + GAP).sum::<usize>()).saturating_sub(1)
}

/// The heading, a line, and a line for every row.
fn lines(columns: &[Column<'_>], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let mut widths = widths(columns, rows);
    let mut too_much = width.map_or(0, |width| total(&widths).saturating_sub(width));
    for (width, column) in widths.iter_mut().zip(columns) {
        if let Column::Name(_) = column {
            let shorter = width.saturating_sub(too_much).max(MIN_NAME.min(*width));
            too_much -= *width - shorter;
            *width = shorter;
        }
    }
    let mut table = Table::new();
    table.load_preset(ONE_LINE);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.heading()));
    for row in rows {
        let cells = row.iter().zip(columns).zip(&widths);
        table.add_row(cells.map(|((cell, column), &width)| match column {
            Column::Name(_) => shorten(cell, width),
            Column::Left(_) | Column::Right(_) => cell.clone(),
        }));
    }
    for (cells, column) in table.column_iter_mut().zip(columns) {
        cells.set_padding((0, 1));
        if let Column::Right(_) = column {
            cells.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// A text of so many characters at most: without its middle where it is longer.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let n_chars = text.chars().count();
    if n_chars <= width {
        return text.to_owned();
    }
    // Names that are alike begin alike and end differently.
    let kept = width.saturating_sub(1);
    let (head, tail) = (kept / 2, kept - kept / 2);
    let head = text.chars().take(head);
    let tail = text.chars().skip(n_chars - tail);
    head.chain(['…']).chain(tail).collect()
}

/// A text in lines of so many characters at most, broken between words where that can be; none for an
/// empty one.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut room = 0;
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = printable(word).collect();
        if letters.len() < room {
            letters.insert(0, ' ');
        } else {
            room = 0;
        }
        for letter in letters {
            if room == 0 {
                lines.push(String::new());
                room = width;
            }
            lines.last_mut().expect("there is one").push(letter);
            room -= 1;
        }
    }
    lines
}

/// What of a text moves no cursor and changes no colour: others have written it.
fn printable(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !c.is_control())
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

/// A time in one or two units, such as `90 s`, `12 m`, `3 h 20 m` or `5 d 4 h`.
pub(crate) fn time(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} m", seconds / MINUTE),
        7200..172_800 => format!("{} h {} m", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR),
    }
}

#[cfg(test)]
mod tests;
