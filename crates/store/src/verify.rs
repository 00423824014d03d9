//! Whether all that a run should have measured is stored and sound.

use futures::TryStreamExt as _;

use crate::{Error, Store};

/// A run's stored readings and updates against those it declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    pub run_id: i32,
    pub run: String,
    pub state: String,
    pub n_probes: u32,
    pub readings_expected: u32,
    pub readings_stored: u32,
    /// Steps whose reading is declared and not stored.
    pub readings_missing: Vec<u32>,
    /// Steps of readings that are not declared, have the wrong number of values, or have values
    /// above 0 or not finite.
    pub readings_damaged: Vec<u32>,
    pub updates_expected: u32,
    pub updates_stored: u32,
    pub updates_missing: Vec<u32>,
    /// Readings that a later attempt measured again.
    pub readings_superseded: u32,
    pub attempts: u32,
}

impl Verification {
    /// Whether nothing is missing and nothing damaged.
    pub fn is_clean(&self) -> bool {
        self.readings_missing.is_empty()
            && self.readings_damaged.is_empty()
            && self.updates_missing.is_empty()
    }
}

/// Reads all that is stored of the run with this `experiment/cell` label, and compares.
///
/// # Errors
/// [`Error::NotFound`] for an unknown label.
pub async fn verify(store: &Store, label: &str) -> Result<Verification, Error> {
    let doing = || Error::doing(format!("verify run {label}"));
    type Row = (i32, String, i32, i32, Vec<i32>, i64, i32);
    let run: Option<Row> = sqlx::query_as(
        "select r.run_id, r.state, p.n_probes,
             -- Logs made elsewhere have readings only.
             case when r.spec ? 'imported' then 0 else r.n_updates end, r.reading_steps,
             (select count(*) from imprint.superseded_reading s where s.run_id = r.run_id),
             coalesce((select max(attempt) from imprint.attempt a where a.run_id = r.run_id), 0)
         from imprint.experiment_run e
         join imprint.run r using (run_id)
         join imprint.probe_set p using (probe_set_id)
         where e.label = $1",
    )
    .bind(label)
    .fetch_optional(store.pool())
    .await
    .map_err(doing())?;
    let Some((run_id, state, n_probes, n_updates, steps, superseded, attempts)) = run else {
        return Err(Error::NotFound {
            what: format!("run `{label}`"),
        });
    };

    let mut has_reading = vec![false; steps.len()];
    let mut damaged = Vec::new();
    let mut n_stored = 0;
    {
        let mut rows = sqlx::query_as::<_, (i32, i32, Vec<f32>, Vec<f32>, Vec<f32>)>(
            "select reading, step, first_sum_nats, target_sum_nats, full_sum_nats
             from imprint.step_reading where run_id = $1 order by reading",
        )
        .bind(run_id)
        .fetch(store.pool());
        while let Some((reading, step, first, target, full)) =
            rows.try_next().await.map_err(doing())?
        {
            n_stored += 1;
            let declared = usize::try_from(reading)
                .ok()
                .filter(|&i| steps.get(i) == Some(&step));
            let sound = [&first, &target, &full].iter().all(|span| {
                span.len() == n_probes as usize && span.iter().all(|v| v.is_finite() && *v <= 0.0)
            });
            if let Some(index) = declared {
                has_reading[index] = true;
            }
            if declared.is_none() || !sound {
                damaged.push(step as u32);
            }
        }
    }
    let updates: Vec<i32> =
        sqlx::query_scalar("select step from imprint.update_stats where run_id = $1")
            .bind(run_id)
            .fetch_all(store.pool())
            .await
            .map_err(doing())?;
    let mut has_update = vec![false; n_updates as usize];
    for &step in &updates {
        if let Some(has) = has_update.get_mut(step as usize) {
            *has = true;
        }
    }
    Ok(Verification {
        run_id,
        run: label.to_owned(),
        state,
        n_probes: n_probes as u32,
        readings_expected: steps.len() as u32,
        readings_stored: n_stored,
        readings_missing: (steps.iter().zip(&has_reading))
            .filter(|(_, has)| !**has)
            .map(|(&step, _)| step as u32)
            .collect(),
        readings_damaged: damaged,
        updates_expected: n_updates as u32,
        updates_stored: updates.len() as u32,
        updates_missing: (0..)
            .zip(&has_update)
            .filter(|(_, has)| !**has)
            .map(|(t, _)| t)
            .collect(),
        readings_superseded: superseded as u32,
        attempts: attempts as u32,
    })
}
