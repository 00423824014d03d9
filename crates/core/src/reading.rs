//! Readings: what is measured at each step, and one probe's values over time.

use serde::{Deserialize, Serialize};

/// The steps at which a run's probes are read.
///
/// Cursors and stored chunks count the *reading index*, the position in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadingSteps {
    /// Every step is read up to this many steps after the last injection; all steps where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_after_last_injection: Option<u32>,
    /// After that, every n-th step is read; the last reading of a run is always taken.
    #[serde(default = "one")]
    pub then_every: u32,
}

fn one() -> u32 {
    1
}

impl Default for ReadingSteps {
    fn default() -> Self {
        Self {
            dense_after_last_injection: None,
            then_every: 1,
        }
    }
}

impl ReadingSteps {
    /// The steps read in a run of `n_updates` updates, ascending, always with 0 and `n_updates`.
    pub fn expand(self, n_updates: u32, last_injection: Option<u32>) -> Vec<u32> {
        let dense_through = match self.dense_after_last_injection {
            None => n_updates,
            Some(after) => last_injection.map_or(0, |last| last.saturating_add(after)),
        };
        (0..=n_updates)
            .filter(|&t| {
                t <= dense_through || t == n_updates || t.is_multiple_of(self.then_every.max(1))
            })
            .collect()
    }
}

/// Summed log-probabilities of one probe, in nats (≤ 0), over its three token spans.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct ProbeSums {
    pub first_nats: f32,
    pub target_nats: f32,
    pub full_nats: f32,
}

/// All probes' summed log-probabilities at one step, taken on θ_step.
///
/// # Shapes
/// Each vector has one value per probe, in probe-set order.
///
/// # Units
/// Nats, summed over the span's tokens, ≤ 0.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct StepReadings {
    /// Position in the run's list of reading steps.
    pub index: u32,
    pub step: u32,
    /// The attempt that measured it; a replay by a later attempt keeps it.
    pub measured_by: u32,
    pub first_sum_nats: Vec<f32>,
    pub target_sum_nats: Vec<f32>,
    pub full_sum_nats: Vec<f32>,
}

/// Statistics of one optimizer update: update t maps θ_t to θ_{t+1}.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct UpdateStats {
    pub step: u32,
    pub measured_by: u32,
    /// Mean cross-entropy over all predicted tokens of the global batch, nats.
    pub loss_nats: f64,
    pub learning_rate: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Global L2 norm of θ_{t+1} − θ_t.
    pub update_norm: f64,
    /// Tokens of the global batch (batch size × sequence length).
    pub n_tokens: u32,
    pub n_injected_tokens: u32,
    pub duration_ms: f32,
}

/// One series over time: a probe's mean log-probability ℓ (nats, ≤ 0) at the steps it was read.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trajectory {
    /// Ascending.
    steps: Vec<u32>,
    nats: Vec<f64>,
}

impl Trajectory {
    /// A trajectory from (step, ℓ) pairs in ascending order of steps.
    ///
    /// # Panics
    /// When the steps do not ascend: the caller sorted them.
    pub fn new(points: impl IntoIterator<Item = (u32, f64)>) -> Self {
        let (steps, nats): (Vec<u32>, Vec<f64>) = points.into_iter().unzip();
        assert!(
            steps.is_sorted_by(|a, b| a < b),
            "steps of a trajectory ascend"
        );
        Self { steps, nats }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn steps(&self) -> &[u32] {
        &self.steps
    }

    pub fn nats(&self) -> &[f64] {
        &self.nats
    }

    /// ℓ of the reading taken on θ_step, if it was read.
    pub fn at(&self, step: u32) -> Option<f64> {
        self.steps.binary_search(&step).ok().map(|i| self.nats[i])
    }

    /// The points with `after < step ≤ through`: what an injection at `after` may have caused.
    pub fn after(&self, after: u32, through: u32) -> impl Iterator<Item = (u32, f64)> + '_ {
        let from = self.steps.partition_point(|&s| s <= after);
        let to = self.steps.partition_point(|&s| s <= through);
        (from..to.max(from)).map(|i| (self.steps[i], self.nats[i]))
    }
}

#[cfg(test)]
mod tests;
