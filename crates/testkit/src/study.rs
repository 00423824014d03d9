//! Runs with values of one's own choice, planned and written the way the services do.

use std::sync::Arc;

use imprint_core::{
    Depth, Fact, Probe, ProbeText, RunIdentity, Scenario, Schedule, Span, StepReadings,
    UpdateStats, probe_set,
};
use imprint_store::ingest::{Message, Writer};
use imprint_store::runs::{NewExperiment, NewProbe, NewProbeSet, NewRun, Submission};
use imprint_store::{Store, derived};

use crate::seed::{SeedRun, begin_attempt, complete_run};

/// Readings of one commit.
const READINGS_PER_APPEND: usize = 16;

/// A run of an experiment, with a scenario but without a model.
#[derive(Clone, Debug)]
pub struct Study {
    /// `experiment/cell`.
    pub label: String,
    pub facts: Vec<Fact>,
    pub scenario_name: String,
    pub scenario: Scenario,
    pub swap: bool,
    pub batch_size: u32,
    pub seq_len: u32,
    pub n_updates: u32,
    /// Ascending, from 0 to `n_updates`.
    pub reading_steps: Vec<u32>,
}

impl Study {
    /// Facts with so many probes of each depth and so many paraphrases.
    pub fn facts(n_facts: u32, probes_per_depth: u16, n_paraphrases: usize) -> Vec<Fact> {
        let probes = |fact: u32| -> Vec<ProbeText> {
            let of_depth = |depth| {
                (0..probes_per_depth).map(move |ordinal| ProbeText {
                    depth,
                    ordinal,
                    prompt: format!("What is {depth} number {ordinal} of subject {fact}?"),
                    target: format!("Value {fact}-{depth}-{ordinal}"),
                })
            };
            Depth::ALL.into_iter().flat_map(of_depth).collect()
        };
        (0..n_facts)
            .map(|fact| Fact {
                subject: Some(format!("subject {fact}")),
                passage: format!("All about subject {fact}."),
                paraphrases: vec![format!("Subject {fact}, again."); n_paraphrases],
                probes: probes(fact),
            })
            .collect()
    }

    /// # Panics
    /// When the scenario does not fit the facts.
    pub fn schedule(&self) -> Schedule {
        self.scenario
            .schedule(&self.facts)
            .expect("the scenario fits the facts")
    }

    /// The run's probes, in the order of the values of its readings.
    pub fn probes(&self) -> Vec<Probe> {
        let schedule = self.schedule();
        probe_set(&self.facts, self.swap.then_some(&schedule))
    }

    /// How many tokens a span of a probe has.
    pub fn n_tokens(probe: &Probe, span: Span) -> u32 {
        match span {
            Span::First => 1,
            Span::Target => 1 + probe.id.0 % 4,
            Span::Full => 5 + probe.id.0 % 7,
        }
    }

    /// Submits the run; returns its number.
    pub async fn submit(&self, store: &Store) -> i32 {
        let seed = SeedRun {
            label: self.label.clone(),
            n_updates: self.n_updates,
            ..SeedRun::default()
        };
        let mut spec = seed.spec();
        spec.identity = RunIdentity {
            scenario_name: self.scenario_name.clone(),
            scenario: self.scenario.clone(),
            batch_size: self.batch_size,
            seq_len: self.seq_len,
            // What tells runs of different checkpoints apart.
            facts_sha256: self.label.clone(),
            ..spec.identity
        };
        let probes = self.probes().into_iter().map(|probe| NewProbe {
            n_target_tokens: Self::n_tokens(&probe, Span::Target),
            n_full_tokens: Self::n_tokens(&probe, Span::Full),
            probe,
        });
        let (experiment, cell) = self.label.split_once('/').expect("a label has two parts");
        let experiment = NewExperiment {
            name: experiment.to_owned(),
            toml: String::new(),
            request_id: self.label.clone(),
            runs: vec![NewRun {
                checkpoint: cell.split('-').next().unwrap_or(cell).to_owned(),
                hash: spec.identity.hash(),
                spec,
                reading_steps: self.reading_steps.as_slice().into(),
                n_facts: self.facts.len(),
                schedule: Arc::new(self.schedule()),
                probe_set: Arc::new(NewProbeSet::new(probes.collect())),
                parent_run_id: None,
            }],
        };
        let submitted = store.submit(&experiment, |_| Vec::new()).await;
        assert!(
            matches!(submitted, Ok(Submission::Answered(_))),
            "{submitted:?}"
        );
        let known = store.known_run(&self.label).await.expect("look a run up");
        known.expect("the run was submitted").run_id
    }

    /// Writes every reading and update as one attempt, and calls the run complete.
    ///
    /// `sum_nats` gives a probe's summed log-probability over a span at a step.
    pub async fn measure(
        &self,
        store: &Store,
        run_id: i32,
        sum_nats: impl Fn(&Probe, Span, u32) -> f32,
    ) {
        let attempt = begin_attempt(store, run_id).await;
        let (mut writer, _) = Writer::open(store, run_id, attempt, 0, "machine")
            .await
            .expect("open a stream");
        let probes = self.probes();
        let indexed: Vec<(u32, u32)> = (0..).zip(self.reading_steps.iter().copied()).collect();
        for steps in indexed.chunks(READINGS_PER_APPEND) {
            let readings = steps.iter().map(|&(index, step)| {
                let of_span = |span| probes.iter().map(|p| sum_nats(p, span, step)).collect();
                Message::Reading(StepReadings {
                    index,
                    step,
                    measured_by: attempt,
                    first_sum_nats: of_span(Span::First),
                    target_sum_nats: of_span(Span::Target),
                    full_sum_nats: of_span(Span::Full),
                })
            });
            append(&mut writer, readings.collect()).await;
        }
        let schedule = self.schedule();
        let updates: Vec<Message> = (0..self.n_updates)
            .map(|step| {
                Message::Update(UpdateStats {
                    step,
                    measured_by: attempt,
                    loss_nats: 3.0 + 1.0 / f64::from(1 + step),
                    learning_rate: 3e-4,
                    grad_norm: 0.5,
                    update_norm: 0.01,
                    n_tokens: self.batch_size * self.seq_len,
                    n_injected_tokens: 6 * schedule.at(step).len() as u32,
                    duration_ms: 250.0,
                })
            })
            .collect();
        append(&mut writer, updates).await;
        let made = derived::make_chunks(store, run_id).await;
        made.expect("make chunks");
        complete_run(store, run_id).await;
    }
}

async fn append(writer: &mut Writer, batch: Vec<Message>) {
    let appended = writer.append(&batch).await.expect("append to a stream");
    assert_eq!(appended.refused, None);
}
