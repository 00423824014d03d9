//! What the formulas need of one run.

use imprint_core::{Depth, FactId, ProbeId, Span, Trajectory};

/// One run's schedule and readings of one token span.
#[derive(Clone, Debug, PartialEq)]
pub struct RunData {
    pub label: String,
    /// The checkpoint's name.
    pub checkpoint: String,
    /// The scenario's name.
    pub scenario: String,
    pub batch_size: u32,
    pub seed: u64,
    /// Tells runs apart that do the same again.
    pub repeat: u32,
    /// Number of updates: the last reading is taken at this step.
    pub n_updates: u32,
    /// Batch size × sequence length.
    pub tokens_per_step: u64,
    /// The token span whose ℓ the trajectories hold.
    pub span: Span,
    pub facts: Vec<FactSchedule>,
    pub probes: Vec<ProbeSeries>,
}

/// When one fact was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactSchedule {
    pub fact: FactId,
    /// The arm's name; `None` for a held-out fact.
    pub arm: Option<String>,
    /// The steps of its injections, ascending; empty for a held-out fact.
    pub exposure_steps: Vec<u32>,
}

/// Whether a probe reads a fact itself or another subject's claim to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Control {
    Own,
    Swap,
}

/// One probe's ℓ over time.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSeries {
    pub probe: ProbeId,
    /// The fact whose target is read, also for a swap probe.
    pub fact: FactId,
    pub depth: Depth,
    /// Index within the fact's probes of this depth.
    pub ordinal: u16,
    pub control: Control,
    /// ℓ in nats: the mean over the span's tokens.
    pub trajectory: Trajectory,
}

/// One held-out fact's probes of one depth, summed over, for the null control.
#[derive(Clone, Debug)]
pub(crate) struct HeldOut<'a> {
    pub(crate) probes: Vec<&'a Trajectory>,
    /// The mean of `probes`.
    pub(crate) mean: Trajectory,
}

impl RunData {
    /// The names of the arms in which facts were shown, in the order of their first fact.
    pub fn arms(&self) -> Vec<&str> {
        let mut arms: Vec<&str> = Vec::new();
        for arm in self.facts.iter().filter_map(|f| f.arm.as_deref()) {
            if !arms.contains(&arm) {
                arms.push(arm);
            }
        }
        arms
    }

    /// The same run with one series per (fact, depth, control): the mean over its probes.
    ///
    /// A maximum over a window is less noisy on such a mean than on a single probe.
    pub fn fact_means(&self) -> Self {
        let mut probes: Vec<ProbeSeries> = Vec::new();
        for fact in &self.facts {
            for depth in Depth::ALL {
                for control in [Control::Own, Control::Swap] {
                    let series = self.series(fact.fact, depth, control);
                    if let Some(first) = series.first() {
                        let all: Vec<&Trajectory> = series.iter().map(|p| &p.trajectory).collect();
                        probes.push(ProbeSeries {
                            probe: first.probe,
                            fact: fact.fact,
                            depth,
                            ordinal: 0,
                            control,
                            trajectory: mean_trajectory(&all),
                        });
                    }
                }
            }
        }
        Self {
            probes,
            ..self.clone()
        }
    }

    /// The facts shown in an arm.
    pub(crate) fn shown<'a>(&'a self, arm: &'a str) -> impl Iterator<Item = &'a FactSchedule> {
        self.facts
            .iter()
            .filter(move |f| f.arm.as_deref() == Some(arm) && !f.exposure_steps.is_empty())
    }

    pub(crate) fn series(&self, fact: FactId, depth: Depth, control: Control) -> Vec<&ProbeSeries> {
        self.probes
            .iter()
            .filter(|p| (p.fact, p.depth, p.control) == (fact, depth, control))
            .collect()
    }

    /// The held-out facts with probes of a depth.
    pub(crate) fn held_out(&self, depth: Depth) -> Vec<HeldOut<'_>> {
        self.facts
            .iter()
            .filter(|f| f.exposure_steps.is_empty())
            .filter_map(|f| {
                let probes: Vec<&Trajectory> = self
                    .series(f.fact, depth, Control::Own)
                    .into_iter()
                    .map(|p| &p.trajectory)
                    .collect();
                (!probes.is_empty()).then(|| HeldOut {
                    mean: mean_trajectory(&probes),
                    probes,
                })
            })
            .collect()
    }
}

/// The mean at the steps where every trajectory has a finite reading.
pub(crate) fn mean_trajectory(all: &[&Trajectory]) -> Trajectory {
    let Some(first) = all.first() else {
        return Trajectory::default();
    };
    let mean_at = |step: u32| {
        let values: Option<Vec<f64>> = all.iter().map(|t| reading(t, step)).collect();
        values.map(|v| (step, mean(&v)))
    };
    Trajectory::new(first.steps().iter().filter_map(|&s| mean_at(s)))
}

/// The finite reading taken at a step.
pub(crate) fn reading(trajectory: &Trajectory, step: u32) -> Option<f64> {
    trajectory.at(step).filter(|l| l.is_finite())
}

/// ℓ at a step, linear in the step between the two readings around it where it was not read.
///
/// Needed only where readings are thinned; `None` outside the readings.
pub(crate) fn interpolated(trajectory: &Trajectory, step: u32) -> Option<f64> {
    let (steps, nats) = (trajectory.steps(), trajectory.nats());
    let value = match steps.binary_search(&step) {
        Ok(i) => nats[i],
        Err(i) if i > 0 && i < steps.len() => {
            let share = f64::from(step - steps[i - 1]) / f64::from(steps[i] - steps[i - 1]);
            nats[i - 1] + share * (nats[i] - nats[i - 1])
        }
        Err(_) => return None,
    };
    value.is_finite().then_some(value)
}

/// The arithmetic mean; NaN of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean, or `None` of nothing.
pub(crate) fn mean_of(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values
        .into_iter()
        .fold((0.0, 0_usize), |(sum, n), v| (sum + v, n + 1));
    (n > 0).then(|| sum / n as f64)
}

#[cfg(test)]
mod tests;
