//! The runs of an experiment while they go on: live bars on a terminal, plain lines elsewhere.

use std::collections::{BTreeMap, HashMap};

use imprint_proto::pb;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::table::{shorten, stderr_size, time};

/// Off a terminal a run's progress is told whenever another such share of its updates is made.
const TOLD_PERCENT: u32 = 25;

/// Of more runs than these, off a terminal only those that go wrong are told one by one.
const MAX_TOLD: usize = 50;

/// What a bar's line holds beside its name: the bar, the steps and what else is to be said.
const BESIDE_NAME: usize = 56;

/// Shows what becomes of runs.
pub(crate) struct Progress {
    runs: BTreeMap<i32, pb::Run>,
    shown: Shown,
}

enum Shown {
    Bars(Bars),
    Lines {
        /// The line's cause that was told last: state and share of the updates.
        told: BTreeMap<i32, (i32, u32)>,
        /// Percent of all updates that were made when all runs together were told of last.
        told_all: Option<u64>,
    },
}

struct Bars {
    all: MultiProgress,
    of_run: BTreeMap<i32, ProgressBar>,
    total: ProgressBar,
    /// Of the terminal.
    n_columns: usize,
    n_lines: usize,
}

impl Progress {
    /// Bars where stderr is a terminal.
    pub(crate) fn new() -> Self {
        let shown = match stderr_size() {
            Some((n_columns, n_lines)) => Shown::Bars(Bars::new(n_columns, n_lines)),
            None => Shown::Lines {
                told: BTreeMap::new(),
                told_all: None,
            },
        };
        Self {
            runs: BTreeMap::new(),
            shown,
        }
    }

    /// Shows runs that are new or changed.
    pub(crate) fn show(&mut self, experiment: &pb::Experiment) {
        let changed = &experiment.runs;
        let before: BTreeMap<i32, i32> = (changed.iter())
            .filter_map(|run| Some((run.run_id, self.runs.get(&run.run_id)?.state)))
            .collect();
        let runs = changed.iter().map(|run| (run.run_id, run.clone()));
        self.runs.extend(runs);
        let summary = experiment.summary.clone().unwrap_or_default();
        let n_runs = summary.runs_by_state.values().sum::<u32>() as usize;
        let is_many = |most| n_runs.max(self.runs.len()) > most;
        // What goes wrong while one looks.
        let went_wrong = changed.iter().filter(|run| {
            let ended = run.state().has_ended() && run.state() != pb::RunState::Complete;
            ended && before.get(&run.run_id).is_some_and(|&b| b != run.state)
        });
        match &mut self.shown {
            Shown::Bars(bars) => {
                let is_many = is_many(bars.room());
                if is_many {
                    for run in went_wrong {
                        bars.say(&line(run));
                    }
                }
                bars.show(&self.runs, &summary, is_many);
            }
            Shown::Lines { told, told_all } => {
                if is_many(MAX_TOLD) {
                    for run in went_wrong {
                        eprintln!("{}", line(run));
                    }
                    let (made, all) = n_updates(&self.runs);
                    let percent = 100 * made / all.max(1);
                    // The first picture comes in parts.
                    if self.runs.len() >= n_runs && told_all.replace(percent) != Some(percent) {
                        eprintln!("{}", of_all(&summary));
                    }
                    return;
                }
                for run in changed {
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

impl Bars {
    fn new(n_columns: usize, n_lines: usize) -> Self {
        let all = MultiProgress::new();
        let total = all.add(ProgressBar::new(0).with_style(style()));
        Self {
            all,
            of_run: BTreeMap::new(),
            total,
            n_columns,
            n_lines,
        }
    }

    /// The bars for which there are lines, beside the one for all and that of the cursor.
    fn room(&self) -> usize {
        self.n_lines.saturating_sub(2).max(1)
    }

    /// Above the bars, for good.
    fn say(&self, line: &str) {
        // A terminal that is gone shows nothing more anyway.
        let _ = self.all.println(line);
    }

    /// A bar for each run; of many, for as many of those that something is done for as there are
    /// lines. And one for all together.
    fn show(
        &mut self,
        runs: &BTreeMap<i32, pb::Run>,
        summary: &pb::ExperimentSummary,
        is_many: bool,
    ) {
        let is_active = |run: &pb::Run| {
            matches!(
                run.state(),
                pb::RunState::Running | pb::RunState::Delivering
            )
        };
        let shown: Vec<&pb::Run> = (runs.values())
            .filter(|run| !is_many || is_active(run))
            .take(self.room())
            .collect();
        let is_shown = |run_id: &i32| shown.iter().any(|run| run.run_id == *run_id);
        self.of_run.retain(|run_id, bar| {
            let stays = is_shown(run_id);
            if !stays {
                bar.finish_and_clear();
                self.all.remove(bar);
            }
            stays
        });
        let widest = shown.iter().map(|run| cell(&run.run).chars().count()).max();
        let room = self.n_columns.saturating_sub(BESIDE_NAME).max(16);
        let width = widest.unwrap_or(0).max("all".len()).min(room);
        for run in shown {
            let bar = self.of_run.entry(run.run_id).or_insert_with(|| {
                let bar = ProgressBar::new(run.n_updates.into()).with_style(style());
                self.all.insert_before(&self.total, bar)
            });
            bar.set_prefix(format!("{:width$}", shorten(cell(&run.run), width)));
            bar.set_position(run.step.into());
            bar.set_message(short_remark(run));
            if run.state().has_ended() && !bar.is_finished() {
                bar.abandon();
            }
        }
        if runs.len() == 1 {
            return;
        }
        let (made, all) = n_updates(runs);
        self.total.set_prefix(format!("{:width$}", "all"));
        self.total.set_length(all);
        self.total.set_position(made);
        self.total.set_message(of_all(summary));
        if runs.values().all(|run| run.state().has_ended()) {
            self.total.abandon();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {bar:16} {pos:>5}/{len:<5} {wide_msg}")
        .expect("the template is well formed")
        .progress_chars("━╸─")
}

/// Updates that are made, and all there are to make.
fn n_updates(runs: &BTreeMap<i32, pb::Run>) -> (u64, u64) {
    let sum = |of: fn(&pb::Run) -> u32| runs.values().map(|run| u64::from(of(run))).sum();
    (sum(|run| run.step), sum(|run| run.n_updates))
}

/// `experiment/cell` without the experiment, which stands above.
fn cell(label: &str) -> &str {
    label.split_once('/').map_or(label, |(_, cell)| cell)
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
    let state = state_word(run.state()).to_owned();
    let words: Vec<String> = [state].into_iter().chain(details(run)).collect();
    words.join(", ")
}

/// The same where a speed says that it runs.
fn short_remark(run: &pb::Run) -> String {
    let details = details(run);
    match speed(run) {
        Some(_) => details.join(", "),
        None => remark(run),
    }
}

fn details(run: &pb::Run) -> Vec<String> {
    let speed = speed(run).map(|speed| format!("{speed:.1} steps/s"));
    let left = run.seconds_left.map(time_left);
    let attempt = (run.attempts > 1).then(|| format!("attempt {}", run.attempts));
    let note = Some(note(run)).filter(|note| !note.is_empty());
    [speed, left, attempt, note].into_iter().flatten().collect()
}

/// Updates a second of a run that runs.
pub(crate) fn speed(run: &pb::Run) -> Option<f64> {
    (run.state() == pb::RunState::Running && run.steps_per_second > 0.0)
        .then(|| f64::from(run.steps_per_second))
}

pub(crate) fn time_left(seconds: u64) -> String {
    format!("{} left", time(seconds))
}

/// How many runs are in which state, and how long they still take.
pub(crate) fn of_all(summary: &pb::ExperimentSummary) -> String {
    let counts = counts(&summary.runs_by_state);
    match summary.seconds_left {
        Some(seconds) => format!("{counts}; {}", time_left(seconds)),
        None => counts,
    }
}

/// `3 running, 12 queued`: what goes on first, what has ended last.
pub(crate) fn counts(runs_by_state: &HashMap<String, u32>) -> String {
    let words = STATES.into_iter().filter_map(|state| {
        let word = state_word(state);
        let n = runs_by_state.get(word).copied().filter(|&n| n > 0)?;
        Some(format!("{n} {word}"))
    });
    words.collect::<Vec<_>>().join(", ")
}

/// All states, in the order in which people want to see runs.
pub(crate) const STATES: [pb::RunState; 6] = [
    pb::RunState::Running,
    pb::RunState::Delivering,
    pb::RunState::Failed,
    pb::RunState::Queued,
    pb::RunState::Cancelled,
    pb::RunState::Complete,
];

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
    // "cancelled" is a state already.
    let is_said = run.reason.is_empty() || run.reason == state_word(run.state());
    let reason = (!is_said).then(|| run.reason.clone());
    let parts: Vec<String> = [reason, undelivered].into_iter().flatten().collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests;
