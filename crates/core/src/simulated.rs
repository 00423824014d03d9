//! What simulated trainers measure: values that are a function of who measured what, so that
//! whoever reads them back knows every bit that should be there.

use crate::{StepReadings, UpdateStats};

/// The reading of a simulated trainer: every value follows from (run, step, probe, span, attempt),
/// and values of different ones differ but for chance.
///
/// # Units
/// Nats, between −16 and 0.
pub fn reading(run_id: i32, index: u32, step: u32, attempt: u32, n_probes: u32) -> StepReadings {
    let span = |span: u64| {
        let of_span = mixed(of_step(run_id, step, attempt) ^ span);
        (0..u64::from(n_probes))
            .map(|probe| -16.0 * unit(mixed(of_span ^ probe)) as f32)
            .collect()
    };
    StepReadings {
        index,
        step,
        measured_by: attempt,
        first_sum_nats: span(1),
        target_sum_nats: span(2),
        full_sum_nats: span(3),
    }
}

/// The statistics of a simulated trainer's update, each a function of (run, step, attempt).
pub fn update(run_id: i32, step: u32, attempt: u32) -> UpdateStats {
    let of_update = mixed(of_step(run_id, step, attempt));
    let drawn = |n: u64| unit(mixed(of_update ^ n));
    UpdateStats {
        step,
        measured_by: attempt,
        loss_nats: 8.0 * drawn(1),
        learning_rate: 1e-3 * drawn(2),
        grad_norm: 2.0 * drawn(3),
        update_norm: 0.1 * drawn(4),
        n_tokens: 4096,
        n_injected_tokens: (512.0 * drawn(5)) as u32,
        duration_ms: 100.0 * drawn(6) as f32,
    }
}

fn of_step(run_id: i32, step: u32, attempt: u32) -> u64 {
    mixed((u64::from(run_id as u32) << 32 | u64::from(step)) ^ mixed(attempt.into()))
}

/// A number in [0, 1) of 24 bits, which a float32 holds exactly.
fn unit(bits: u64) -> f64 {
    (bits >> 40) as f64 / f64::from(1 << 24)
}

/// The finalizer of SplitMix64: every bit of the answer hangs on every bit of the question.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
