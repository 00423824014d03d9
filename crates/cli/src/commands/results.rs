//! `imprint results`: what runs say, as numbers.

mod significance;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::ValueEnum;
use imprint_analysis::{Preset, RunData, Settings, SummaryRow, analyse_together, summary_csv};
use imprint_core::Span;
use serde::Serialize;
use serde_json::Value;

use super::{print_json, tell};
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::readings::{self, Sweep, in_words};
use crate::table::{Column, number, table};

/// Show how facts were acquired and forgotten: effectivity, decay and threshold, with controls.
///
/// A row for every cell of the matrix, arm and depth of probe: runs that differ in seed and repeat
/// only are averaged, and `runs` says how many they are. Every other setting in which runs differ has
/// a column of its own. `own` is what a fact's probes gained by an
/// exposure, `null` what held-out facts gained over the same steps, `swap` what the same target
/// gained after another fact's subject. `effect` is own − null, `bound` is own − swap. The decay is
/// a line of retainability on log10 t: `a` is what is lost in each tenfold of time.
/// CSV and JSON have every column, the published variants of the formulas among them.
///
/// Example: `imprint results mine --output csv > mine.csv`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`).
    name: String,
    /// A table for people, JSON or CSV for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
    /// Show signed-rank tests over facts instead, a row for every run and arm.
    ///
    /// jump: the first exposure raises log-probability; first: it does so more than the second;
    /// binding: the fact gains more than its target after another fact's subject; decay: less is
    /// left late than early. One-sided p-values, on null-subtracted means over memorization and
    /// semantic generalization.
    #[arg(long)]
    tests: bool,
    /// Average nothing: a row for every run, arm and depth.
    #[arg(long, conflicts_with = "tests")]
    by_run: bool,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
    Csv,
}

/// How readings become numbers.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Reading {
    /// The tokens of a probe over which its log-probability is taken: all target tokens (the
    /// paper's headline), the first one, or the full text.
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "target")]
    pub(crate) span: Span,
    /// Whose reading of the formulas: the `paper`'s text or its released `code`.
    #[arg(long, value_name = "PRESET", value_parser = preset, default_value = "paper")]
    pub(crate) preset: Preset,
    /// Look for an exposure's peak this many steps after it, at most [default: the preset's 50].
    #[arg(long, value_name = "STEPS")]
    window: Option<u32>,
    /// Call retainability late from this many steps after the peak on [default: half of the steps
    /// that every probe has].
    #[arg(long, value_name = "STEPS")]
    late_from: Option<u32>,
}

impl Reading {
    pub(crate) fn settings(&self) -> Settings {
        let preset = Settings::of(self.preset);
        Settings {
            window_steps: self.window.unwrap_or(preset.window_steps),
            late_from_steps: self.late_from.or(preset.late_from_steps),
            ..preset
        }
    }
}

fn span(text: &str) -> Result<Span, String> {
    Span::ALL
        .into_iter()
        .find(|s| s.as_str() == text)
        .ok_or_else(|| "use `first`, `target` or `full`".to_owned())
}

fn preset(text: &str) -> Result<Preset, String> {
    text.parse()
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let database = Database::open(place).await?;
    let loaded = readings::load(&database.store, &arguments.name, arguments.reading.span).await;
    database.close().await?;
    let (mut sweep, settings) = (loaded?, arguments.reading.settings());
    if arguments.tests {
        let rows = significance::rows(sweep.runs(), &settings);
        match arguments.output {
            Format::Json => print_json(&rows)?,
            Format::Csv => tell(significance::as_csv(&rows))?,
            Format::Table => tell(significance::as_table(&rows))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.by_run {
        sweep = sweep.by_run();
    }
    let summary = Summary::of(&sweep, &settings);
    match arguments.output {
        Format::Json => print_json(&summary.as_json())?,
        Format::Csv => tell(summary.as_csv()?.trim_end())?,
        Format::Table => tell(format_args!("{}\n\n{LEGEND}", summary.as_table()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows of a sweep: one for each cell, arm and depth.
pub(crate) struct Summary<'a> {
    sweep: &'a Sweep,
    pub(crate) rows: Vec<SummaryRow>,
    /// For each row the position of its cell.
    cells: Vec<usize>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    #[serde(flatten)]
    row: &'a SummaryRow,
    /// In what cells differ beside checkpoint, scenario and batch size.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    settings: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Summary<'a> {
    pub(crate) fn of(sweep: &'a Sweep, settings: &Settings) -> Self {
        let (mut rows, mut cells) = (Vec::new(), Vec::new());
        for (at, cell) in sweep.cells.iter().enumerate() {
            let runs: Vec<&RunData> = cell.runs.iter().collect();
            for group in analyse_together(&cell.name(), &runs, settings) {
                rows.push(group.row);
                cells.push(at);
            }
        }
        Self { sweep, rows, cells }
    }

    /// The values of the axes, row by row.
    fn values(&self) -> impl Iterator<Item = &'a [Value]> {
        let cells = &self.sweep.cells;
        self.cells.iter().map(|&at| cells[at].values.as_slice())
    }

    fn as_json(&self) -> Vec<JsonRow<'_>> {
        let rows = self.rows.iter().zip(self.values());
        rows.map(|(row, values)| JsonRow {
            row,
            settings: (self.sweep.axes.iter().map(String::as_str))
                .zip(values)
                .collect(),
        })
        .collect()
    }

    /// The columns that all results have, then one for each axis.
    pub(crate) fn as_csv(&self) -> Result<String, Failure> {
        let own = summary_csv(&self.rows);
        let mut own = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(own.as_bytes());
        let mut whole = csv::Writer::from_writer(Vec::new());
        let further = (std::iter::once(self.sweep.axes.clone()))
            .chain(self.values().map(|v| v.iter().map(in_words).collect()));
        for (record, further) in own.records().zip(further) {
            let record = record.map_err(Failure::doing("write CSV"))?;
            let further = further.iter().map(String::as_str);
            let written = whole.write_record(record.iter().chain(further));
            written.map_err(Failure::doing("write CSV"))?;
        }
        let bytes = whole.into_inner().map_err(Failure::doing("write CSV"))?;
        String::from_utf8(bytes).map_err(Failure::doing("write CSV"))
    }
}

pub(crate) const LEGEND: &str = "\
Nats. first: the first exposure's gain, at its peak; every: the mean over exposures.
own: the facts' own probes; null: held-out facts over the same steps; swap: the same targets after
another fact's name. effect = own − null, with a 95 % bootstrap interval over facts; bound = own −
swap. decay a: loss of retainability per tenfold of steps since the last peak, and the R² of that
line; tokens: log10 of the tokens at which the line reaches 0 (an extrapolation); kept: mean
retainability late in the run.";

impl Summary<'_> {
    pub(crate) fn as_table(&self) -> String {
        let rows = &self.rows;
        // Built-in scenarios of one arm name it as they are named themselves: the run's name says it.
        let tells_arm = rows.iter().any(|r| r.arm != r.scenario);
        let is_averaged = rows.iter().any(|r| r.n_runs > 1);
        let headings = self.sweep.headings();
        let mut columns = vec![Column::Left("run")];
        columns.extend(headings.iter().map(|heading| Column::Right(heading)));
        columns.extend(is_averaged.then_some(Column::Right("runs")));
        columns.extend(tells_arm.then_some(Column::Left("arm")));
        columns.extend([
            Column::Left("depth"),
            Column::Right("facts"),
            Column::Right("first\nown"),
            Column::Right("\nnull"),
            Column::Right("\nswap"),
            Column::Right("\neffect"),
            Column::Right("\n95 %"),
            Column::Right("\nbound"),
            Column::Right("every\neffect"),
            Column::Right("decay\na"),
            Column::Right("\nR²"),
            Column::Right("\ntokens"),
            Column::Right("\nkept"),
        ]);
        let cells = rows.iter().zip(self.values()).enumerate();
        let cells = cells.map(|(i, (r, values))| {
            let is_new = i == 0 || self.cells[i - 1] != self.cells[i];
            let of_cell = |text: String| if is_new { text } else { String::new() };
            let mut cells = vec![of_cell(r.run.clone())];
            cells.extend(values.iter().map(|value| of_cell(in_words(value))));
            cells.extend(is_averaged.then(|| of_cell(r.n_runs.to_string())));
            cells.extend(tells_arm.then(|| r.arm.clone()));
            cells.extend([
                r.depth.to_string(),
                r.n_facts.to_string(),
                number(r.first_own_nats, 2),
                number(r.first_null_nats, 2),
                number(r.first_swap_nats, 2),
                number(r.first_effect_nats, 2),
                interval(r.first_effect_ci95_low, r.first_effect_ci95_high),
                number(r.first_binding_nats, 2),
                number(r.mean_effect_nats, 2),
                number(r.decay_a, 2),
                number(r.decay_r2, 2),
                number(r.threshold_log10_tokens, 1),
                number(r.retained_late, 2),
            ]);
            cells
        });
        table(&columns, cells)
    }
}

fn interval(low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => format!("{low:.2}…{high:.2}"),
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
