//! From an experiment file to stored runs: everything is checked before anything is stored.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use imprint_core::{CheckpointIdentity, ExperimentSpec, RunSpec, Standing};
use imprint_data::TrainingData;
use imprint_proto::status::{internal, invalid};
use imprint_proto::{check_text, pb};
use imprint_store::Store;
use imprint_store::runs::{KnownRun, NewExperiment, NewProbe, NewProbeSet, NewRun, Submission};
use prost::Message as _;
use tonic::Status;

use imprint_telemetry::one_line;

use crate::status::{from_store, invalid_experiment};

/// Validates an experiment and stores the runs that are not there yet.
///
/// # Errors
/// `INVALID_ARGUMENT` with one line that says what to change; nothing is stored then.
pub(crate) async fn submit(
    store: &Store,
    request: pb::SubmitExperimentRequest,
) -> Result<pb::SubmitExperimentResponse, Status> {
    if request.request_id.is_empty() && !request.dry_run {
        let problem = "choose one, such as a UUID, and repeat it with the call";
        return Err(invalid("request_id", problem));
    }
    check_text("request_id", &request.request_id)?;
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
    let spec = ExperimentSpec::parse(&request.toml, Path::new(&request.file), base_dir)
        .map_err(|e| invalid_experiment(one_line(&e)))?;
    let parents = parents(store, &spec).await?;
    let standings = parent_standings(store, &spec, &parents).await?;
    let name = spec.name.clone();
    // Files are read and texts are tokenised.
    let valid = tokio::task::spawn_blocking(move || validate(&spec, &parents, &standings))
        .await
        .map_err(|e| internal(format!("validating the experiment failed: {e}")))??;

    let experiment = NewExperiment {
        name,
        toml: request.toml,
        request_id: request.request_id,
        runs: valid.runs,
    };
    let encode = |new: &[bool]| {
        let mut runs = valid.answered;
        for (run, &new) in runs.iter_mut().zip(new) {
            run.new = new;
        }
        let answer = pb::SubmitExperimentResponse {
            experiment: experiment.name.clone(),
            runs,
            warnings: valid.warnings,
        };
        answer.encode_to_vec()
    };
    let submitted = match request.dry_run {
        true => store.try_submit(&experiment, encode).await,
        false => store.submit(&experiment, encode).await,
    };
    match submitted.map_err(from_store)? {
        Submission::Answered(answer) => decode(&answer),
        Submission::Refused(refusal) => Err(invalid_experiment(refusal.to_string())),
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
    parents: &BTreeMap<String, KnownRun>,
    standings: &[Option<Standing>],
) -> Result<Valid, Status> {
    let inputs = imprint_data::resolve(spec, |label| parents.get(label).map(|p| p.hash.clone()))
        .map_err(|e| invalid_experiment(one_line(&e)))?;
    let specs = spec
        .expand(&inputs)
        .map_err(|e| invalid_experiment(one_line(&e)))?;
    check_schedules(spec, &specs, standings)?;
    let mut probe_sets: BTreeMap<String, Arc<NewProbeSet>> = BTreeMap::new();
    let mut runs = Vec::with_capacity(specs.len());
    let mut answered = Vec::with_capacity(specs.len());
    let mut warnings: Vec<String> = Vec::new();
    imprint_data::visit_plans(&specs, |spec, data| {
        let set = probe_set(data);
        let probe_set = probe_sets
            .entry(set.sha256().to_owned())
            .or_insert_with(|| Arc::new(set));
        let run = NewRun {
            hash: spec.identity.hash(),
            spec: spec.clone(),
            reading_steps: data.reading_steps().to_vec(),
            n_facts: data.facts().len(),
            schedule: data.schedule().clone(),
            probe_set: probe_set.clone(),
            parent_run_id: parent_run_id(spec, parents),
        };
        answered.push(describe(&run, data));
        runs.push(run);
        for warning in data.warnings() {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
    })
    .map_err(|e| invalid_experiment(one_line(&e)))?;
    Ok(Valid {
        runs,
        answered,
        warnings,
    })
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

fn describe(run: &NewRun, data: &TrainingData) -> pb::SubmittedRun {
    let identity = &run.spec.identity;
    let n_updates = identity.training.steps;
    let batch_tokens = u64::from(identity.batch_size) * u64::from(identity.seq_len);
    let injected = run.schedule.injections().chunk_by(|a, b| a.step == b.step);
    let most_injected = injected
        .map(|at_step| data.n_injected_tokens(at_step[0].step))
        .max();
    pb::SubmittedRun {
        run: run.spec.label.clone(),
        hash: run.hash.0.clone(),
        new: false,
        n_updates,
        n_readings: run.reading_steps.len() as u32,
        n_probes: run.probe_set.probes().len() as u32,
        n_tokens: u64::from(n_updates) * batch_tokens,
        max_injected_share: most_injected.unwrap_or(0) as f32 / batch_tokens as f32,
    }
}
