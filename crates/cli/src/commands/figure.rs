//! `imprint figure`: what runs say, as pictures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imprint_analysis::figures::{
    self, DynamicsPanel, RetainabilityPanel, retainability, retainability_csv, training_dynamics,
    training_dynamics_csv,
};
use imprint_analysis::{RunData, Settings, analyse};
use serde_json::Value;

use super::results::Reading;
use super::tell;
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::readings::{self, Sweep, in_words};

/// Draw an experiment's training dynamics and retainability.
///
/// For each checkpoint, seed and setting in which runs differ, two figures, each as SVG, PNG and
/// CSV: the mean change of log-probability around the injections (with its controls), and what is
/// retained against log t with the fitted lines. Scenarios stand below each other, batch sizes side
/// by side. Nothing is averaged over runs.
///
/// Example: `imprint figure mine --out figures`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`).
    name: String,
    /// Directory for the figures; made if need be.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    reading: Reading,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let database = Database::open(place).await?;
    let loaded = readings::load(&database.store, &arguments.name, arguments.reading.span).await;
    database.close().await?;
    let settings = arguments.reading.settings();
    for path in draw(&loaded?, &settings, &arguments.out)? {
        tell(path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Pixels a unit of the SVG.
const PNG_SCALE: f32 = 2.0;

/// Draws both figures of every checkpoint, setting and seed; returns the files.
pub(crate) fn draw(
    sweep: &Sweep,
    settings: &Settings,
    out: &Path,
) -> Result<Vec<PathBuf>, Failure> {
    let names = setting_names(sweep);
    let mut by_start: BTreeMap<(&str, &str, u64, u32), Vec<&RunData>> = BTreeMap::new();
    for (cell, name) in sweep.cells.iter().zip(&names) {
        for run in &cell.runs {
            by_start
                .entry((&run.checkpoint, name, run.seed, run.repeat))
                .or_default()
                .push(run);
        }
    }
    fs::create_dir_all(out).map_err(Failure::doing(format_args!(
        "make the directory {}",
        out.display()
    )))?;
    let mut files = Vec::new();
    for ((checkpoint, setting, seed, repeat), runs) in by_start {
        let repeat = match repeat {
            0 => String::new(),
            n => format!("-repeat{n}"),
        };
        let start = format!("{checkpoint}{setting}-s{seed}{repeat}");
        let cells = grid(&runs);
        let mut batch_sizes: Vec<u32> = runs.iter().map(|r| r.batch_size).collect();
        batch_sizes.sort_unstable();
        batch_sizes.dedup();
        let n_columns = batch_sizes.len();

        let panels: Vec<DynamicsPanel> = cells
            .iter()
            .map(|(run, arm)| DynamicsPanel::new(run, arm))
            .collect();
        let stem = out.join(format!("dynamics-{start}"));
        let svg = training_dynamics(&panels, n_columns);
        files.extend(write(&stem, svg, &training_dynamics_csv(&panels))?);

        let panels: Vec<RetainabilityPanel> = cells
            .iter()
            .map(|(run, arm)| RetainabilityPanel::new(&analyse(run, settings), arm))
            .collect();
        let stem = out.join(format!("retainability-{start}"));
        let svg = retainability(&panels, n_columns);
        files.extend(write(&stem, svg, &retainability_csv(&panels))?);
    }
    if files.is_empty() {
        return Err(Failure::bad_input(
            "no fact was injected in these runs: nothing to draw",
        ));
    }
    Ok(files)
}

/// Longer values are counted in names of files.
const MAX_VALUE_CHARS: usize = 40;

/// For each cell what the names of its figures say of its settings: those that checkpoint, scenario
/// and batch size do not decide, since the figures or their panels are named after these.
fn setting_names(sweep: &Sweep) -> Vec<String> {
    let mut names = vec![String::new(); sweep.cells.len()];
    for (axis, heading) in sweep.headings().iter().enumerate() {
        let mut decided: BTreeMap<(&str, &str, u32), &Value> = BTreeMap::new();
        let mut values: Vec<&Value> = Vec::new();
        let mut divides = false;
        for cell in &sweep.cells {
            let (run, value) = (&cell.runs[0], &cell.values[axis]);
            let place = (&*run.checkpoint, &*run.scenario, run.batch_size);
            divides |= *decided.entry(place).or_insert(value) != value;
            if !values.contains(&value) {
                values.push(value);
            }
        }
        if !divides {
            continue;
        }
        for (name, cell) in names.iter_mut().zip(&sweep.cells) {
            let nth = values.iter().position(|value| **value == cell.values[axis]);
            *name += &format!(
                "-{heading}-{}",
                in_name(&cell.values[axis], nth.unwrap_or(0))
            );
        }
    }
    names
}

/// A value in the name of a file, the `nth` of its axis.
fn in_name(value: &Value, nth: usize) -> String {
    let text = in_words(value);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match text.len() {
        1..=MAX_VALUE_CHARS if text.chars().all(fits) => text,
        _ => format!("value{nth}"),
    }
}

/// The panels, row by row: an arm of a scenario a row, a batch size a column.
fn grid<'a>(runs: &[&'a RunData]) -> Vec<(&'a RunData, &'a str)> {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        for arm in run.arms() {
            if !rows.contains(&(&run.scenario, arm)) {
                rows.push((&run.scenario, arm));
            }
        }
    }
    let cell = |(scenario, arm): (&'a str, &'a str)| {
        runs.iter()
            .filter(move |r| r.scenario == scenario && r.arms().contains(&arm))
            .map(move |r| (*r, arm))
    };
    rows.into_iter().flat_map(cell).collect()
}

/// A figure as SVG, PNG and CSV; nothing where there is nothing to draw.
fn write(
    stem: &Path,
    svg: Result<String, figures::Error>,
    csv: &str,
) -> Result<Vec<PathBuf>, Failure> {
    let svg = match svg {
        Ok(svg) => svg,
        Err(figures::Error::Empty) => return Ok(Vec::new()),
        Err(error) => return Err(Failure::doing("draw")(error)),
    };
    let png = figures::to_png(&svg, PNG_SCALE).map_err(Failure::doing("draw"))?;
    let mut files = Vec::new();
    for (extension, bytes) in [
        ("svg", svg.as_bytes()),
        ("png", &png),
        ("csv", csv.as_bytes()),
    ] {
        // Not `with_extension`: a checkpoint's name may have a point.
        let path = PathBuf::from(format!("{}.{extension}", stem.display()));
        fs::write(&path, bytes)
            .map_err(Failure::doing(format_args!("write {}", path.display())))?;
        files.push(path);
    }
    Ok(files)
}
