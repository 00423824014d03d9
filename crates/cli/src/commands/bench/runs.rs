//! The runs of simulated trainers: what queries need of a plan, and no data behind it.

use std::sync::Arc;

use imprint_core::{
    Arm, ArmSteps, ArmText, Depth, Fact, FactId, FactRange, Placement, Probe, ProbeControl,
    ProbeId, RunSpec, Scenario, Stagger, simulated,
};
use imprint_store::runs::{NewExperiment, NewProbe, NewProbeSet, NewRun};
use imprint_telemetry::one_line;
use uuid::Uuid;

use super::Load;
use crate::failure::Failure;

/// Probes of a fact, as the authors' file has them: five of each depth.
const PROBES_PER_FACT: u32 = 15;

/// A run for each trainer, under a name of its own.
pub(super) fn experiment(load: &Load) -> Result<NewExperiment, Failure> {
    let name = format!("bench-{}", Uuid::new_v4().simple());
    let n_facts = load.probes.div_ceil(PROBES_PER_FACT);
    let scenario = scenario(n_facts);
    let no_text = Fact {
        subject: None,
        passage: String::new(),
        paraphrases: Vec::new(),
        probes: Vec::new(),
    };
    let schedule = scenario
        .schedule(&vec![no_text; n_facts as usize])
        .map_err(|e| Failure::failed(one_line(&e)))?;
    let schedule = Arc::new(schedule);
    let probe_set = Arc::new(NewProbeSet::new((0..load.probes).map(probe).collect()));
    // Readings 0…T belong to updates 0…T−1; what no round sends is not missed.
    let n_updates = load.n_readings();
    let runs = (0..load.trainers).map(|trainer| {
        let spec = spec(&name, trainer, n_updates, &scenario);
        NewRun {
            checkpoint: "simulated".to_owned(),
            hash: spec.identity.hash(),
            spec,
            reading_steps: (0..=n_updates).collect(),
            n_facts: n_facts as usize,
            schedule: schedule.clone(),
            probe_set: probe_set.clone(),
            parent_run_id: None,
        }
    });
    Ok(NewExperiment {
        toml: String::new(),
        request_id: name.clone(),
        runs: runs.collect(),
        name,
    })
}

fn probe(probe: u32) -> NewProbe {
    let within_fact = probe % PROBES_PER_FACT;
    NewProbe {
        probe: Probe {
            id: ProbeId(probe),
            fact: FactId(probe / PROBES_PER_FACT),
            depth: Depth::ALL[within_fact as usize % Depth::ALL.len()],
            ordinal: (within_fact / Depth::ALL.len() as u32) as u16,
            control: ProbeControl::Own,
            prompt: String::new(),
            target: String::new(),
        },
        n_target_tokens: 1 + probe % 5,
        n_full_tokens: 10 + probe % 17,
    }
}

/// A quarter of the facts in each of three arms, as many held out.
fn scenario(n_facts: u32) -> Scenario {
    let arm = |(n, name): (u32, &str)| Arm {
        name: name.to_owned(),
        facts: FactRange {
            start: n * n_facts / 4,
            end: (n + 1) * n_facts / 4,
        },
        text: ArmText::Original,
        steps: ArmSteps::every(0, 100, 10),
        stagger: Stagger::default(),
        placement: Placement::RowHead,
    };
    let arms = (0..).zip(["duplication", "paraphrase", "once"]).map(arm);
    Scenario {
        arm: arms.filter(|a| a.facts.start < a.facts.end).collect(),
    }
}

fn spec(experiment: &str, trainer: u32, n_updates: u32, scenario: &Scenario) -> RunSpec {
    let label = format!("{experiment}/{trainer}");
    let mut spec = simulated::spec(&label, n_updates, "bench", scenario.clone());
    // No two of them are the same run.
    spec.identity.facts_sha256 = experiment.to_owned();
    spec.identity.seed = trainer.into();
    spec
}
