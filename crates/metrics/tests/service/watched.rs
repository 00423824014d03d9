//! The service as those who watch it see it: the port for Prometheus, and health.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use imprint_proto::Channel;
use imprint_testkit::http_get;
use tokio::net::TcpListener;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

/// What a health check of a service says; `None` when it does not answer.
async fn health(channel: Channel, service: &str) -> Option<ServingStatus> {
    let service = service.to_owned();
    let request = HealthCheckRequest { service };
    let answer = HealthClient::new(channel).check(request).await;
    answer.ok().map(|a| a.into_inner().status())
}

/// The port of a service.
async fn port(service: &Service) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shown = service
        .vitals
        .clone()
        .serve(listener, service.shutdown.clone().cancelled_owned());
    tokio::spawn(shown);
    address
}

/// Every sample of `/metrics` by its name and labels.
async fn samples(port: SocketAddr) -> BTreeMap<String, f64> {
    let (status, text) = http_get(port, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn prometheus_is_told_what_comes_in_and_what_is_committed() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let port = port(&service).await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;

    let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    for t in 0..3 {
        trainer.send(reading(&run, t, 1)).await;
        trainer.send(update(t, 1)).await;
    }
    trainer.acknowledged(3, 3).await;
    // A replay is received, and committed no second time.
    trainer.send(reading(&run, 2, 1)).await;
    trainer.acknowledged(3, 3).await;
    wait_until(PATIENCE, "all is answered for", || async {
        samples(port).await["imprint_ingest_queue_depth_messages"] == 0.0
    })
    .await;
    let now = samples(port).await;
    let n_values = f64::from(3 * 3 * run.n_probes());
    assert_eq!(now["imprint_ingest_values_total"], n_values);
    assert_eq!(now["imprint_ingest_readings_total"], 3.0);
    assert_eq!(now["imprint_ingest_updates_total"], 3.0);
    assert!(now["imprint_ingest_bytes_total"] > 4.0 * n_values);
    assert_eq!(now["imprint_unacknowledged_steps"], 0.0);
    assert_eq!(now["imprint_ingest_open_streams"], 1.0);
    assert_eq!(now["imprint_commit_messages_sum"], 7.0);
    let n_commits = now["imprint_commit_messages_count"];
    assert!((2.0..=7.0).contains(&n_commits));
    assert_eq!(now["imprint_commit_duration_seconds_count"], n_commits);
    assert!(now["imprint_commit_duration_seconds_sum"] > 0.0);

    trainer.send(reading(&run, 9, 1)).await;
    assert_eq!(trainer.refusal().await.code(), Code::OutOfRange);
    let refused = Trainer::open(&service, open(99, 1, 0)).await;
    assert_eq!(refused.map(drop).unwrap_err().code(), Code::NotFound);
    let mut half = Trainer::connect(service.channel(), Request::Update(Default::default()))
        .await
        .unwrap();
    assert_eq!(half.refusal().await.code(), Code::InvalidArgument);
    let too_large = Request::Reading(pb::Reading {
        first_sum_nats: vec![0; imprint_proto::MAX_MESSAGE_BYTES].into(),
        ..Default::default()
    });
    let mut large = Trainer::connect(service.channel(), too_large)
        .await
        .unwrap();
    assert_eq!(large.refusal().await.code(), Code::InvalidArgument);
    // Who goes away without a word was not refused.
    let (gone, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    drop(gone);
    wait_until(PATIENCE, "all streams have ended", || async {
        samples(port).await["imprint_ingest_open_streams"] == 0.0
    })
    .await;
    let refusals: Vec<_> = samples(port)
        .await
        .into_iter()
        .filter(|(name, _)| name.starts_with("imprint_ingest_refusals_total"))
        .collect();
    let refusal = |reason| {
        (
            format!("imprint_ingest_refusals_total{{reason=\"{reason}\"}}"),
            1.0,
        )
    };
    assert_eq!(
        refusals,
        ["gap", "invalid", "unknown_run", "unreadable"].map(refusal)
    );
    service.stop().await;
}

/// However many runs there are, the series are the same.
#[tokio::test]
async fn the_number_of_series_does_not_grow_with_runs() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let port = port(&service).await;
    let mut names = Vec::new();
    for n in 0..3 {
        let run = SeedRun {
            label: format!("test/run-{n}"),
            ..SeedRun::default()
        };
        let id = seed_run(&db.store, &run).await;
        begin_attempt(&db.store, id).await;
        let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
        trainer.send(reading(&run, 0, 1)).await;
        trainer.acknowledged(1, 0).await;
        names.push(samples(port).await.into_keys().collect::<Vec<_>>());
    }
    assert_eq!(names[0], names[1]);
    assert_eq!(names[0], names[2]);
    service.stop().await;
}

#[tokio::test]
async fn health_says_what_is_wrong_with_the_database_and_when_it_is_over() {
    let db = TestDb::start_durable().await;
    let service = Service::start(&db).await;
    let port = port(&service).await;
    let says = |status: u16, words: &'static str| async move {
        let (got, text) = http_get(port, "/healthz").await.unwrap();
        got == status && text.starts_with("metrics: ") && text.contains(words)
    };
    let is = |want| {
        let channel = service.channel();
        async move {
            health(channel.clone(), "imprint.v1.Metrics").await == Some(want)
                && health(channel, "").await == Some(want)
        }
    };
    let serves = || async { says(200, "serving").await && is(ServingStatus::Serving).await };
    let does_not = |words| async move { says(503, words).await };
    wait_until(PATIENCE, "it serves", serves).await;
    assert_eq!(
        samples(port).await["imprint_database_up{role=\"metrics\"}"],
        1.0
    );

    db.kill_postmaster();
    wait_until(PATIENCE, "it says that it cannot", || async {
        is(ServingStatus::NotServing).await && does_not("not serving: ").await
    })
    .await;
    assert_eq!(
        samples(port).await["imprint_database_up{role=\"metrics\"}"],
        0.0
    );
    let request = pb::VerifyRunRequest {
        run: "test/run".to_owned(),
    };
    let down = MetricsClient::new(service.channel())
        .verify_run(request)
        .await
        .unwrap_err();
    assert_eq!(down.code(), Code::Unavailable);
    assert_eq!(down.message(), "the database cannot be reached");
    db.restart().await;
    wait_until(PATIENCE, "it serves again", serves).await;

    let change = |statement: &'static str| {
        let pool = db.store.pool();
        async move { sqlx::query(statement).execute(pool).await.unwrap() }
    };
    change("update _sqlx_migrations set version = 9999 where version = 1").await;
    wait_until(PATIENCE, "it misses a migration", || async {
        is(ServingStatus::NotServing).await && does_not("lacks migration 1").await
    })
    .await;
    change("update _sqlx_migrations set version = 1 where version = 9999").await;
    wait_until(PATIENCE, "it serves at last", serves).await;
    service.stop().await;
}
