//! Learning-rate schedules of the reference study.

use serde::{Deserialize, Serialize};

/// A learning-rate schedule over global steps.
///
/// # Source
/// arXiv 2406.11813, appendix (OLMo's schedules): warm-up `peak·(0.1 + 0.9·s/w)` for `s < w`,
/// then constant, linear or cosine decay to a tenth of the peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LearningRate {
    Constant {
        peak: f64,
        #[serde(default)]
        warmup_steps: u64,
        /// Rate 0 from this step of the run on: the frozen control, in which nothing may be forgotten.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zero_from_step: Option<u64>,
    },
    Linear {
        peak: f64,
        warmup_steps: u64,
        max_steps: u64,
    },
    Cosine {
        peak: f64,
        warmup_steps: u64,
        max_steps: u64,
    },
}

/// Rates start at, and decay to, this share of the peak.
const FLOOR: f64 = 0.1;

impl LearningRate {
    /// The rate of the schedule at a global step.
    pub fn at(&self, global_step: u64) -> f64 {
        let (peak, warmup) = match *self {
            Self::Constant {
                peak, warmup_steps, ..
            }
            | Self::Linear {
                peak, warmup_steps, ..
            }
            | Self::Cosine {
                peak, warmup_steps, ..
            } => (peak, warmup_steps),
        };
        if global_step < warmup {
            return peak * (FLOOR + (1.0 - FLOOR) * global_step as f64 / warmup as f64);
        }
        let decayed = |max_steps: u64| {
            let span = max_steps.saturating_sub(warmup).max(1) as f64;
            ((global_step - warmup) as f64 / span).min(1.0)
        };
        match *self {
            Self::Constant { .. } => peak,
            Self::Linear { max_steps, .. } => peak - (peak - FLOOR * peak) * decayed(max_steps),
            Self::Cosine { max_steps, .. } => {
                let floor = FLOOR * peak;
                floor
                    + (peak - floor) * (1.0 + (std::f64::consts::PI * decayed(max_steps)).cos())
                        / 2.0
            }
        }
    }

    /// The rate with which update `step` of a run is made whose checkpoint stands at
    /// `first_global_step`.
    ///
    /// The reference increments the global step before it computes the rate, so update 0 uses
    /// `first_global_step + 1`.
    pub fn of_update(&self, first_global_step: u64, step: u64) -> f64 {
        match *self {
            Self::Constant {
                zero_from_step: Some(zero),
                ..
            } if step >= zero => 0.0,
            _ => self.at(first_global_step + step + 1),
        }
    }
}

#[cfg(test)]
mod tests;
