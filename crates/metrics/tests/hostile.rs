//! What hostile and broken clients send: each is told what is wrong, and good ones go on.

mod harness;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use expect_test::expect;
use harness::{PATIENCE, Service, Trainer, hold_stream, measured, open, reading, stored, update};
use imprint_access::{Grant, GrantKeys, GrantSigner, Guard, Limits, NewUserToken, Scope, TlsFiles};
use imprint_proto::pb;
use imprint_proto::pb::ingest_request::Message as Request;
use imprint_proto::pb::metrics_client::MetricsClient;
use imprint_proto::{CredentialFiles, Credentials, Secret};
use imprint_testkit::{Authority, Certificate, SeedRun, TestDb, begin_attempt, seed_run};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A run that a good trainer delivers, one reading after the other.
struct Good {
    run: SeedRun,
    id: i32,
    delivered: u32,
}

impl Good {
    async fn new(db: &TestDb) -> Self {
        let run = SeedRun {
            label: "test/good".to_owned(),
            n_updates: 100,
            ..SeedRun::default()
        };
        let id = seed_run(&db.store, &run).await;
        begin_attempt(&db.store, id).await;
        Self {
            run,
            id,
            delivered: 0,
        }
    }

    /// The next reading, delivered as if nothing had happened.
    async fn goes_on(&mut self, channel: imprint_proto::Channel) {
        let (mut trainer, at) = Trainer::open_over(channel, open(self.id, 1, 0))
            .await
            .expect("a good trainer is let in");
        assert_eq!(at.0, self.delivered);
        trainer.send(reading(&self.run, self.delivered, 1)).await;
        self.delivered += 1;
        trainer.acknowledged(self.delivered, 0).await;
    }
}

/// A run for bad clients, its first attempt begun.
async fn victim(db: &TestDb) -> (SeedRun, i32) {
    let run = SeedRun {
        label: "test/bad".to_owned(),
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    (run, id)
}

/// The field that a status names, or the reason.
fn about(status: &Status) -> String {
    let Some(info) = status.get_details_error_info() else {
        panic!("{status:?} has no details");
    };
    assert_eq!(info.domain, "imprint.v1");
    match status.get_details_bad_request() {
        Some(bad) => bad.field_violations[0].field.clone(),
        None => info.reason,
    }
}

/// Sends whatever bytes as the field `open` of messages; returns what the stream ends with.
async fn refusal_of_bytes(service: &Service, messages: Vec<Vec<u8>>) -> Status {
    let mut client = tonic::client::Grpc::new(service.channel());
    client.ready().await.unwrap();
    // The wrapper that `Vec<u8>` is encoded as has its bytes in the same field.
    let codec = tonic_prost::ProstCodec::<Vec<u8>, pb::IngestResponse>::default();
    let path = PathAndQuery::from_static("/imprint.v1.Metrics/Ingest");
    let messages = tonic::Request::new(tokio_stream::iter(messages));
    let answers = client.streaming(messages, path, codec).await.unwrap();
    let (sender, answers) = (mpsc::channel(1).0, answers.into_inner());
    Trainer { sender, answers }.refusal().await
}

#[tokio::test]
async fn a_message_that_cannot_be_right_is_refused_and_nothing_of_it_stored() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let mut good = Good::new(&db).await;
    let (run, id) = victim(&db).await;

    let Request::Reading(right) = reading(&run, 0, 1) else {
        unreachable!()
    };
    let n = run.n_probes() as usize;
    let values = |value: f32, n: usize| -> Vec<u8> {
        std::iter::repeat_n(value.to_le_bytes(), n)
            .flatten()
            .collect()
    };
    let with = |value: f32| pb::Reading {
        target_sum_nats: values(value, n).into(),
        ..right.clone()
    };
    let of_length = |n| pb::Reading {
        first_sum_nats: values(-1.0, n).into(),
        target_sum_nats: values(-1.0, n).into(),
        full_sum_nats: values(-1.0, n).into(),
        ..right.clone()
    };
    let Request::Update(right_update) = update(0, 1) else {
        unreachable!()
    };
    let but = |change: fn(&mut pb::Update)| {
        let mut update = right_update.clone();
        change(&mut update);
        Request::Update(update)
    };
    let bad = [
        ("NaN", Request::Reading(with(f32::NAN))),
        ("infinite", Request::Reading(with(f32::INFINITY))),
        ("minus infinite", Request::Reading(with(f32::NEG_INFINITY))),
        ("positive", Request::Reading(with(0.5))),
        (
            "no whole values",
            Request::Reading(pb::Reading {
                full_sum_nats: right.full_sum_nats.slice(1..),
                ..right.clone()
            }),
        ),
        (
            "spans differ",
            Request::Reading(pb::Reading {
                full_sum_nats: right.full_sum_nats.slice(4..),
                ..right.clone()
            }),
        ),
        ("a probe too few", Request::Reading(of_length(n - 1))),
        ("a probe too many", Request::Reading(of_length(n + 1))),
        ("no values", Request::Reading(of_length(0))),
        ("a million values", Request::Reading(of_length(1_000_000))),
        (
            "another step",
            Request::Reading(pb::Reading {
                step: 7,
                ..right.clone()
            }),
        ),
        ("a later reading", reading(&run, 4, 1)),
        (
            "beyond the last",
            Request::Reading(pb::Reading {
                index: u32::MAX,
                step: u32::MAX,
                ..right.clone()
            }),
        ),
        (
            "of the future",
            Request::Reading(pb::Reading {
                measured_by: 2,
                ..right.clone()
            }),
        ),
        (
            "of no attempt",
            Request::Reading(pb::Reading {
                measured_by: 0,
                ..right.clone()
            }),
        ),
        ("loss NaN", but(|u| u.loss_nats = f64::NAN)),
        ("loss infinite", but(|u| u.loss_nats = f64::INFINITY)),
        ("rate NaN", but(|u| u.learning_rate = f64::NAN)),
        ("rate infinite", but(|u| u.learning_rate = f64::INFINITY)),
        ("rate below 0", but(|u| u.learning_rate = -1e-9)),
        ("norm below 0", but(|u| u.grad_norm = -1.0)),
        (
            "norm minus infinite",
            but(|u| u.update_norm = f64::NEG_INFINITY),
        ),
        ("duration NaN", but(|u| u.duration_ms = f32::NAN)),
        ("duration infinite", but(|u| u.duration_ms = f32::INFINITY)),
        ("duration below 0", but(|u| u.duration_ms = -0.5)),
        ("too many tokens", but(|u| u.n_tokens = 1 << 31)),
        ("too many injected", but(|u| u.n_injected_tokens = u32::MAX)),
        ("a later update", update(4, 1)),
        ("an update beyond the last", update(u32::MAX, 1)),
        ("opened again", Request::Open(open(id, 1, 0))),
        ("17 MiB", Request::Reading(of_length(17 << 20 >> 2 >> 1))),
    ];
    let mut table = String::new();
    for (what, message) in bad {
        let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
        trainer.send(message).await;
        let status = trainer.refusal().await;
        writeln!(table, "{what}: {:?} {}", status.code(), about(&status)).unwrap();
        good.goes_on(service.channel()).await;
    }
    let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
    let nothing = pb::IngestRequest { message: None };
    trainer.sender.send(nothing).await.unwrap();
    let status = trainer.refusal().await;
    writeln!(table, "empty: {:?} {}", status.code(), about(&status)).unwrap();
    let opened = open(id, 1, 0).encode_to_vec();
    for (what, messages) in [
        ("no message", vec![opened, vec![0xff; 9]]),
        ("no message at first", vec![vec![0xff; 9]]),
    ] {
        let status = refusal_of_bytes(&service, messages).await;
        writeln!(table, "{what}: {:?} {}", status.code(), about(&status)).unwrap();
        assert_eq!(
            status.get_details_error_info().unwrap().reason,
            "UNREADABLE"
        );
        good.goes_on(service.channel()).await;
    }
    let of_nul = pb::Open {
        machine: "x86\0".to_owned(),
        ..open(id, 1, 0)
    };
    for (what, opened) in [
        ("machine with NUL", of_nul),
        ("unknown run", open(9999, 1, 0)),
        ("run below 0", open(-1, 1, 0)),
        ("stale attempt", open(id, 0, 0)),
        ("attempt to come", open(id, 2, 0)),
        ("beyond the end", open(id, 1, 5000)),
    ] {
        let status = Trainer::open(&service, opened)
            .await
            .map(|_| ())
            .unwrap_err();
        writeln!(table, "{what}: {:?} {}", status.code(), about(&status)).unwrap();
        good.goes_on(service.channel()).await;
    }
    expect![[r#"
        NaN: InvalidArgument target_sum_nats
        infinite: InvalidArgument target_sum_nats
        minus infinite: InvalidArgument target_sum_nats
        positive: InvalidArgument target_sum_nats
        no whole values: InvalidArgument full_sum_nats
        spans differ: InvalidArgument reading
        a probe too few: InvalidArgument reading
        a probe too many: InvalidArgument reading
        no values: InvalidArgument reading
        a million values: InvalidArgument reading
        another step: InvalidArgument step
        a later reading: OutOfRange READING_GAP
        beyond the last: OutOfRange READING_GAP
        of the future: InvalidArgument measured_by
        of no attempt: InvalidArgument measured_by
        loss NaN: InvalidArgument loss_nats
        loss infinite: InvalidArgument loss_nats
        rate NaN: InvalidArgument learning_rate
        rate infinite: InvalidArgument learning_rate
        rate below 0: InvalidArgument learning_rate
        norm below 0: InvalidArgument grad_norm
        norm minus infinite: InvalidArgument update_norm
        duration NaN: InvalidArgument duration_ms
        duration infinite: InvalidArgument duration_ms
        duration below 0: InvalidArgument duration_ms
        too many tokens: InvalidArgument n_tokens
        too many injected: InvalidArgument n_injected_tokens
        a later update: OutOfRange UPDATE_GAP
        an update beyond the last: OutOfRange UPDATE_GAP
        opened again: InvalidArgument message
        17 MiB: InvalidArgument message
        empty: InvalidArgument message
        no message: InvalidArgument message
        no message at first: InvalidArgument message
        machine with NUL: InvalidArgument machine
        unknown run: NotFound NOT_FOUND
        run below 0: NotFound NOT_FOUND
        stale attempt: Aborted STALE_ATTEMPT
        attempt to come: Aborted STALE_ATTEMPT
        beyond the end: InvalidArgument resume_step
    "#]]
    .assert_eq(&table);
    assert_eq!(stored(&db, id).await, vec![]);
    let delivered = good.delivered as i32;
    assert_eq!(stored(&db, good.id).await, measured(&[(0..delivered, 1)]));
    service.stop().await;
}

/// Text that the database cannot keep is no failure of the database.
#[tokio::test]
async fn queries_for_names_that_cannot_be_are_refused() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let mut client = MetricsClient::new(service.channel());
    let nul = || "test/\0".to_owned();
    let said = |status: Status| (status.code(), about(&status));
    let of_field = |field: &str| (Code::InvalidArgument, field.to_owned());

    let request = pb::ListRunsRequest {
        experiment: nul(),
        ..Default::default()
    };
    let status = client.list_runs(request).await.unwrap_err();
    assert_eq!(said(status), of_field("experiment"));
    let request = pb::VerifyRunRequest { run: nul() };
    let status = client.verify_run(request).await.unwrap_err();
    assert_eq!(said(status), of_field("run"));
    let request = pb::ListReadingsRequest {
        run: nul(),
        ..Default::default()
    };
    let status = client.list_readings(request).await.unwrap_err();
    assert_eq!(said(status), of_field("run"));
    service.stop().await;
}

/// Forwards so many bytes from clients to a service, then cuts the connection.
async fn cut_after(service: &Service, n_bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let to = service.address;
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(to).await.unwrap();
        let (from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let mut some = from_client.take(n_bytes);
        tokio::select! {
            _ = copy(&mut some, &mut to_server) => {}
            _ = copy(&mut from_server, &mut to_client) => {}
        }
        drop((some, to_client));
        // An end, not a reset, which would take back bytes that the service has not read yet.
        let _ = to_server.shutdown().await;
        let _ = timeout(PATIENCE, copy(&mut from_server, &mut tokio::io::sink())).await;
    });
    url
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_leaves_whole_messages_only() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let mut good = Good::new(&db).await;
    let run = SeedRun {
        label: "test/cut".to_owned(),
        n_facts: 200,
        n_updates: 100,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let n_reading_bytes = 12 * u64::from(run.n_probes());
    let mut n_stored = 0;
    for n_bytes in (10..200).step_by(37).chain([
        n_reading_bytes / 2,
        6 * n_reading_bytes + n_reading_bytes / 2,
        8 * n_reading_bytes,
    ]) {
        let url = cut_after(&service, n_bytes).await;
        let sent = async {
            let channel = imprint_proto::connect("metrics", url).await.map_err(drop)?;
            let (mut trainer, at) = Trainer::open_over(channel, open(id, 1, 0))
                .await
                .map_err(drop)?;
            assert_eq!(at.0, n_stored);
            // Several in a frame, and frames enough that some are whole.
            for index in at.0..at.0 + 12 {
                trainer.send(reading(&run, index, 1)).await;
            }
            trainer.refusal().await;
            Ok::<_, ()>(())
        };
        let _ = timeout(PATIENCE, sent).await.expect("the cut is noticed");
        good.goes_on(service.channel()).await;
        // What arrived whole may be stored or not yet; where the run stands is what is stored.
        let (_, at) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();
        assert!(at.0 >= n_stored, "nothing acknowledged is lost");
        n_stored = at.0;
        assert_eq!(
            stored(&db, id).await,
            measured(&[(0..n_stored as i32, 1)]),
            "after {n_bytes} bytes"
        );
    }
    assert!(n_stored > 0, "no cut came after a whole reading");
    service.stop().await;
}

/// The files of a laboratory with all locks.
struct Locks {
    dir: tempfile::TempDir,
    authority: Authority,
    server: Certificate,
    signer: GrantSigner,
}

impl Locks {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "authority");
        let server = authority.issue("server");
        let signer = GrantSigner::of_file(&dir.path().join("key")).unwrap();
        Self {
            dir,
            authority,
            server,
            signer,
        }
    }

    fn tls(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.server.path.clone(),
            key: self.server.key.clone(),
            client_ca: Some(self.authority.path.clone()),
        }
    }

    fn guard(&self, db: &TestDb) -> Guard {
        let keys = GrantKeys::of_file(&self.dir.path().join("key.pub")).unwrap();
        Guard::with_tokens(keys, db.store.clone())
    }

    async fn service(&self, db: &TestDb) -> Service {
        Service::behind(db, |door| {
            door.with_tls(self.tls()).with_guard(self.guard(db))
        })
        .await
    }

    /// The certificates of a good client, and a token.
    fn credentials(&self, token: Option<&Secret>) -> Credentials {
        let client = self.authority.issue("client");
        let files = CredentialFiles {
            ca: Some(self.authority.path.clone()),
            identity: Some((client.path, client.key)),
            token: None,
        };
        files.load().unwrap().with_token(token).unwrap()
    }

    fn of_attempt(&self, run_id: i32, attempt: u32) -> Secret {
        let expires = SystemTime::now() + Duration::from_secs(600);
        self.signer
            .sign(&Grant::for_attempt(run_id, attempt, expires))
    }
}

async fn verify(channel: imprint_proto::Channel) -> Result<(), Status> {
    let run = "test/good".to_owned();
    MetricsClient::new(channel)
        .verify_run(pb::VerifyRunRequest { run })
        .await
        .map(drop)
}

/// Makes a user's token, good for `scopes`.
async fn user(db: &TestDb, name: &str, scopes: &[Scope]) -> Secret {
    let token = NewUserToken::generate();
    db.store
        .create_token(name, &token.sha256, scopes, None)
        .await
        .unwrap();
    token.secret
}

#[tokio::test]
async fn only_the_right_token_opens_the_door() {
    let db = TestDb::start().await;
    let locks = Locks::new();
    let service = locks.service(&db).await;
    let mut good = Good::new(&db).await;
    let (_, other_run) = victim(&db).await;
    let connect = async |token: Option<&Secret>| {
        imprint_proto::connect("metrics", service.target(locks.credentials(token)))
            .await
            .unwrap()
    };
    let good_token = locks.of_attempt(good.id, 1);

    let reader = user(&db, "reader", &[Scope::Read]).await;
    let submitter = user(&db, "submitter", &[Scope::Submit]).await;
    let writer = user(&db, "writer", &[Scope::Write]).await;
    let revoked = user(&db, "revoked", &Scope::ALL).await;
    assert!(db.store.revoke_token("revoked").await.unwrap());
    let expired = user(&db, "expired", &Scope::ALL).await;
    sqlx::query("update imprint.token set expires_at = now() where name = 'expired'")
        .execute(db.store.pool())
        .await
        .unwrap();
    let unknown = NewUserToken::generate().secret;
    let stranger = GrantSigner::of_file(&locks.dir.path().join("stranger")).unwrap();
    let later = SystemTime::now() + Duration::from_secs(600);
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let sign = |grant| locks.signer.sign(&grant);

    let mut table = String::new();
    for (who, token) in [
        ("nobody", None),
        ("somebody with no token", Some(Secret::new("open sesame"))),
        ("an unknown user", Some(unknown)),
        ("a revoked user", Some(revoked)),
        ("a user too late", Some(expired)),
        ("a reader", Some(reader.clone())),
        ("a submitter", Some(submitter)),
        ("a writer", Some(writer.clone())),
        (
            "a stranger's trainer",
            Some(stranger.sign(&Grant::for_attempt(good.id, 1, later))),
        ),
        (
            "a trainer too late",
            Some(sign(Grant::for_attempt(good.id, 1, long_ago))),
        ),
        (
            "a trainer of another run",
            Some(locks.of_attempt(other_run, 1)),
        ),
        (
            "a trainer of another attempt",
            Some(locks.of_attempt(good.id, 2)),
        ),
        (
            "a trainer before it began",
            Some(sign(Grant::for_run(good.id, later))),
        ),
        ("the trainer", Some(good_token.clone())),
    ] {
        let channel = connect(token.as_ref()).await;
        let said = |done: Result<(), Status>| match done {
            Ok(()) => "yes".to_owned(),
            Err(status) => format!("{:?} {}", status.code(), about(&status)),
        };
        let reads = said(verify(channel.clone()).await);
        let writes = Trainer::open_over(channel, open(good.id, 1, 0)).await;
        let writes = said(writes.map(drop));
        writeln!(table, "{who}: reads? {reads}; writes? {writes}").unwrap();
        good.goes_on(connect(Some(&good_token)).await).await;
    }
    expect![[r#"
        nobody: reads? Unauthenticated TOKEN_MISSING; writes? Unauthenticated TOKEN_MISSING
        somebody with no token: reads? Unauthenticated TOKEN_MALFORMED; writes? Unauthenticated TOKEN_MALFORMED
        an unknown user: reads? Unauthenticated TOKEN_UNKNOWN; writes? Unauthenticated TOKEN_UNKNOWN
        a revoked user: reads? Unauthenticated TOKEN_REVOKED; writes? Unauthenticated TOKEN_REVOKED
        a user too late: reads? Unauthenticated TOKEN_EXPIRED; writes? Unauthenticated TOKEN_EXPIRED
        a reader: reads? yes; writes? PermissionDenied SCOPE_MISSING
        a submitter: reads? PermissionDenied SCOPE_MISSING; writes? PermissionDenied SCOPE_MISSING
        a writer: reads? PermissionDenied SCOPE_MISSING; writes? yes
        a stranger's trainer: reads? Unauthenticated TOKEN_UNSIGNED; writes? Unauthenticated TOKEN_UNSIGNED
        a trainer too late: reads? Unauthenticated TOKEN_EXPIRED; writes? Unauthenticated TOKEN_EXPIRED
        a trainer of another run: reads? PermissionDenied NOT_FOR_TRAINERS; writes? PermissionDenied OTHER_RUN
        a trainer of another attempt: reads? PermissionDenied NOT_FOR_TRAINERS; writes? PermissionDenied OTHER_ATTEMPT
        a trainer before it began: reads? PermissionDenied NOT_FOR_TRAINERS; writes? PermissionDenied ATTEMPT_TOKEN_MISSING
        the trainer: reads? PermissionDenied NOT_FOR_TRAINERS; writes? yes
    "#]].assert_eq(&table);

    // Revoked between two calls of one connection.
    let channel = connect(Some(&reader)).await;
    verify(channel.clone()).await.unwrap();
    assert!(db.store.revoke_token("reader").await.unwrap());
    let status = verify(channel).await.unwrap_err();
    assert_eq!(
        (status.code(), about(&status).as_str()),
        (Code::Unauthenticated, "TOKEN_REVOKED")
    );

    // That a service is up is no secret.
    let channel = connect(None).await;
    tonic_health::pb::health_client::HealthClient::new(channel)
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap();
    let used: Vec<String> = sqlx::query_scalar(
        "select name from imprint.token where last_used_at is not null order by name",
    )
    .fetch_all(db.store.pool())
    .await
    .unwrap();
    assert_eq!(used, ["reader", "submitter", "writer"]);
    service.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_goes_on_with_the_next() {
    let db = TestDb::start().await;
    let locks = Locks::new();
    let service = locks.service(&db).await;
    let mut good = Good::new(&db).await;
    // Clocks may differ by a minute: it is good for two more seconds.
    let nearly = SystemTime::now() - Duration::from_secs(58);
    let token = locks.signer.sign(&Grant::for_attempt(good.id, 1, nearly));
    let credentials = locks.credentials(Some(&token));
    let channel = imprint_proto::connect("metrics", service.target(credentials.clone()))
        .await
        .unwrap();
    let (mut trainer, _) = Trainer::open_over(channel.clone(), open(good.id, 1, 0))
        .await
        .unwrap();
    trainer.send(reading(&good.run, 0, 1)).await;
    trainer.acknowledged(1, 0).await;
    good.delivered = 1;
    let status = trainer.refusal().await;
    assert_eq!(
        (status.code(), about(&status).as_str()),
        (Code::Unauthenticated, "TOKEN_EXPIRED")
    );
    // What a heartbeat brings is shown over the same connection.
    credentials
        .token
        .renew(&locks.of_attempt(good.id, 1))
        .unwrap();
    good.goes_on(channel).await;
    service.stop().await;
}

#[tokio::test]
async fn strangers_get_no_further_than_the_handshake() {
    let db = TestDb::start().await;
    let locks = Locks::new();
    let service = locks.service(&db).await;
    let mut good = Good::new(&db).await;
    let token = locks.of_attempt(good.id, 1);
    let good_credentials = locks.credentials(Some(&token));
    let other = Authority::new(locks.dir.path(), "other");
    let others = other.issue("others");
    let load = |files: CredentialFiles| files.load().unwrap().with_token(Some(&token)).unwrap();
    let tls = |identity| {
        let ca = Some(locks.authority.path.clone());
        load(CredentialFiles {
            ca,
            identity,
            token: None,
        })
    };
    let not_trusting = {
        let client = locks.authority.issue("client");
        load(CredentialFiles {
            ca: Some(other.path.clone()),
            identity: Some((client.path, client.key)),
            token: None,
        })
    };
    for (who, credentials, said) in [
        ("no certificate", tls(None), "CertificateRequired"),
        (
            "a certificate of another authority",
            tls(Some((others.path, others.key))),
            "UnknownCA",
        ),
        (
            "a service that is not trusted",
            not_trusting,
            "UnknownIssuer",
        ),
    ] {
        let target = service.target(credentials);
        let outcome = match imprint_proto::connect("metrics", target).await {
            Err(error) => chain(&error),
            // The handshake ends before the client's certificate is looked at.
            Ok(channel) => chain(&verify(channel).await.unwrap_err()),
        };
        assert!(outcome.contains(said), "{who}: {outcome}");
        let channel = imprint_proto::connect("metrics", service.target(good_credentials.clone()));
        good.goes_on(channel.await.unwrap()).await;
    }
    let plain = format!("http://{}", service.address);
    let plaintext = match imprint_proto::connect("metrics", plain).await {
        Err(error) => chain(&error),
        Ok(channel) => chain(&verify(channel).await.unwrap_err()),
    };
    // The connection ends without an answer.
    assert!(plaintext.contains("transport error"), "{plaintext}");
    let channel = imprint_proto::connect("metrics", service.target(good_credentials.clone()));
    good.goes_on(channel.await.unwrap()).await;
    service.stop().await;
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Reads until the other side closes the connection.
async fn until_closed(mut connection: TcpStream) {
    let mut bytes = Vec::new();
    // An error is an end as well.
    let _ = timeout(PATIENCE, connection.read_to_end(&mut bytes))
        .await
        .expect("the service closes the connection");
}

#[tokio::test]
async fn garbage_silence_and_crowds_are_shut_out() {
    let db = TestDb::start().await;
    let locks = Locks::new();
    let mut good = Good::new(&db).await;
    let limits = Limits {
        max_connections: 3,
        handshake: Duration::from_millis(300),
        ..Limits::default()
    };
    let token = locks.of_attempt(good.id, 1);
    let plain = Service::behind(&db, |door| door.with_limits(limits)).await;
    let locked = Service::behind(&db, |door| {
        door.with_tls(locks.tls())
            .with_guard(locks.guard(&db))
            .with_limits(limits)
    })
    .await;
    for (service, credentials) in [
        (&plain, Credentials::default()),
        (&locked, locks.credentials(Some(&token))),
    ] {
        let garbage: Vec<u8> = (0..4096_u32).map(|i| ((i * 7919) >> 3) as u8).collect();
        for bytes in [
            &garbage[..],
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            // The beginning of a TLS handshake, and no more of it.
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"",
        ] {
            let mut connection = TcpStream::connect(service.address).await.unwrap();
            let _ = connection.write_all(bytes).await;
            until_closed(connection).await;
        }
        // More than there is place for: they wait, and make place when they say nothing.
        let mut crowd = Vec::new();
        for _ in 0..8 {
            crowd.push(TcpStream::connect(service.address).await.unwrap());
        }
        let reached = timeout(PATIENCE, async {
            loop {
                let target = service.target(credentials.clone());
                if let Ok(channel) = imprint_proto::connect("metrics", target).await {
                    return channel;
                }
            }
        });
        let channel = reached.await.expect("a good client finds a place");
        good.goes_on(channel).await;
        for connection in crowd {
            until_closed(connection).await;
        }
    }
    plain.stop().await;
    locked.stop().await;
}

#[tokio::test]
async fn an_endless_header_is_refused() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let mut request = tonic::Request::new(pb::VerifyRunRequest::default());
    let long = "x".repeat(64 << 10);
    request
        .metadata_mut()
        .insert("x-long", long.parse().unwrap());
    let status = MetricsClient::new(service.channel())
        .verify_run(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(chain(&status).contains("header_list_way_too_large"));
    Good::new(&db).await.goes_on(service.channel()).await;
    service.stop().await;
}

/// While a commit waits, a trainer that floods its stream is stopped by flow control.
#[tokio::test]
async fn a_flood_stops_at_the_window() {
    let db = TestDb::start().await;
    let service = Service::start(&db).await;
    let mut good = Good::new(&db).await;
    let run = SeedRun {
        label: "test/flood".to_owned(),
        n_facts: 500,
        n_updates: 2000,
        ..SeedRun::default()
    };
    let id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, id).await;
    let (mut trainer, _) = Trainer::open(&service, open(id, 1, 0)).await.unwrap();

    let held = hold_stream(&db, id).await;
    let n_bytes = 12 * u64::from(run.n_probes());
    let mut n_taken = 0;
    // Until a message is not taken for as long as many would need.
    while let Ok(sent) = timeout(
        Duration::from_secs(2),
        trainer.sender.send(pb::IngestRequest {
            message: Some(reading(&run, n_taken, 1)),
        }),
    )
    .await
    {
        sent.expect("the stream goes on");
        n_taken += 1;
        assert!(n_taken < 2000, "nothing holds the flood back");
    }
    // The two windows, the socket's buffers, a batch, and what waits in the client itself.
    let n_mib = (u64::from(n_taken) * n_bytes) >> 20;
    assert!(n_mib < 16, "{n_mib} MiB were taken");
    good.goes_on(service.channel()).await;

    held.rollback().await.unwrap();
    trainer.acknowledged(n_taken, 0).await;
    service.stop().await;
}
