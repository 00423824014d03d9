//! Names that somebody may have meant.

use imprint_proto::status::refused;
use tonic::{Code, Status};

use crate::executor::aside;

/// So many names are suggested.
const MAX_SUGGESTED: usize = 3;

/// Longer names have no near ones: comparing takes time that grows with them.
const MAX_CHARS: usize = 200;

/// NOT_FOUND, in a line that says what there is not and names the nearest that are.
pub(super) async fn not_found(what: &str, asked: &str, known: Vec<String>) -> Status {
    let asked = asked.to_owned();
    // Of thousands of names it takes long.
    let near: Vec<String> = aside(move || {
        let near = nearest(&asked, &known).into_iter();
        near.map(str::to_owned).collect()
    })
    .await;
    let quoted: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    let line = match quoted.as_slice() {
        [] => what.to_owned(),
        near => format!("{what}; did you mean {}?", near.join(" or ")),
    };
    let about = (!near.is_empty()).then(|| ("nearest", near.join(" ")));
    refused(Code::NotFound, "NOT_FOUND", line, about)
}

/// The names that begin as `asked` does or differ in few letters, the nearest first.
fn nearest<'a>(asked: &str, known: &'a [String]) -> Vec<&'a str> {
    let n_chars = asked.chars().count();
    if n_chars == 0 || n_chars > MAX_CHARS {
        return Vec::new();
    }
    let most = 1 + n_chars / 4;
    let mut near: Vec<(bool, usize, &str)> = (known.iter())
        .filter(|name| name.len() <= 4 * MAX_CHARS)
        .map(|name| {
            (
                !name.starts_with(asked),
                distance(asked, name),
                name.as_str(),
            )
        })
        .filter(|&(is_other, distance, _)| !is_other || distance <= most)
        .collect();
    near.sort();
    near.truncate(MAX_SUGGESTED);
    near.into_iter().map(|(_, _, name)| name).collect()
}

/// Letters to insert, delete, replace or swap with their neighbours to make `b` of `a`
/// (the optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests;
