//! Listings over a socket, with a real Postgres behind them.

use imprint_core::{StepReadings, UpdateStats};
use imprint_metrics::{Limits, serve};
use imprint_proto::Channel;
use imprint_proto::pb;
use imprint_proto::pb::metrics_client::MetricsClient;
use imprint_store::ingest::{Message, Writer};
use imprint_telemetry::Vitals;
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

type Client = MetricsClient<Channel>;

/// Stops the service when it is dropped.
struct Service {
    client: Client,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(db: &TestDb) -> Service {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (store, stopped) = (db.store.clone(), stop.clone());
    tokio::spawn(async move {
        serve(
            listener,
            store,
            &Vitals::default(),
            Limits::default(),
            stopped,
        )
        .await
    });
    let channel = imprint_proto::connect_lazy(format!("http://{address}")).unwrap();
    Service {
        // With a client's ordinary limit of a message.
        client: MetricsClient::new(channel),
        _stop: stop.drop_guard(),
    }
}

fn sum(index: u32, probe: u32, span: u32) -> f32 {
    -((index * 1000 + probe) as f32) - span as f32 / 16.0
}

fn reading(run: &SeedRun, index: u32, attempt: u32) -> Message {
    let sums = |span| (0..run.n_probes()).map(|p| sum(index, p, span)).collect();
    Message::Reading(StepReadings {
        index,
        step: run.reading_steps()[index as usize],
        measured_by: attempt,
        first_sum_nats: sums(0),
        target_sum_nats: sums(1),
        full_sum_nats: sums(2),
    })
}

fn update(step: u32, attempt: u32) -> Message {
    Message::Update(UpdateStats {
        step,
        measured_by: attempt,
        loss_nats: f64::from(step) + 0.5,
        ..UpdateStats::default()
    })
}

async fn write(db: &TestDb, run_id: i32, messages: &[Message]) {
    let (mut writer, _) = Writer::open(&db.store, run_id, 1, 0, "machine")
        .await
        .unwrap();
    assert_eq!(writer.append(messages).await.unwrap().refused, None);
}

/// Every row of a listing, and the sizes of its pages.
async fn all<T>(mut page: impl AsyncFnMut(String) -> (Vec<T>, String)) -> (Vec<T>, Vec<usize>) {
    let (mut rows, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let (page, next) = page(token).await;
        sizes.push(page.len());
        rows.extend(page);
        if next.is_empty() {
            return (rows, sizes);
        }
        token = next;
    }
}

async fn readings(client: &Client, run: &str, page_size: i32) -> (Vec<pb::Reading>, Vec<usize>) {
    all(async |page_token| {
        let request = pb::ListReadingsRequest {
            run: run.to_owned(),
            page_size,
            page_token,
        };
        let answer = client
            .clone()
            .list_readings(request)
            .await
            .unwrap()
            .into_inner();
        (answer.readings, answer.next_page_token)
    })
    .await
}

#[tokio::test]
async fn a_run_is_listed_page_by_page() {
    let db = TestDb::start().await;
    let run = SeedRun {
        n_updates: 99,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let mut messages: Vec<Message> = (0..100).map(|i| reading(&run, i, 1)).collect();
    messages.extend((0..99).map(|t| update(t, 1)));
    write(&db, id, &messages).await;
    let service = start(&db).await;
    let client = &service.client;

    let (all_readings, sizes) = readings(client, "test/run", 0).await;
    assert_eq!(sizes, [16, 16, 16, 16, 16, 16, 4]);
    for (r, index) in all_readings.iter().zip(0..) {
        assert_eq!((r.index, r.step, r.measured_by), (index, index, 1));
        let decoded = StepReadings::try_from(r.clone()).unwrap();
        assert_eq!(Message::Reading(decoded), reading(&run, index, 1));
    }
    assert_eq!(
        readings(client, "test/run", 50).await.1,
        [50, 50],
        "no empty page at the end"
    );
    assert_eq!(readings(client, "test/run", i32::MAX).await.1, [100]);

    let (points, sizes) = all(async |page_token| {
        let request = pb::ListCurvePointsRequest {
            run: "test/run".to_owned(),
            probe: 7,
            page_size: 30,
            page_token,
        };
        let answer = client
            .clone()
            .list_curve_points(request)
            .await
            .unwrap()
            .into_inner();
        (answer.points, answer.next_page_token)
    })
    .await;
    assert_eq!(sizes, [30, 30, 30, 10]);
    for (p, index) in points.iter().zip(0..) {
        let sums = [p.first_sum_nats, p.target_sum_nats, p.full_sum_nats];
        assert_eq!((p.index, p.step), (index, index));
        assert_eq!(sums, [0, 1, 2].map(|span| sum(index, 7, span)));
    }

    let (means, sizes) = all(async |page_token| {
        let request = pb::ListMeanPointsRequest {
            run: "test/run".to_owned(),
            page_size: 250,
            page_token,
        };
        let answer = client
            .clone()
            .list_mean_points(request)
            .await
            .unwrap()
            .into_inner();
        (answer.points, answer.next_page_token)
    })
    .await;
    assert_eq!(
        sizes,
        [250, 250, 250, 150],
        "two arms, three depths, swap of one arm"
    );
    let stored: Vec<(i32, String, i32, bool, f64)> = sqlx::query_as(
        "select step, a.name, depth::int4, swap, target_mean_nats
         from imprint.step_mean join imprint.run_arm a using (run_id, arm)
         order by reading, arm, depth, swap",
    )
    .fetch_all(db.store.pool())
    .await
    .unwrap();
    assert_eq!(stored.len(), means.len());
    for (m, s) in means.iter().zip(&stored) {
        let depth = ["mem", "gen", "hard_gen"][s.2 as usize];
        assert_eq!(
            (m.step as i32, &m.arm, &*m.depth, m.swap),
            (s.0, &s.1, depth, s.3)
        );
        assert_eq!(m.target_mean_nats.to_bits(), s.4.to_bits());
    }

    let (updates, sizes) = all(async |page_token| {
        let request = pb::ListUpdatesRequest {
            run: "test/run".to_owned(),
            page_size: 33,
            page_token,
        };
        let answer = client
            .clone()
            .list_updates(request)
            .await
            .unwrap()
            .into_inner();
        (answer.updates, answer.next_page_token)
    })
    .await;
    assert_eq!(sizes, [33, 33, 33]);
    assert!(
        updates
            .iter()
            .zip(0..)
            .all(|(u, t)| u.step == t && u.loss_nats == f64::from(t) + 0.5)
    );

    let (probes, sizes) = all(async |page_token| {
        let request = pb::ListProbesRequest {
            run: "test/run".to_owned(),
            page_size: 10,
            page_token,
        };
        let answer = client
            .clone()
            .list_probes(request)
            .await
            .unwrap()
            .into_inner();
        (answer.probes, answer.next_page_token)
    })
    .await;
    assert_eq!(sizes, [10, 5]);
    assert_eq!((&*probes[6].arm, &*probes[6].depth), ("held_out", "mem"));
    assert_eq!((probes[9].fact, probes[9].swap_fact), (0, Some(1)));
    assert_eq!((probes[8].swap_fact, &*probes[8].prompt), (None, "prompt"));
}

#[tokio::test]
async fn runs_are_listed_of_one_experiment_or_all() {
    let db = TestDb::start().await;
    for label in ["a/1", "a/2", "b/1", "a/3"] {
        let run = SeedRun {
            label: label.to_owned(),
            ..SeedRun::default()
        };
        seed_run(&db.store, &run).await;
    }
    let service = start(&db).await;
    let list = async |experiment: &str, page_size| {
        let (runs, sizes) = all(async |page_token| {
            let request = pb::ListRunsRequest {
                experiment: experiment.to_owned(),
                page_size,
                page_token,
            };
            let answer = service
                .client
                .clone()
                .list_runs(request)
                .await
                .unwrap()
                .into_inner();
            (answer.runs, answer.next_page_token)
        })
        .await;
        (runs.into_iter().map(|r| r.run).collect::<Vec<_>>(), sizes)
    };
    assert_eq!(
        list("", 3).await,
        (
            ["a/1", "a/2", "b/1", "a/3"].map(str::to_owned).to_vec(),
            vec![3, 1]
        )
    );
    assert_eq!(
        list("a", 2).await,
        (
            ["a/1", "a/2", "a/3"].map(str::to_owned).to_vec(),
            vec![2, 1]
        )
    );
    let request = pb::ListRunsRequest::default();
    let runs = service
        .client
        .clone()
        .list_runs(request)
        .await
        .unwrap()
        .into_inner()
        .runs;
    let r = &runs[0];
    assert_eq!(
        (&*r.state, &*r.scenario, r.batch_size),
        ("queued", "duplication", 4)
    );
    assert_eq!(
        (r.n_probes, r.readings_expected, r.imported),
        (15, 11, false)
    );
    assert_eq!(r.first_global_step, None);
}

#[tokio::test]
async fn pages_stay_in_step_with_a_run_that_is_written() {
    let db = TestDb::start().await;
    let run = SeedRun {
        n_updates: 29,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let first: Vec<Message> = (0..12).map(|i| reading(&run, i, 1)).collect();
    write(&db, id, &first).await;
    let service = start(&db).await;
    let request = |page_token: &str| pb::ListReadingsRequest {
        run: "test/run".to_owned(),
        page_size: 10,
        page_token: page_token.to_owned(),
    };
    let mut client = service.client.clone();
    let page = client
        .list_readings(request(""))
        .await
        .unwrap()
        .into_inner();
    let more: Vec<Message> = (12..30).map(|i| reading(&run, i, 1)).collect();
    write(&db, id, &more).await;
    let mut seen: Vec<u32> = page.readings.iter().map(|r| r.index).collect();
    let mut token = page.next_page_token;
    while !token.is_empty() {
        let page = client
            .list_readings(request(&token))
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.readings.iter().map(|r| r.index));
        token = page.next_page_token;
    }
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_fits_a_message() {
    let db = TestDb::start().await;
    let run = SeedRun {
        n_facts: 100,
        probes_per_fact: 60,
        swap: false,
        n_updates: 59,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let messages: Vec<Message> = (0..60).map(|i| reading(&run, i, 1)).collect();
    write(&db, id, &messages).await;
    let service = start(&db).await;
    // 6,000 probes: 43 readings of 72 kB are less than 3 MiB.
    assert_eq!(readings(&service.client, "test/run", 100).await.1, [43, 17]);
}

#[tokio::test]
async fn wrong_requests_say_what_is_wrong() {
    let db = TestDb::start().await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    seed_run(
        &db.store,
        &SeedRun {
            label: "test/other".to_owned(),
            ..run.clone()
        },
    )
    .await;
    begin_attempt(&db.store, id).await;
    let messages: Vec<Message> = (0..11).map(|i| reading(&run, i, 1)).collect();
    write(&db, id, &messages).await;
    let service = start(&db).await;
    let client = &service.client;
    let list = async |run: &str, page_size, page_token: &str| -> Result<String, Status> {
        let request = pb::ListReadingsRequest {
            run: run.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
        };
        let answer = client.clone().list_readings(request).await?;
        Ok(answer.into_inner().next_page_token)
    };
    let token = list("test/run", 3, "").await.unwrap();
    assert!(!token.is_empty());
    assert_eq!(
        list("test/nobody", 0, "").await.unwrap_err().code(),
        Code::NotFound
    );
    for (run, page_size, page_token) in [
        ("test/run", -1, ""),
        ("test/run", 0, "17"),
        ("test/run", 0, "not a token"),
        ("test/run", 0, &token[1..]),
        ("test/run", 0, &token.to_uppercase().replace('0', "1")),
        ("test/other", 0, token.as_str()),
    ] {
        let status = list(run, page_size, page_token).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{run} {page_size} {page_token}"
        );
        let details = status.get_details_bad_request().unwrap();
        let field = &details.field_violations[0].field;
        assert_eq!(
            field,
            if page_size < 0 {
                "page_size"
            } else {
                "page_token"
            }
        );
    }
    // Another call's token, another probe's, another page size with the same token.
    let updates = pb::ListUpdatesRequest {
        run: "test/run".to_owned(),
        page_size: 0,
        page_token: token.clone(),
    };
    let status = client.clone().list_updates(updates).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(list("test/run", 100, &token).await.unwrap().is_empty());
    let curve = |probe, page_token: &str| pb::ListCurvePointsRequest {
        run: "test/run".to_owned(),
        probe,
        page_size: 2,
        page_token: page_token.to_owned(),
    };
    let of_0 = client
        .clone()
        .list_curve_points(curve(0, ""))
        .await
        .unwrap()
        .into_inner();
    let status = client
        .clone()
        .list_curve_points(curve(1, &of_0.next_page_token))
        .await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    let status = client
        .clone()
        .list_curve_points(curve(15, ""))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let runs = pb::ListRunsRequest {
        experiment: "nobody".to_owned(),
        ..pb::ListRunsRequest::default()
    };
    let status = client.clone().list_runs(runs).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
