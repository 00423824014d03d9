//! Evidence fact by fact: what a statistical test of acquisition and forgetting needs.

use imprint_core::{Depth, FactId};
use serde::Serialize;

use crate::effectivity::effectivities;
use crate::fit::DecayFit;
use crate::retainability::retainability;
use crate::run::{RunData, mean, mean_of};
use crate::settings::Settings;
use crate::signed_rank::{SignedRank, signed_rank_greater};

/// The depths whose means are tested: compositional probes gain too little in small models.
const TESTED: [Depth; 2] = [Depth::Mem, Depth::Gen];
/// Gains at most this many steps after t_LAM are early.
const EARLY_THROUGH_STEPS: u32 = 3;

/// One fact's gains, averaged over memorization and semantic generalization, null-subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FactEvidence {
    pub fact: FactId,
    /// ε of the first exposure.
    pub first_nats: f64,
    /// ε of the second exposure; `None` where there was but one.
    pub second_nats: Option<f64>,
    /// ε of the first exposure on the swap probes.
    pub first_swap_nats: Option<f64>,
    /// Gain over ℓ(t_pre) up to 3 steps after t_LAM.
    pub early_nats: f64,
    /// Gain over ℓ(t_pre) late after t_LAM.
    pub late_nats: f64,
}

/// What one arm of a run shows, fact by fact.
///
/// Peaks are taken on the mean over a fact's probes of a depth, where a maximum is less noisy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    pub facts: Vec<FactEvidence>,
    /// Mean late gain over mean whole gain, memorization and semantic generalization together.
    pub retained_late: f64,
    pub late_from_steps: u32,
    /// The robust fit of each depth that has one.
    pub decay: Vec<(Depth, DecayFit)>,
}

/// The evidence of one arm; `None` without held-out facts, or where a fact's gains were not read.
pub fn evidence(run: &RunData, arm: &str, settings: &Settings) -> Option<Evidence> {
    let run = run.fact_means();
    let retained = |depth| retainability(&run, arm, depth, settings).filter(|r| r.has_null());
    let tested = [retained(TESTED[0])?, retained(TESTED[1])?];
    let late_from_steps = tested.iter().map(|r| r.late_from_steps()).max()?;
    let gains = tested.each_ref().map(|r| r.fact_gains());
    let effects = TESTED.map(|depth| effectivities(&run, arm, depth, settings));

    let facts = run
        .shown(arm)
        .map(|schedule| {
            let exposure = |index: u32, swap: bool| {
                let of_depths: Option<Vec<f64>> = effects
                    .iter()
                    .map(|e| {
                        let row = e
                            .rows
                            .iter()
                            .find(|r| (r.fact, r.exposure.index) == (schedule.fact, index))?;
                        if swap {
                            row.swap_effect_nats()
                        } else {
                            row.effect_nats()
                        }
                    })
                    .collect();
                of_depths.map(|v| mean(&v))
            };
            let left = |is_meant: &dyn Fn(u32) -> bool| {
                mean_of(
                    gains
                        .iter()
                        .flatten()
                        .filter(|g| g.fact == schedule.fact)
                        .flat_map(|g| &g.left_nats)
                        .filter(|(t, _)| is_meant(*t))
                        .map(|(_, left)| *left),
                )
            };
            Some(FactEvidence {
                fact: schedule.fact,
                first_nats: exposure(0, false)?,
                second_nats: exposure(1, false),
                first_swap_nats: exposure(0, true),
                early_nats: left(&|t| t <= EARLY_THROUGH_STEPS)?,
                late_nats: left(&|t| t >= late_from_steps)?,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let late = mean_of(facts.iter().map(|f| f.late_nats))?;
    let whole = mean_of(gains.iter().flatten().map(|g| g.whole_nats))?;
    Some(Evidence {
        retained_late: late / whole,
        late_from_steps,
        decay: Depth::ALL
            .into_iter()
            .filter_map(|depth| Some((depth, retained(depth)?.robust_fit()?)))
            .collect(),
        facts,
    })
}

impl Evidence {
    /// Whether the first exposure raises log-probability.
    pub fn jump(&self) -> SignedRank {
        self.test(|f| Some(f.first_nats))
    }

    /// Whether the first exposure raises it more than the second.
    pub fn first_over_second(&self) -> SignedRank {
        self.test(|f| Some(f.first_nats - f.second_nats?))
    }

    /// Whether the fact itself gains more than its target after another subject.
    pub fn own_over_swap(&self) -> SignedRank {
        self.test(|f| Some(f.first_nats - f.first_swap_nats?))
    }

    /// Whether less is left late than early.
    ///
    /// t_LAM is a maximum, so noise alone makes this significant: it needs `retained_late` and the
    /// decay constant beside it.
    pub fn decay(&self) -> SignedRank {
        self.test(|f| Some(f.early_nats - f.late_nats))
    }

    /// The robust fit of a depth.
    pub fn decay_fit(&self, depth: Depth) -> Option<&DecayFit> {
        self.decay.iter().find(|(d, _)| *d == depth).map(|(_, f)| f)
    }

    fn test(&self, difference: impl Fn(&FactEvidence) -> Option<f64>) -> SignedRank {
        let differences: Vec<f64> = self.facts.iter().filter_map(difference).collect();
        signed_rank_greater(&differences)
    }
}

#[cfg(test)]
mod tests;
