//! What a run's readings look like: which steps, how many probes, and which of them belong together.

use std::collections::BTreeMap;

use imprint_core::{StepReadings, UpdateStats};
use sqlx::PgConnection;

use super::Refusal;
use crate::Error;

/// The arm of facts that no arm of the scenario shows.
const HELD_OUT: i16 = -1;

#[derive(Debug)]
pub(crate) struct Layout {
    n_probes: usize,
    n_updates: u32,
    reading_steps: Vec<u32>,
    groups: Vec<Group>,
}

/// Probes over which means are taken.
#[derive(Debug)]
struct Group {
    arm: i16,
    depth: i16,
    swap: bool,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    probe: usize,
    n_target_tokens: f64,
    n_full_tokens: f64,
}

impl Layout {
    pub(crate) async fn load(db: &mut PgConnection, run_id: i32) -> Result<Self, Error> {
        let doing = || Error::doing(format!("look up run {run_id}"));
        let run: Option<(i32, i32, Vec<i32>)> = sqlx::query_as(
            "select n_probes, n_updates, reading_steps
             from imprint.run join imprint.probe_set using (probe_set_id) where run_id = $1",
        )
        .bind(run_id)
        .fetch_optional(&mut *db)
        .await
        .map_err(doing())?;
        let Some((n_probes, n_updates, reading_steps)) = run else {
            return Err(Error::NotFound {
                what: format!("run {run_id}"),
            });
        };
        let probes: Vec<(i32, i16, i16, bool, i32, i32)> = sqlx::query_as(
            "select p.probe, coalesce(f.arm, $2), p.depth, p.swap_fact is not null,
                 p.n_target_tokens, p.n_full_tokens
             from imprint.run r
             join imprint.probe p using (probe_set_id)
             left join imprint.run_fact f on f.run_id = r.run_id and f.fact = p.fact
             where r.run_id = $1 order by p.probe",
        )
        .bind(run_id)
        .bind(HELD_OUT)
        .fetch_all(&mut *db)
        .await
        .map_err(doing())?;
        let is_whole = probes.iter().zip(0..).all(|(p, position)| p.0 == position);
        if probes.len() != n_probes as usize || !is_whole {
            return Err(Error::Corrupt {
                what: format!("the probe set of run {run_id}"),
                problem: format!("it declares {n_probes} probes and has {}", probes.len()),
            });
        }
        let mut groups: BTreeMap<(i16, i16, bool), Vec<Member>> = BTreeMap::new();
        for (probe, arm, depth, swap, n_target_tokens, n_full_tokens) in probes {
            groups.entry((arm, depth, swap)).or_default().push(Member {
                probe: probe as usize,
                n_target_tokens: n_target_tokens.into(),
                n_full_tokens: n_full_tokens.into(),
            });
        }
        Ok(Self {
            n_probes: n_probes as usize,
            n_updates: n_updates as u32,
            reading_steps: reading_steps.into_iter().map(|s| s as u32).collect(),
            groups: groups
                .into_iter()
                .map(|((arm, depth, swap), members)| Group {
                    arm,
                    depth,
                    swap,
                    members,
                })
                .collect(),
        })
    }

    /// A run can be resumed at each of its readings, and after the last one.
    pub(super) fn check_resume_step(&self, step: u32) -> Result<(), Error> {
        if step <= self.n_updates.saturating_add(1) {
            return Ok(());
        }
        Err(Error::Invalid {
            field: "resume_step",
            problem: format!("{step}, but the run has {} updates", self.n_updates),
        })
    }

    /// Index of the first reading at or after a step; the number of readings where there is none.
    pub(super) fn first_reading_from(&self, step: u32) -> u32 {
        self.reading_steps.partition_point(|&s| s < step) as u32
    }

    pub(super) fn check_reading(
        &self,
        r: &StepReadings,
        expected: u32,
        attempt: i32,
    ) -> Result<(), Refusal> {
        if r.index != expected {
            let got = r.index;
            return Err(Refusal::ReadingGap { expected, got });
        }
        match self.reading_steps.get(r.index as usize) {
            Some(&step) if step == r.step => {}
            Some(step) => {
                let problem = format!("reading {} is of step {step}, not {}", r.index, r.step);
                return Err(invalid("step", problem));
            }
            None => {
                let problem = format!("the run has {} readings only", self.reading_steps.len());
                return Err(invalid("index", problem));
            }
        }
        let spans = [&r.first_sum_nats, &r.target_sum_nats, &r.full_sum_nats];
        if let Some(span) = spans.iter().find(|s| s.len() != self.n_probes) {
            let problem = format!("{} values for {} probes", span.len(), self.n_probes);
            return Err(invalid("reading", problem));
        }
        check_measured_by(r.measured_by, attempt)
    }

    pub(super) fn check_update(
        &self,
        u: &UpdateStats,
        expected: u32,
        attempt: i32,
    ) -> Result<(), Refusal> {
        if u.step != expected {
            let got = u.step;
            return Err(Refusal::UpdateGap { expected, got });
        }
        if u.step >= self.n_updates {
            let problem = format!("the run has {} updates only", self.n_updates);
            return Err(invalid("step", problem));
        }
        for (field, n) in [
            ("n_tokens", u.n_tokens),
            ("n_injected_tokens", u.n_injected_tokens),
        ] {
            if i32::try_from(n).is_err() {
                return Err(invalid(field, format!("{n} tokens in one batch")));
            }
        }
        check_measured_by(u.measured_by, attempt)
    }

    /// Values of each span in a reading.
    pub(crate) fn n_probes(&self) -> usize {
        self.n_probes
    }

    /// The means over each group's probes of ℓ, by (arm, depth, swap).
    pub(crate) fn means(&self, r: &StepReadings) -> impl Iterator<Item = Mean> {
        self.groups.iter().map(move |group| {
            let n = group.members.len();
            let mean = |nats: &dyn Fn(&Member) -> f64| {
                group.members.iter().map(nats).sum::<f64>() / n as f64
            };
            Mean {
                arm: group.arm,
                depth: group.depth,
                swap: group.swap,
                reading: r.index as i32,
                step: r.step as i32,
                n_probes: n as i32,
                first_mean_nats: mean(&|m| r.first_sum_nats[m.probe].into()),
                target_mean_nats: mean(&|m| {
                    f64::from(r.target_sum_nats[m.probe]) / m.n_target_tokens
                }),
                full_mean_nats: mean(&|m| f64::from(r.full_sum_nats[m.probe]) / m.n_full_tokens),
            }
        })
    }

    /// Writes the means of readings.
    pub(crate) async fn insert_means(
        &self,
        db: &mut PgConnection,
        run_id: i32,
        readings: impl IntoIterator<Item = &StepReadings>,
    ) -> Result<(), sqlx::Error> {
        let means: Vec<Mean> = readings.into_iter().flat_map(|r| self.means(r)).collect();
        if means.is_empty() {
            return Ok(());
        }
        fn column<T>(means: &[Mean], of: impl Fn(&Mean) -> T) -> Vec<T> {
            means.iter().map(of).collect()
        }
        sqlx::query(
            "insert into imprint.step_mean (run_id, arm, depth, swap, reading, step, n_probes,
                 first_mean_nats, target_mean_nats, full_mean_nats)
             select $1, * from unnest($2::int2[], $3::int2[], $4::bool[], $5::int4[], $6::int4[],
                 $7::int4[], $8::float8[], $9::float8[], $10::float8[])",
        )
        .bind(run_id)
        .bind(column(&means, |m| m.arm))
        .bind(column(&means, |m| m.depth))
        .bind(column(&means, |m| m.swap))
        .bind(column(&means, |m| m.reading))
        .bind(column(&means, |m| m.step))
        .bind(column(&means, |m| m.n_probes))
        .bind(column(&means, |m| m.first_mean_nats))
        .bind(column(&means, |m| m.target_mean_nats))
        .bind(column(&means, |m| m.full_mean_nats))
        .execute(db)
        .await
        .map(drop)
    }
}

/// A row of `step_mean`.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(crate) struct Mean {
    pub(crate) arm: i16,
    pub(crate) depth: i16,
    pub(crate) swap: bool,
    pub(crate) reading: i32,
    pub(crate) step: i32,
    pub(crate) n_probes: i32,
    pub(crate) first_mean_nats: f64,
    pub(crate) target_mean_nats: f64,
    pub(crate) full_mean_nats: f64,
}

fn check_measured_by(measured_by: u32, attempt: i32) -> Result<(), Refusal> {
    if (1..=attempt as u32).contains(&measured_by) {
        return Ok(());
    }
    let problem = format!("attempt {attempt} cannot have it from attempt {measured_by}");
    Err(invalid("measured_by", problem))
}

fn invalid(field: &'static str, problem: String) -> Refusal {
    Refusal::Invalid { field, problem }
}
