//! Storing an experiment's runs, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imprint_core::{
    CheckpointIdentity, FactId, InjectionText, Probe, ProbeControl, RunIdentity, RunSpec, Schedule,
    Settled, SpecHash, Standing,
};
use sha2::{Digest as _, Sha256};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::RunState;
use crate::{Error, Store};

/// A validated experiment.
pub struct NewExperiment {
    pub name: String,
    /// The file's text.
    pub toml: String,
    /// Chosen by the client.
    pub request_id: String,
    pub runs: Vec<NewRun>,
}

/// A validated run with everything that queries need of its plan.
pub struct NewRun {
    pub hash: SpecHash,
    pub spec: RunSpec,
    pub reading_steps: Vec<u32>,
    pub n_facts: usize,
    pub schedule: Schedule,
    pub probe_set: Arc<NewProbeSet>,
    /// The run whose state it starts from.
    pub parent_run_id: Option<i32>,
}

/// The probes that a run reads; runs share it.
#[derive(PartialEq)]
pub struct NewProbeSet {
    sha256: String,
    probes: Vec<NewProbe>,
}

impl NewProbeSet {
    pub fn new(probes: Vec<NewProbe>) -> Self {
        let mut digest = Sha256::new();
        for probe in &probes {
            digest.update(line(probe));
        }
        Self {
            sha256: format!("{:x}", digest.finalize()),
            probes,
        }
    }

    /// The hash over all probes and their token counts: sets of one hash are the same.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    pub fn probes(&self) -> &[NewProbe] {
        &self.probes
    }
}

/// What makes a probe this one and no other, on a line of its own.
fn line(probe: &NewProbe) -> String {
    let p = &probe.probe;
    let swap = match p.control {
        ProbeControl::Own => None,
        ProbeControl::Swap { other } => Some(other.0),
    };
    let counts = (probe.n_target_tokens, probe.n_full_tokens);
    let depth = p.depth.as_str();
    serde_json::json!([p.fact.0, depth, p.ordinal, swap, p.prompt, p.target, counts]).to_string()
        + "\n"
}

#[derive(PartialEq)]
pub struct NewProbe {
    pub probe: Probe,
    pub n_target_tokens: u32,
    pub n_full_tokens: u32,
}

/// What became of a submission.
#[derive(Debug)]
pub enum Submission {
    /// The answer to the request, now or already stored.
    Answered(Vec<u8>),
    Refused(Refusal),
}

/// Why an experiment cannot be stored beside what is there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "run `{label}` is there already with another configuration; \
         give the changed experiment another name"
    )]
    LabelTaken { label: String },
    #[error("`{first}` and `{second}` are the same run: leave one of them out")]
    SameRun { first: String, second: String },
    #[error(
        "run `{label}` has begun without keeping its state at step {step} and cannot go back to it; \
         add `saving.keep` before a run starts, or make a run of another seed"
    )]
    BegunWithoutKeeping { label: String, step: u32 },
}

/// A run that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRun {
    pub run_id: i32,
    pub hash: SpecHash,
    pub state: RunState,
    pub n_updates: u32,
    /// `saving.keep` of its configuration.
    pub keep: Vec<u32>,
    /// Whether a trainer ever began it.
    pub begun: bool,
}

type KnownRow = (i32, String, RunState, i32, Json<Vec<u32>>, bool);

impl From<KnownRow> for KnownRun {
    fn from((run_id, hash, state, n_updates, keep, begun): KnownRow) -> Self {
        Self {
            run_id,
            hash: SpecHash(hash),
            state,
            n_updates: n_updates as u32,
            keep: keep.0,
            begun,
        }
    }
}

impl Store {
    /// The answer that a request got before.
    pub async fn submission_answer(&self, request_id: &str) -> Result<Option<Vec<u8>>, Error> {
        sqlx::query_scalar("select response from imprint.submission where request_id = $1")
            .bind(request_id)
            .fetch_optional(&self.pool)
            .await
            .map_err(Error::doing("look a submission up"))
    }

    /// The run of a label in any experiment.
    pub async fn known_run(&self, label: &str) -> Result<Option<KnownRun>, Error> {
        let row: Option<KnownRow> = sqlx::query_as(
            "select r.run_id, r.hash, r.state, r.n_updates, r.spec #> '{saving,keep}',
                    exists (select from imprint.attempt a where a.run_id = r.run_id)
             from imprint.run r join imprint.experiment_run e using (run_id)
             -- An imported run has no state to start from.
             where e.label = $1 and not r.spec ? 'imported'",
        )
        .bind(label)
        .fetch_optional(&self.pool)
        .await
        .map_err(Error::doing(format!("look run {label} up")))?;
        Ok(row.map(KnownRun::from))
    }

    /// Where the model stands that a run has before its update `step`, by what was settled, or else
    /// by what the configurations of it and of the runs it descends from say; `None` while only who
    /// reads the first checkpoint of all can tell.
    pub async fn standing(&self, run_id: i32, step: u32) -> Result<Option<Standing>, Error> {
        let line: Vec<(Json<RunIdentity>, i32, Option<Json<Settled>>)> = sqlx::query_as(
            "with recursive line as (
                 select run_id, $2 as step, 0 as generation from imprint.run where run_id = $1
                 union all
                 select r.parent_run_id, r.parent_step, l.generation + 1
                 from line l join imprint.run r using (run_id)
                 where r.settled is null and r.parent_run_id is not null)
             select r.spec -> 'identity', l.step, r.settled
             from line l join imprint.run r using (run_id) order by l.generation desc",
        )
        .bind(run_id)
        .bind(step as i32)
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing(format!("look up where run {run_id} stands")))?;
        let mut standing = None;
        for (Json(identity), step, settled) in line {
            let start = match settled {
                Some(Json(settled)) => Some(settled.standing()),
                None => identity.standing(standing),
            };
            let tokens_per_update = identity.tokens_per_update();
            standing = start.map(|start| start.after(step as u32, tokens_per_update));
        }
        Ok(standing)
    }

    /// Stores an experiment with the runs that are not there yet, and the answer that `encode` makes
    /// of which runs are new.
    ///
    /// A request id that was answered before gets that answer, and nothing changes.
    pub async fn submit(
        &self,
        experiment: &NewExperiment,
        encode: impl FnOnce(&[bool]) -> Vec<u8>,
    ) -> Result<Submission, Error> {
        store(&self.pool, experiment, encode)
            .await
            .map_err(Error::doing(format!(
                "store experiment {}",
                experiment.name
            )))
    }

    /// The answer that [`Self::submit`] would give; nothing is stored.
    pub async fn try_submit(
        &self,
        experiment: &NewExperiment,
        encode: impl FnOnce(&[bool]) -> Vec<u8>,
    ) -> Result<Submission, Error> {
        let check = async {
            let mut connection = self.pool.acquire().await?;
            known_runs(&mut connection, experiment).await
        };
        let known = check.await;
        let doing = || format!("compare experiment {} with what is there", experiment.name);
        Ok(match known.map_err(Error::doing(doing()))? {
            Ok(known) => {
                let new: Vec<bool> = known.iter().map(Option::is_none).collect();
                Submission::Answered(encode(&new))
            }
            Err(refusal) => Submission::Refused(refusal),
        })
    }
}

async fn store(
    pool: &PgPool,
    experiment: &NewExperiment,
    encode: impl FnOnce(&[bool]) -> Vec<u8>,
) -> sqlx::Result<Submission> {
    let mut tx = pool.begin().await?;
    // One at a time: two that share runs would otherwise wait for each other's rows.
    sqlx::query("select pg_advisory_xact_lock(hashtext('imprint.submit'))")
        .execute(&mut *tx)
        .await?;
    let answered = "select response from imprint.submission where request_id = $1";
    if let Some(answer) = sqlx::query_scalar(answered)
        .bind(&experiment.request_id)
        .fetch_optional(&mut *tx)
        .await?
    {
        return Ok(Submission::Answered(answer));
    }
    let known = match known_runs(&mut tx, experiment).await? {
        Ok(known) => known,
        Err(refusal) => return Ok(Submission::Refused(refusal)),
    };
    let experiment_id: i32 = sqlx::query_scalar(
        "insert into imprint.experiment (name, toml) values ($1, $2)
         on conflict (name) do update set toml = excluded.toml returning experiment_id",
    )
    .bind(&experiment.name)
    .bind(&experiment.toml)
    .fetch_one(&mut *tx)
    .await?;
    let mut probe_sets = BTreeMap::new();
    for (run, known) in experiment.runs.iter().zip(&known) {
        let run_id = match known {
            Some(known) => {
                keep_more(&mut tx, known, run).await?;
                known.run_id
            }
            None => {
                let sha256 = run.probe_set.sha256.as_str();
                let probe_set_id = match probe_sets.get(sha256) {
                    Some(&id) => id,
                    None => {
                        let id = insert_probe_set(&mut tx, &run.probe_set).await?;
                        probe_sets.insert(sha256, id);
                        id
                    }
                };
                insert_run(&mut tx, run, probe_set_id).await?
            }
        };
        sqlx::query(
            "insert into imprint.experiment_run (experiment_id, run_id, label)
             values ($1, $2, $3) on conflict (experiment_id, run_id) do nothing",
        )
        .bind(experiment_id)
        .bind(run_id)
        .bind(&run.spec.label)
        .execute(&mut *tx)
        .await?;
        // Somebody wants it again before it has ended.
        sqlx::query(
            "update imprint.run set cancel_requested = false
             where run_id = $1 and cancel_requested
               and state in ('queued', 'running', 'delivering')
               and exists (select from imprint.experiment_run w
                           where w.run_id = $1 and w.wanted)",
        )
        .bind(run_id)
        .execute(&mut *tx)
        .await?;
    }
    let new: Vec<bool> = known.iter().map(Option::is_none).collect();
    let answer = encode(&new);
    sqlx::query(
        "insert into imprint.submission (request_id, experiment_id, response)
         values ($1, $2, $3)",
    )
    .bind(&experiment.request_id)
    .bind(experiment_id)
    .bind(&answer)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Submission::Answered(answer))
}

/// For each run of the experiment the run that is there already.
async fn known_runs(
    db: &mut PgConnection,
    experiment: &NewExperiment,
) -> sqlx::Result<Result<Vec<Option<KnownRun>>, Refusal>> {
    let mut labels: BTreeMap<&SpecHash, &str> = BTreeMap::new();
    let mut known_runs = Vec::with_capacity(experiment.runs.len());
    for run in &experiment.runs {
        let label = &run.spec.label;
        if let Some(first) = labels.insert(&run.hash, label) {
            return Ok(Err(Refusal::SameRun {
                first: first.to_owned(),
                second: label.clone(),
            }));
        }
        // The label may be this run's in the experiment that asked for it first, too.
        let owner: Option<String> = sqlx::query_scalar(
            "select r.hash from imprint.run r where r.label = $1
             union all
             select r.hash from imprint.run r join imprint.experiment_run e using (run_id)
             where e.label = $1
             limit 1",
        )
        .bind(label)
        .fetch_optional(&mut *db)
        .await?;
        if owner.is_some_and(|hash| hash != run.hash.0) {
            return Ok(Err(Refusal::LabelTaken {
                label: label.clone(),
            }));
        }
        let row: Option<KnownRow> = sqlx::query_as(
            "select r.run_id, r.hash, r.state, r.n_updates, r.spec #> '{saving,keep}',
                    exists (select from imprint.attempt a where a.run_id = r.run_id)
             from imprint.run r where r.hash = $1 for update",
        )
        .bind(&run.hash.0)
        .fetch_optional(&mut *db)
        .await?;
        let known = row.map(KnownRun::from);
        if let Some(known) = &known
            && known.begun
            && let Some(&step) = missing_keeps(known, run).first()
        {
            return Ok(Err(Refusal::BegunWithoutKeeping {
                label: label.clone(),
                step,
            }));
        }
        known_runs.push(known);
    }
    Ok(Ok(known_runs))
}

/// Steps whose state the run is now asked to keep and was not before; the last is always kept.
fn missing_keeps(known: &KnownRun, run: &NewRun) -> BTreeSet<u32> {
    let asked = run.spec.saving.keep.iter().copied();
    asked
        .filter(|step| *step != known.n_updates && !known.keep.contains(step))
        .collect()
}

/// Which states are kept changes no number, so a run that has not begun may keep more.
async fn keep_more(db: &mut PgConnection, known: &KnownRun, run: &NewRun) -> sqlx::Result<()> {
    let mut keep = missing_keeps(known, run);
    if keep.is_empty() {
        return Ok(());
    }
    keep.extend(&known.keep);
    sqlx::query(
        "update imprint.run set spec = jsonb_set(spec, '{saving,keep}', $2) where run_id = $1",
    )
    .bind(known.run_id)
    .bind(Json(keep))
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn insert_probe_set(
    db: &mut PgConnection,
    set: &NewProbeSet,
) -> sqlx::Result<i32> {
    let inserted: Option<i32> = sqlx::query_scalar(
        "insert into imprint.probe_set (sha256, n_probes) values ($1, $2)
         on conflict (sha256) do nothing returning probe_set_id",
    )
    .bind(&set.sha256)
    .bind(set.probes.len() as i32)
    .fetch_optional(&mut *db)
    .await?;
    let Some(probe_set_id) = inserted else {
        let sql = "select probe_set_id from imprint.probe_set where sha256 = $1";
        return sqlx::query_scalar(sql)
            .bind(&set.sha256)
            .fetch_one(db)
            .await;
    };
    let column =
        |of: fn(&NewProbe) -> i32| -> Vec<i32> { set.probes.iter().map(of).collect::<Vec<_>>() };
    let swap_facts: Vec<Option<i32>> = set
        .probes
        .iter()
        .map(|p| match p.probe.control {
            ProbeControl::Own => None,
            ProbeControl::Swap { other } => Some(other.0 as i32),
        })
        .collect();
    let text = |of: fn(&NewProbe) -> &str| -> Vec<&str> { set.probes.iter().map(of).collect() };
    sqlx::query(
        "insert into imprint.probe (probe_set_id, probe, fact, depth, ordinal, swap_fact, prompt,
                                    target, n_target_tokens, n_full_tokens)
         select $1, * from unnest($2::int4[], $3::int4[], $4::int4[], $5::int4[], $6::int4[],
                                  $7::text[], $8::text[], $9::int4[], $10::int4[])",
    )
    .bind(probe_set_id)
    .bind(column(|p| p.probe.id.0 as i32))
    .bind(column(|p| p.probe.fact.0 as i32))
    .bind(column(|p| p.probe.depth.index() as i32))
    .bind(column(|p| i32::from(p.probe.ordinal)))
    .bind(swap_facts)
    .bind(text(|p| &p.probe.prompt))
    .bind(text(|p| &p.probe.target))
    .bind(column(|p| p.n_target_tokens as i32))
    .bind(column(|p| p.n_full_tokens as i32))
    .execute(db)
    .await?;
    Ok(probe_set_id)
}

/// The arm number of facts that are never shown.
const HELD_OUT: i16 = -1;

pub(crate) async fn insert_run(
    db: &mut PgConnection,
    run: &NewRun,
    probe_set_id: i32,
) -> sqlx::Result<i32> {
    let parent_step = match &run.spec.identity.checkpoint {
        CheckpointIdentity::Run { step, .. } => Some(*step as i32),
        CheckpointIdentity::Directory { .. } | CheckpointIdentity::Scratch { .. } => None,
    };
    let reading_steps: Vec<i32> = run.reading_steps.iter().map(|&s| s as i32).collect();
    let run_id: i32 = sqlx::query_scalar(
        "insert into imprint.run (hash, label, spec, probe_set_id, n_updates, reading_steps,
                                  parent_run_id, parent_step)
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning run_id",
    )
    .bind(&run.hash.0)
    .bind(&run.spec.label)
    .bind(Json(&run.spec))
    .bind(probe_set_id)
    .bind(run.spec.identity.training.steps as i32)
    .bind(reading_steps)
    .bind(run.parent_run_id)
    .bind(parent_step)
    .fetch_one(&mut *db)
    .await?;

    insert_plan(db, run_id, &run.schedule, run.n_facts).await?;
    Ok(run_id)
}

/// What a run shows and when, and room for its readings.
pub(super) async fn insert_plan(
    db: &mut PgConnection,
    run_id: i32,
    schedule: &Schedule,
    n_facts: usize,
) -> sqlx::Result<()> {
    let names = schedule.arms();
    let arms: Vec<i16> = (HELD_OUT..names.len() as i16).collect();
    let arm_names: Vec<&str> = std::iter::once("held_out")
        .chain(names.iter().map(String::as_str))
        .collect();
    sqlx::query(
        "insert into imprint.run_arm (run_id, arm, name)
         select $1, * from unnest($2::int2[], $3::text[])",
    )
    .bind(run_id)
    .bind(arms)
    .bind(arm_names)
    .execute(&mut *db)
    .await?;

    let injections = schedule.injections();
    let arm_of: BTreeMap<FactId, i16> = injections.iter().map(|i| (i.fact, i.arm as i16)).collect();
    let fact_arms: Vec<i16> = (0..n_facts as u32)
        .map(|fact| arm_of.get(&FactId(fact)).copied().unwrap_or(HELD_OUT))
        .collect();
    sqlx::query(
        "insert into imprint.run_fact (run_id, fact, arm)
         select $1, f.ordinal - 1, f.arm from unnest($2::int2[]) with ordinality as f(arm, ordinal)",
    )
    .bind(run_id)
    .bind(fact_arms)
    .execute(&mut *db)
    .await?;

    sqlx::query(
        "insert into imprint.injection (run_id, step, fact, exposure, paraphrase)
         select $1, * from unnest($2::int4[], $3::int4[], $4::int4[], $5::int4[])",
    )
    .bind(run_id)
    .bind(injections.iter().map(|i| i.step as i32).collect::<Vec<_>>())
    .bind(
        injections
            .iter()
            .map(|i| i.fact.0 as i32)
            .collect::<Vec<_>>(),
    )
    .bind(
        injections
            .iter()
            .map(|i| i.exposure as i32 + 1)
            .collect::<Vec<_>>(),
    )
    .bind(
        injections
            .iter()
            .map(|i| match i.text {
                InjectionText::Original => None,
                InjectionText::Paraphrase(p) => Some(p as i32),
            })
            .collect::<Vec<_>>(),
    )
    .execute(&mut *db)
    .await?;

    sqlx::query("select imprint.ensure_partitions($1)")
        .bind(run_id)
        .execute(db)
        .await?;
    Ok(())
}
