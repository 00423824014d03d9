//! Random histories of attempts against a model.

use imprint_store::ingest::{Cursors, Writer};
use imprint_store::{Error, derived};
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run};
use proptest::prelude::*;

use crate::derived::derived_rows;
use crate::{cursors, reading, readings, updates};

const N_UPDATES: u32 = 200;

#[derive(Clone, Debug)]
enum Event {
    /// A new attempt begins and opens the stream at this step.
    Resume(u32),
    /// The connection breaks and is made again.
    Reconnect,
    /// Messages from a little below the cursor on.
    Append {
        back: u32,
        n_readings: u32,
        n_updates: u32,
    },
    /// The attempt before this one wakes up.
    Zombie,
    /// Chunks catch up with the readings.
    Chunks,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..=N_UPDATES + 1).prop_map(Event::Resume),
        1 => Just(Event::Reconnect),
        6 => (0..4_u32, 0..70_u32, 0..70_u32).prop_map(|(back, n_readings, n_updates)| {
            Event::Append { back, n_readings, n_updates }
        }),
        1 => Just(Event::Zombie),
        2 => Just(Event::Chunks),
    ]
}

/// What should be stored: who measured each reading and update, in order.
#[derive(Default)]
struct Model {
    readings: Vec<u32>,
    updates: Vec<u32>,
    n_superseded: i64,
}

impl Model {
    fn cursors(&self) -> Cursors {
        cursors(self.readings.len() as u32, self.updates.len() as u32)
    }
}

async fn play(db: &TestDb, label: String, events: Vec<Event>) {
    let run = SeedRun {
        label,
        n_updates: N_UPDATES,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    let mut model = Model::default();
    let mut attempt = begin_attempt(&db.store, id).await;
    let open = |attempt, step| {
        let store = &db.store;
        async move { Writer::open(store, id, attempt, step, "m").await.unwrap() }
    };
    let (mut writer, _) = open(attempt, 0).await;
    let mut zombie: Option<Writer> = None;
    for event in events {
        match event {
            Event::Resume(step) => {
                attempt = begin_attempt(&db.store, id).await;
                let (next, at) = open(attempt, step).await;
                zombie = Some(std::mem::replace(&mut writer, next));
                let before = model.readings.len();
                model.readings.truncate(step as usize);
                model.updates.truncate(step as usize);
                model.n_superseded += (before - model.readings.len()) as i64;
                assert_eq!(at, model.cursors());
            }
            Event::Reconnect => {
                let (again, at) = open(attempt, 7).await;
                assert_eq!(at, model.cursors());
                writer = again;
            }
            Event::Append {
                back,
                n_readings,
                n_updates,
            } => {
                let Cursors {
                    next_reading,
                    next_update,
                } = model.cursors();
                let first = next_reading.saturating_sub(back);
                let to = (first + n_readings).min(N_UPDATES + 1);
                let mut batch = readings(&run, first..to, attempt);
                let first = next_update.saturating_sub(back);
                batch.extend(updates(first..(first + n_updates).min(N_UPDATES), attempt));
                let done = writer.append(&batch).await.unwrap();
                let n = model.readings.len().max(to as usize);
                model.readings.resize(n, attempt);
                let n = model
                    .updates
                    .len()
                    .max((first + n_updates).min(N_UPDATES) as usize);
                model.updates.resize(n, attempt);
                assert_eq!((done.cursors, done.refused), (model.cursors(), None));
            }
            Event::Chunks => {
                derived::make_chunks(&db.store, id).await.unwrap();
            }
            Event::Zombie => {
                if let Some(zombie) = &mut zombie {
                    let next = model.cursors().next_reading.min(N_UPDATES);
                    let late = zombie.append(&readings(&run, next..next + 1, 1)).await;
                    assert!(matches!(late, Err(Error::StaleAttempt { .. })));
                }
            }
        }
    }
    let behind = derived::check(&db.store, id).await.unwrap();
    assert!(behind.is_equal(), "{:?}", behind.differences);
    let n_made = derived::make_chunks(&db.store, id).await.unwrap();
    assert_eq!(n_made, behind.n_chunks_due);
    compare(db, id, &run, &model).await;
    let kept = derived_rows(db, id).await;
    let check = derived::check(&db.store, id).await.unwrap();
    assert!(check.is_equal(), "{:?}", check.differences);
    assert_eq!(check.n_chunks_due, 0);
    derived::rebuild(&db.store, id).await.unwrap();
    assert_eq!(derived_rows(db, id).await, kept, "a rebuild gives the same");
}

async fn compare(db: &TestDb, id: i32, run: &SeedRun, model: &Model) {
    let pool = db.store.pool();
    let rows: Vec<(i32, i32, Vec<f32>)> = sqlx::query_as(
        "select step, attempt, full_sum_nats from imprint.step_reading where run_id = $1
         order by reading",
    )
    .bind(id)
    .fetch_all(pool)
    .await
    .unwrap();
    let expected: Vec<(i32, i32, Vec<f32>)> = (0..)
        .zip(&model.readings)
        .map(|(i, &by)| (i as i32, by as i32, reading(run, i, by).full_sum_nats))
        .collect();
    assert_eq!(rows, expected);
    let updates: Vec<f64> = sqlx::query_scalar(
        "select loss_nats from imprint.update_stats where run_id = $1 order by step",
    )
    .bind(id)
    .fetch_all(pool)
    .await
    .unwrap();
    let expected: Vec<f64> = (0..)
        .zip(&model.updates)
        .map(|(t, &by)| f64::from(by * 1000 + t))
        .collect();
    assert_eq!(updates, expected);
    for (what, want, query) in [
        (
            "superseded readings",
            model.n_superseded,
            "select count(*) from imprint.superseded_reading where run_id = $1",
        ),
        (
            "chunks",
            (model.readings.len() / 64) as i64 * i64::from(run.n_probes()),
            "select count(*) from imprint.probe_chunk where run_id = $1",
        ),
        (
            "values of chunks that are not the readings'",
            0,
            "select count(*) from imprint.probe c
             join imprint.run r using (probe_set_id)
             cross join lateral (
                 (select reading, step, first_sum_nats, target_sum_nats, full_sum_nats
                  from imprint.curve(r.run_id, c.probe) except all
                  select reading, step, first_sum_nats[c.probe + 1], target_sum_nats[c.probe + 1],
                      full_sum_nats[c.probe + 1] from imprint.step_reading s
                  where s.run_id = r.run_id)
                 union all
                 (select reading, step, first_sum_nats[c.probe + 1], target_sum_nats[c.probe + 1],
                      full_sum_nats[c.probe + 1] from imprint.step_reading s
                  where s.run_id = r.run_id
                  except all select reading, step, first_sum_nats, target_sum_nats, full_sum_nats
                  from imprint.curve(r.run_id, c.probe))) d
             where r.run_id = $1",
        ),
        (
            "means that are not those of the readings",
            0,
            "select count(*) from (
                 select m.arm, m.depth, m.swap, m.step, m.n_probes,
                     m.first_mean_nats, m.target_mean_nats, m.full_mean_nats
                 from imprint.mean_curve m where m.run_id = $1) m
             full join (
                 select arm, depth, swap, step, count(*) as n_probes,
                     avg(first_mean_nats) as first, avg(target_mean_nats) as target,
                     avg(full_mean_nats) as full
                 from imprint.reading where run_id = $1 group by arm, depth, swap, step) r
             using (arm, depth, swap, step)
             where not coalesce(m.n_probes = r.n_probes
                 and abs(m.first_mean_nats - r.first) < 1e-3
                 and abs(m.target_mean_nats - r.target) < 1e-3
                 and abs(m.full_mean_nats - r.full) < 1e-3, false)",
        ),
    ] {
        let got: i64 = sqlx::query_scalar(query)
            .bind(id)
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(got, want, "{what}");
    }
}

#[test]
fn any_history_leaves_what_the_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let db = runtime.block_on(TestDb::start());
    let case = std::cell::Cell::new(0);
    crate::random_cases(30)
        .run(&prop::collection::vec(event(), 1..12), |events| {
            case.set(case.get() + 1);
            runtime.block_on(play(&db, format!("test/{}", case.get()), events));
            Ok(())
        })
        .unwrap();
    let _inside = runtime.enter();
    drop(db);
}
