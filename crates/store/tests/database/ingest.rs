use imprint_store::Error;
use imprint_store::ingest::{Message, Refusal, Writer};
use imprint_store::runs::AttemptEnd;
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run, wait_until};

use crate::{cursors, measure_all, reading, readings, update, updates};

/// (reading, attempt that measured it) of all that is stored.
async fn stored(db: &TestDb, run_id: i32) -> Vec<(i32, i32)> {
    let query = "select reading, attempt, (-target_sum_nats[1])::int4 from imprint.step_reading
                 where run_id = $1 order by reading";
    let rows: Vec<(i32, i32, i32)> = sqlx::query_as(query)
        .bind(run_id)
        .fetch_all(db.store.pool())
        .await
        .unwrap();
    for (reading, attempt, value) in &rows {
        assert_eq!(
            *value,
            attempt * 1000 + reading,
            "values are those of the attempt in the row"
        );
    }
    rows.into_iter()
        .map(|(reading, attempt, _)| (reading, attempt))
        .collect()
}

fn measured(parts: &[(std::ops::Range<i32>, i32)]) -> Vec<(i32, i32)> {
    parts
        .iter()
        .flat_map(|(r, attempt)| r.clone().map(move |i| (i, *attempt)))
        .collect()
}

#[tokio::test]
async fn accepted_replayed_straddling_and_refused() {
    let db = TestDb::start().await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    let attempt = begin_attempt(&db.store, id).await;
    let (mut writer, at) = Writer::open(&db.store, id, attempt, 0, "m").await.unwrap();
    assert_eq!(at, cursors(0, 0));

    let mut batch = readings(&run, 0..3, 1);
    batch.extend(updates(0..2, 1));
    let done = writer.append(&batch).await.unwrap();
    assert_eq!((done.cursors, done.refused), (cursors(3, 2), None));

    let replay = writer.append(&batch).await.unwrap();
    assert_eq!(
        (replay.cursors, replay.refused),
        (cursors(3, 2), None),
        "acknowledged again"
    );

    let straddling = writer.append(&readings(&run, 1..5, 1)).await.unwrap();
    assert_eq!(straddling.cursors, cursors(5, 2));
    assert_eq!(stored(&db, id).await, measured(&[(0..5, 1)]));

    let gap = writer.append(&readings(&run, 6..8, 1)).await.unwrap();
    assert_eq!(
        gap.refused,
        Some(Refusal::ReadingGap {
            expected: 5,
            got: 6
        })
    );
    let gap = writer.append(&updates(4..5, 1)).await.unwrap();
    assert_eq!(
        gap.refused,
        Some(Refusal::UpdateGap {
            expected: 2,
            got: 4
        })
    );

    // What comes before a message that is refused is taken.
    let mut part = readings(&run, 5..6, 1);
    part.extend(readings(&run, 7..8, 1));
    let done = writer.append(&part).await.unwrap();
    assert_eq!(done.cursors, cursors(6, 2));
    assert_eq!(
        done.refused,
        Some(Refusal::ReadingGap {
            expected: 6,
            got: 7
        })
    );
    assert_eq!(stored(&db, id).await, measured(&[(0..6, 1)]));

    let wrong = |change: fn(&mut imprint_core::StepReadings)| {
        let mut r = reading(&run, 6, 1);
        change(&mut r);
        vec![Message::Reading(r)]
    };
    let mut too_late = update(2, 1);
    too_late.measured_by = 9;
    for (field, batch) in [
        ("step", wrong(|r| r.step = 7)),
        ("reading", wrong(|r| r.full_sum_nats.truncate(3))),
        ("measured_by", wrong(|r| r.measured_by = 2)),
        ("measured_by", wrong(|r| r.measured_by = 0)),
        ("measured_by", vec![Message::Update(too_late)]),
    ] {
        let refused = writer.append(&batch).await.unwrap();
        assert!(
            matches!(&refused.refused, Some(Refusal::Invalid { field: f, .. }) if *f == field),
            "{field}: {refused:?}"
        );
        assert_eq!(refused.cursors, cursors(6, 2));
    }

    writer.append(&readings(&run, 6..11, 1)).await.unwrap();
    writer.append(&updates(2..10, 1)).await.unwrap();
    let mut beyond = reading(&run, 10, 1);
    (beyond.index, beyond.step) = (11, 11);
    for batch in [vec![Message::Reading(beyond)], updates(10..11, 1)] {
        let refused = writer.append(&batch).await.unwrap();
        assert!(
            matches!(refused.refused, Some(Refusal::Invalid { .. })),
            "{refused:?}"
        );
        assert_eq!(refused.cursors, cursors(11, 10));
    }
}

#[tokio::test]
async fn only_the_current_attempt_opens_and_writes() {
    let db = TestDb::start().await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    let open = |run_id, attempt, step| {
        let store = db.store.clone();
        async move {
            Writer::open(&store, run_id, attempt, step, "m")
                .await
                .map(|o| o.0)
        }
    };
    let is_stale = |e: &Error| matches!(e, Error::StaleAttempt { .. });

    assert!(matches!(open(999, 1, 0).await, Err(Error::NotFound { .. })));
    assert!(
        is_stale(&open(id, 1, 0).await.unwrap_err()),
        "no attempt has begun"
    );
    begin_attempt(&db.store, id).await;
    assert!(
        is_stale(&open(id, 2, 0).await.unwrap_err()),
        "not begun yet"
    );
    assert!(is_stale(&open(id, u32::MAX, 0).await.unwrap_err()));
    assert!(matches!(open(id, 1, 12).await, Err(Error::Invalid { .. })));
    let mut first = open(id, 1, 0).await.unwrap();
    first.append(&readings(&run, 0..4, 1)).await.unwrap();

    begin_attempt(&db.store, id).await;
    assert!(
        is_stale(&open(id, 1, 0).await.unwrap_err()),
        "its successor has begun"
    );
    // Until the successor opens, what the old one still delivers is welcome.
    first.append(&readings(&run, 4..5, 1)).await.unwrap();
    let mut second = open(id, 2, 3).await.unwrap();
    assert!(is_stale(
        &first.append(&readings(&run, 5..6, 1)).await.unwrap_err()
    ));
    assert!(
        is_stale(&first.append(&readings(&run, 0..1, 1)).await.unwrap_err()),
        "even a replay"
    );
    second.append(&readings(&run, 3..6, 2)).await.unwrap();
    assert_eq!(stored(&db, id).await, measured(&[(0..3, 1), (3..6, 2)]));

    sqlx::query("update imprint.attempt set ended_at = now(), outcome = 'lost' where attempt = 2")
        .execute(db.store.pool())
        .await
        .unwrap();
    assert!(is_stale(&open(id, 2, 3).await.unwrap_err()), "it was ended");
}

/// A stream ends with its attempt, also while nobody has opened another.
#[tokio::test]
async fn an_attempt_that_has_ended_writes_no_more() {
    let db = TestDb::start().await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let (mut writer, _) = Writer::open(&db.store, id, 1, 0, "m").await.unwrap();
    writer.append(&readings(&run, 0..3, 1)).await.unwrap();
    let reason = "the disk is full".to_owned();
    let end = AttemptEnd::Failed { reason };
    db.store.end_attempt(id, 1, 2, &end).await.unwrap();
    let late = writer.append(&readings(&run, 3..4, 1)).await;
    assert!(matches!(late, Err(Error::StaleAttempt { .. })));
    begin_attempt(&db.store, id).await;
    let (_, at) = Writer::open(&db.store, id, 2, 3, "m").await.unwrap();
    assert_eq!(at, cursors(3, 0));
}

/// Nothing mixed, missing or double, whether S is below, at or above the cursor.
#[tokio::test]
async fn resuming_keeps_one_measurement_of_each_step() {
    let db = TestDb::start().await;
    for (label, resume_step, at, superseded) in [
        ("test/below", 3, cursors(3, 3), 3),
        ("test/at", 6, cursors(6, 5), 0),
        ("test/above", 8, cursors(6, 5), 0),
    ] {
        let run = SeedRun {
            label: label.to_owned(),
            ..SeedRun::default()
        };
        let id = seed_run(&db.store, &run).await;
        begin_attempt(&db.store, id).await;
        let (mut first, _) = Writer::open(&db.store, id, 1, 0, "m").await.unwrap();
        first.append(&readings(&run, 0..6, 1)).await.unwrap();
        first.append(&updates(0..5, 1)).await.unwrap();

        begin_attempt(&db.store, id).await;
        let (mut second, opened) = Writer::open(&db.store, id, 2, resume_step, "m")
            .await
            .unwrap();
        assert_eq!(opened, at, "{label}");
        // From the first attempt's spool up to S, then its own.
        let own = at.next_reading.max(resume_step);
        second
            .append(&readings(&run, at.next_reading..own, 1))
            .await
            .unwrap();
        second
            .append(&updates(at.next_update..resume_step, 1))
            .await
            .unwrap();
        let half = own + 1;
        second.append(&readings(&run, own..half, 2)).await.unwrap();

        // A lost connection changes nothing.
        let (mut second, again) = Writer::open(&db.store, id, 2, resume_step, "m")
            .await
            .unwrap();
        assert_eq!(again, cursors(half, resume_step), "{label}");
        second.append(&readings(&run, half..11, 2)).await.unwrap();
        second.append(&updates(resume_step..10, 2)).await.unwrap();

        let own = own as i32;
        assert_eq!(
            stored(&db, id).await,
            measured(&[(0..own, 1), (own..11, 2)]),
            "{label}"
        );
        let losses: Vec<f64> = sqlx::query_scalar(
            "select loss_nats from imprint.update_stats where run_id = $1 order by step",
        )
        .bind(id)
        .fetch_all(db.store.pool())
        .await
        .unwrap();
        let expected = (0..10).map(|t| if t < resume_step { 1000 + t } else { 2000 + t });
        assert_eq!(
            losses,
            expected.map(f64::from).collect::<Vec<_>>(),
            "{label}"
        );
        let kept: Vec<(i32, i32, i32)> = sqlx::query_as(
            "select reading, attempt, superseded_by from imprint.superseded_reading
             where run_id = $1 order by reading",
        )
        .bind(id)
        .fetch_all(db.store.pool())
        .await
        .unwrap();
        let from = resume_step as i32;
        let expected: Vec<_> = (from..from + superseded).map(|i| (i, 1, 2)).collect();
        assert_eq!(kept, expected, "{label}");
    }
}

#[tokio::test]
async fn segments_say_where_machines_changed() {
    let db = TestDb::start().await;
    let run = SeedRun {
        read_every: 4,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    for (resume_step, machine) in [(0, "a"), (3, "a"), (4, "b"), (11, "b")] {
        let attempt = begin_attempt(&db.store, id).await;
        Writer::open(&db.store, id, attempt, resume_step, machine)
            .await
            .unwrap();
    }
    let segments: Vec<(i32, i32, i32, bool)> = sqlx::query_as(
        "select attempt, first_step, first_reading, same_machine from imprint.segment
         order by attempt",
    )
    .fetch_all(db.store.pool())
    .await
    .unwrap();
    // Readings are at the steps 0, 4, 8 and 10.
    let expected = [
        (1, 0, 0, true),
        (2, 3, 1, true),
        (3, 4, 1, false),
        (4, 11, 4, true),
    ];
    assert_eq!(segments, expected);
}

/// Two streams of one attempt (a reconnect before the server noticed) cannot interleave.
#[tokio::test]
async fn concurrent_writers_store_each_reading_once() {
    let db = TestDb::start().await;
    let run = SeedRun {
        n_updates: 100,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let deliver = || async {
        let (mut writer, mut at) = Writer::open(&db.store, id, 1, 0, "m").await.unwrap();
        while at.next_reading < 101 {
            let to = (at.next_reading + 3).min(101);
            let done = writer
                .append(&readings(&run, at.next_reading..to, 1))
                .await
                .unwrap();
            assert_eq!(done.refused, None);
            at = done.cursors;
        }
    };
    tokio::join!(deliver(), deliver(), deliver(), deliver());
    assert_eq!(stored(&db, id).await, measured(&[(0..101, 1)]));
}

/// However much there is to supersede, an interrupted opening goes on where it was.
#[tokio::test]
async fn superseding_a_long_run_takes_many_short_transactions() {
    let db = TestDb::start().await;
    let run = SeedRun {
        n_updates: 700,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    measure_all(&db.store, id, &run).await;
    let pool = db.store.pool();
    let head = || async {
        let head: (i32, i32) =
            sqlx::query_as("select attempt, next_reading from imprint.ingest_head")
                .fetch_one(pool)
                .await
                .unwrap();
        head
    };

    // Reading 100 is held, so that opening gets stuck below 200.
    begin_attempt(&db.store, id).await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from imprint.step_reading where reading = 100 for update")
        .execute(&mut *holder)
        .await
        .unwrap();
    let store = db.store.clone();
    let opening = tokio::spawn(async move { Writer::open(&store, id, 2, 50, "m").await.map(drop) });
    let patience = std::time::Duration::from_secs(30);
    wait_until(patience, "most is superseded", || async {
        head().await == (2, 701 - 512)
    })
    .await;
    opening.abort();
    assert!(opening.await.unwrap_err().is_cancelled());
    let n_segments: i64 = sqlx::query_scalar("select count(*) from imprint.segment")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(n_segments, 1, "it is not open yet");

    // Its successor resumes elsewhere; what the second attempt superseded stays superseded by it.
    holder.rollback().await.unwrap();
    begin_attempt(&db.store, id).await;
    let (mut third, at) = Writer::open(&db.store, id, 3, 20, "m").await.unwrap();
    assert_eq!(at, cursors(20, 20));
    third.append(&readings(&run, 20..30, 3)).await.unwrap();
    assert_eq!(stored(&db, id).await, measured(&[(0..20, 1), (20..30, 3)]));
    let superseded: Vec<(i32, i64)> = sqlx::query_as(
        "select superseded_by, count(*) from imprint.superseded_reading
         where attempt = 1 group by 1 order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(superseded, [(2, 512), (3, 701 - 512 - 20)]);
}
