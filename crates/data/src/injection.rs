//! Where injected texts go in a batch.
//!
//! # Source
//! arXiv 2406.11813's released code: text k replaces the head of row k, and with small batches
//! consecutive texts share a row.
//! Deviation: one rule holds for any batch size and no text is ever dropped; the released code drops
//! texts when 64 < batch size < texts.

use std::ops::Range;

/// The texts of each injected row: one a row while there are rows, otherwise consecutive texts in
/// exactly `batch_size` rows, of which the first `n_texts mod batch_size` take one more.
pub(crate) fn rows(n_texts: usize, batch_size: usize) -> impl Iterator<Item = Range<usize>> {
    let n_rows = n_texts.min(batch_size);
    let (each, more) = match n_rows {
        0 => (0, 0),
        n => (n_texts / n, n_texts % n),
    };
    (0..n_rows).map(move |row| {
        let start = row * each + row.min(more);
        start..start + each + usize::from(row < more)
    })
}

/// Tokens of the longest row.
pub(crate) fn longest_row(text_lengths: &[usize], batch_size: usize) -> usize {
    rows(text_lengths.len(), batch_size)
        .map(|texts| text_lengths[texts].iter().sum())
        .max()
        .unwrap_or(0)
}

/// Puts `knowledge` at the head of a row; what was there moves back, and its tail is lost.
///
/// # Panics
/// When `knowledge` is longer than the row.
pub(crate) fn replace_head(row: &mut [u32], knowledge: &[u32]) {
    let kept = row.len() - knowledge.len();
    row.copy_within(..kept, knowledge.len());
    row[..knowledge.len()].copy_from_slice(knowledge);
}

#[cfg(test)]
mod tests;
