//! Weights that look wrong: what no training makes.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{EXP_AVG, EXP_AVG_SQ};

/// Lines about one checkpoint; a damaged one would fill a log.
const MAX_LINES: usize = 20;

/// Something about a tensor's values that its user should know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    path: PathBuf,
    tensor: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, tensor, what } = self;
        write!(f, "tensor `{tensor}` in {} {what}", path.display())
    }
}

/// What looks wrong about a tensor's values.
///
/// Values that are not finite anywhere; that are all the same, or the same along whole rows, in
/// matrices of weights only: a norm's weights and a bias may well be, and the moments of tokens that
/// never came are.
pub(crate) fn examine(
    path: &Path,
    tensor: &str,
    shape: &[usize],
    values: &[f32],
) -> Option<Finding> {
    let is_moment = tensor.ends_with(EXP_AVG) || tensor.ends_with(EXP_AVG_SQ);
    let found = |what: String| {
        Some(Finding {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            what,
        })
    };
    let n_nan = values.iter().filter(|x| x.is_nan()).count();
    let n_infinite = values.iter().filter(|x| x.is_infinite()).count();
    if n_nan + n_infinite > 0 {
        return found(format!(
            "has {n_nan} NaN and {n_infinite} infinite values of {}",
            values.len()
        ));
    }
    let n_rows = *shape.first()?;
    let n_columns = values.len().checked_div(n_rows)?;
    if is_moment || shape.len() < 2 || n_columns < 2 {
        return None;
    }
    let is_constant = |values: &[f32]| values.iter().all(|x| *x == values[0]);
    let mut constant = (values.chunks_exact(n_columns).enumerate())
        .filter_map(|(row, values)| is_constant(values).then_some(row));
    let first = constant.next()?;
    let n_constant = 1 + constant.count();
    if n_constant < n_rows {
        let value = values[first * n_columns];
        return found(format!(
            "has {n_constant} dead rows of {n_rows}: row {first} is {value} throughout"
        ));
    }
    match is_constant(values) {
        true => found(format!("is {} throughout", values[0])),
        false => found("has nothing but constant rows".to_owned()),
    }
}

/// One line for each of the first findings, and one for how many more there are.
pub(crate) fn lines(findings: &[Finding]) -> Vec<String> {
    let mut lines: Vec<String> = (findings.iter().take(MAX_LINES))
        .map(|finding| format!("{finding}; is this the checkpoint you meant?"))
        .collect();
    if findings.len() > MAX_LINES {
        lines.push(format!(
            "{} more tensors look wrong",
            findings.len() - MAX_LINES
        ));
    }
    lines
}

#[cfg(test)]
mod tests;
