//! A batch in one statement: nothing of it is stored unless the head moves, and the head moves only
//! from where the writer knows it to be, under the writer's attempt.

use std::fmt::Write as _;

use sqlx::PgConnection;

use super::layout::{Layout, Mean};
use super::{Cursors, Taken};
use crate::float4::Float4s;

/// Parameters before those of the readings.
const N_FIXED: usize = 24;

/// Parameters of each reading.
const N_OF_READING: usize = 6;

/// Stores what was taken and moves the head; whether the head was where it was thought to be.
pub(super) async fn store(
    db: &mut PgConnection,
    (run_id, attempt): (i32, i32),
    from: Cursors,
    taken: &Taken<'_>,
    layout: &Layout,
) -> sqlx::Result<bool> {
    let means: Vec<Mean> = taken
        .readings
        .iter()
        .flat_map(|r| layout.means(r))
        .collect();
    let (means, updates) = (&means, &taken.updates);
    fn column<S, T>(rows: &[S], of: impl Fn(&S) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let mut query = sqlx::query_scalar(sqlx::AssertSqlSafe(text(taken.readings.len())))
        .bind(run_id)
        .bind(attempt)
        .bind(from.next_reading as i32)
        .bind(from.next_update as i32)
        .bind(taken.cursors.next_reading as i32)
        .bind(taken.cursors.next_update as i32)
        .bind(column(updates, |u| u.step as i32))
        .bind(column(updates, |u| u.measured_by as i32))
        .bind(column(updates, |u| u.loss_nats))
        .bind(column(updates, |u| u.learning_rate))
        .bind(column(updates, |u| u.grad_norm))
        .bind(column(updates, |u| u.update_norm))
        .bind(column(updates, |u| u.n_tokens as i32))
        .bind(column(updates, |u| u.n_injected_tokens as i32))
        .bind(column(updates, |u| u.duration_ms))
        .bind(column(means, |m| m.arm))
        .bind(column(means, |m| m.depth))
        .bind(column(means, |m| m.swap))
        .bind(column(means, |m| m.reading))
        .bind(column(means, |m| m.step))
        .bind(column(means, |m| m.n_probes))
        .bind(column(means, |m| m.first_mean_nats))
        .bind(column(means, |m| m.target_mean_nats))
        .bind(column(means, |m| m.full_mean_nats));
    for r in &taken.readings {
        query = query
            .bind(r.index as i32)
            .bind(r.step as i32)
            .bind(r.measured_by as i32)
            .bind(Float4s(&r.first_sum_nats))
            .bind(Float4s(&r.target_sum_nats))
            .bind(Float4s(&r.full_sum_nats));
    }
    query.fetch_one(db).await
}

/// One text for each number of readings, so that connections prepare it once.
fn text(n_readings: usize) -> String {
    let mut text = "with head as (
            update imprint.ingest_head set next_reading = $5, next_update = $6
            where run_id = $1 and attempt = $2 and next_reading = $3 and next_update = $4
            returning run_id
        ), updates as (
            insert into imprint.update_stats (run_id, step, attempt, loss_nats, learning_rate,
                grad_norm, update_norm, n_tokens, n_injected_tokens, duration_ms)
            select head.run_id, u.* from head, unnest($7::int4[], $8::int4[], $9::float8[],
                $10::float8[], $11::float8[], $12::float8[], $13::int4[], $14::int4[],
                $15::float4[]) as u
        ), means as (
            insert into imprint.step_mean (run_id, arm, depth, swap, reading, step, n_probes,
                first_mean_nats, target_mean_nats, full_mean_nats)
            select head.run_id, m.* from head, unnest($16::int2[], $17::int2[], $18::bool[],
                $19::int4[], $20::int4[], $21::int4[], $22::float8[], $23::float8[],
                $24::float8[]) as m
        )"
    .to_owned();
    for reading in 0..n_readings {
        text += match reading {
            0 => {
                ", readings as (
                insert into imprint.step_reading (run_id, reading, step, attempt,
                    first_sum_nats, target_sum_nats, full_sum_nats)
                select head.run_id, r.* from head, (values "
            }
            _ => ", ",
        };
        for of_reading in 1..=N_OF_READING {
            let number = N_FIXED + reading * N_OF_READING + of_reading;
            let before = if of_reading == 1 { "(" } else { ", " };
            let _ = write!(text, "{before}${number}");
        }
        text += ")";
    }
    if n_readings > 0 {
        text += ") as r)";
    }
    text + " select exists (select from head)"
}
