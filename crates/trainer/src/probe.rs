//! `imprint-trainer probe`: one reading of a checkpoint, for the user's own eyes.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use imprint_core::{Depth, FactId, probe_set};
use imprint_data::{Tokenizer, load_facts};
use imprint_lm::{DeviceChoice, Learner, LearnerOptions};
use serde::Serialize;

/// One line of the output; names and order of the fields are an interface.
#[derive(Serialize)]
struct ProbeLine {
    fact: FactId,
    depth: Depth,
    probe: u16,
    n_tokens: usize,
    first: SpanSum,
    target: SpanSum,
    full: SpanSum,
}

#[derive(Serialize)]
struct SpanSum {
    sum_nats: f32,
    n: usize,
}

pub(crate) fn run(
    checkpoint: &Path,
    tokenizer: &Path,
    facts: &Path,
    device: &str,
) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::open(tokenizer)?;
    let probes = probe_set(&load_facts(facts)?, None);
    let tokenized = probes
        .iter()
        .map(|p| tokenizer.encode_probe(p))
        .collect::<Result<Vec<_>, _>>()?;
    let options = LearnerOptions {
        device: DeviceChoice::parse(device)?,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        ..LearnerOptions::default()
    };
    let learner = Learner::load_checkpoint(checkpoint, &options)?;
    let sums = learner.read(&learner.pack(&tokenized)?);
    let mut out = std::io::stdout().lock();
    for ((probe, tokens), sums) in probes.iter().zip(&tokenized).zip(sums) {
        let line = ProbeLine {
            fact: probe.fact,
            depth: probe.depth,
            probe: probe.ordinal,
            n_tokens: tokens.tokens.len(),
            first: SpanSum {
                sum_nats: sums.first_nats,
                n: 1,
            },
            target: SpanSum {
                sum_nats: sums.target_nats,
                n: tokens.n_target_tokens,
            },
            full: SpanSum {
                sum_nats: sums.full_nats,
                n: tokens.n_full_tokens(),
            },
        };
        let json = serde_json::to_string(&line).context("write a line")?;
        writeln!(out, "{json}").context("write to standard output")?;
    }
    Ok(())
}
