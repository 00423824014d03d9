//! Fits of complete runs, computed here and kept in the database for those who ask in SQL.

use std::collections::BTreeSet;
use std::time::Duration;

use imprint_analysis::{GroupAnalysis, Preset, Settings, analyse};
use imprint_core::Span;
use imprint_store::Store;
use imprint_store::analysis::{self, Fit, FitKind, Method};
use imprint_store::results::RunRecord;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind};
use crate::readings;

/// How often the analyst looks for runs that became complete.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Analyses each run once it is complete, by both presets over the target span, until it is told to
/// stop.
///
/// What goes wrong is logged, and readings come in without it: a run that cannot be analysed is left
/// alone, a database that is away is asked again.
pub(crate) async fn serve(store: &Store, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut left_alone = BTreeSet::new();
    let work = async {
        loop {
            looks.tick().await;
            for preset in Preset::ALL {
                let settings = Settings::of(preset);
                if let Err(failure) = analyse_wanting(store, &settings, &mut left_alone).await {
                    tracing::warn!("look for runs to analyse: {failure}");
                }
            }
        }
    };
    stop.run_until_cancelled_owned(work).await;
}

async fn analyse_wanting(
    store: &Store,
    settings: &Settings,
    left_alone: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    for label in analysis::wanting(store, &method(Span::Target, settings)).await? {
        if left_alone.contains(&label) {
            continue;
        }
        match analyse_labelled(store, &label, settings).await {
            Err(failure) if failure.kind() != Kind::Unreachable => {
                tracing::warn!("run {label} cannot be analysed: {failure}");
                left_alone.insert(label);
            }
            analysed => analysed?,
        }
    }
    Ok(())
}

async fn analyse_labelled(store: &Store, label: &str, settings: &Settings) -> Result<(), Failure> {
    for record in readings::complete(store, label).await? {
        analyse_run(store, &record, Span::Target, settings).await?;
    }
    Ok(())
}

/// Computes a run's fits and keeps them; returns how many there are.
///
/// # Errors
/// When the readings cannot be fetched or the fits not be kept.
pub(crate) async fn analyse_run(
    store: &Store,
    record: &RunRecord,
    span: Span,
    settings: &Settings,
) -> Result<usize, Failure> {
    let before = analysis::watermark(store, record.run_id).await?;
    let run = readings::run_data(store, record, span).await?;
    let computed = {
        let settings = *settings;
        tokio::task::spawn_blocking(move || analyse(&run, &settings))
    };
    let groups = computed.await.map_err(Failure::doing("analyse a run"))?;
    let fits: Vec<Fit> = groups.iter().flat_map(fits).collect();
    analysis::keep(store, before, &method(span, settings), &fits).await?;
    Ok(fits.len())
}

fn method(span: Span, settings: &Settings) -> Method {
    Method {
        preset: settings.preset.as_str(),
        span,
        max_window_steps: settings.window_steps,
        version: imprint_analysis::VERSION,
    }
}

/// The fits of an arm and depth; only the robust one has intervals.
fn fits(group: &GroupAnalysis) -> impl Iterator<Item = Fit> {
    let row = &group.row;
    group.fits.iter().map(|fit| {
        let is = |name: &Option<String>| name.as_ref() == Some(&fit.name);
        let kind = match (is(&row.decay_fit), is(&row.published_fit)) {
            (true, _) => Some(FitKind::Robust),
            (_, true) => Some(FitKind::Published),
            _ => None,
        };
        let interval = |low, high| match kind {
            Some(FitKind::Robust) => [low, high],
            _ => [None, None],
        };
        Fit {
            arm: row.arm.clone(),
            depth: row.depth,
            name: fit.name.clone(),
            kind,
            n_points: fit.n_points,
            decay_a: fit.a,
            decay_a_ci95: interval(row.decay_a_ci95_low, row.decay_a_ci95_high),
            intercept: fit.intercept,
            r2: fit.r2,
            r2_linear: fit.r2_linear,
            threshold_log10_steps: fit.x_intercept_log10_steps,
            threshold_log10_tokens: fit.x_intercept_log10_tokens,
            threshold_log10_tokens_ci95: interval(
                row.threshold_log10_tokens_ci95_low,
                row.threshold_log10_tokens_ci95_high,
            ),
        }
    })
}
