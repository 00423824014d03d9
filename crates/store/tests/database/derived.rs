use imprint_store::ingest::Writer;
use imprint_store::{Error, derived};
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run};

use crate::{measure_all, readings};

/// Every derived row of a run as text, which tells every bit of a float.
pub(crate) async fn derived_rows(db: &TestDb, run_id: i32) -> Vec<String> {
    sqlx::query_scalar(
        "select t::text from imprint.step_mean t where run_id = $1
         union all select t::text from imprint.probe_chunk t where run_id = $1
         union all select t::text from imprint.chunk_head t where run_id = $1 order by 1",
    )
    .bind(run_id)
    .fetch_all(db.store.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn every_kind_of_difference_is_found_and_mended() {
    let db = TestDb::start().await;
    let run = SeedRun {
        n_updates: 140,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    measure_all(&db.store, id, &run).await;
    let kept = derived_rows(&db, id).await;
    for damage in [
        "delete from imprint.step_mean where reading = 77 and arm = 0 and depth = 1",
        "update imprint.step_mean set full_mean_nats = full_mean_nats * 1.0000000000000004
         where reading = 140",
        "update imprint.step_mean set n_probes = 1 where reading = 3",
        "insert into imprint.step_mean select run_id, 9, depth, swap, reading, step, n_probes,
             0, 0, 0 from imprint.step_mean where reading = 64 and arm = 0 and not swap",
        "insert into imprint.step_mean select run_id, arm, depth, swap, 141, step, n_probes,
             0, 0, 0 from imprint.step_mean where reading = 64 and arm = 0 and not swap",
        "delete from imprint.probe_chunk where probe = 2 and chunk = 1",
        "delete from imprint.probe_chunk",
        "update imprint.probe_chunk set first_sum_nats[64] = -1 where probe = 0 and chunk = 0",
        "update imprint.probe_chunk set target_sum_nats = target_sum_nats[1:63] where probe = 0",
        "insert into imprint.probe_chunk select run_id, 99, chunk, '{}', '{}', '{}'
         from imprint.probe_chunk where probe = 0",
        "insert into imprint.probe_chunk select run_id, probe, 2, '{}', '{}', '{}'
         from imprint.probe_chunk where chunk = 0",
        "update imprint.chunk_head set next_chunk = 1",
        "delete from imprint.chunk_head",
    ] {
        let done = sqlx::query(damage).execute(db.store.pool()).await.unwrap();
        assert!(done.rows_affected() > 0, "{damage}");
        let check = derived::check(&db.store, id).await.unwrap();
        assert!(!check.is_equal(), "{damage}");
        assert!(!check.differences.is_empty());
        assert_eq!(derived::rebuild(&db.store, id).await.unwrap(), 141);
        assert!(derived::check(&db.store, id).await.unwrap().is_equal());
        assert_eq!(derived_rows(&db, id).await, kept, "{damage}");
    }
}

#[tokio::test]
async fn what_is_not_whole_or_not_there_is_not_rebuilt() {
    let db = TestDb::start().await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    assert_eq!(derived::runs(&db.store).await.unwrap(), Vec::<i32>::new());
    assert_eq!(derived::rebuild(&db.store, id).await.unwrap(), 0);
    assert!(derived::check(&db.store, id).await.unwrap().is_equal());
    for unknown in [
        derived::rebuild(&db.store, id + 1).await.map(drop),
        derived::check(&db.store, id + 1).await.map(drop),
    ] {
        assert!(matches!(unknown, Err(Error::NotFound { .. })));
    }
    measure_all(&db.store, id, &run).await;
    assert_eq!(derived::runs(&db.store).await.unwrap(), [id]);
    let kept = derived_rows(&db, id).await;
    sqlx::query("delete from imprint.step_reading where reading = 4")
        .execute(db.store.pool())
        .await
        .unwrap();
    for broken in [
        derived::rebuild(&db.store, id).await.map(drop),
        derived::check(&db.store, id).await.map(drop),
    ] {
        assert!(matches!(broken, Err(Error::Corrupt { .. })));
    }
    assert_eq!(derived_rows(&db, id).await, kept);
}

/// What stands in the way of one run's chunks does not keep others from theirs.
#[tokio::test]
async fn chunks_of_one_run_cannot_be_made() {
    let db = TestDb::start().await;
    let mut ids = Vec::new();
    for label in ["test/first", "test/second"] {
        let run = SeedRun {
            label: label.to_owned(),
            n_updates: 70,
            ..SeedRun::default()
        };
        let id = seed_run(&db.store, &run).await;
        let attempt = begin_attempt(&db.store, id).await;
        let opened = Writer::open(&db.store, id, attempt, 0, "m").await;
        let (mut writer, _) = opened.unwrap();
        writer
            .append(&readings(&run, 0..70, attempt))
            .await
            .unwrap();
        ids.push(id);
    }
    sqlx::query("insert into imprint.probe_chunk values ($1, 0, 0, '{}', '{}', '{}')")
        .bind(ids[0])
        .execute(db.store.pool())
        .await
        .unwrap();
    let failed = derived::catch_up(&db.store).await.unwrap_err();
    assert!(
        failed.to_string().contains(&format!("run {}", ids[0])),
        "{failed}"
    );
    assert_eq!(derived::behind(&db.store).await.unwrap(), [ids[0]]);
    derived::rebuild(&db.store, ids[0]).await.unwrap();
    assert_eq!(derived::catch_up(&db.store).await.unwrap(), 0);
    for id in ids {
        let check = derived::check(&db.store, id).await.unwrap();
        assert_eq!((check.n_differences, check.n_chunks_due), (0, 0));
    }
}

/// A rebuild waits for who writes and for who makes chunks, and the other way round; none loses
/// anything.
#[tokio::test]
async fn rebuilding_goes_on_beside_writing() {
    let db = TestDb::start().await;
    let run = SeedRun {
        n_updates: 400,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    let mut written = 0;
    let write = async {
        for resume in [0, 100, 64, 200] {
            let attempt = begin_attempt(&db.store, id).await;
            let (mut writer, at) = Writer::open(&db.store, id, attempt, resume, "m")
                .await
                .unwrap();
            for from in (at.next_reading..resume + 201).step_by(5) {
                written = (from + 5).min(401);
                writer
                    .append(&readings(&run, from..written, attempt))
                    .await
                    .unwrap();
            }
        }
    };
    let rebuild = async {
        loop {
            derived::rebuild(&db.store, id).await.unwrap();
            let check = derived::check(&db.store, id).await.unwrap();
            assert!(check.is_equal(), "{:?}", check.differences);
        }
    };
    tokio::select! {
        () = write => {}
        () = rebuild => {}
        ended = derived::keep_up(&db.store) => panic!("{ended:?}"),
    }
    derived::catch_up(&db.store).await.unwrap();
    let kept = derived_rows(&db, id).await;
    let n_readings = derived::rebuild(&db.store, id).await.unwrap();
    assert_eq!(n_readings, written);
    assert_eq!(derived_rows(&db, id).await, kept);
}
