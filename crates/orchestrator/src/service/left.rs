//! How long runs still take, by the speed of now.

use imprint_store::runs::{RunState, RunView};

/// Seconds until a run's last update; `None` where it does not run, or has not said how fast.
pub(super) fn of_run(run: &RunView) -> Option<u64> {
    let speed = f64::from(run.steps_per_second);
    let runs = run.state == RunState::Running && speed.is_finite() && speed > 0.0;
    runs.then(|| (n_left(run) as f64 / speed).ceil() as u64)
}

/// Seconds until all runs have ended, if those that run now go on as they do and the others follow
/// them in the same number: the tokens left by the tokens a second of now, and no less than the
/// longest of those that run. `None` while nothing runs.
pub(super) fn of_all(runs: &[RunView]) -> Option<u64> {
    let (mut tokens_left, mut tokens_per_second, mut longest) = (0.0, 0.0, 0);
    for run in runs.iter().filter(|run| !run.state.has_ended()) {
        // An update of more tokens takes longer.
        let n_tokens = run.tokens_per_update.max(1) as f64;
        tokens_left += n_left(run) as f64 * n_tokens;
        if let Some(seconds) = of_run(run) {
            tokens_per_second += f64::from(run.steps_per_second) * n_tokens;
            longest = longest.max(seconds);
        }
    }
    (tokens_per_second > 0.0).then(|| longest.max((tokens_left / tokens_per_second).ceil() as u64))
}

/// Updates left.
fn n_left(run: &RunView) -> u32 {
    run.n_updates.saturating_sub(run.step)
}

#[cfg(test)]
mod tests;
