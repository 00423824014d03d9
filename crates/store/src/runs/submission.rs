//! Storing an experiment's runs, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imprint_core::{
    CheckpointIdentity, FactId, Injection, InjectionText, Probe, ProbeControl, ResourcesSpec,
    RunIdentity, RunSpec, Schedule, Settled, SpecHash, Standing,
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
    /// The name that its checkpoint has in the experiment.
    pub checkpoint: String,
    pub hash: SpecHash,
    pub spec: RunSpec,
    pub reading_steps: Arc<[u32]>,
    pub n_facts: usize,
    pub schedule: Arc<Schedule>,
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
    #[error(
        "`{first}` and `{second}` are the same run: what differs between them changes no number of \
         it; leave one of them out"
    )]
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

#[derive(sqlx::FromRow)]
struct KnownRow {
    run_id: i32,
    hash: String,
    state: RunState,
    n_updates: i32,
    keep: Json<Vec<u32>>,
    begun: bool,
}

impl From<KnownRow> for KnownRun {
    fn from(row: KnownRow) -> Self {
        Self {
            run_id: row.run_id,
            hash: SpecHash(row.hash),
            state: row.state,
            n_updates: row.n_updates as u32,
            keep: row.keep.0,
            begun: row.begun,
        }
    }
}

/// A run of an experiment that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRun {
    pub run: KnownRun,
    /// Its label in the experiment: the one that it has there since it was first asked for.
    pub label: String,
    /// Whether it takes the experiment's resources in the place of those that it had.
    pub updated: bool,
}

#[derive(sqlx::FromRow)]
struct FoundRow {
    #[sqlx(flatten)]
    known: KnownRow,
    /// In the experiment, where it is one of its runs.
    label: Option<String>,
    resources: Option<Json<serde_json::Value>>,
    /// Whether the next thing to happen to it is that it is started.
    startable: bool,
}

impl FoundRow {
    fn into_found(self, asked: &NewRun) -> FoundRun {
        let resources = self.resources.map(|Json(resources)| resources);
        let resources = resources.and_then(|r| serde_json::from_value::<ResourcesSpec>(r).ok());
        FoundRun {
            label: self.label.unwrap_or_else(|| asked.spec.label.clone()),
            updated: self.startable && resources.as_ref() != Some(&asked.spec.resources),
            run: self.known.into(),
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

    /// The run of a label in any experiment, or of a hash.
    pub async fn known_run(&self, label: &str) -> Result<Option<KnownRun>, Error> {
        let row: Option<KnownRow> = sqlx::query_as(
            "select r.run_id, r.hash, r.state, r.n_updates, r.spec #> '{saving,keep}' as keep,
                    exists (select from imprint.attempt a where a.run_id = r.run_id) as begun
             from imprint.run r
             -- An imported run has no state to start from.
             where (r.hash = $1 or r.run_id = (select run_id from imprint.experiment_run
                                               where label = $1))
                 and not r.spec ? 'imported'",
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
    /// of those that are, in the order of the experiment's.
    ///
    /// Runs that are there and wait to be started take the experiment's resources.
    ///
    /// A request id that was answered before gets that answer, and nothing changes.
    pub async fn submit(
        &self,
        experiment: &NewExperiment,
        encode: impl FnOnce(&[Option<FoundRun>]) -> Vec<u8>,
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
        encode: impl FnOnce(&[Option<FoundRun>]) -> Vec<u8>,
    ) -> Result<Submission, Error> {
        let check = async {
            let mut connection = self.pool.acquire().await?;
            found_runs(&mut connection, experiment).await
        };
        let found = check.await;
        let doing = || format!("compare experiment {} with what is there", experiment.name);
        Ok(match found.map_err(Error::doing(doing()))? {
            Ok(found) => Submission::Answered(encode(&found)),
            Err(refusal) => Submission::Refused(refusal),
        })
    }
}

/// Runs that are stored in one statement: of a few kB each.
const RUNS_AT_ONCE: usize = 500;

/// Holds who wants what of runs until the transaction ends: two that change many runs at once would
/// wait for each other's rows.
pub(super) async fn one_wish_at_a_time(db: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtext('imprint.submit'))")
        .execute(db)
        .await
        .map(drop)
}

async fn store(
    pool: &PgPool,
    experiment: &NewExperiment,
    encode: impl FnOnce(&[Option<FoundRun>]) -> Vec<u8>,
) -> sqlx::Result<Submission> {
    let mut tx = pool.begin().await?;
    one_wish_at_a_time(&mut tx).await?;
    let answered = "select response from imprint.submission where request_id = $1";
    if let Some(answer) = sqlx::query_scalar(answered)
        .bind(&experiment.request_id)
        .fetch_optional(&mut *tx)
        .await?
    {
        return Ok(Submission::Answered(answer));
    }
    let found = match found_runs(&mut tx, experiment).await? {
        Ok(found) => found,
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
    let mut runs_of = Vec::with_capacity(experiment.runs.len());
    let mut new_runs = Vec::new();
    let mut updated = Vec::new();
    for (run, found) in experiment.runs.iter().zip(&found) {
        match found {
            Some(found) => {
                keep_more(&mut tx, &found.run, run).await?;
                runs_of.push((found.run.run_id, run));
                updated.extend(found.updated.then_some((found.run.run_id, run)));
            }
            None => new_runs.push(run),
        }
    }
    update_resources(&mut tx, &updated).await?;
    let old_ids: Vec<i32> = runs_of.iter().map(|&(run_id, _)| run_id).collect();
    let mut probe_sets = ProbeSets::default();
    for runs in new_runs.chunks(RUNS_AT_ONCE) {
        let inserted = insert_runs(&mut tx, runs, &mut probe_sets).await?;
        runs_of.extend(inserted.into_iter().zip(runs.iter().copied()));
    }
    let (run_ids, runs): (Vec<i32>, Vec<&NewRun>) = runs_of.into_iter().unzip();
    let labels: Vec<&str> = runs.iter().map(|run| run.spec.label.as_str()).collect();
    let checkpoints: Vec<&str> = runs.iter().map(|run| run.checkpoint.as_str()).collect();
    sqlx::query(
        "insert into imprint.experiment_run (experiment_id, run_id, label, checkpoint)
         select $1, * from unnest($2::int4[], $3::text[], $4::text[])
         on conflict (experiment_id, run_id) do nothing",
    )
    .bind(experiment_id)
    .bind(run_ids)
    .bind(labels)
    .bind(checkpoints)
    .execute(&mut *tx)
    .await?;
    // Somebody wants them again before they have ended.
    sqlx::query(
        "update imprint.run r set cancel_requested = false
         where run_id = any($1) and cancel_requested
           and state in ('queued', 'running', 'delivering')
           and exists (select from imprint.experiment_run w
                       where w.run_id = r.run_id and w.wanted)",
    )
    .bind(old_ids)
    .execute(&mut *tx)
    .await?;
    let answer = encode(&found);
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
async fn found_runs(
    db: &mut PgConnection,
    experiment: &NewExperiment,
) -> sqlx::Result<Result<Vec<Option<FoundRun>>, Refusal>> {
    let runs = &experiment.runs;
    let labels: Vec<&str> = runs.iter().map(|run| run.spec.label.as_str()).collect();
    let hashes: Vec<&str> = runs.iter().map(|run| run.hash.0.as_str()).collect();
    let mut first_of: BTreeMap<&str, &str> = BTreeMap::new();
    for (hash, label) in hashes.iter().zip(&labels) {
        if let Some(first) = first_of.insert(hash, label) {
            let (first, second) = (first.to_owned(), (*label).to_owned());
            return Ok(Err(Refusal::SameRun { first, second }));
        }
    }
    // A label may be its run's in the experiment that asked for it first, too.
    let owners: Vec<(String, String)> = sqlx::query_as(
        "select r.label, r.hash from imprint.run r where r.label = any($1)
         union
         select e.label, r.hash from imprint.experiment_run e join imprint.run r using (run_id)
         where e.label = any($1)",
    )
    .bind(&labels)
    .fetch_all(&mut *db)
    .await?;
    let is_taken: BTreeMap<&str, &str> = (owners.iter())
        .map(|(label, hash)| (label.as_str(), hash.as_str()))
        .collect();
    // Of a job that waits in an executor's queue the resources are asked for already.
    let rows: Vec<FoundRow> = sqlx::query_as(
        "select r.run_id, r.hash, r.state, r.n_updates, r.spec #> '{saving,keep}' as keep,
                exists (select from imprint.attempt a where a.run_id = r.run_id) as begun,
                (select e.label
                 from imprint.experiment_run e join imprint.experiment x using (experiment_id)
                 where e.run_id = r.run_id and x.name = $2) as label,
                r.spec -> 'resources' as resources,
                r.state in ('failed', 'cancelled') or r.state = 'queued' and not exists (
                    select from imprint.job j where j.run_id = r.run_id and j.ended_at is null)
                    as startable
         from imprint.run r where r.hash = any($1) order by r.run_id for no key update of r",
    )
    .bind(&hashes)
    .bind(&experiment.name)
    .fetch_all(db)
    .await?;
    let mut rows: BTreeMap<String, FoundRow> = (rows.into_iter())
        .map(|row| (row.known.hash.clone(), row))
        .collect();
    let mut found_runs = Vec::with_capacity(runs.len());
    for run in runs {
        let label = || run.spec.label.clone();
        if is_taken
            .get(run.spec.label.as_str())
            .is_some_and(|hash| *hash != run.hash.0)
        {
            return Ok(Err(Refusal::LabelTaken { label: label() }));
        }
        let row = rows.remove(&run.hash.0);
        let found = row.map(|row| row.into_found(run));
        if let Some(found) = &found
            && found.run.begun
            && let Some(&step) = missing_keeps(&found.run, run).first()
        {
            let label = found.label.clone();
            return Ok(Err(Refusal::BegunWithoutKeeping { label, step }));
        }
        found_runs.push(found);
    }
    Ok(Ok(found_runs))
}

/// Gives runs that wait to be started the resources that they are now asked to have.
async fn update_resources(db: &mut PgConnection, runs: &[(i32, &NewRun)]) -> sqlx::Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let run_ids: Vec<i32> = runs.iter().map(|&(run_id, _)| run_id).collect();
    let resources = runs.iter().map(|(_, run)| Json(&run.spec.resources));
    sqlx::query(
        "with changed as (
             update imprint.run r set spec = jsonb_set(r.spec, '{resources}', u.resources)
             from unnest($1::int4[], $2::jsonb[]) as u(run_id, resources)
             where r.run_id = u.run_id
             returning r.run_id, u.resources
         )
         insert into imprint.event (run_id, event, kind, detail)
         select run_id, 1 + coalesce((select max(e.event) from imprint.event e
                                      where e.run_id = c.run_id), 0),
                'resources', resources::text
         from changed c",
    )
    .bind(run_ids)
    .bind(resources.collect::<Vec<_>>())
    .execute(db)
    .await
    .map(drop)
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

pub(super) async fn insert_probe_set(
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

/// Probe sets that are stored, by their hashes.
#[derive(Default)]
pub(crate) struct ProbeSets(BTreeMap<String, i32>);

impl ProbeSets {
    async fn id(&mut self, db: &mut PgConnection, set: &NewProbeSet) -> sqlx::Result<i32> {
        if let Some(&id) = self.0.get(set.sha256()) {
            return Ok(id);
        }
        let id = insert_probe_set(db, set).await?;
        self.0.insert(set.sha256().to_owned(), id);
        Ok(id)
    }
}

/// Stores runs with their plans and gives their numbers, which are in the order of the runs.
pub(crate) async fn insert_runs(
    db: &mut PgConnection,
    runs: &[&NewRun],
    probe_sets: &mut ProbeSets,
) -> sqlx::Result<Vec<i32>> {
    let mut probe_set_ids = Vec::with_capacity(runs.len());
    // Most runs of an experiment are read at the same steps, and an array of arrays would be flat.
    let mut reading_steps: Vec<String> = Vec::new();
    let mut steps_of = Vec::with_capacity(runs.len());
    for run in runs {
        probe_set_ids.push(probe_sets.id(db, &run.probe_set).await?);
        let steps = run.reading_steps.iter().map(u32::to_string);
        let steps = format!("{{{}}}", steps.collect::<Vec<_>>().join(","));
        let at = reading_steps.iter().position(|known| *known == steps);
        steps_of.push(at.unwrap_or(reading_steps.len()) as i32);
        if at.is_none() {
            reading_steps.push(steps);
        }
    }
    let parent_step = |run: &&NewRun| match &run.spec.identity.checkpoint {
        CheckpointIdentity::Run { step, .. } => Some(*step as i32),
        CheckpointIdentity::Directory { .. } | CheckpointIdentity::Scratch { .. } => None,
    };
    let n_updates = |run: &&NewRun| run.spec.identity.training.steps as i32;
    let run_ids: Vec<i32> = sqlx::query_scalar(
        "with inserted as (
             insert into imprint.run (hash, label, spec, probe_set_id, n_updates, reading_steps,
                                      parent_run_id, parent_step)
             select u.hash, u.label, u.spec, u.probe_set_id, u.n_updates, s.steps::int4[],
                    u.parent_run_id, u.parent_step
             from unnest($1::text[], $2::text[], $3::jsonb[], $4::int4[], $5::int4[], $6::int4[],
                         $7::int4[], $8::int4[]) with ordinality
                 as u(hash, label, spec, probe_set_id, n_updates, steps_of, parent_run_id,
                      parent_step, ordinal)
             join unnest($9::text[]) with ordinality as s(steps, number)
                 on s.number = u.steps_of + 1
             order by u.ordinal
             returning run_id
         )
         select run_id from inserted order by run_id",
    )
    .bind(runs.iter().map(|r| r.hash.0.as_str()).collect::<Vec<_>>())
    .bind(
        runs.iter()
            .map(|r| r.spec.label.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(runs.iter().map(|r| Json(&r.spec)).collect::<Vec<_>>())
    .bind(probe_set_ids)
    .bind(runs.iter().map(n_updates).collect::<Vec<_>>())
    .bind(steps_of)
    .bind(runs.iter().map(|r| r.parent_run_id).collect::<Vec<_>>())
    .bind(runs.iter().map(parent_step).collect::<Vec<_>>())
    .bind(reading_steps)
    .fetch_all(&mut *db)
    .await?;

    // Runs that differ in their seed only show the same at the same steps.
    let is_alike = |a: &NewRun, b: &NewRun| a.n_facts == b.n_facts && a.schedule == b.schedule;
    let numbered: Vec<(&NewRun, i32)> = (runs.iter().copied())
        .zip(run_ids.iter().copied())
        .collect();
    for alike in numbered.chunk_by(|(a, _), (b, _)| is_alike(a, b)) {
        let run_ids: Vec<i32> = alike.iter().map(|&(_, run_id)| run_id).collect();
        let (first, _) = alike[0];
        insert_plan(db, &run_ids, &first.schedule, first.n_facts).await?;
    }
    Ok(run_ids)
}

/// The arm number of facts that are never shown.
const HELD_OUT: i16 = -1;

/// What runs show and when.
pub(super) async fn insert_plan(
    db: &mut PgConnection,
    run_ids: &[i32],
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
         select r.run_id, a.* from unnest($1::int4[]) as r(run_id),
                                   unnest($2::int2[], $3::text[]) as a",
    )
    .bind(run_ids)
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
         select r.run_id, f.ordinal - 1, f.arm
         from unnest($1::int4[]) as r(run_id),
              unnest($2::int2[]) with ordinality as f(arm, ordinal)",
    )
    .bind(run_ids)
    .bind(fact_arms)
    .execute(&mut *db)
    .await?;

    let paraphrase = |i: &Injection| match i.text {
        InjectionText::Original => None,
        InjectionText::Paraphrase(p) => Some(p as i32),
    };
    let column = |of: fn(&Injection) -> i32| injections.iter().map(of).collect::<Vec<i32>>();
    sqlx::query(
        "insert into imprint.injection (run_id, step, fact, exposure, paraphrase)
         select r.run_id, i.*
         from unnest($1::int4[]) as r(run_id),
              unnest($2::int4[], $3::int4[], $4::int4[], $5::int4[]) as i",
    )
    .bind(run_ids)
    .bind(column(|i| i.step as i32))
    .bind(column(|i| i.fact.0 as i32))
    .bind(column(|i| i.exposure as i32 + 1))
    .bind(injections.iter().map(paraphrase).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}
