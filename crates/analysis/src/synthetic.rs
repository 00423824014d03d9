//! Runs with known answers, for the tests.

use imprint_core::{Depth, FactId, ProbeId, Span, Trajectory};

use crate::run::{Control, FactSchedule, ProbeSeries, RunData};

/// Which series a value is asked for.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) fact: u32,
    pub(crate) depth: Depth,
    pub(crate) ordinal: u16,
    pub(crate) control: Control,
    pub(crate) step: u32,
    /// The fact's injections; empty for a held-out fact.
    pub(crate) exposures: &'static [u32],
}

impl At {
    /// Steps since the injection `index`; negative before it and `None` for a held-out fact.
    pub(crate) fn since(&self, index: usize) -> Option<i64> {
        Some(i64::from(self.step) - i64::from(*self.exposures.get(index)?))
    }
}

/// A run with an arm `arm`: one list of injection steps a fact, none for a held-out fact, two
/// probes a depth, and swap probes of the shown facts.
pub(crate) fn run(
    exposures: &[&'static [u32]],
    steps: impl Iterator<Item = u32>,
    nats: impl Fn(At) -> f64,
) -> RunData {
    let steps: Vec<u32> = steps.collect();
    let mut probes = Vec::new();
    for control in [Control::Own, Control::Swap] {
        for (fact, &exposures) in (0..).zip(exposures) {
            if control == Control::Swap && exposures.is_empty() {
                continue;
            }
            for depth in Depth::ALL {
                for ordinal in 0..2 {
                    let at = |step| At {
                        fact,
                        depth,
                        ordinal,
                        control,
                        step,
                        exposures,
                    };
                    probes.push(ProbeSeries {
                        probe: ProbeId(probes.len() as u32),
                        fact: FactId(fact),
                        depth,
                        ordinal,
                        control,
                        trajectory: Trajectory::new(steps.iter().map(|&s| (s, nats(at(s))))),
                    });
                }
            }
        }
    }
    RunData {
        label: "toy/mid-arm-b8-s0".to_owned(),
        checkpoint: "mid".to_owned(),
        scenario: "arm".to_owned(),
        batch_size: 8,
        seed: 0,
        repeat: 0,
        n_updates: *steps.last().expect("a run has readings"),
        tokens_per_step: 1000,
        span: Span::Target,
        facts: (0..)
            .zip(exposures)
            .map(|(fact, steps)| FactSchedule {
                fact: FactId(fact),
                arm: (!steps.is_empty()).then(|| "arm".to_owned()),
                exposure_steps: steps.to_vec(),
            })
            .collect(),
        probes,
    }
}

/// Noise in −1…1 that is the same at every call.
pub(crate) fn noise(at: &At, salt: u64) -> f64 {
    let mut x = salt;
    for v in [
        u64::from(at.fact),
        at.depth as u64,
        u64::from(at.ordinal),
        at.control as u64,
        u64::from(at.step),
    ] {
        x = (x ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 29;
    }
    (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}
