//! What hostile and broken callers send: each is told what is wrong, with details for programs.

use std::fmt::Write as _;
use std::time::SystemTime;

use expect_test::expect;
use imprint_access::{Grant, GrantKeys, GrantSigner, Guard, NewUserToken, Scope};
use imprint_proto::{Credentials, Secret, Target};
use imprint_testkit::{SeedRun, begin_attempt, seed_run};
use tonic_types::StatusExt as _;

use super::*;

/// The code of a status, and the field that it names or the reason.
fn said<T>(answer: Result<T, Status>) -> String {
    let status = match answer {
        Ok(_) => return "yes".to_owned(),
        Err(status) => status,
    };
    let Some(info) = status.get_details_error_info() else {
        panic!("{status:?} has no details");
    };
    assert_eq!(info.domain, "imprint.v1");
    let about = match status.get_details_bad_request() {
        Some(bad) => bad.field_violations[0].field.clone(),
        None => info.reason,
    };
    format!("{:?} {about}", status.code())
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
    let keys = tempfile::tempdir().unwrap();
    let signer = GrantSigner::of_file(&keys.path().join("key")).unwrap();
    let stranger = GrantSigner::of_file(&keys.path().join("stranger")).unwrap();
    let known = GrantKeys::of_file(&keys.path().join("key.pub")).unwrap();
    let guard = Guard::with_tokens(known, db.store.clone());
    let run_id = seed_run(&db.store, &SeedRun::default()).await;
    begin_attempt(&db.store, run_id).await;
    let bench = bench_behind(db, None, LIMIT, |door| door.with_guard(guard)).await;
    let db = &bench.db;

    let revoked = user(db, "revoked", &Scope::ALL).await;
    assert!(db.store.revoke_token("revoked").await.unwrap());
    let later = SystemTime::now() + Duration::from_secs(600);
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let mut table = String::new();
    for (who, token) in [
        ("nobody", None),
        ("somebody with no token", Some(Secret::new("open sesame"))),
        ("an unknown user", Some(NewUserToken::generate().secret)),
        ("a revoked user", Some(revoked)),
        ("a reader", Some(user(db, "reader", &[Scope::Read]).await)),
        (
            "a submitter",
            Some(user(db, "submitter", &[Scope::Submit]).await),
        ),
        ("a writer", Some(user(db, "writer", &[Scope::Write]).await)),
        (
            "a stranger's trainer",
            Some(stranger.sign(&Grant::for_run(run_id, later))),
        ),
        (
            "a trainer too late",
            Some(signer.sign(&Grant::for_run(run_id, long_ago))),
        ),
        (
            "a trainer of another run",
            Some(signer.sign(&Grant::for_run(run_id + 1, later))),
        ),
        (
            "a trainer with an attempt's token",
            Some(signer.sign(&Grant::for_attempt(run_id, 1, later))),
        ),
        (
            "the trainer",
            Some(signer.sign(&Grant::for_run(run_id, later))),
        ),
    ] {
        let credentials = Credentials::default().with_token(token.as_ref()).unwrap();
        let url = bench.serving.url.clone();
        let channel = imprint_proto::connect_lazy(Target { url, credentials }).unwrap();
        let mut people = OrchestratorClient::new(channel.clone());
        let read = said(
            people
                .list_experiments(pb::ListExperimentsRequest::default())
                .await,
        );
        let nothing = pb::RetryExperimentRequest {
            name: "nothing".to_owned(),
            ..Default::default()
        };
        let submitted = said(people.retry_experiment(nothing).await);
        let beat = pb::HeartbeatRequest {
            run_id,
            attempt: 1,
            ..Default::default()
        };
        let spoke = said(AttemptsClient::new(channel).heartbeat(beat).await);
        writeln!(
            table,
            "{who}: reads? {read}; submits? {submitted}; speaks? {spoke}"
        )
        .unwrap();
    }
    expect![[r#"
        nobody: reads? Unauthenticated TOKEN_MISSING; submits? Unauthenticated TOKEN_MISSING; speaks? Unauthenticated TOKEN_MISSING
        somebody with no token: reads? Unauthenticated TOKEN_MALFORMED; submits? Unauthenticated TOKEN_MALFORMED; speaks? Unauthenticated TOKEN_MALFORMED
        an unknown user: reads? Unauthenticated TOKEN_UNKNOWN; submits? Unauthenticated TOKEN_UNKNOWN; speaks? Unauthenticated TOKEN_UNKNOWN
        a revoked user: reads? Unauthenticated TOKEN_REVOKED; submits? Unauthenticated TOKEN_REVOKED; speaks? Unauthenticated TOKEN_REVOKED
        a reader: reads? yes; submits? PermissionDenied SCOPE_MISSING; speaks? PermissionDenied SCOPE_MISSING
        a submitter: reads? PermissionDenied SCOPE_MISSING; submits? NotFound NOT_FOUND; speaks? PermissionDenied SCOPE_MISSING
        a writer: reads? PermissionDenied SCOPE_MISSING; submits? PermissionDenied SCOPE_MISSING; speaks? yes
        a stranger's trainer: reads? Unauthenticated TOKEN_UNSIGNED; submits? Unauthenticated TOKEN_UNSIGNED; speaks? Unauthenticated TOKEN_UNSIGNED
        a trainer too late: reads? Unauthenticated TOKEN_EXPIRED; submits? Unauthenticated TOKEN_EXPIRED; speaks? Unauthenticated TOKEN_EXPIRED
        a trainer of another run: reads? PermissionDenied NOT_FOR_TRAINERS; submits? PermissionDenied NOT_FOR_TRAINERS; speaks? PermissionDenied OTHER_RUN
        a trainer with an attempt's token: reads? PermissionDenied NOT_FOR_TRAINERS; submits? PermissionDenied NOT_FOR_TRAINERS; speaks? PermissionDenied NOT_FOR_TRAINERS
        the trainer: reads? PermissionDenied NOT_FOR_TRAINERS; submits? PermissionDenied NOT_FOR_TRAINERS; speaks? yes
    "#]]
    .assert_eq(&table);
    bench.shut_down().await;
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_with_the_field_or_the_reason() {
    let mut bench = bench(None).await;
    let (mut people, mut trainers) = (bench.people.clone(), bench.trainers.clone());
    let right = bench.request(PRE);
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    bench.begin(run_id).await.unwrap();
    let nul = || "\0".to_owned();
    let mut table = String::new();
    let mut row = |what: &str, said: String| writeln!(table, "{what}: {said}").unwrap();

    for (what, request) in [
        (
            "no request id",
            pb::SubmitExperimentRequest {
                request_id: String::new(),
                ..right.clone()
            },
        ),
        (
            "a request id with NUL",
            pb::SubmitExperimentRequest {
                request_id: nul(),
                ..right.clone()
            },
        ),
        (
            "a relative directory",
            pb::SubmitExperimentRequest {
                base_dir: "here".to_owned(),
                ..right.clone()
            },
        ),
        (
            "no TOML",
            pb::SubmitExperimentRequest {
                toml: nul(),
                ..right.clone()
            },
        ),
        (
            "a parent with NUL",
            pb::SubmitExperimentRequest {
                toml: child().replace("pre/scratch", "\\u0000"),
                ..right.clone()
            },
        ),
    ] {
        row(what, said(people.submit_experiment(request).await));
    }
    for name in ["nothing", "\0"] {
        let name = || name.to_owned();
        let request = pb::GetExperimentRequest { name: name() };
        row("get", said(people.get_experiment(request).await));
        let request = pb::WatchExperimentRequest { name: name() };
        row("watch", said(people.watch_experiment(request).await));
        let request = pb::ListExperimentRunsRequest {
            name: name(),
            ..Default::default()
        };
        row(
            "list runs",
            said(people.list_experiment_runs(request).await),
        );
        let request = pb::RetryExperimentRequest {
            name: name(),
            ..Default::default()
        };
        row("retry", said(people.retry_experiment(request).await));
        let request = pb::SetPriorityRequest {
            name: name(),
            ..Default::default()
        };
        row("set a priority", said(people.set_priority(request).await));
        let run = String::new();
        let request = pb::CancelExperimentRequest { name: name(), run };
        row("cancel", said(people.cancel_experiment(request).await));
        let run = name();
        let name = "pre".to_owned();
        let request = pb::CancelExperimentRequest {
            name,
            run: run.clone(),
        };
        row(
            "cancel a run",
            said(people.cancel_experiment(request).await),
        );
        let request = pb::GetRunRequest {
            run: run.clone(),
            run_id: 0,
        };
        row("get a run", said(people.get_run(request).await));
        let request = pb::ListRunEventsRequest {
            run: run.clone(),
            ..Default::default()
        };
        row("list events", said(people.list_run_events(request).await));
        let request = pb::ReadLogRequest {
            run,
            ..Default::default()
        };
        row("read a log", said(people.read_log(request).await));
    }
    let request = pb::GetRunRequest {
        run: String::new(),
        run_id: 77,
    };
    row(
        "get a run by its number",
        said(people.get_run(request).await),
    );
    for log in ["../../1/token", "nothing.log", "\0"] {
        let request = pb::ReadLogRequest {
            run: PRE_RUN.to_owned(),
            log: log.to_owned(),
            follow: true,
            ..Default::default()
        };
        row("read no log", said(people.read_log(request).await));
    }
    for (what, request) in [
        (
            "a size below 0",
            pb::ListExperimentsRequest {
                page_size: -1,
                ..Default::default()
            },
        ),
        (
            "a token of nobody",
            pb::ListExperimentsRequest {
                page_token: "3".to_owned(),
                ..Default::default()
            },
        ),
    ] {
        row(what, said(people.list_experiments(request).await));
    }
    for states in [vec![0], vec![77]] {
        let request = pb::ListExperimentRunsRequest {
            name: "pre".to_owned(),
            states,
            ..Default::default()
        };
        row("no state", said(people.list_experiment_runs(request).await));
    }
    let request = pb::RetryExperimentRequest {
        name: "pre".to_owned(),
        states: vec![RunState::Running.into()],
        ..Default::default()
    };
    row(
        "retry what runs",
        said(people.retry_experiment(request).await),
    );
    let begin = pb::BeginAttemptRequest {
        run_id,
        host: "elsewhere".to_owned(),
        ..Default::default()
    };
    for (what, request) in [
        (
            "an unknown run",
            pb::BeginAttemptRequest {
                run_id: 77,
                ..begin.clone()
            },
        ),
        (
            "a host with NUL",
            pb::BeginAttemptRequest {
                host: nul(),
                ..begin.clone()
            },
        ),
        (
            "a machine with NUL",
            pb::BeginAttemptRequest {
                machine: nul(),
                ..begin.clone()
            },
        ),
        (
            "offline for ever",
            pb::BeginAttemptRequest {
                offline_seconds: Some(u32::MAX),
                ..begin.clone()
            },
        ),
    ] {
        row(what, said(trainers.begin_attempt(request).await));
    }
    row("a stale attempt", said(bench.heartbeat(run_id, 0, 1).await));
    row(
        "an attempt to come",
        said(bench.heartbeat(run_id, 2, 1).await),
    );
    let settle = pb::SettleRunRequest {
        run_id,
        attempt: 1,
        settled_json: "{}".to_owned(),
        ..Default::default()
    };
    row("nothing settled", said(trainers.settle_run(settle).await));
    let state = pb::SavedState {
        attempt: 1,
        path: format!("/runs/{run_id}/attempts/1/states/step-0"),
        ..Default::default()
    };
    for (what, state) in [
        ("no state", None),
        (
            "another's state",
            Some(pb::SavedState {
                attempt: 2,
                ..state.clone()
            }),
        ),
        (
            "a path with NUL",
            Some(pb::SavedState {
                path: nul(),
                ..state.clone()
            }),
        ),
        (
            "a path that leads elsewhere",
            Some(pb::SavedState {
                path: format!("/runs/../{run_id}/attempts/1/states/step-0"),
                ..state.clone()
            }),
        ),
        (
            "a hash with NUL",
            Some(pb::SavedState {
                sha256: nul(),
                ..state.clone()
            }),
        ),
    ] {
        let request = pb::RecordStateRequest {
            run_id,
            attempt: 1,
            state,
            keep: false,
        };
        row(what, said(trainers.record_state(request).await));
    }
    let failed = pb::AttemptOutcome::Failed;
    row(
        "no outcome",
        said(
            bench
                .end(run_id, 1, pb::AttemptOutcome::Unspecified, "")
                .await,
        ),
    );
    row(
        "a reason with NUL",
        said(bench.end(run_id, 1, failed, "\0").await),
    );
    bench.end(run_id, 1, failed, "it diverged").await.unwrap();
    row("a run that failed", said(bench.begin(run_id).await));
    expect![[r#"
        no request id: InvalidArgument request_id
        a request id with NUL: InvalidArgument request_id
        a relative directory: InvalidArgument base_dir
        no TOML: InvalidArgument toml
        a parent with NUL: InvalidArgument toml
        get: NotFound NOT_FOUND
        watch: NotFound NOT_FOUND
        list runs: NotFound NOT_FOUND
        retry: NotFound NOT_FOUND
        set a priority: NotFound NOT_FOUND
        cancel: NotFound NOT_FOUND
        cancel a run: NotFound NOT_FOUND
        get a run: NotFound NOT_FOUND
        list events: NotFound NOT_FOUND
        read a log: NotFound NOT_FOUND
        get: InvalidArgument name
        watch: InvalidArgument name
        list runs: InvalidArgument name
        retry: InvalidArgument name
        set a priority: InvalidArgument name
        cancel: InvalidArgument name
        cancel a run: InvalidArgument run
        get a run: InvalidArgument run
        list events: InvalidArgument run
        read a log: InvalidArgument run
        get a run by its number: NotFound NOT_FOUND
        read no log: NotFound NOT_FOUND
        read no log: NotFound NOT_FOUND
        read no log: NotFound NOT_FOUND
        a size below 0: InvalidArgument page_size
        a token of nobody: InvalidArgument page_token
        no state: InvalidArgument states
        no state: InvalidArgument states
        retry what runs: InvalidArgument states
        an unknown run: NotFound NOT_FOUND
        a host with NUL: InvalidArgument host
        a machine with NUL: InvalidArgument machine
        offline for ever: InvalidArgument offline_seconds
        a stale attempt: Aborted STALE_ATTEMPT
        an attempt to come: Aborted STALE_ATTEMPT
        nothing settled: InvalidArgument settled_json
        no state: InvalidArgument state
        another's state: InvalidArgument state
        a path with NUL: InvalidArgument state.path
        a path that leads elsewhere: InvalidArgument state.path
        a hash with NUL: InvalidArgument state.sha256
        no outcome: InvalidArgument outcome
        a reason with NUL: InvalidArgument reason
        a run that failed: FailedPrecondition CANNOT_BEGIN
    "#]]
    .assert_eq(&table);
    bench.shut_down().await;
}
