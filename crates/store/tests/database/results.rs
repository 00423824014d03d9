use std::time::Duration;

use imprint_core::{Depth, FactId, Span};
use imprint_store::runs::RunState;
use imprint_store::verify::verify;
use imprint_store::{Error, results};
use imprint_testkit::{SeedRun, TestDb, seed_run};
use tokio::time::timeout;

use crate::{measure_all, reading, update};

#[tokio::test]
async fn what_was_measured_comes_out_again() {
    let db = TestDb::start().await;
    let store = &db.store;
    let run = SeedRun {
        n_updates: 150,
        read_every: 2,
        ..SeedRun::default()
    };
    let id = seed_run(store, &run).await;
    measure_all(store, id, &run).await;

    let runs = results::runs(store, "test").await.unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].run_id, runs[0].label.as_str()), (id, "test/run"));
    assert_eq!((runs[0].state, runs[0].n_updates), (RunState::Queued, 150));
    assert_eq!(runs[0].scenario_name, "duplication");
    assert_eq!(runs[0].n_readings as usize, run.reading_steps().len());
    assert_eq!(
        (runs[0].n_readings_stored, runs[0].n_updates_stored),
        (76, 150)
    );
    assert!(matches!(
        results::runs(store, "other").await,
        Err(Error::NotFound { .. })
    ));

    let arms = results::fact_arms(store, id).await.unwrap();
    let arms: Vec<&str> = arms.iter().map(|a| a.arm.as_str()).collect();
    assert_eq!(arms, ["duplication", "duplication", "held_out"]);
    let injections = results::injections(store, id).await.unwrap();
    let injections: Vec<_> = injections
        .iter()
        .map(|i| (i.step, i.fact.0, i.exposure))
        .collect();
    assert_eq!(injections, [(0, 0, 1), (0, 1, 1), (2, 0, 2), (2, 1, 2)]);

    let probes = results::probes(store, id).await.unwrap();
    assert_eq!(probes.len(), 15);
    assert_eq!(
        (probes[4].fact, probes[4].depth, probes[4].swap_fact),
        (FactId(1), Depth::Gen, None)
    );
    assert_eq!(
        (probes[9].fact, probes[9].swap_fact),
        (FactId(0), Some(FactId(1)))
    );

    for span in Span::ALL {
        let all = results::trajectories(store, id, &probes, span)
            .await
            .unwrap();
        let means = results::mean_curves(store, id, span).await.unwrap();
        assert_eq!(means.len(), 9, "held out, own and swap, three depths each");
        for (p, (probe, trajectory)) in probes.iter().zip(&all).enumerate() {
            assert_eq!(trajectory.steps(), run.reading_steps());
            for (index, &nats) in (0..).zip(trajectory.nats()) {
                let r = reading(&run, index, 1);
                let sum = match span {
                    Span::First => r.first_sum_nats[p],
                    Span::Target => r.target_sum_nats[p],
                    Span::Full => r.full_sum_nats[p],
                };
                assert_eq!(nats, f64::from(sum) / f64::from(probe.n_tokens(span)));
            }
            let alone = results::trajectory(store, id, probe.probe, span)
                .await
                .unwrap();
            assert_eq!(&alone, trajectory);
        }
        let of_held_out = means
            .iter()
            .find(|m| m.arm == "held_out" && m.depth == Depth::Mem);
        assert_eq!(
            of_held_out.unwrap().trajectory,
            all[6],
            "the mean over one probe"
        );
    }
    let stats = results::update_stats(store, id).await.unwrap();
    assert_eq!(stats, (0..150).map(|t| update(t, 1)).collect::<Vec<_>>());

    let (steps, fastest): (i64, f64) = sqlx::query_as(
        "select count(*), max(tokens_per_second) from imprint.step_stats where run = 'test/run'",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    assert_eq!((steps, fastest), (150, 8000.0));
    let progress: (String, i32, i32) =
        sqlx::query_as("select scenario, batch_size, readings_stored from imprint.run_summary")
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert_eq!(progress, ("duplication".to_owned(), 4, 76));
    // ℓ is the sum over the count.
    let differing: i64 = sqlx::query_scalar(
        "select count(*) from imprint.reading v
         join imprint.run r using (run_id)
         join imprint.probe p using (probe_set_id, probe)
         where abs(v.target_mean_nats * p.n_target_tokens - v.target_sum_nats) > 1e-3
            or abs(v.full_mean_nats * p.n_full_tokens - v.full_sum_nats) > 1e-3
            or v.first_mean_nats <> v.first_sum_nats",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    assert_eq!(differing, 0);
}

#[tokio::test]
async fn verifying_finds_what_is_missing_and_what_is_damaged() {
    let db = TestDb::start().await;
    let store = &db.store;
    let run = SeedRun::default();
    let id = seed_run(store, &run).await;
    let empty = verify(store, "test/run").await.unwrap();
    assert_eq!(empty.readings_missing, run.reading_steps());
    assert_eq!(empty.updates_missing, (0..10).collect::<Vec<_>>());
    assert!(!empty.is_clean());

    measure_all(store, id, &run).await;
    let whole = verify(store, "test/run").await.unwrap();
    assert!(whole.is_clean(), "{whole:?}");
    assert_eq!((whole.readings_expected, whole.readings_stored), (11, 11));
    assert_eq!((whole.updates_expected, whole.updates_stored), (10, 10));
    assert_eq!(
        (whole.n_probes, whole.attempts, whole.state.as_str()),
        (15, 1, "queued")
    );

    for statement in [
        "delete from imprint.step_reading where reading = 3",
        "delete from imprint.update_stats where step = 4",
        "update imprint.step_reading set target_sum_nats[2] = 0.5 where reading = 5",
        "update imprint.step_reading set first_sum_nats[2] = 'NaN' where reading = 6",
        "update imprint.step_reading set full_sum_nats = full_sum_nats[1:3] where reading = 7",
        "update imprint.step_reading set step = 90 where reading = 8",
    ] {
        sqlx::query(statement).execute(store.pool()).await.unwrap();
    }
    let found = verify(store, "test/run").await.unwrap();
    assert_eq!(found.readings_missing, [3, 8]);
    assert_eq!(found.readings_damaged, [5, 6, 7, 90]);
    assert_eq!(found.updates_missing, [4]);
    assert!(matches!(
        verify(store, "test/x").await,
        Err(Error::NotFound { .. })
    ));
}

/// Sizes of the demo, which two cores need seconds for.
#[tokio::test]
async fn a_run_of_hundreds_of_probes_is_written_and_read_in_time() {
    let db = TestDb::start_durable().await;
    let run = SeedRun {
        n_facts: 32,
        probes_per_fact: 15,
        swap: false,
        n_updates: 600,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    let work = async {
        measure_all(&db.store, id, &run).await;
        let probes = results::probes(&db.store, id).await.unwrap();
        let all = results::trajectories(&db.store, id, &probes, Span::Target)
            .await
            .unwrap();
        assert_eq!((all.len(), all[0].steps().len()), (480, 601));
        assert!(verify(&db.store, "test/run").await.unwrap().is_clean());
    };
    timeout(Duration::from_secs(300), work)
        .await
        .expect("it takes seconds");
}
