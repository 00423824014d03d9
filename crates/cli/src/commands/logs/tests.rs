use super::*;

#[test]
fn an_attempts_log_is_that_of_its_job() {
    let attempt = |attempt, job| pb::Attempt {
        attempt,
        job,
        host: "node-1".to_owned(),
        ..Default::default()
    };
    let log = |name: &str, job| pb::Log {
        name: name.to_owned(),
        job,
        ..Default::default()
    };
    let run = pb::GetRunResponse {
        attempts: vec![attempt(3, Some(4)), attempt(2, None), attempt(1, Some(2))],
        logs: vec![
            log("job-2-4712.log", Some(2)),
            log("job-2-4711.log", Some(2)),
            log("trainer-1.log", None),
        ],
        ..Default::default()
    };
    let check = |attempt, want: Result<&str, &str>| {
        let want = want.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(log_of(&run, attempt), want);
    };
    check(1, Ok("job-2-4712.log"));
    check(
        2,
        Err("the trainer of attempt 2 was started by hand on node-1"),
    );
    check(3, Err("there is no log of attempt 3 (job 4)"));
    check(4, Err("there is no attempt 4; the last is 3"));
    assert_eq!(
        log_of(&pb::GetRunResponse::default(), 1),
        Err("no trainer has begun it yet".to_owned())
    );
}
