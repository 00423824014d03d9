//! From an experiment file to stored runs: everything is checked before anything is stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use imprint_core::{CheckpointIdentity, ExperimentSpec, RunSpec, Schedule, Standing};
use imprint_data::{CheckpointFiles, TrainingData};
use imprint_proto::status::{internal, invalid};
use imprint_proto::{check_text, pb};
use imprint_store::Store;
use imprint_store::runs::{
    FoundRun, KnownRun, NewExperiment, NewProbe, NewProbeSet, NewRun, Submission,
};
use prost::Message as _;
use serde_json::json;
use tonic::Status;

use imprint_telemetry::one_line;

use crate::estimate::Estimator;
use crate::series::Series;
use crate::service::to_state;
use crate::site::{Roots, Site};
use crate::status::{from_store, invalid_experiment};

/// Takes experiments in.
pub(crate) struct Intake {
    pub(crate) store: Store,
    pub(crate) site: Site,
    /// The trainer, which knows how much memory models take.
    pub(crate) trainer: PathBuf,
    pub(crate) series: Series,
}

impl Intake {
    /// Validates an experiment and stores the runs that are not there yet.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with one line that says what to change; nothing is stored then.
    pub(crate) async fn submit(
        &self,
        request: pb::SubmitExperimentRequest,
    ) -> Result<pb::SubmitExperimentResponse, Status> {
        let store = &self.store;
        if request.request_id.is_empty() && !request.dry_run {
            let problem = "choose one, such as a UUID, and repeat it with the call";
            return Err(invalid("request_id", problem));
        }
        check_text("request_id", &request.request_id)?;
        if let Some(rate) = request.tokens_per_second
            && !(rate.is_finite() && rate > 0.0)
        {
            let problem = format!("{rate} is no rate: it must be greater than 0");
            return Err(invalid("tokens_per_second", &problem));
        }
        if !request.dry_run {
            let answer = store
                .submission_answer(&request.request_id)
                .await
                .map_err(from_store)?;
            if let Some(answer) = answer {
                return decode(&answer);
            }
        }
        let base_dir = Path::new(&request.base_dir);
        if !base_dir.is_absolute() {
            let problem = format!("`{}` is not an absolute directory", request.base_dir);
            return Err(invalid("base_dir", &problem));
        }
        let validating = Instant::now();
        let spec = self.parse(&request, base_dir)?;
        let parents = parents(store, &spec).await?;
        let standings = parent_standings(store, &spec, &parents).await?;
        let name = spec.name.clone();
        let roots = self.site.roots.clone();
        // Files are read and texts are tokenised.
        let valid =
            tokio::task::spawn_blocking(move || validate(&spec, &roots, &parents, &standings))
                .await
                .map_err(|e| internal(format!("validating the experiment failed: {e}")))??;

        let experiment = NewExperiment {
            name,
            toml: request.toml,
            request_id: request.request_id,
            runs: valid.runs,
        };
        let encode = |found: &[Option<FoundRun>]| {
            let mut runs = valid.answered;
            for (run, found) in runs.iter_mut().zip(found) {
                run.new = found.is_none();
                if let Some(found) = found {
                    run.run.clone_from(&found.label);
                    run.updated = found.updated;
                    run.set_state(to_state(found.run.state));
                }
            }
            let answer = pb::SubmitExperimentResponse {
                experiment: experiment.name.clone(),
                runs,
                warnings: valid.warnings,
                estimate: None,
            };
            answer.encode_to_vec()
        };
        let (validated_in, storing) = (validating.elapsed(), Instant::now());
        let submitted = match request.dry_run {
            true => store.try_submit(&experiment, encode).await,
            false => store.submit(&experiment, encode).await,
        };
        let mut answer = match submitted.map_err(from_store)? {
            Submission::Answered(answer) => decode(&answer)?,
            Submission::Refused(refusal) => return Err(invalid_experiment(refusal.to_string())),
        };
        if request.dry_run {
            let estimator = Estimator {
                store,
                site: &self.site,
                trainer: &self.trainer,
                tokens_per_second: request.tokens_per_second,
            };
            let runs: Vec<_> = experiment.runs.iter().zip(&answer.runs).collect();
            answer.estimate = Some(estimator.estimate(&runs).await?);
        } else {
            self.series.submitted(validated_in, storing.elapsed());
        }
        Ok(answer)
    }

    /// The experiment, its files found and its executors there.
    fn parse(
        &self,
        request: &pb::SubmitExperimentRequest,
        base_dir: &Path,
    ) -> Result<ExperimentSpec, Status> {
        let file = Path::new(&request.file);
        let roots = &self.site.roots;
        let spec =
            ExperimentSpec::parse_with(&request.toml, file, |path| roots.place(base_dir, path));
        let spec = spec.map_err(|e| invalid_experiment(one_line(&e)))?;
        for resources in spec.resources() {
            let refused = |field: &str, problem: &str| {
                let file = file.display();
                invalid_experiment(format!("{file}: `resources.{field}`: {problem}"))
            };
            let executor = self.site.executor(resources.executor.as_deref());
            let (name, executor) = executor.map_err(|problem| refused("executor", &problem))?;
            let device = &resources.device;
            executor.check_device(device).map_err(|why| {
                refused(
                    "device",
                    &format!("\"{device}\": the executor `{name}` {why}"),
                )
            })?;
        }
        Ok(spec)
    }
}

fn decode(answer: &[u8]) -> Result<pb::SubmitExperimentResponse, Status> {
    pb::SubmitExperimentResponse::decode(answer)
        .map_err(|e| internal(format!("the stored answer cannot be read: {e}")))
}

/// The runs that the experiment's checkpoints name, each checked to keep the state asked for.
async fn parents(
    store: &Store,
    spec: &ExperimentSpec,
) -> Result<BTreeMap<String, KnownRun>, Status> {
    let mut parents = BTreeMap::new();
    for checkpoint in &spec.checkpoint {
        let (Some(label), Some(step)) = (&checkpoint.run, checkpoint.step) else {
            continue;
        };
        check_text("run", label)
            .map_err(|e| invalid_experiment(format!("checkpoint `{}`: {e}", checkpoint.name)))?;
        // One that is not there is for `resolve` to refuse.
        let Some(parent) = store.known_run(label).await.map_err(from_store)? else {
            continue;
        };
        if step != parent.n_updates && !parent.keep.contains(&step) {
            let problem = if step > parent.n_updates {
                format!("run `{label}` ends at step {}", parent.n_updates)
            } else if parent.begun {
                let kept = parent.keep.iter().chain([&parent.n_updates]);
                let kept: Vec<String> = kept.map(u32::to_string).collect();
                format!(
                    "run `{label}` has begun and does not keep its state at step {step}; \
                     it keeps steps {}",
                    kept.join(", ")
                )
            } else {
                format!(
                    "run `{label}` does not keep its state at step {step}; add {step} to \
                     `saving.keep` in its experiment file and submit that again first"
                )
            };
            return Err(invalid_experiment(format!(
                "checkpoint `{}`: {problem}",
                checkpoint.name
            )));
        }
        parents.insert(label.clone(), parent);
    }
    Ok(parents)
}

/// For each checkpoint where the state of another run stands that it is, if it is one and that can
/// be told.
async fn parent_standings(
    store: &Store,
    spec: &ExperimentSpec,
    parents: &BTreeMap<String, KnownRun>,
) -> Result<Vec<Option<Standing>>, Status> {
    let mut standings = Vec::with_capacity(spec.checkpoint.len());
    for checkpoint in &spec.checkpoint {
        let parent = checkpoint.run.as_ref().and_then(|label| parents.get(label));
        standings.push(match parent.zip(checkpoint.step) {
            Some((parent, step)) => store
                .standing(parent.run_id, step)
                .await
                .map_err(from_store)?,
            None => None,
        });
    }
    Ok(standings)
}

/// Makes sure that every schedule's end can be told and fits, where its checkpoint's standing is
/// known by now; the others' is for their trainer to read.
fn check_schedules(
    spec: &ExperimentSpec,
    runs: &[RunSpec],
    parents: &[Option<Standing>],
) -> Result<(), Status> {
    for (cell, run) in spec.matrix().iter().zip(runs) {
        if let Some(standing) = run.identity.standing(parents[cell.checkpoint]) {
            run.identity.schedule(standing).map_err(|e| {
                let name = &spec.checkpoint[cell.checkpoint].name;
                invalid_experiment(format!("checkpoint `{name}`: training.learning_rate: {e}"))
            })?;
        }
    }
    Ok(())
}

/// Every run of the matrix with its plan, and what to answer about it.
struct Valid {
    runs: Vec<NewRun>,
    answered: Vec<pb::SubmittedRun>,
    warnings: Vec<String>,
}

fn validate(
    spec: &ExperimentSpec,
    roots: &Roots,
    parents: &BTreeMap<String, KnownRun>,
    standings: &[Option<Standing>],
) -> Result<Valid, Status> {
    check_checkpoint_files(spec, roots)?;
    let inputs = imprint_data::resolve(spec, |label| parents.get(label).map(|p| p.hash.clone()))
        .map_err(|e| invalid_experiment(one_line(&e)))?;
    let specs = spec
        .expand(&inputs)
        .map_err(|e| invalid_experiment(one_line(&e)))?;
    check_schedules(spec, &specs, standings)?;
    let (plans, plan_of, warnings) = plans(&specs)?;
    let cells = spec.matrix();
    let (runs, answered) = (specs.into_iter().zip(plan_of).zip(&cells))
        .map(|((run, plan), cell)| {
            let plan = &plans[plan];
            let run = NewRun {
                checkpoint: spec.checkpoint[cell.checkpoint].name.clone(),
                hash: run.identity.hash(),
                reading_steps: plan.reading_steps.clone(),
                n_facts: plan.n_facts,
                schedule: plan.schedule.clone(),
                probe_set: plan.probe_set.clone(),
                parent_run_id: parent_run_id(&run, parents),
                spec: run,
            };
            let answered = describe(&run, plan);
            (run, answered)
        })
        .unzip();
    Ok(Valid {
        runs,
        answered,
        warnings,
    })
}

/// Makes sure that every file of a checkpoint may be read: its names may be links, and a list of
/// shards may name anything.
fn check_checkpoint_files(spec: &ExperimentSpec, roots: &Roots) -> Result<(), Status> {
    if !roots.only {
        return Ok(());
    }
    for checkpoint in &spec.checkpoint {
        let Some(path) = &checkpoint.path else {
            continue;
        };
        let files = CheckpointFiles::find(path).map_err(|e| invalid_experiment(one_line(&e)))?;
        let others = [files.optimizer, files.manifest, files.trainer_state];
        let files = [files.config].into_iter().chain(files.weights);
        for file in files.chain(others.into_iter().flatten()) {
            roots.check(&file).map_err(|problem| {
                invalid_experiment(format!("checkpoint `{}`: {problem}", checkpoint.name))
            })?;
        }
    }
    Ok(())
}

/// What runs do that differ in their seeds, rates and checkpoints only.
struct Plan {
    reading_steps: Arc<[u32]>,
    n_facts: usize,
    schedule: Arc<Schedule>,
    probe_set: Arc<NewProbeSet>,
    /// Tokens of all probes.
    n_probe_tokens: u64,
    /// In one batch.
    most_injected_tokens: u32,
}

/// The plans of runs, each made once, the position of each run's, and what looks wrong.
type Plans = (Vec<Plan>, Vec<usize>, Vec<String>);

fn plans(specs: &[RunSpec]) -> Result<Plans, Status> {
    let mut firsts: Vec<RunSpec> = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let plan_of = specs.iter().map(|spec| {
        *seen.entry(plan_key(spec)).or_insert_with(|| {
            firsts.push(spec.clone());
            firsts.len() - 1
        })
    });
    let plan_of: Vec<usize> = plan_of.collect();
    let mut probe_sets: BTreeMap<String, Arc<NewProbeSet>> = BTreeMap::new();
    let mut plans = Vec::with_capacity(firsts.len());
    let mut warnings: Vec<String> = Vec::new();
    imprint_data::visit_plans(&firsts, |_, data| {
        let set = probe_set(data);
        let probe_set = probe_sets
            .entry(set.sha256().to_owned())
            .or_insert_with(|| Arc::new(set));
        plans.push(plan(data, probe_set));
        for warning in data.warnings() {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
    })
    .map_err(|e| invalid_experiment(one_line(&e)))?;
    Ok((plans, plan_of, warnings))
}

/// All of a run that its plan follows from, beside the files that runs of an experiment share.
fn plan_key(run: &RunSpec) -> String {
    let identity = &run.identity;
    json!([
        identity.corpus,
        identity.scenario_name,
        identity.scenario,
        identity.batch_size,
        identity.seq_len,
        identity.eos,
        identity.document_mask,
        identity.training.steps,
        identity.probing,
    ])
    .to_string()
}

fn plan(data: &TrainingData, probe_set: &Arc<NewProbeSet>) -> Plan {
    let schedule = data.schedule();
    let injected = schedule.injections().chunk_by(|a, b| a.step == b.step);
    let most_injected = injected.map(|at_step| data.n_injected_tokens(at_step[0].step));
    let probe_tokens = data
        .tokenized_probes()
        .iter()
        .map(|p| p.tokens.len() as u64);
    Plan {
        reading_steps: data.reading_steps().into(),
        n_facts: data.facts().len(),
        probe_set: probe_set.clone(),
        n_probe_tokens: probe_tokens.sum(),
        most_injected_tokens: most_injected.max().unwrap_or(0),
        schedule: Arc::new(schedule.clone()),
    }
}

fn parent_run_id(spec: &RunSpec, parents: &BTreeMap<String, KnownRun>) -> Option<i32> {
    match &spec.identity.checkpoint {
        CheckpointIdentity::Run { run, .. } => {
            parents.values().find(|p| p.hash == *run).map(|p| p.run_id)
        }
        CheckpointIdentity::Directory { .. } | CheckpointIdentity::Scratch { .. } => None,
    }
}

fn probe_set(data: &TrainingData) -> NewProbeSet {
    let probes = data.probes().iter().zip(data.tokenized_probes());
    let probes = probes.map(|(probe, tokens)| NewProbe {
        probe: probe.clone(),
        n_target_tokens: tokens.n_target_tokens as u32,
        n_full_tokens: tokens.n_full_tokens() as u32,
    });
    NewProbeSet::new(probes.collect())
}

fn describe(run: &NewRun, plan: &Plan) -> pb::SubmittedRun {
    let identity = &run.spec.identity;
    let n_updates = identity.training.steps;
    let batch_tokens = identity.tokens_per_update();
    let n_readings = run.reading_steps.len();
    pb::SubmittedRun {
        run: run.spec.label.clone(),
        hash: run.hash.0.clone(),
        new: false,
        updated: false,
        n_updates,
        n_readings: n_readings as u32,
        n_probes: run.probe_set.probes().len() as u32,
        n_tokens: u64::from(n_updates) * batch_tokens,
        max_injected_share: plan.most_injected_tokens as f32 / batch_tokens as f32,
        n_probe_tokens: n_readings as u64 * plan.n_probe_tokens,
        state: pb::RunState::Unspecified.into(),
    }
}
