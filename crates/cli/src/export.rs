//! A run's rows into files: Parquet, CSV, and the reference's log.
//!
//! Rows stream from the database into the file; what is in memory is a group of rows at most.

mod columns;
mod csv_file;
mod output;
mod parquet_file;

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::pin::pin;

use clap::ValueEnum;
use futures::TryStreamExt as _;
use imprint_core::FactId;
use imprint_store::results::{self, ProbeRecord, RunRecord};
use imprint_store::{Store, export};

use self::columns::{Cell, Column, EXPOSURES, MEANS, READINGS, UPDATES};
use self::csv_file::CsvFile;
use self::output::Output;
use self::parquet_file::ParquetFile;
use crate::failure::Failure;
use crate::reference_log::{Layout, LogWriter, LoggedProbe};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Parquet,
    Csv,
    /// The JSON log of the reference study's code; readings only.
    Reference,
}

impl Format {
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Reference => "json",
        }
    }
}

/// Which of a run's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// A row for every step and probe: the log-probability of each span.
    #[default]
    Readings,
    /// A row for every update: loss, learning rate, norms, tokens.
    Updates,
    /// A row for every step, arm and depth: means over probes.
    Means,
    /// A row for every injection of a fact.
    Exposures,
}

impl What {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Updates => "updates",
            Self::Means => "means",
            Self::Exposures => "exposures",
        }
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Self::Readings => READINGS,
            Self::Updates => UPDATES,
            Self::Means => MEANS,
            Self::Exposures => EXPOSURES,
        }
    }
}

/// A file of rows.
trait TableFile {
    /// # Errors
    /// When it cannot be written.
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()>;

    /// Says that a step is complete: rows of one step stay together.
    ///
    /// # Errors
    /// When it cannot be written.
    fn end_of_step(&mut self) -> io::Result<()>;

    /// Writes what is left.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Writes a table of the runs to a file, which is there whole or not at all; returns its rows.
///
/// # Errors
/// When the database cannot be read or the file not be written.
pub(crate) async fn table(
    store: &Store,
    runs: &[RunRecord],
    what: What,
    format: Format,
    path: &Path,
) -> Result<u64, Failure> {
    let output = Output::create(path)?;
    let writing = || Failure::doing(format!("write {}", path.display()));
    let file = BufWriter::new(output.file().map_err(writing())?);
    let mut table: Box<dyn TableFile + Send> = match format {
        Format::Csv => Box::new(CsvFile::new(file, what.columns()).map_err(writing())?),
        _ => {
            let file = ParquetFile::new(file, what.as_str(), what.columns());
            Box::new(file.map_err(writing())?)
        }
    };
    let mut n_rows = 0;
    for run in runs {
        let mut sink = Sink {
            table: &mut *table,
            path,
            n_rows: 0,
        };
        match what {
            What::Readings => readings(store, run, &mut sink).await?,
            What::Updates => updates(store, run, &mut sink).await?,
            What::Means => means(store, run, &mut sink).await?,
            What::Exposures => exposures(store, run, &mut sink).await?,
        }
        n_rows += sink.n_rows;
    }
    table.finish().map_err(writing())?;
    output.commit()?;
    Ok(n_rows)
}

/// Rows on their way into a file.
struct Sink<'a> {
    table: &'a mut (dyn TableFile + Send),
    path: &'a Path,
    n_rows: u64,
}

impl Sink<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Failure> {
        self.n_rows += 1;
        self.table.row(cells).map_err(self.writing())
    }

    fn end_of_step(&mut self) -> Result<(), Failure> {
        self.table.end_of_step().map_err(self.writing())
    }

    fn writing(&self) -> impl FnOnce(io::Error) -> Failure + use<> {
        Failure::doing(format!("write {}", self.path.display()))
    }
}

async fn readings(store: &Store, run: &RunRecord, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let probes = results::probes(store, run.run_id).await?;
    let arms = arms(store, run).await?;
    let mut rows = pin!(export::readings(store, run.run_id));
    while let Some(r) = rows.try_next().await? {
        check_width(run, &probes, &r)?;
        for (i, p) in probes.iter().enumerate() {
            let (first, target, full) = (
                r.first_sum_nats[i],
                r.target_sum_nats[i],
                r.full_sum_nats[i],
            );
            sink.row(&[
                Cell::Int(run.run_id),
                Cell::Text(&run.label),
                Cell::Int(r.index as i32),
                Cell::Int(r.step as i32),
                Cell::Int(p.probe.0 as i32),
                Cell::Int(p.fact.0 as i32),
                arm_of(&arms, p.fact),
                Cell::Text(p.depth.as_str()),
                Cell::Int(p.ordinal.into()),
                Cell::Bool(p.swap_fact.is_some()),
                Cell::Double(first.into()),
                Cell::Double(f64::from(target) / f64::from(p.n_target_tokens)),
                Cell::Double(f64::from(full) / f64::from(p.n_full_tokens)),
                Cell::Float(first),
                Cell::Float(target),
                Cell::Float(full),
                Cell::Int(r.measured_by as i32),
            ])?;
        }
        sink.end_of_step()?;
    }
    Ok(())
}

async fn updates(store: &Store, run: &RunRecord, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let mut rows = pin!(export::updates(store, run.run_id));
    while let Some(u) = rows.try_next().await? {
        let seconds = f64::from(u.duration_ms) / 1000.0;
        sink.row(&[
            Cell::Int(run.run_id),
            Cell::Text(&run.label),
            Cell::Int(u.step as i32),
            Cell::Double(u.loss_nats),
            Cell::Double(u.learning_rate),
            Cell::Double(u.grad_norm),
            Cell::Double(u.update_norm),
            Cell::Int(u.n_tokens as i32),
            Cell::Int(u.n_injected_tokens as i32),
            Cell::Float(u.duration_ms),
            match seconds {
                0.0 => Cell::Null,
                _ => Cell::Double(f64::from(u.n_tokens) / seconds),
            },
            Cell::Int(u.measured_by as i32),
        ])?;
        sink.end_of_step()?;
    }
    Ok(())
}

async fn means(store: &Store, run: &RunRecord, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let mut rows = pin!(export::means(store, run.run_id));
    let mut last = None;
    while let Some(m) = rows.try_next().await? {
        if last.replace(m.step).is_some_and(|step| step != m.step) {
            sink.end_of_step()?;
        }
        sink.row(&[
            Cell::Int(run.run_id),
            Cell::Text(&run.label),
            Cell::Text(&m.arm),
            Cell::Text(m.depth.as_str()),
            Cell::Bool(m.swap),
            Cell::Int(m.step as i32),
            Cell::Int(m.n_probes as i32),
            Cell::Double(m.first_mean_nats),
            Cell::Double(m.target_mean_nats),
            Cell::Double(m.full_mean_nats),
        ])?;
    }
    sink.end_of_step()
}

async fn exposures(store: &Store, run: &RunRecord, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let arms = arms(store, run).await?;
    let mut injections = results::injections(store, run.run_id).await?;
    injections.sort_unstable_by_key(|i| (i.fact, i.exposure));
    for (n, i) in injections.iter().enumerate() {
        let next = injections.get(n + 1).filter(|next| next.fact == i.fact);
        let text = match i.paraphrase {
            None => "passage",
            Some(_) => "paraphrase",
        };
        sink.row(&[
            Cell::Int(run.run_id),
            Cell::Text(&run.label),
            arm_of(&arms, i.fact),
            Cell::Int(i.fact.0 as i32),
            Cell::Int(i.exposure as i32),
            Cell::Int(i.step as i32),
            Cell::Text(text),
            i.paraphrase.map_or(Cell::Null, |p| Cell::Int(p as i32)),
            next.map_or(Cell::Null, |next| Cell::Int(next.step as i32)),
        ])?;
    }
    sink.end_of_step()
}

async fn arms(store: &Store, run: &RunRecord) -> Result<Vec<String>, Failure> {
    let arms = results::fact_arms(store, run.run_id).await?;
    let mut names = vec![String::new(); arms.last().map_or(0, |a| a.fact.0 as usize + 1)];
    for a in arms {
        names[a.fact.0 as usize] = a.arm;
    }
    Ok(names)
}

fn arm_of(arms: &[String], fact: FactId) -> Cell<'_> {
    match arms.get(fact.0 as usize) {
        Some(arm) if !arm.is_empty() => Cell::Text(arm),
        _ => Cell::Null,
    }
}

fn check_width(
    run: &RunRecord,
    probes: &[ProbeRecord],
    r: &imprint_core::StepReadings,
) -> Result<(), Failure> {
    let spans = [&r.first_sum_nats, &r.target_sum_nats, &r.full_sum_nats];
    match spans.iter().find(|span| span.len() != probes.len()) {
        None => Ok(()),
        Some(span) => Err(Failure::failed(format!(
            "the reading of {} at step {} has {} values for {} probes; `imprint verify` finds more",
            run.label,
            r.step,
            span.len(),
            probes.len()
        ))),
    }
}

/// Writes a run's readings as the reference's log; returns the number of records.
///
/// Swap probes, which the reference does not have, are left out.
///
/// # Errors
/// When the database cannot be read or the file not be written.
pub(crate) async fn reference_log(
    store: &Store,
    run: &RunRecord,
    path: &Path,
) -> Result<u64, Failure> {
    let probes = results::probes(store, run.run_id).await?;
    let n_facts = results::fact_arms(store, run.run_id).await?.len();
    let logged: Vec<Option<LoggedProbe>> = probes
        .iter()
        .map(|p| {
            let is_own = p.swap_fact.is_none();
            is_own.then_some(LoggedProbe {
                fact: p.fact,
                depth: p.depth,
                ordinal: p.ordinal,
            })
        })
        .collect();
    let beyond = probes.iter().find(|p| p.fact.0 as usize >= n_facts);
    if let Some(p) = beyond {
        return Err(Failure::failed(format!(
            "{}: probe {} is of fact {}, of {n_facts}",
            run.label, p.probe, p.fact
        )));
    }
    let n_tokens = probes.iter().map(|p| [p.n_target_tokens, p.n_full_tokens]);
    let output = Output::create(path)?;
    let writing = || Failure::doing(format!("write {}", path.display()));
    let file: File = output.file().map_err(writing())?;
    let layout = Layout::of_probes(n_facts, &logged);
    let mut log = LogWriter::new(BufWriter::new(file), layout, n_tokens.collect());
    let first = run.first_global_step.unwrap_or(0);
    let mut n_records = 0;
    let mut rows = pin!(export::readings(store, run.run_id));
    while let Some(r) = rows.try_next().await? {
        check_width(run, &probes, &r)?;
        let step = first + u64::from(r.step);
        log.write(step, &r).map_err(writing())?;
        n_records += 1;
    }
    let file = log.finish().map_err(writing())?;
    file.into_inner().map_err(|e| writing()(e.into_error()))?;
    output.commit()?;
    Ok(n_records)
}

#[cfg(test)]
mod tests;
