//! The runs of an experiment while they go on: live bars on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use imprint_proto::pb;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Off a terminal a run's progress is told whenever another such share of its updates is made.
const TOLD_PERCENT: u32 = 25;

/// Shows what becomes of runs.
pub(crate) enum Progress {
    Bars {
        all: MultiProgress,
        of_run: BTreeMap<i32, ProgressBar>,
    },
    Lines {
        /// The line's cause that was told last: state and share of the updates.
        told: BTreeMap<i32, (i32, u32)>,
    },
}

impl Progress {
    /// Bars where stderr is a terminal.
    pub(crate) fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars {
                all: MultiProgress::new(),
                of_run: BTreeMap::new(),
            }
        } else {
            Self::Lines {
                told: BTreeMap::new(),
            }
        }
    }

    pub(crate) fn show(&mut self, experiment: &pb::Experiment) {
        match self {
            Self::Bars { all, of_run } => {
                let width = experiment.runs.iter().map(|r| cell(&r.run).len()).max();
                for run in &experiment.runs {
                    let bar = of_run
                        .entry(run.run_id)
                        .or_insert_with(|| all.add(new_bar(run, width.unwrap_or(0))));
                    bar.set_position(u64::from(run.step));
                    bar.set_message(remark(run));
                    if is_over(run) && !bar.is_finished() {
                        bar.abandon();
                    }
                }
            }
            Self::Lines { told } => {
                for run in &experiment.runs {
                    let share = 100 * run.step / run.n_updates.max(1) / TOLD_PERCENT;
                    let cause = (run.state, share);
                    if told.insert(run.run_id, cause) != Some(cause) {
                        eprintln!("{}", line(run));
                    }
                }
            }
        }
    }
}

fn new_bar(run: &pb::Run, width: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:24} {pos:>5}/{len:<5} {msg}")
        .expect("the template is well formed")
        .progress_chars("━╸─");
    ProgressBar::new(u64::from(run.n_updates))
        .with_style(style)
        .with_prefix(format!("{:width$}", cell(&run.run)))
}

/// `experiment/cell` without the experiment, which stands above.
fn cell(label: &str) -> &str {
    label.split_once('/').map_or(label, |(_, cell)| cell)
}

fn is_over(run: &pb::Run) -> bool {
    use pb::RunState::{Cancelled, Complete, Failed};
    matches!(run.state(), Complete | Failed | Cancelled)
}

fn line(run: &pb::Run) -> String {
    format!(
        "{}  {}/{}  {}",
        run.run,
        run.step,
        run.n_updates,
        remark(run)
    )
}

/// A run's state, its speed while it runs, and what else is to be said.
fn remark(run: &pb::Run) -> String {
    let mut words = vec![state_word(run.state()).to_owned()];
    if run.state() == pb::RunState::Running && run.steps_per_second > 0.0 {
        words.push(format!("{:.1} steps/s", run.steps_per_second));
    }
    if run.attempts > 1 {
        words.push(format!("attempt {}", run.attempts));
    }
    let note = note(run);
    if !note.is_empty() {
        words.push(note);
    }
    words.join(", ")
}

/// The name of a state in output and SQL.
pub(crate) fn state_word(state: pb::RunState) -> &'static str {
    match state {
        pb::RunState::Unspecified => "unknown",
        pb::RunState::Queued => "queued",
        pb::RunState::Running => "running",
        pb::RunState::Delivering => "delivering",
        pb::RunState::Complete => "complete",
        pb::RunState::Failed => "failed",
        pb::RunState::Cancelled => "cancelled",
    }
}

/// Readings that are on their way for less than this are not worth a word.
const ON_THEIR_WAY_SECONDS: f32 = 5.0;

/// Why a run waits or failed, and since when readings wait to be delivered; empty where all is well.
pub(crate) fn note(run: &pb::Run) -> String {
    let undelivered = run
        .undelivered_since_step
        .filter(|&since| match run.state() {
            pb::RunState::Running => {
                let n_steps = run.step.saturating_sub(since) as f32;
                n_steps > ON_THEIR_WAY_SECONDS * run.steps_per_second
            }
            pb::RunState::Delivering => true,
            _ => false,
        })
        .map(|step| format!("undelivered since step {step}"));
    let reason = (!run.reason.is_empty()).then(|| run.reason.clone());
    let parts: Vec<String> = [reason, undelivered].into_iter().flatten().collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests;
