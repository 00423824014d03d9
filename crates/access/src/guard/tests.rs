use std::fmt::Write as _;

use expect_test::expect;
use prost::Message as _;

use super::*;

/// What every call of the protocol needs, so that a new one is given a lock on purpose.
#[test]
fn every_call_needs_what_it_should() {
    let protocol = prost_types::FileDescriptorSet::decode(imprint_proto::FILE_DESCRIPTOR_SET)
        .expect("the protocol describes itself");
    let mut table = String::new();
    for file in &protocol.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("{}.{}/{}", file.package(), service.name(), method.name());
                let need = Need::of(&format!("/{path}"));
                writeln!(table, "{path}: {need:?}").unwrap();
            }
        }
    }
    expect![[r#"
        imprint.v1.Metrics/Ingest: Some(Attempt)
        imprint.v1.Metrics/VerifyRun: Some(User(Read))
        imprint.v1.Metrics/ListRuns: Some(User(Read))
        imprint.v1.Metrics/ListProbes: Some(User(Read))
        imprint.v1.Metrics/ListReadings: Some(User(Read))
        imprint.v1.Metrics/ListCurvePoints: Some(User(Read))
        imprint.v1.Metrics/ListMeanPoints: Some(User(Read))
        imprint.v1.Metrics/ListUpdates: Some(User(Read))
        imprint.v1.Orchestrator/SubmitExperiment: Some(User(Submit))
        imprint.v1.Orchestrator/ListExperiments: Some(User(Read))
        imprint.v1.Orchestrator/GetExperiment: Some(User(Read))
        imprint.v1.Orchestrator/ListExperimentRuns: Some(User(Read))
        imprint.v1.Orchestrator/WatchExperiment: Some(User(Read))
        imprint.v1.Orchestrator/GetRun: Some(User(Read))
        imprint.v1.Orchestrator/ListRunEvents: Some(User(Read))
        imprint.v1.Orchestrator/ReadLog: Some(User(Read))
        imprint.v1.Orchestrator/CancelExperiment: Some(User(Submit))
        imprint.v1.Orchestrator/RetryExperiment: Some(User(Submit))
        imprint.v1.Orchestrator/SetPriority: Some(User(Submit))
        imprint.v1.Attempts/BeginAttempt: Some(Run)
        imprint.v1.Attempts/SettleRun: Some(Run)
        imprint.v1.Attempts/Heartbeat: Some(Run)
        imprint.v1.Attempts/RecordState: Some(Run)
        imprint.v1.Attempts/EndAttempt: Some(Run)
    "#]]
    .assert_eq(&table);
}

#[test]
fn what_nobody_knows_is_no_call() {
    for path in ["", "/", "/imprint.v1.Metrics", "/imprint.v2.Metrics/Ingest"] {
        assert_eq!(Need::of(path), None, "{path}");
    }
    let health = Need::of("/grpc.health.v1.Health/Check");
    assert_eq!(health, Some(Need::Nothing));
}

#[test]
fn a_token_is_shown_once_as_a_bearer() {
    let shown = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        bearer(&headers).map(str::to_owned)
    };
    assert_eq!(shown(&["Bearer abc"]), Ok("abc".to_owned()));
    assert_eq!(shown(&["bearer abc"]), Ok("abc".to_owned()));
    assert_eq!(shown(&[]), Err(Refusal::Missing));
    for wrong in [&["abc"][..], &["Basic abc"], &["Bearer a", "Bearer b"]] {
        assert_eq!(shown(wrong), Err(Refusal::Malformed), "{wrong:?}");
    }
}

#[test]
fn a_users_token_has_one_form() {
    let token = user_token::NewUserToken::generate();
    assert!(user_token::has_form(token.secret.expose()));
    assert_eq!(user_token::sha256(token.secret.expose()), token.sha256);
    assert!(!format!("{token:?}").contains(token.secret.expose()));
    let another = user_token::NewUserToken::generate();
    assert_ne!(another.secret, token.secret);
    for text in [
        "imprint_",
        "imprint_abc",
        &token.secret.expose().to_uppercase(),
    ] {
        assert!(!user_token::has_form(text), "{text}");
    }
}
