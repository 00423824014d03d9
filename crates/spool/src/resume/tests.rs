use std::convert::Infallible;

use prost::Message as _;

use super::*;
use crate::Record;

/// A run of 200 updates, all of them read; an attempt is to begin.
struct Run {
    dir: tempfile::TempDir,
    begun: pb::BeginAttemptResponse,
}

impl Run {
    fn stored_below(next: u32, segments: &[(u32, u32)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let begun = pb::BeginAttemptResponse {
            attempt: 9,
            run_dir: dir.path().display().to_string(),
            next_reading: next,
            next_update: next,
            segments: segments
                .iter()
                .map(|&(attempt, first_step)| pb::Segment {
                    attempt,
                    first_step,
                })
                .collect(),
            ..Default::default()
        };
        Self { dir, begun }
    }

    /// An attempt that delivers from `resume_step` on has spooled steps, and saved states.
    fn attempt(
        mut self,
        attempt: u32,
        resume_step: u32,
        spooled: std::ops::Range<u32>,
        states: &[u32],
    ) -> Self {
        let dir = spool_dir(self.dir.path(), attempt);
        std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
        let open = pb::Open {
            attempt,
            resume_step,
            ..Default::default()
        };
        let mut spool = SpoolWriter::create(&dir, &open).unwrap();
        for step in spooled {
            for record in records(step, attempt) {
                spool.append(record).unwrap();
            }
        }
        self.begun
            .states
            .extend(states.iter().map(|&step| pb::SavedState {
                step,
                attempt,
                ..Default::default()
            }));
        self
    }

    /// A bit of an attempt's reading has flipped.
    fn damaged(self, attempt: u32, step: u32) -> Self {
        let segment = spool_dir(self.dir.path(), attempt).join("000000.spool");
        let mut bytes = std::fs::read(&segment).unwrap();
        let [reading, _] = records(step, attempt);
        let record = pb::SpoolRecord {
            record: Some(reading),
        };
        let record = record.encode_to_vec();
        let at = bytes.windows(record.len()).position(|w| w == record);
        bytes[at.unwrap()] ^= 1;
        std::fs::write(segment, bytes).unwrap();
        self
    }

    /// (attempt, step) of the state, the step to deliver from, and what the new spool begins with.
    #[track_caller]
    fn resumes(&self, state: Option<(u32, u32)>, deliver_from: u32, copied: &[(u32, u32)]) {
        let steps: Vec<u32> = (0..=200).collect();
        let resume = ResumePoint::find(&self.begun, &steps, |_| Ok::<_, Infallible>(()));
        let found = resume.state.map(|(s, ())| (s.attempt, s.step));
        assert_eq!((found, resume.deliver_from), (state, deliver_from));
        let open = pb::Open {
            attempt: self.begun.attempt,
            resume_step: deliver_from,
            ..Default::default()
        };
        let attempts = self.dir.path().join("attempts/9");
        std::fs::create_dir_all(attempts).unwrap();
        let resume = ResumePoint::<()> {
            state: None,
            ..resume
        };
        let spool = resume.begin_spool(self.dir.path(), &open).unwrap();
        spool.close();
        let extent = *spool.extent().borrow();
        let mut reader = SpoolReader::open(&spool_dir(self.dir.path(), 9)).unwrap();
        let begins_with: Vec<(u32, u32)> = std::iter::from_fn(|| reader.next(extent).unwrap())
            .filter_map(|record| match record {
                Record::Reading(r) => Some((r.step, r.measured_by)),
                _ => None,
            })
            .collect();
        assert_eq!(begins_with, copied);
    }
}

fn records(step: u32, measured_by: u32) -> [Record; 2] {
    let reading = pb::Reading {
        index: step,
        step,
        measured_by,
        ..Default::default()
    };
    let update = pb::Update {
        step,
        measured_by,
        ..Default::default()
    };
    [Record::Reading(reading), Record::Update(update)]
}

fn steps(range: std::ops::Range<u32>, by: u32) -> Vec<(u32, u32)> {
    range.map(|step| (step, by)).collect()
}

#[test]
fn the_first_attempt_begins_at_the_beginning() {
    Run::stored_below(0, &[]).resumes(None, 0, &[]);
}

#[test]
fn everything_below_the_newest_state_is_stored() {
    Run::stored_below(120, &[(1, 0)])
        .attempt(1, 0, 0..130, &[50, 100])
        .resumes(Some((1, 100)), 100, &[]);
}

#[test]
fn what_is_not_stored_is_taken_from_the_spool() {
    Run::stored_below(97, &[(1, 0)])
        .attempt(1, 0, 0..130, &[50, 100])
        .resumes(Some((1, 100)), 100, &steps(97..100, 1));
}

#[test]
fn a_spool_that_ends_too_early_leaves_an_older_state() {
    Run::stored_below(60, &[(1, 0)])
        .attempt(1, 0, 0..99, &[50, 100])
        .resumes(Some((1, 50)), 50, &[]);
}

#[test]
fn damage_behind_what_is_needed_does_no_harm() {
    Run::stored_below(97, &[(1, 0)])
        .attempt(1, 0, 0..130, &[50, 100])
        .damaged(1, 100)
        .resumes(Some((1, 100)), 100, &steps(97..100, 1));
}

#[test]
fn damage_in_what_is_needed_leaves_an_older_state() {
    Run::stored_below(40, &[(1, 0)])
        .attempt(1, 0, 0..130, &[50, 100])
        .damaged(1, 99)
        .resumes(Some((1, 50)), 50, &steps(40..50, 1));
}

#[test]
fn an_attempt_that_never_delivered_replaces_the_line_before_from_where_it_went_on() {
    Run::stored_below(90, &[(1, 0)])
        .attempt(1, 0, 0..95, &[50])
        .attempt(2, 50, 50..110, &[100])
        .resumes(Some((2, 100)), 50, &steps(50..100, 2));
}

#[test]
fn a_state_of_an_older_line_replaces_all_that_later_lines_delivered() {
    // 2 went on at 50, 3 at 75; their states are gone.
    let run = Run::stored_below(140, &[(1, 0), (2, 50), (3, 75)]).attempt(1, 0, 0..130, &[125]);
    run.resumes(Some((1, 125)), 50, &steps(50..125, 1));
}

#[test]
fn a_line_that_cannot_be_delivered_again_is_left() {
    // Attempt 3 went on at 50 from a state of attempt 1: what 2 has is not the beginning of it.
    Run::stored_below(140, &[(1, 0), (2, 100), (3, 50)])
        .attempt(1, 0, 0..90, &[50])
        .attempt(2, 100, 100..130, &[125])
        .resumes(Some((1, 50)), 50, &[]);
}
