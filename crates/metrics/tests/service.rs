//! The service as a trainer meets it: over a socket, with a real Postgres behind it.

mod harness;

use std::time::Duration;

use futures::FutureExt as _;
use imprint_metrics::Limits;
use imprint_proto::pb;
use imprint_proto::pb::ingest_request::Message as Request;
use imprint_proto::pb::ingest_response::Message as Response;
use imprint_proto::pb::metrics_client::MetricsClient;
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run, wait_until};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt as _;

#[path = "service/watched.rs"]
mod watched;

use harness::{PATIENCE, Service, Trainer, hold_stream, measured, open, reading, stored, update};

#[tokio::test]
async fn a_run_is_delivered_interrupted_and_resumed() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let run = SeedRun {
        n_updates: 100,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;

    let (mut first, at) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    assert_eq!(at, (0, 0));
    for t in 0..40 {
        first.send(reading(&run, t, 1)).await;
        first.send(update(t, 1)).await;
    }
    first.acknowledged(40, 40).await;

    // The connection breaks; what was acknowledged before is replayed in part.
    drop(first);
    let (mut first, at) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    assert_eq!(at, (40, 40));
    for t in 35..50 {
        first.send(reading(&run, t, 1)).await;
    }
    first.acknowledged(50, 40).await;

    begin_attempt(&db.store, id).await;
    let (mut second, at) = Trainer::open(&service, open(id, 2, 45)).await.unwrap();
    assert_eq!(at, (45, 40));
    first.send(reading(&run, 50, 1)).await;
    let stale = first.refusal().await;
    assert_eq!(stale.code(), Code::Aborted, "{stale:?}");
    assert_eq!(
        stale.get_details_error_info().unwrap().reason,
        "STALE_ATTEMPT"
    );

    for t in 40..45 {
        second.send(update(t, 1)).await;
    }
    for t in 45..100 {
        second.send(reading(&run, t, 2)).await;
        second.send(update(t, 2)).await;
    }
    second.send(reading(&run, 100, 2)).await;
    second.acknowledged(101, 100).await;
    // The trainer says that it is done; so does the service.
    let Trainer {
        sender,
        mut answers,
    } = second;
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());

    assert_eq!(stored(&db, id).await, measured(&[(0..45, 1), (45..101, 2)]));
    let request = pb::VerifyRunRequest {
        run: "test/run".to_owned(),
    };
    let verified = MetricsClient::new(service.channel())
        .verify_run(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (verified.readings_stored, verified.updates_stored),
        (101, 100)
    );
    assert_eq!((verified.readings_superseded, verified.attempts), (5, 2));
    assert!(verified.readings_missing.is_empty() && verified.readings_damaged.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn each_kind_of_failure_has_its_code() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let refused_open = |open| async {
        Trainer::open(&service, open)
            .await
            .map(|_| ())
            .unwrap_err()
            .code()
    };
    assert_eq!(refused_open(open(99, 1, 0)).await, Code::NotFound);
    assert_eq!(refused_open(open(id, 2, 0)).await, Code::Aborted);
    assert_eq!(refused_open(open(id, 1, 99)).await, Code::InvalidArgument);
    let mut unopened = Trainer::connect(service.channel(), update(0, 1))
        .await
        .unwrap();
    assert_eq!(unopened.refusal().await.code(), Code::InvalidArgument);

    let refused = |message| async {
        let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
        trainer.send(message).await;
        trainer.refusal().await
    };
    let gap = refused(reading(&run, 4, 1)).await;
    assert_eq!(gap.code(), Code::OutOfRange);
    assert_eq!(
        gap.message(),
        "reading 4 leaves a gap: reading 0 is expected"
    );
    let details = gap.get_details_error_info().unwrap();
    assert_eq!(
        (
            details.reason.as_str(),
            details.metadata["expected"].as_str()
        ),
        ("READING_GAP", "0")
    );
    assert_eq!(refused(update(3, 1)).await.code(), Code::OutOfRange);

    let Request::Reading(good) = reading(&run, 0, 1) else {
        unreachable!()
    };
    let positive = pb::Reading {
        target_sum_nats: [1.0_f32; 15].iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..good.clone()
    };
    let short = pb::Reading {
        full_sum_nats: good.full_sum_nats.slice(4..),
        ..good.clone()
    };
    let of_the_future = pb::Reading {
        measured_by: 2,
        ..good
    };
    for (field, reading) in [
        ("target_sum_nats", positive),
        ("reading", short),
        ("measured_by", of_the_future),
    ] {
        let invalid = refused(Request::Reading(reading)).await;
        assert_eq!(invalid.code(), Code::InvalidArgument);
        assert_eq!(
            invalid.get_details_bad_request().unwrap().field_violations[0].field,
            field
        );
    }
    assert_eq!(
        refused(Request::Open(open(id, 1, 0))).await.code(),
        Code::InvalidArgument
    );
    assert_eq!(stored(&db, id).await, vec![]);

    let unknown = pb::VerifyRunRequest {
        run: "test/other".to_owned(),
    };
    let unknown = MetricsClient::new(service.channel())
        .verify_run(unknown)
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.message()),
        (Code::NotFound, "there is no run `test/other`")
    );
    service.stop().await;
}

/// A trainer that goes on sending, reconnecting and replaying while its database is killed.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_postgres_is_killed() {
    const N_UPDATES: u32 = 1500;
    const N_KILLS: u32 = 3;
    // The trainer gets no further ahead of the kills than this, however slow they are.
    const AHEAD: u32 = 200;
    let db = TestDb::start_durable().await;
    let service = Service::start(&db).await;
    let run = SeedRun {
        n_facts: 40,
        n_updates: N_UPDATES,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;

    let progress = std::sync::atomic::AtomicU32::new(0);
    let progress = &progress;
    let may_send = tokio::sync::watch::Sender::new(N_UPDATES / (N_KILLS + 1) + AHEAD);
    let deliver = async {
        let mut acknowledged = 0;
        let mut n_broken = 0;
        while acknowledged <= N_UPDATES {
            let (mut trainer, at) = match Trainer::open(&service, open(id, 1, 0)).await {
                Ok(opened) => opened,
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    continue;
                }
            };
            assert!(
                at.0 >= acknowledged,
                "{acknowledged} were acknowledged, {} are there",
                at.0
            );
            let (sender, run) = (trainer.sender.clone(), run.clone());
            let mut until = may_send.subscribe();
            let sending = tokio::spawn(async move {
                for index in at.0..=N_UPDATES {
                    if until.wait_for(|&until| index <= until).await.is_err() {
                        break;
                    }
                    let message = Some(reading(&run, index, 1));
                    if sender.send(pb::IngestRequest { message }).await.is_err() {
                        break;
                    }
                }
            });
            while acknowledged <= N_UPDATES {
                match trainer.answer().await {
                    Ok(Some(Response::Acknowledged(a))) => acknowledged = a.next_reading,
                    Ok(other) => panic!("{other:?} in the middle of a stream"),
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                        n_broken += 1;
                        break;
                    }
                }
                progress.store(acknowledged, std::sync::atomic::Ordering::Relaxed);
            }
            sending.abort();
        }
        n_broken
    };
    let kill = async {
        for n in 1..=N_KILLS {
            let due = n * N_UPDATES / (N_KILLS + 1);
            wait_until(PATIENCE, "some readings are delivered", || async {
                progress.load(std::sync::atomic::Ordering::Relaxed) > due
            })
            .await;
            db.kill_postmaster();
            let next = (n + 1) * N_UPDATES / (N_KILLS + 1);
            may_send.send_replace(next + AHEAD);
            db.restart().await;
        }
    };
    let (n_broken, ()) = tokio::join!(deliver, kill);
    assert!(n_broken >= 1, "no kill met a stream");
    assert_eq!(
        stored(&db, id).await,
        measured(&[(0..N_UPDATES as i32 + 1, 1)])
    );
    service.stop().await;
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let ask = |message_request| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let mut client = ServerReflectionClient::new(service.channel());
        async move {
            let mut answers = client
                .server_reflection_info(tokio_stream::once(request))
                .await
                .unwrap()
                .into_inner();
            answers
                .next()
                .await
                .unwrap()
                .unwrap()
                .message_response
                .unwrap()
        }
    };
    let MessageResponse::ListServicesResponse(list) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    names.sort();
    assert!(
        names.contains(&"imprint.v1.Metrics".to_owned()),
        "{names:?}"
    );
    assert!(
        !names.contains(&"imprint.v1.Orchestrator".to_owned()),
        "{names:?}"
    );
    let symbol = MessageRequest::FileContainingSymbol("imprint.v1.Metrics.Ingest".to_owned());
    assert!(matches!(
        ask(symbol).await,
        MessageResponse::FileDescriptorResponse(_)
    ));
    service.stop().await;
}

/// A shutdown commits and acknowledges what was received, then tells the trainer to come back.
#[tokio::test]
async fn a_shutdown_ends_open_streams() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    trainer.send(reading(&run, 0, 1)).await;
    trainer.acknowledged(1, 0).await;
    let ended = async { tokio::join!(trainer.refusal(), service.stop()) };
    let limit = Duration::from_secs(60);
    let (ended, ()) = tokio::time::timeout(limit, ended).await.unwrap();
    assert_eq!(ended.code(), Code::Unavailable);
    drop(trainer);
    assert_eq!(stored(&db, id).await, measured(&[(0..1, 1)]));
}

#[tokio::test]
async fn a_stream_that_never_says_for_which_attempt_is_ended() {
    let db = TestDb::start().await;
    let limits = Limits {
        open_within: Duration::from_millis(100),
        ..Limits::default()
    };
    let service = Service::limited(&db, limits).await;
    let (sender, messages) = mpsc::channel(1);
    let answers = MetricsClient::new(service.channel())
        .ingest(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    let refusal = Trainer { sender, answers }.refusal().await;
    assert_eq!(
        (refusal.code(), refusal.message()),
        (
            Code::InvalidArgument,
            "message: `open` did not come in time"
        )
    );
    service.stop().await;
}

/// A commit that hangs is given up at the limit; its reading is delivered to the next service.
#[tokio::test]
async fn a_commit_that_hangs_does_not_hold_up_the_shutdown() {
    let db = TestDb::start().await;
    let limits = Limits {
        drain: Duration::from_millis(500),
        ..Limits::default()
    };
    let service = Service::limited(&db, limits).await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    let held = hold_stream(&db, id).await;
    trainer.send(reading(&run, 0, 1)).await;
    let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock')";
    wait_until(PATIENCE, "the commit waits", || async {
        let waits: bool = sqlx::query_scalar(waits)
            .fetch_one(db.store.pool())
            .await
            .unwrap();
        waits
    })
    .await;

    // Before the commit would be given up by itself.
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, service.stop()).await.unwrap();
    assert!(
        trainer.answers.message().now_or_never().is_none(),
        "nothing was acknowledged"
    );
    assert_eq!(stored(&db, id).await, vec![]);

    drop(trainer);
    held.rollback().await.unwrap();
    let service = Service::start(&db).await;
    let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    trainer.send(reading(&run, 0, 1)).await;
    trainer.acknowledged(1, 0).await;
    assert_eq!(stored(&db, id).await, measured(&[(0..1, 1)]));
    service.stop().await;
}

/// A table that is gone stays gone: the trainer must fail with the reason, not try for ever.
#[tokio::test]
async fn what_can_never_be_stored_is_refused() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let run = SeedRun::default();
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    sqlx::query("alter table imprint.update_stats rename to elsewhere")
        .execute(db.store.pool())
        .await
        .unwrap();
    trainer.send(update(0, 1)).await;
    let refusal = trainer.refusal().await;
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    assert_eq!(
        refusal.message(),
        format!("store readings of run {id}: the service's log says why it failed")
    );
    assert_eq!(
        refusal.get_details_error_info().unwrap().reason,
        "NEEDS_REPAIR"
    );
    drop(trainer);
    service.stop().await;
}
