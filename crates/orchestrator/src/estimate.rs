//! What runs will take that are new: tokens, hours, memory, bytes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use imprint_core::{
    MemoryAnswer, MemoryQuestion, ModelSource, Precision, ResourcesSpec, RunIdentity, RunSpec,
};
use imprint_proto::pb;
use imprint_store::Store;
use imprint_store::rates::MeasuredRun;
use imprint_store::runs::NewRun;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tonic::Status;

use crate::site::Site;
use crate::status::from_store;
use crate::trainer::NOT_FOR_TRAINERS;

/// What a value takes in the database, with all that is derived from it.
///
/// # Source
/// `docs/benchmarks.md`: readings 4.27, chunks 4.85, means 0.23, updates 0.02.
const DATABASE_BYTES_A_VALUE: f64 = 9.36;

/// Values of a probe in a reading: of its first token, its target, and all of it.
const N_SPANS: u64 = 3;

/// What a token of a probe costs, of a token that is trained on: the way forward is a third of the
/// arithmetic of the way forward and back.
const FORWARD_SHARE: f64 = 1.0 / 3.0;

/// Complete runs on which rates are measured, at most.
const N_MEASURED: u32 = 100;

/// How long the trainer may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The longest part of what a trainer says on standard error that becomes part of a problem: its end.
const SAID_CHARS: usize = 600;

pub(crate) struct Estimator<'a> {
    pub(crate) store: &'a Store,
    pub(crate) site: &'a Site,
    pub(crate) trainer: &'a Path,
    /// As the request states it.
    pub(crate) tokens_per_second: Option<f64>,
}

/// New runs that take the same time and memory.
struct Group<'a> {
    /// The first of them.
    run: &'a NewRun,
    n_runs: u32,
    n_tokens: u64,
    n_probe_tokens: u64,
    /// `None` where its first parent is not there any more.
    model: Option<ModelSource>,
}

impl Estimator<'_> {
    /// The estimate of the runs that the answer says are new.
    pub(crate) async fn estimate(
        &self,
        runs: &[(&NewRun, &pb::SubmittedRun)],
    ) -> Result<pb::Estimate, Status> {
        let new = || runs.iter().filter(|(_, answer)| answer.new);
        let sum = |of: fn(&pb::SubmittedRun) -> u64| new().map(|(_, answer)| of(answer)).sum();
        let n_values =
            |run: &pb::SubmittedRun| u64::from(run.n_readings) * u64::from(run.n_probes) * N_SPANS;
        let groups = self.groups(new().copied()).await?;
        let measured = self.measured(&groups).await?;
        let (answers, sizes) = self.memory(&groups, &measured).await;
        let groups = groups.iter().zip(answers).map(|(group, answer)| {
            let n_parameters = answer.as_ref().ok().map(|a| a.n_parameters);
            let like: Vec<&MeasuredRun> = (measured.iter().zip(&sizes))
                .filter(|(run, size)| self.is_like(group, n_parameters, run, **size))
                .map(|(run, _)| run)
                .collect();
            self.group(group, answer, &like)
        });
        let groups: Vec<pb::EstimateGroup> = groups.collect();
        Ok(pb::Estimate {
            n_runs: new().count() as u32,
            n_tokens: sum(|run| run.n_tokens),
            n_probe_tokens: sum(|run| run.n_probe_tokens),
            n_readings: sum(|run| run.n_readings.into()),
            database_bytes: (sum(n_values) as f64 * DATABASE_BYTES_A_VALUE) as u64,
            device_hours: groups.iter().map(|group| group.device_hours).sum(),
            groups,
        })
    }

    async fn groups<'a>(
        &self,
        runs: impl Iterator<Item = (&'a NewRun, &'a pb::SubmittedRun)>,
    ) -> Result<Vec<Group<'a>>, Status> {
        let runs: Vec<_> = runs.collect();
        let parents: Vec<i32> = runs
            .iter()
            .filter_map(|(run, _)| run.parent_run_id)
            .collect();
        let roots = self.store.roots(&parents).await.map_err(from_store)?;
        let roots: BTreeMap<i32, RunSpec> = roots.into_iter().collect();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for (run, answer) in runs {
            let root = run
                .parent_run_id
                .map_or(Some(&run.spec), |id| roots.get(&id));
            let model = root.and_then(ModelSource::of);
            let RunIdentity {
                batch_size,
                seq_len,
                training,
                ..
            } = &run.spec.identity;
            let (precision, rows) = (training.precision, training.micro_batch_rows);
            let resources = &run.spec.resources;
            let key = json!([model, batch_size, seq_len, precision, rows, resources]).to_string();
            let n = groups.len();
            let at = *seen.entry(key).or_insert(n);
            if at == n {
                groups.push(Group {
                    run,
                    n_runs: 0,
                    n_tokens: 0,
                    n_probe_tokens: 0,
                    model,
                });
            }
            let group = &mut groups[at];
            group.n_runs += 1;
            group.n_tokens += answer.n_tokens;
            group.n_probe_tokens += answer.n_probe_tokens;
        }
        Ok(groups)
    }

    /// Complete runs on rows as long as some new ones'.
    async fn measured(&self, groups: &[Group<'_>]) -> Result<Vec<MeasuredRun>, Status> {
        if self.tokens_per_second.is_some() {
            return Ok(Vec::new());
        }
        let mut of_lengths: BTreeMap<u32, Vec<MeasuredRun>> = BTreeMap::new();
        for group in groups {
            let identity = &group.run.spec.identity;
            if let Entry::Vacant(entry) = of_lengths.entry(identity.seq_len) {
                let found = self.store.measured_runs(identity.seq_len, N_MEASURED).await;
                entry.insert(found.map_err(from_store)?);
            }
        }
        Ok(of_lengths.into_values().flatten().collect())
    }

    /// What the trainer says of each group's memory, and of each measured run's number of
    /// parameters.
    async fn memory(
        &self,
        groups: &[Group<'_>],
        measured: &[MeasuredRun],
    ) -> (Vec<Result<MemoryAnswer, String>>, Vec<Option<u64>>) {
        let question = |run: &RunSpec, model: Option<ModelSource>| {
            Some(MemoryQuestion {
                model: model?,
                batch_size: run.identity.batch_size,
                seq_len: run.identity.seq_len,
                micro_batch_rows: run.identity.training.micro_batch_rows,
                resources: run.resources.clone(),
            })
        };
        let of_groups = groups
            .iter()
            .map(|g| question(&g.run.spec, g.model.clone()));
        let of_measured = measured
            .iter()
            .map(|m| question(&m.spec, ModelSource::of(&m.root)));
        let questions: Vec<Option<MemoryQuestion>> = of_groups.chain(of_measured).collect();
        let asked: Vec<&MemoryQuestion> = questions.iter().flatten().collect();
        let (mut answers, problem) = match ask(self.trainer, &asked).await {
            Ok(answers) => (answers.into_iter(), String::new()),
            Err(problem) => (Vec::new().into_iter(), problem),
        };
        let mut all: Vec<Result<MemoryAnswer, String>> = (questions.iter())
            .map(|question| match question {
                Some(_) => answers.next().unwrap_or_else(|| Err(problem.clone())),
                None => Err("the run that its checkpoint comes from is not there".to_owned()),
            })
            .collect();
        let of_measured = all.split_off(groups.len());
        let sizes = of_measured.into_iter().map(|a| Some(a.ok()?.n_parameters));
        (all, sizes.collect())
    }

    /// Whether what was measured on a run holds for a group: the same model, precision and device.
    fn is_like(
        &self,
        group: &Group,
        n_parameters: Option<u64>,
        measured: &MeasuredRun,
        n_measured: Option<u64>,
    ) -> bool {
        let same_model = match (n_parameters, n_measured) {
            (Some(n), Some(m)) => n == m,
            _ => group.model.is_some() && group.model == ModelSource::of(&measured.root),
        };
        let way = |run: &RunSpec| -> (Precision, bool, u32, bool, Option<String>) {
            let ResourcesSpec {
                executor, device, ..
            } = &run.resources;
            let is_cpu = device == "cpu";
            let executor = self.site.executor(executor.as_deref()).ok();
            (
                run.identity.training.precision,
                is_cpu,
                if is_cpu { run.resources.threads } else { 1 },
                run.resources.recompute_layers,
                executor.map(|(name, _)| name.to_owned()),
            )
        };
        let same_length = group.run.spec.identity.seq_len == measured.spec.identity.seq_len;
        same_model && same_length && way(&group.run.spec) == way(&measured.spec)
    }

    fn group(
        &self,
        group: &Group,
        answer: Result<MemoryAnswer, String>,
        like: &[&MeasuredRun],
    ) -> pb::EstimateGroup {
        let rate = self.tokens_per_second.or_else(|| {
            let n_tokens: u64 = like.iter().map(|run| run.n_tokens).sum();
            let seconds: f64 = like.iter().map(|run| run.update_seconds).sum();
            (seconds > 0.0).then(|| n_tokens as f64 / seconds)
        });
        let work = group.n_tokens as f64 + FORWARD_SHARE * group.n_probe_tokens as f64;
        let spec = &group.run.spec;
        let executor = self.site.executor(spec.resources.executor.as_deref());
        let answered = answer.as_ref().ok();
        pb::EstimateGroup {
            run: spec.label.clone(),
            n_runs: group.n_runs,
            batch_size: spec.identity.batch_size,
            executor: executor.map_or("", |(name, _)| name).to_owned(),
            device: spec.resources.device.clone(),
            n_parameters: answered.map(|a| a.n_parameters),
            micro_batch_rows: answered.and_then(|a| a.micro_batch_rows),
            memory_bytes: answered.map(|a| a.bytes),
            tokens_per_second: rate,
            n_measured_runs: like.len() as u32,
            device_hours: rate.map(|rate| work / rate / 3600.0),
            problem: answer.err().unwrap_or_default(),
        }
    }
}

/// What the trainer answers to questions, in their order.
///
/// # Errors
/// When it cannot be started or does not answer, in a line.
async fn ask(
    trainer: &Path,
    questions: &[&MemoryQuestion],
) -> Result<Vec<Result<MemoryAnswer, String>>, String> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let no_answer = |why: String| format!("{} memory: {why}", trainer.display());
    let questions = json!(questions).to_string();
    let mut command = Command::new(trainer);
    command.arg("memory").kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in NOT_FOR_TRAINERS {
        command.env_remove(name);
    }
    let asked = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says so by its exit.
            let _ = stdin.write_all(questions.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(output) => output.map_err(|e| no_answer(e.to_string()))?,
        Err(_) => return Err(no_answer(format!("no answer within {ANSWER_WITHIN:?}"))),
    };
    if !output.status.success() {
        return Err(no_answer(match said(&output.stderr) {
            said if said.is_empty() => output.status.to_string(),
            said => format!("{}: {said}", output.status),
        }));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| no_answer(format!("an odd answer: {e}")))
}

/// The end of what a program said, in one line.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut line = lines.join("; ");
    if let Some((start, _)) = line.char_indices().rev().nth(SAID_CHARS) {
        line.replace_range(..start, "…");
    }
    line
}

#[cfg(test)]
mod tests;
