//! t_LAM: where a probe's log-probability peaks after an injection.

use imprint_core::Trajectory;

use crate::run::{FactSchedule, reading};

/// One injection of a fact and the steps in which its effect is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exposure {
    /// 0 for the fact's first exposure.
    pub index: u32,
    /// t_i: the step of the injection.
    pub step: u32,
    /// The effect is looked for in (t_i, t_i + window]: never past the fact's next injection, nor
    /// past the run's last reading.
    pub window_steps: u32,
}

impl Exposure {
    /// The last step of the window.
    pub fn through(&self) -> u32 {
        self.step + self.window_steps
    }
}

/// The local acquisition maximum after an exposure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// t_LAM.
    pub step: u32,
    /// ℓ(t_LAM), nats.
    pub nats: f64,
    /// ℓ(t_LAM) − ℓ(t_i), nats.
    pub gain_nats: f64,
}

/// A fact's exposures with their windows.
pub fn exposures(schedule: &FactSchedule, n_updates: u32, window_steps: u32) -> Vec<Exposure> {
    let steps = &schedule.exposure_steps;
    steps
        .iter()
        .enumerate()
        .map(|(i, &step)| {
            let next = steps.get(i + 1).copied().unwrap_or(u32::MAX);
            let through = step.saturating_add(window_steps).min(next).min(n_updates);
            Exposure {
                index: i as u32,
                step,
                window_steps: through.saturating_sub(step),
            }
        })
        .collect()
}

/// The largest reading in the exposure's window, the first on ties, and its gain over reading t_i.
///
/// `None` where reading t_i was not taken or no reading falls into the window; readings that are
/// not finite count as not taken.
///
/// # Source
/// arXiv 2406.11813 §3.3: t_LAM = argmax of ℓ in (t_i, t_i + 50], ε = ℓ(t_LAM) − ℓ(t_i).
pub fn peak(trajectory: &Trajectory, exposure: &Exposure) -> Option<Peak> {
    let before = reading(trajectory, exposure.step)?;
    let (step, nats) = trajectory
        .after(exposure.step, exposure.through())
        .filter(|(_, nats)| nats.is_finite())
        .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    Some(Peak {
        step,
        nats,
        gain_nats: nats - before,
    })
}

#[cfg(test)]
mod tests;
