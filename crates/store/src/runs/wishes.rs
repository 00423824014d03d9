//! What people want of runs that are there: to end, to go on, to be first.

use sqlx::{PgConnection, PgPool};

use super::RunState;
use super::submission::one_wish_at_a_time;
use crate::{Error, Store};

/// The runs of an experiment that are meant: all, or the one of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs<'a> {
    pub experiment: &'a str,
    pub label: Option<&'a str>,
}

impl Store {
    /// Takes an experiment's wish for its runs back; the labels of those that nobody wants any more
    /// and that therefore end. `None` when there is no such experiment or run.
    ///
    /// A run that nothing works on ends at once; the others end when their trainers have.
    pub async fn request_cancel(&self, runs: Runs<'_>) -> Result<Option<Vec<String>>, Error> {
        cancel(&self.pool, runs)
            .await
            .map_err(Error::doing(format!("cancel {runs}")))
    }

    /// Queues an experiment's runs again that ended in one of `states` (of failed and cancelled), and
    /// gives their labels; `None` when there is no such experiment or run.
    ///
    /// With cancelled ones, a cancelling that has not come to its end is taken back, too.
    pub async fn retry(
        &self,
        runs: Runs<'_>,
        states: &[RunState],
    ) -> Result<Option<Vec<String>>, Error> {
        retry(&self.pool, runs, states)
            .await
            .map_err(Error::doing(format!("retry {runs}")))
    }

    /// Sets the priority of an experiment's runs that are not complete; the labels of those that had
    /// another. `None` when there is no such experiment or run.
    pub async fn set_priority(
        &self,
        runs: Runs<'_>,
        priority: i32,
    ) -> Result<Option<Vec<String>>, Error> {
        set_priority(&self.pool, runs, priority)
            .await
            .map_err(Error::doing(format!("set the priority of {runs}")))
    }
}

impl std::fmt::Display for Runs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.label {
            Some(label) => write!(f, "run {label}"),
            None => write!(f, "experiment {}", self.experiment),
        }
    }
}

/// The experiment and its runs, whose rows are held from now on, in one order for everybody; `None`
/// where there are none.
async fn hold(db: &mut PgConnection, runs: Runs<'_>) -> sqlx::Result<Option<(i32, Vec<i32>)>> {
    one_wish_at_a_time(db).await?;
    let held: Vec<(i32, i32)> = sqlx::query_as(
        "select e.experiment_id, r.run_id
         from imprint.experiment x
         join imprint.experiment_run e using (experiment_id)
         join imprint.run r using (run_id)
         where x.name = $1 and ($2::text is null or e.label = $2)
         order by r.run_id for no key update of r",
    )
    .bind(runs.experiment)
    .bind(runs.label)
    .fetch_all(db)
    .await?;
    let experiment = held.first().map(|&(experiment_id, _)| experiment_id);
    Ok(experiment.map(|experiment| (experiment, held.into_iter().map(|(_, run)| run).collect())))
}

async fn cancel(pool: &PgPool, runs: Runs<'_>) -> sqlx::Result<Option<Vec<String>>> {
    let mut tx = pool.begin().await?;
    let Some((experiment_id, run_ids)) = hold(&mut tx, runs).await? else {
        return Ok(None);
    };
    sqlx::query(
        "update imprint.experiment_run set wanted = false
         where experiment_id = $1 and run_id = any($2) and wanted",
    )
    .bind(experiment_id)
    .bind(&run_ids)
    .execute(&mut *tx)
    .await?;
    let labels = sqlx::query_scalar(
        "with unwanted as materialized (
             select r.run_id, e.label, r.state = 'queued' and not exists (
                        select from imprint.job j where j.run_id = r.run_id and j.ended_at is null)
                    and not exists (
                        select from imprint.attempt a
                        where a.run_id = r.run_id and a.ended_at is null) as idle
             from imprint.run r join imprint.experiment_run e using (run_id)
             where e.experiment_id = $1 and r.run_id = any($2)
               and r.state in ('queued', 'running', 'delivering')
               and not exists (select from imprint.experiment_run w
                               where w.run_id = r.run_id and w.wanted)
         ), cancelled as (
             update imprint.run r
             set cancel_requested = true,
                 state = case when u.idle then 'cancelled' else r.state end,
                 reason = case when u.idle then 'cancelled' else r.reason end,
                 finished_at = case when u.idle then now() else r.finished_at end
             from unwanted u where r.run_id = u.run_id
             returning r.run_id, u.label
         )
         select label from cancelled order by run_id",
    )
    .bind(experiment_id)
    .bind(run_ids)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some(labels))
}

async fn retry(
    pool: &PgPool,
    runs: Runs<'_>,
    states: &[RunState],
) -> sqlx::Result<Option<Vec<String>>> {
    let mut tx = pool.begin().await?;
    let Some((experiment_id, run_ids)) = hold(&mut tx, runs).await? else {
        return Ok(None);
    };
    let with_failed = states.contains(&RunState::Failed);
    let with_cancelled = states.contains(&RunState::Cancelled);
    let meant: Vec<i32> = sqlx::query_scalar(
        "update imprint.experiment_run e set wanted = true
         from imprint.run r
         where e.experiment_id = $1 and e.run_id = any($2) and r.run_id = e.run_id
           and case r.state when 'failed' then $3 else $4 end
         returning e.run_id",
    )
    .bind(experiment_id)
    .bind(run_ids)
    .bind(with_failed)
    .bind(with_cancelled)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query(
        "update imprint.run set cancel_requested = false
         where run_id = any($1) and cancel_requested
           and state in ('queued', 'running', 'delivering')",
    )
    .bind(&meant)
    .execute(&mut *tx)
    .await?;
    let labels = sqlx::query_scalar(
        "with queued as (
             update imprint.run r
             set state = 'queued', reason = '', cancel_requested = false, barren_attempts = 0,
                 fruitless_stops = 0, not_before = now(), finished_at = null,
                 -- A run without a state begins anew, and may choose otherwise.
                 settled = case when exists (select from imprint.saved_state s
                                             where s.run_id = r.run_id) then r.settled end
             from imprint.experiment_run e
             where r.run_id = any($2) and e.run_id = r.run_id and e.experiment_id = $1
               and r.state in ('failed', 'cancelled')
               -- No trainer can make what was measured elsewhere.
               and not r.spec ? 'imported'
             returning r.run_id, e.label
         )
         select label from queued order by run_id",
    )
    .bind(experiment_id)
    .bind(meant)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some(labels))
}

async fn set_priority(
    pool: &PgPool,
    runs: Runs<'_>,
    priority: i32,
) -> sqlx::Result<Option<Vec<String>>> {
    let mut tx = pool.begin().await?;
    let Some((experiment_id, run_ids)) = hold(&mut tx, runs).await? else {
        return Ok(None);
    };
    let labels = sqlx::query_scalar(
        "with changed as (
             update imprint.run r set priority = $3
             from imprint.experiment_run e
             where r.run_id = any($2) and e.run_id = r.run_id and e.experiment_id = $1
               and r.state <> 'complete' and r.priority <> $3
             returning r.run_id, e.label
         )
         select label from changed order by run_id",
    )
    .bind(experiment_id)
    .bind(run_ids)
    .bind(priority)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some(labels))
}
