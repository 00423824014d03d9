//! How fast runs were, for estimates of those to come.

use imprint_core::RunSpec;
use sqlx::types::Json;

use crate::{Error, Store};

/// A complete run and what its updates took.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredRun {
    pub spec: RunSpec,
    /// Of the run at the beginning of its line of parents: its checkpoint has the model's shape.
    pub root: RunSpec,
    pub n_tokens: u64,
    /// Of its updates alone: readings and saved states come on top.
    pub update_seconds: f64,
}

/// The first of a run's line of parents, by `$1`: run numbers to number and root.
const ROOTS: &str = "
    with recursive line as (
        select run_id as of_run, run_id, parent_run_id from imprint.run where run_id = any($1)
        union all
        select l.of_run, r.run_id, r.parent_run_id
        from line l join imprint.run r on r.run_id = l.parent_run_id)
    select l.of_run, r.spec from line l join imprint.run r using (run_id)
    where l.parent_run_id is null";

impl Store {
    /// For each run that is there the one at the beginning of its line of parents, by number.
    pub async fn roots(&self, run_ids: &[i32]) -> Result<Vec<(i32, RunSpec)>, Error> {
        let rows: Vec<(i32, Json<RunSpec>)> = sqlx::query_as(ROOTS)
            .bind(run_ids)
            .fetch_all(&self.pool)
            .await
            .map_err(Error::doing("look up what runs start from"))?;
        Ok(rows
            .into_iter()
            .map(|(id, Json(spec))| (id, spec))
            .collect())
    }

    /// The newest complete runs on rows of so many tokens, with what their updates took.
    pub async fn measured_runs(
        &self,
        seq_len: u32,
        at_most: u32,
    ) -> Result<Vec<MeasuredRun>, Error> {
        let rows: Vec<(i32, Json<RunSpec>, i64, f64)> = sqlx::query_as(
            "select r.run_id, r.spec, u.n_tokens, u.seconds
             from (select run_id, spec from imprint.run
                   where state = 'complete' and not spec ? 'imported'
                     and (spec #>> '{identity,seq_len}')::int4 = $1
                   order by finished_at desc limit $2) r,
                  lateral (select sum(n_tokens)::int8 as n_tokens,
                                  sum(duration_ms::float8) / 1000 as seconds
                           from imprint.update_stats where run_id = r.run_id) u
             where u.seconds > 0",
        )
        .bind(seq_len as i32)
        .bind(i64::from(at_most))
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing("look up how fast runs were"))?;
        let run_ids: Vec<i32> = rows.iter().map(|(run_id, ..)| *run_id).collect();
        let roots = self.roots(&run_ids).await?;
        let root_of = |run_id| {
            let found = roots.iter().find(|(of_run, _)| *of_run == run_id);
            found.map(|(_, spec)| spec.clone())
        };
        let measured = |(run_id, Json(spec), n_tokens, update_seconds): (i32, _, i64, f64)| {
            Some(MeasuredRun {
                root: root_of(run_id)?,
                spec,
                n_tokens: n_tokens as u64,
                update_seconds,
            })
        };
        Ok(rows.into_iter().filter_map(measured).collect())
    }
}
