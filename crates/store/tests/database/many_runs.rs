use imprint_testkit::{ManyRuns, TestDb};

/// The short form of `examples/many_runs.rs`.
#[tokio::test]
async fn nobody_runs_out_of_locks_beside_writers() {
    let db = TestDb::start().await;
    let load = ManyRuns {
        n_runs: 600,
        n_writers: 8,
        n_readers: 2,
        // Often enough for a prepared statement to be planned for all runs at once.
        n_rounds: 6,
    };
    let report = load.run(&db).await;
    assert_eq!(report.failures, Vec::<String>::new());
    // Runs are numbered from 1: 0…127 up to 512…639, and one more ahead.
    assert!((5..=6).contains(&report.n_partitions));
    assert!(report.readings_written > 0);
    assert!(report.peak_locks < report.lock_room);
    assert!(report.queries.len() > 6);
}
