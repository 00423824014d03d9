//! What was computed from readings outside the database, kept for those who ask in SQL.
//!
//! Kept beside the readings' standing, so that `imprint.decay_fit` and
//! `imprint.learnability_threshold` show a result only while the run's readings are those that it
//! was computed from.

use imprint_core::{Depth, Span};
use sqlx::QueryBuilder;

use crate::{Error, Store};

/// How a run was analysed; of each method a run keeps the newest analysis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Whose reading of the formulas: `paper` or `code`.
    pub preset: &'static str,
    pub span: Span,
    /// t_LAM is looked for this many steps after an injection, at most.
    pub max_window_steps: u32,
    /// Version of the formulas and their defaults.
    pub version: u32,
}

/// Which readings a run has, to tell later whether they are still the same.
///
/// Taken *before* the readings are fetched: what changes in between makes the result stale, never
/// wrongly current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    run_id: i32,
    /// Whose stream they are: a later attempt may have measured some of them again.
    attempt: i32,
    next_reading: i32,
}

/// What a fit is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FitKind {
    /// The one that tables and figures lead with.
    Robust,
    /// As the preset's authors fitted.
    Published,
}

impl FitKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Robust => "robust",
            Self::Published => "published",
        }
    }
}

/// A line of retainability R on log10 t, of one arm and depth.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    pub arm: String,
    pub depth: Depth,
    /// How it was made; names an analysis' fit of an arm and depth.
    pub name: String,
    pub kind: Option<FitKind>,
    pub n_points: usize,
    /// What R loses in each tenfold of t.
    pub decay_a: f64,
    /// An end is `None` where it was not computed or is at infinity.
    pub decay_a_ci95: [Option<f64>; 2],
    /// R at t = 1.
    pub intercept: f64,
    pub r2: f64,
    pub r2_linear: f64,
    /// log10 of the t at which the line meets R = 0; `None` where it does not fall.
    pub threshold_log10_steps: Option<f64>,
    pub threshold_log10_tokens: Option<f64>,
    pub threshold_log10_tokens_ci95: [Option<f64>; 2],
}

/// Which readings a run has now.
///
/// # Errors
/// [`Error::NotFound`] for a run that has none.
pub async fn watermark(store: &Store, run_id: i32) -> Result<Watermark, Error> {
    let head: Option<(i32, i32)> =
        sqlx::query_as("select attempt, next_reading from imprint.ingest_head where run_id = $1")
            .bind(run_id)
            .fetch_optional(store.pool())
            .await
            .map_err(Error::doing(format!("see which readings run {run_id} has")))?;
    let (attempt, next_reading) = head.ok_or_else(|| Error::NotFound {
        what: format!("reading of run {run_id}"),
    })?;
    Ok(Watermark {
        run_id,
        attempt,
        next_reading,
    })
}

/// Keeps what was computed from the readings of a watermark, in place of what the method gave
/// before.
pub async fn keep(
    store: &Store,
    readings: Watermark,
    method: &Method,
    fits: &[Fit],
) -> Result<(), Error> {
    let run_id = readings.run_id;
    let doing = || Error::doing(format!("keep the analysis of run {run_id}"));
    let (preset, span) = (method.preset, method.span.as_str());
    let max_window_steps = i32::try_from(method.max_window_steps).unwrap_or(i32::MAX);
    let mut tx = store.pool().begin().await.map_err(doing())?;
    // Locks the row: of two that keep the same, one waits for the other.
    sqlx::query(
        "insert into imprint.analysis
             (run_id, preset, span, max_window_steps, version, attempt, next_reading)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (run_id, preset, span, max_window_steps) do update
         set (version, attempt, next_reading, computed_at)
             = (excluded.version, excluded.attempt, excluded.next_reading, now())",
    )
    .bind(run_id)
    .bind(preset)
    .bind(span)
    .bind(max_window_steps)
    .bind(method.version as i32)
    .bind(readings.attempt)
    .bind(readings.next_reading)
    .execute(&mut *tx)
    .await
    .map_err(doing())?;
    sqlx::query(
        "delete from imprint.analysis_result
         where (run_id, preset, span, max_window_steps) = ($1, $2, $3, $4)",
    )
    .bind(run_id)
    .bind(preset)
    .bind(span)
    .bind(max_window_steps)
    .execute(&mut *tx)
    .await
    .map_err(doing())?;
    if !fits.is_empty() {
        QueryBuilder::new(
            "insert into imprint.analysis_result (run_id, preset, span, max_window_steps,
                 arm, depth, fit, kind, n_points, decay_a, decay_a_ci95_low, decay_a_ci95_high,
                 intercept, r2, r2_linear, threshold_log10_steps, threshold_log10_tokens,
                 threshold_log10_tokens_ci95_low, threshold_log10_tokens_ci95_high) ",
        )
        .push_values(fits, |mut row, fit| {
            row.push_bind(run_id)
                .push_bind(preset)
                .push_bind(span)
                .push_bind(max_window_steps)
                .push_bind(&fit.arm)
                .push_bind(fit.depth.index() as i16)
                .push_bind(&fit.name)
                .push_bind(fit.kind.map(FitKind::as_str))
                .push_bind(fit.n_points as i32)
                .push_bind(fit.decay_a)
                .push_bind(fit.decay_a_ci95[0])
                .push_bind(fit.decay_a_ci95[1])
                .push_bind(fit.intercept)
                .push_bind(fit.r2)
                .push_bind(fit.r2_linear)
                .push_bind(fit.threshold_log10_steps)
                .push_bind(fit.threshold_log10_tokens)
                .push_bind(fit.threshold_log10_tokens_ci95[0])
                .push_bind(fit.threshold_log10_tokens_ci95[1]);
        })
        .build()
        .execute(&mut *tx)
        .await
        .map_err(doing())?;
    }
    tx.commit().await.map_err(doing())
}

/// The complete runs with injections of which this method's analysis is missing, stale or of
/// another version: by label, those first that have waited longest.
pub async fn wanting(store: &Store, method: &Method) -> Result<Vec<String>, Error> {
    sqlx::query_scalar(
        "select e.label
         from imprint.run r
         join imprint.ingest_head h using (run_id)
         join (select run_id, min(label) as label from imprint.experiment_run group by 1) e
             using (run_id)
         where r.state = 'complete'
             and exists (select from imprint.injection i where i.run_id = r.run_id)
             and not exists (
                 select from imprint.analysis n
                 where (n.run_id, n.preset, n.span, n.max_window_steps) = (r.run_id, $1, $2, $3)
                     and (n.version, n.attempt, n.next_reading) = ($4, h.attempt, h.next_reading))
         order by r.finished_at, r.run_id",
    )
    .bind(method.preset)
    .bind(method.span.as_str())
    .bind(i32::try_from(method.max_window_steps).unwrap_or(i32::MAX))
    .bind(method.version as i32)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing("look for runs to analyse"))
}
