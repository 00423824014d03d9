//! Which runs are of the same thing: those whose identities differ in seed and repeat only.

use std::collections::{BTreeMap, BTreeSet};

use imprint_analysis::RunData;
use serde_json::Value;

/// What tells runs of the same cell apart.
const CHANCE: [&str; 2] = ["seed", "repeat"];

/// Settings that every table and figure has a place for.
const SHOWN: [&str; 2] = ["scenario_name", "batch_size"];

/// Of an imported run, whose log is in the place of a checkpoint.
const OF_LOG: [&str; 2] = ["log_sha256", "first_global_step"];

/// Runs by the cells that they are of.
pub(crate) struct Sweep {
    /// In what cells differ beside checkpoint, scenario and batch size: paths in a run's identity,
    /// such as `training.learning_rate.peak`.
    pub(crate) axes: Vec<String>,
    pub(crate) cells: Vec<Cell>,
}

/// Runs that differ in seed and repeat only.
pub(crate) struct Cell {
    /// The value on each axis; null where there is none.
    pub(crate) values: Vec<Value>,
    /// By seed and repeat; one at least.
    pub(crate) runs: Vec<RunData>,
}

impl Sweep {
    /// The cells of runs, in the order of their first ones, each run with its identity.
    pub(crate) fn new(runs: Vec<RunData>, identities: Vec<&Value>) -> Self {
        let mut leaves_of: Vec<BTreeMap<String, &Value>> = Vec::new();
        let mut cells: Vec<Cell> = Vec::new();
        let mut cell_of: BTreeMap<String, usize> = BTreeMap::new();
        for (run, identity) in runs.into_iter().zip(identities) {
            let mut leaves = BTreeMap::new();
            collect(identity, "", &mut leaves);
            leaves.retain(|path, _| !CHANCE.contains(&path.as_str()));
            let at = *cell_of.entry(format!("{leaves:?}")).or_insert(cells.len());
            if at == cells.len() {
                leaves_of.push(leaves);
                cells.push(Cell {
                    values: Vec::new(),
                    runs: Vec::new(),
                });
            }
            cells[at].runs.push(run);
        }
        let axes = axes(&cells, &leaves_of);
        for (cell, leaves) in cells.iter_mut().zip(&leaves_of) {
            cell.runs.sort_by_key(|run| (run.seed, run.repeat));
            let value = |axis| leaves.get(axis).copied().cloned().unwrap_or_default();
            cell.values = axes.iter().map(value).collect();
        }
        Self { axes, cells }
    }

    /// The same with a cell for every run.
    pub(crate) fn by_run(self) -> Self {
        let cells = self.cells.into_iter().flat_map(|cell| {
            let values = cell.values;
            cell.runs.into_iter().map(move |run| Cell {
                values: values.clone(),
                runs: vec![run],
            })
        });
        Self {
            axes: self.axes,
            cells: cells.collect(),
        }
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = &RunData> {
        self.cells.iter().flat_map(|cell| &cell.runs)
    }

    /// For each axis the shortest end of its path that no other has, for people.
    pub(crate) fn headings(&self) -> Vec<String> {
        let tail = |path: &str, n: usize| -> String {
            let segments: Vec<&str> = path.split('.').collect();
            segments[segments.len() - n.min(segments.len())..].join(".")
        };
        let is_alone = |path: &str, n: usize| {
            let alike = self
                .axes
                .iter()
                .filter(|axis| tail(axis, n) == tail(path, n));
            alike.count() == 1
        };
        let heading = |path: &String| {
            let n = (1..path.split('.').count()).find(|&n| is_alone(path, n));
            n.map_or_else(|| path.clone(), |n| tail(path, n))
        };
        self.axes.iter().map(heading).collect()
    }
}

impl Cell {
    /// The label of the only run, or what the labels of all have in common of the four lists.
    pub(crate) fn name(&self) -> String {
        let run = &self.runs[0];
        if self.runs.len() == 1 {
            return run.label.clone();
        }
        let experiment = run.label.split('/').next().unwrap_or_default();
        format!(
            "{experiment}/{}-{}-b{}",
            run.checkpoint, run.scenario, run.batch_size
        )
    }
}

/// A value in output: text without quotes, nothing for none.
pub(crate) fn in_words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The values of an identity by their paths; lists of tables are gone into, other lists are values.
fn collect<'a>(value: &'a Value, path: &str, leaves: &mut BTreeMap<String, &'a Value>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    };
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                collect(value, &below(key), leaves);
            }
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            for (i, value) in items.iter().enumerate() {
                collect(value, &below(&i.to_string()), leaves);
            }
        }
        _ => {
            leaves.insert(path.to_owned(), value);
        }
    }
}

/// The paths at which cells differ. What a checkpoint or a scenario is made of differs where cells
/// of the same name have it differently: the name says the rest.
fn axes(cells: &[Cell], leaves_of: &[BTreeMap<String, &Value>]) -> Vec<String> {
    let paths: BTreeSet<&String> = leaves_of.iter().flat_map(BTreeMap::keys).collect();
    let differs = |path: &str| {
        let mut seen: BTreeMap<&str, Option<&&Value>> = BTreeMap::new();
        cells.iter().zip(leaves_of).any(|(cell, leaves)| {
            let run = &cell.runs[0];
            let name = if path.starts_with("checkpoint.") || OF_LOG.contains(&path) {
                run.checkpoint.as_str()
            } else if path.starts_with("scenario.") {
                run.scenario.as_str()
            } else {
                ""
            };
            let value = leaves.get(path);
            *seen.entry(name).or_insert(value) != value
        })
    };
    let paths = paths
        .into_iter()
        .filter(|path| !SHOWN.contains(&path.as_str()));
    paths.filter(|path| differs(path)).cloned().collect()
}

#[cfg(test)]
mod tests;
