//! What people ask for: lists page by page, one run, its log, and what becomes of their wishes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;

use imprint_testkit::Proxy;
use tonic::Streaming;
use tonic_types::StatusExt as _;

use super::*;

/// How many runs an experiment of many has.
const MANY: u32 = 10_000;

/// The experiment with runs of so many seeds.
fn of_seeds(n: u32) -> String {
    let seeds: Vec<String> = (0..n).map(|seed| seed.to_string()).collect();
    format!("seeds = [{}]\n{PRE}", seeds.join(", "))
}

fn run_of(seed: u32) -> String {
    format!("pre/scratch-none-b4-s{seed}")
}

impl Bench {
    async fn list_runs(
        &self,
        states: &[RunState],
        page_size: i32,
        page_token: &str,
    ) -> Result<pb::ListExperimentRunsResponse, Status> {
        let request = pb::ListExperimentRunsRequest {
            name: "pre".to_owned(),
            page_size,
            page_token: page_token.to_owned(),
            states: states.iter().map(|&state| state.into()).collect(),
        };
        let page = self.people.clone().list_experiment_runs(request).await?;
        Ok(page.into_inner())
    }

    /// The labels of runs in a state.
    async fn in_state(&self, state: RunState) -> Vec<String> {
        let page = self.list_runs(&[state], 0, "").await.unwrap();
        page.runs.into_iter().map(|run| run.run).collect()
    }

    async fn retry_some(&self, run: &str, states: &[RunState]) -> Vec<String> {
        let request = pb::RetryExperimentRequest {
            name: "pre".to_owned(),
            run: run.to_owned(),
            states: states.iter().map(|&state| state.into()).collect(),
        };
        let answer = self.people.clone().retry_experiment(request).await;
        answer.unwrap().into_inner().queued
    }

    async fn cancel_run(&self, run: &str) -> Vec<String> {
        let request = pb::CancelExperimentRequest {
            name: "pre".to_owned(),
            run: run.to_owned(),
        };
        let answer = self.people.clone().cancel_experiment(request).await;
        answer.unwrap().into_inner().cancelled
    }

    async fn set_priority(&self, run: &str, priority: i32) -> Vec<String> {
        let request = pb::SetPriorityRequest {
            name: "pre".to_owned(),
            run: run.to_owned(),
            priority,
        };
        let answer = self.people.clone().set_priority(request).await;
        answer.unwrap().into_inner().changed
    }

    async fn get_run(&self, run: &str) -> Result<pb::GetRunResponse, Status> {
        let request = pb::GetRunRequest {
            run: run.to_owned(),
            run_id: 0,
        };
        let answer = self.people.clone().get_run(request).await?;
        Ok(answer.into_inner())
    }

    /// What happened to a run, the oldest first, in pages of so many.
    async fn events(&self, run: &str, page_size: i32) -> Vec<pb::RunEvent> {
        let mut events = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListRunEventsRequest {
                run: run.to_owned(),
                page_size,
                page_token,
            };
            let page = self.people.clone().list_run_events(request).await.unwrap();
            let page = page.into_inner();
            assert!(page.events.len() <= page_size as usize);
            events.extend(page.events);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                events.reverse();
                return events;
            }
        }
    }

    async fn fails(&self, run_id: i32, reason: &str) {
        let attempt = self.begin(run_id).await.unwrap().attempt;
        let failed = pb::AttemptOutcome::Failed;
        self.end(run_id, attempt, failed, reason).await.unwrap();
    }

    async fn read_log(&self, request: pb::ReadLogRequest) -> Result<Reading, Status> {
        let pieces = self.people.clone().read_log(request).await?.into_inner();
        Ok(Reading {
            pieces,
            log: String::new(),
            text: String::new(),
            waiting: String::new(),
            offset: 0,
        })
    }
}

/// A log that is being read.
struct Reading {
    pieces: Streaming<pb::ReadLogResponse>,
    log: String,
    text: String,
    waiting: String,
    /// Of the last piece.
    offset: u64,
}

impl Reading {
    /// Takes the next piece; whether there was one.
    async fn next(&mut self) -> bool {
        let piece = tokio::time::timeout(LIMIT, self.pieces.message()).await;
        let Some(piece) = piece.expect("a log goes on in time").unwrap() else {
            return false;
        };
        self.text += std::str::from_utf8(&piece.text).unwrap();
        self.log = piece.log;
        self.waiting = piece.waiting;
        self.offset = piece.offset;
        true
    }

    async fn until(&mut self, text: &str) {
        while !self.text.ends_with(text) {
            assert!(self.next().await, "the log ended with {}", self.text);
        }
    }

    async fn whole(mut self) -> String {
        while self.next().await {}
        self.text
    }
}

#[tokio::test]
async fn pages_have_everything_once_while_more_is_added() {
    let mut bench = bench(None).await;
    bench.submit(&of_seeds(10)).await.unwrap();
    let mut seen = Vec::new();
    let mut token = String::new();
    for n_seeds in 11.. {
        let page = bench.list_runs(&[], 3, &token).await.unwrap();
        assert!(page.runs.len() <= 3);
        seen.extend(page.runs.into_iter().map(|run| run.run));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        if n_seeds < 15 {
            bench.submit(&of_seeds(n_seeds)).await.unwrap();
        }
    }
    let want: Vec<String> = (0..14).map(run_of).collect();
    assert_eq!(seen, want, "those that were added come last");
    let all = bench.runs("pre").await;
    assert_eq!(all.len(), 14);
    let page = bench.list_runs(&[], 0, "").await.unwrap();
    let ids = |runs: &[pb::Run]| runs.iter().map(|run| run.run_id).collect::<Vec<_>>();
    assert_eq!(ids(&page.runs), ids(&all));

    // A token belongs to its call and its arguments.
    let page = bench.list_runs(&[], 3, "").await.unwrap();
    let token = page.next_page_token;
    for (states, token) in [
        (&[RunState::Queued][..], token.clone()),
        (&[], token[2..].to_owned()),
    ] {
        let status = bench.list_runs(states, 3, &token).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "page_token");
    }

    // Experiments come newest first, so that what is added does not move what follows.
    for name in ["b", "c", "d", "e"] {
        let toml = PRE.replace("\"pre\"", &format!("\"{name}\""));
        bench.submit(&toml).await.unwrap();
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListExperimentsRequest {
            page_size: 2,
            page_token,
            open: false,
        };
        let page = bench.people.list_experiments(request).await.unwrap();
        let page = page.into_inner();
        names.extend(page.experiments.into_iter().map(|x| x.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        let later = format!("later-{}", names.len());
        let toml = PRE.replace("\"pre\"", &format!("\"{later}\""));
        bench.submit(&toml).await.unwrap();
    }
    assert_eq!(names, ["e", "d", "c", "b", "pre"]);
    bench.shut_down().await;
}

#[tokio::test]
async fn open_experiments_are_those_with_something_to_do() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let later = PRE.replace("\"pre\"", "\"later\"");
    bench
        .submit(&format!("seeds = [7]\n{later}"))
        .await
        .unwrap();
    let names = async |bench: &Bench| {
        let request = pb::ListExperimentsRequest {
            open: true,
            ..Default::default()
        };
        let page = bench.people.clone().list_experiments(request).await;
        let experiments = page.unwrap().into_inner().experiments;
        let names = experiments.into_iter().map(|x| x.name);
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&bench).await, ["later", "pre"]);
    assert_eq!(bench.cancel("later").await, ["later/scratch-none-b4-s7"]);
    // Nothing works on it, so nobody has to be waited for.
    assert_eq!(bench.runs("later").await[0].state(), RunState::Cancelled);
    assert_eq!(names(&bench).await, ["pre"]);
    bench.shut_down().await;
}

#[tokio::test]
async fn a_run_is_shown_with_everything_that_is_known_of_it() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    bench
        .submit(&PRE.replace("\"pre\"", "\"other\""))
        .await
        .unwrap();
    bench.submit(&child()).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    bench.begin(run_id).await.unwrap();
    bench.begin(run_id).await.unwrap();
    bench.heartbeat(run_id, 2, 7).await.unwrap();
    let found = bench.get_run(PRE_RUN).await.unwrap();
    let run = found.run.clone().unwrap();
    assert_eq!(run, bench.runs("pre").await[0]);
    // 13 updates at 2.5 a second.
    assert_eq!((run.step, run.seconds_left), (7, Some(6)));
    let names: Vec<(&str, bool)> = (found.names.iter())
        .map(|name| (name.run.as_str(), name.wanted))
        .collect();
    assert_eq!(names, [(PRE_RUN, true), ("other/scratch-none-b4-s0", true)]);
    let outcomes: Vec<(u32, &str)> = (found.attempts.iter())
        .map(|attempt| (attempt.attempt, attempt.outcome.as_str()))
        .collect();
    assert_eq!(outcomes, [(2, ""), (1, "superseded")]);
    assert_eq!(
        (found.attempts[0].host.as_str(), found.attempts[0].step),
        ("elsewhere", 7)
    );
    assert!(found.attempts[0].heartbeat_age_ms < LIMIT.as_millis() as u64);
    assert!(found.started_unix_ms.is_some() && found.finished_unix_ms.is_none());
    assert_eq!((&found.job, found.logs.len()), (&None, 0));
    let other = bench.get_run("other/scratch-none-b4-s0").await.unwrap();
    assert_eq!(other.run.unwrap().run_id, run_id);
    let request = pb::GetRunRequest {
        run: String::new(),
        run_id,
    };
    let by_number = bench.people.get_run(request).await.unwrap().into_inner();
    assert_eq!(by_number.run.unwrap().run, PRE_RUN);

    let children = bench.runs("child").await;
    let parent = bench.get_run(&children[0].run).await.unwrap().parent;
    let parent = parent.unwrap();
    assert_eq!((parent.run.as_str(), parent.step), (PRE_RUN, 10));
    assert_eq!(parent.state(), RunState::Running);

    let failed = pb::AttemptOutcome::Failed;
    let reason = "the loss of update 9 is NaN";
    bench.end(run_id, 2, failed, reason).await.unwrap();
    let found = bench.get_run(PRE_RUN).await.unwrap();
    assert_eq!(found.run.unwrap().reason, reason);
    assert_eq!(found.attempts[0].reason, reason);
    let events = bench.events(PRE_RUN, 100).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "queued",
            "attempt_began",
            "running",
            "attempt_ended",
            "attempt_began",
            "attempt_ended",
            "failed"
        ]
    );
    assert_eq!(bench.events(PRE_RUN, 2).await, events, "page by page");
    bench.shut_down().await;
}

#[tokio::test]
async fn a_wrong_name_is_told_the_nearest() {
    let mut bench = bench(None).await;
    bench.submit(&of_seeds(2)).await.unwrap();
    let get = pb::GetExperimentRequest {
        name: "per".to_owned(),
    };
    let status = bench.people.get_experiment(get).await.unwrap_err();
    assert_eq!(
        status.message(),
        "there is no experiment `per`; did you mean `pre`?"
    );
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["nearest"], "pre");
    let said = async |run: &str| bench.get_run(run).await.unwrap_err().message().to_owned();
    assert_eq!(
        said("pre/scratch-none-b5-s1").await,
        "there is no run `pre/scratch-none-b5-s1`; did you mean `pre/scratch-none-b4-s1` or \
         `pre/scratch-none-b4-s0`?"
    );
    assert_eq!(
        said("per/scratch-none-b4-s1").await,
        "there is no experiment `per`; did you mean `pre`?"
    );
    assert_eq!(
        said("pre").await,
        "`pre` is no run: their names are `experiment/cell`"
    );
    let cancel = pb::CancelExperimentRequest {
        name: "pre".to_owned(),
        run: "pre/scratch-none-b4-s2".to_owned(),
    };
    let status = bench.people.cancel_experiment(cancel).await.unwrap_err();
    assert_eq!(
        status.message(),
        "experiment `pre` has no run `pre/scratch-none-b4-s2`; did you mean \
         `pre/scratch-none-b4-s0` or `pre/scratch-none-b4-s1`?"
    );
    bench.shut_down().await;
}

#[tokio::test]
async fn retrying_takes_up_what_is_asked_for_and_nothing_else() {
    use RunState::{Cancelled, Failed, Queued, Running};
    let mut bench = bench(None).await;
    bench.submit(&of_seeds(5)).await.unwrap();
    let ids: Vec<i32> = bench.runs("pre").await.iter().map(|r| r.run_id).collect();
    bench.fails(ids[0], "it diverged").await;
    bench.fails(ids[1], "it diverged").await;
    assert_eq!(bench.cancel_run(&run_of(2)).await, [run_of(2)]);
    bench.begin(ids[3]).await.unwrap();
    let by_state = async |bench: &Bench| {
        let mut seeds: BTreeMap<RunState, Vec<u32>> = BTreeMap::new();
        for (seed, run) in bench.runs("pre").await.iter().enumerate() {
            seeds.entry(run.state()).or_default().push(seed as u32);
        }
        seeds
    };
    let before = by_state(&bench).await;
    assert_eq!(
        before,
        [
            (Queued, vec![4]),
            (Running, vec![3]),
            (Failed, vec![0, 1]),
            (Cancelled, vec![2])
        ]
        .into()
    );
    bench.submit(&of_seeds(5)).await.unwrap();
    assert_eq!(
        by_state(&bench).await,
        before,
        "submitting restarts nothing"
    );

    assert_eq!(bench.retry_some(&run_of(1), &[Failed]).await, [run_of(1)]);
    assert_eq!(bench.retry_some(&run_of(2), &[Failed]).await, [""; 0]);
    assert_eq!(bench.in_state(Failed).await, [run_of(0)]);
    assert_eq!(bench.retry_some("", &[Failed]).await, [run_of(0)]);
    assert_eq!(bench.retry_some("", &[Failed]).await, [""; 0], "once");
    assert_eq!(bench.in_state(Cancelled).await, [run_of(2)]);
    assert_eq!(bench.retry_some("", &[Cancelled]).await, [run_of(2)]);
    assert_eq!(bench.in_state(Running).await, [run_of(3)], "it goes on");

    // A run that is about to end goes on when that is taken back, and only then.
    assert_eq!(bench.cancel_run(&run_of(3)).await, [run_of(3)]);
    assert_eq!(bench.cancel_run(&run_of(3)).await, [run_of(3)], "repeated");
    assert_eq!(bench.retry_some("", &[Failed]).await, [""; 0]);
    assert!(bench.heartbeat(ids[3], 1, 3).await.unwrap());
    assert!(bench.get_run(&run_of(3)).await.unwrap().cancel_requested);
    assert_eq!(bench.retry_some("", &[]).await, [""; 0]);
    assert!(!bench.heartbeat(ids[3], 1, 3).await.unwrap());

    // What failed and was then cancelled with the rest is still what failed.
    bench.fails(ids[4], "it diverged").await;
    let mut ended = bench.cancel("pre").await;
    ended.sort();
    assert_eq!(ended, (0..4).map(run_of).collect::<Vec<_>>());
    assert_eq!(bench.retry_some("", &[Failed]).await, [run_of(4)]);
    assert_eq!(bench.in_state(Queued).await, [run_of(4)]);
    assert_eq!(
        bench.in_state(Cancelled).await,
        (0..3).map(run_of).collect::<Vec<_>>()
    );
    bench.shut_down().await;
}

#[tokio::test]
async fn a_priority_is_a_runs_and_is_remembered() {
    let mut bench = bench(None).await;
    bench.submit(&of_seeds(3)).await.unwrap();
    assert_eq!(bench.set_priority(&run_of(1), -5).await, [run_of(1)]);
    assert_eq!(bench.set_priority("", 10).await, [0, 1, 2].map(run_of));
    assert_eq!(
        bench.set_priority("", 10).await,
        [""; 0],
        "it is so already"
    );
    let runs = bench.runs("pre").await;
    assert!(runs.iter().all(|run| run.priority == 10));
    let told: Vec<String> = (bench.events(&run_of(1), 10).await.into_iter())
        .filter(|event| event.kind == "priority")
        .map(|event| event.detail)
        .collect();
    assert_eq!(told, ["-5", "10"]);
    bench.shut_down().await;
}

#[tokio::test]
async fn a_log_is_read_and_followed_from_trainer_to_trainer() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    let of_pre = |follow, tail_lines, log: &str| pb::ReadLogRequest {
        run: PRE_RUN.to_owned(),
        log: log.to_owned(),
        tail_lines,
        follow,
        at: None,
    };
    let status = bench.read_log(of_pre(false, None, "")).await.err().unwrap();
    assert_eq!(status.code(), Code::NotFound);
    let line = format!("run `{PRE_RUN}` has no log here: queued");
    assert!(status.message().starts_with(&line), "{status}");

    // Before there is one, it says why.
    let mut followed = bench.read_log(of_pre(true, None, "")).await.unwrap();
    while !followed.waiting.contains("waits for a free slot") {
        assert!(followed.next().await);
    }
    let logs = bench.dir.path().join(format!("data/runs/{run_id}/logs"));
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("job-1.log"), "one\ntwo\n").unwrap();
    followed.until("one\ntwo\n").await;
    assert_eq!(followed.log, "job-1.log");
    let read = bench.read_log(of_pre(false, None, "")).await.unwrap();
    assert_eq!(read.whole().await, "one\ntwo\n");
    let read = bench.read_log(of_pre(false, Some(1), "")).await.unwrap();
    assert_eq!(read.whole().await, "two\n");
    let mut tail = bench.read_log(of_pre(true, Some(0), "")).await.unwrap();

    let mut log = fs::File::options()
        .append(true)
        .open(logs.join("job-1.log"))
        .unwrap();
    log.write_all(b"three\n").unwrap();
    followed.until("three\n").await;
    tail.until("three\n").await;
    assert_eq!(tail.text, "three\n");

    // A reading that broke off goes on behind what came.
    let mut behind = of_pre(true, Some(1), "");
    behind.at = Some(pb::LogPlace {
        log: "job-1.log".to_owned(),
        offset: "one\ntwo\n".len() as u64,
    });
    let mut behind = bench.read_log(behind).await.unwrap();
    behind.until("three\n").await;
    assert_eq!((behind.text.as_str(), behind.offset), ("three\n", 8));
    while !behind.waiting.contains("waits for a free slot") {
        assert!(behind.next().await, "it says why the run waits");
    }
    let mut elsewhere = of_pre(false, None, "job-1.log");
    elsewhere.at = Some(pb::LogPlace {
        log: "job-2.log".to_owned(),
        offset: 0,
    });
    let status = bench.read_log(elsewhere).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);

    // The next trainer.
    bench.begin(run_id).await.unwrap();
    log.write_all(b"last words\n").unwrap();
    fs::write(logs.join("job-2.log"), "another\n").unwrap();
    followed.until("last words\nanother\n").await;
    assert_eq!(followed.log, "job-2.log");
    let first = bench
        .read_log(of_pre(false, None, "job-1.log"))
        .await
        .unwrap();
    assert_eq!(first.whole().await, "one\ntwo\nthree\nlast words\n");
    let logs: Vec<String> = (bench.get_run(PRE_RUN).await.unwrap().logs.into_iter())
        .map(|log| log.name)
        .collect();
    assert_eq!(logs, ["job-2.log", "job-1.log"]);

    // It ends with the run.
    let failed = pb::AttemptOutcome::Failed;
    bench.end(run_id, 1, failed, "it diverged").await.unwrap();
    let whole = "one\ntwo\nthree\nlast words\nanother\n";
    assert_eq!(followed.whole().await, whole);
    for reading in [tail, behind] {
        assert_eq!(reading.whole().await, "three\nlast words\nanother\n");
    }
    bench.shut_down().await;
}

#[tokio::test]
async fn two_logs_of_a_job_that_was_asked_for_twice_are_followed_once() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    let logs = bench.dir.path().join(format!("data/runs/{run_id}/logs"));
    fs::create_dir_all(&logs).unwrap();
    let says = |number: u32, text: &str| {
        let path = logs.join(format!("job-1-slurm-{number}.log"));
        let mut log = (fs::File::options().create(true).append(true))
            .open(path)
            .unwrap();
        log.write_all(text.as_bytes()).unwrap();
    };
    says(9, "first\n");
    let follow = pb::ReadLogRequest {
        run: PRE_RUN.to_owned(),
        follow: true,
        ..Default::default()
    };
    let mut followed = bench.read_log(follow).await.unwrap();
    followed.until("first\n").await;
    says(10, "second\n");
    followed.until("second\n").await;
    // Its last word comes when another is read already.
    says(9, "late\n");
    says(10, "third\n");
    followed.until("third\n").await;
    assert_eq!(bench.cancel("pre").await, [PRE_RUN]);
    assert_eq!(followed.whole().await, "first\nsecond\nthird\n");
    bench.shut_down().await;
}

#[tokio::test]
async fn a_long_log_comes_in_pieces() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    let logs = bench.dir.path().join(format!("data/runs/{run_id}/logs"));
    fs::create_dir_all(&logs).unwrap();
    let text = "a line of a log that is long\n".repeat(300_000);
    fs::write(logs.join("job-1.log"), &text).unwrap();
    let request = pb::ReadLogRequest {
        run: PRE_RUN.to_owned(),
        ..Default::default()
    };
    let read = bench.read_log(request).await.unwrap();
    assert!(read.whole().await == text);
    bench.shut_down().await;
}

#[tokio::test]
async fn what_trainers_say_is_found() {
    let mut bench = bench(Some(
        "echo \"this is $0\"; echo 'no such device' >&2; exit 1",
    ))
    .await;
    bench.submit(PRE).await.unwrap();
    let follow = pb::ReadLogRequest {
        run: PRE_RUN.to_owned(),
        follow: true,
        ..Default::default()
    };
    let said = bench.read_log(follow).await.unwrap().whole().await;
    // It fails after three.
    assert_eq!(said.matches("no such device\n").count(), 3, "{said}");
    let found = bench.get_run(PRE_RUN).await.unwrap();
    assert_eq!(found.logs.len(), 3);
    let job = found.job.unwrap();
    assert_eq!((job.job, job.executor.as_str()), (3, "local"));
    assert_eq!(found.logs[0].job, Some(3));
    bench.shut_down().await;
}

/// Submits until there is an answer, the same request every time.
async fn submit_for_sure(
    mut people: OrchestratorClient<Channel>,
    request: pb::SubmitExperimentRequest,
) -> pb::SubmitExperimentResponse {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        match people.submit_experiment(request.clone()).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => {
                let is_broken = matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Cancelled
                );
                assert!(
                    is_broken && tokio::time::Instant::now() < deadline,
                    "{status:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn two_that_submit_at_once_over_a_bad_line_make_each_run_once() {
    let n_runs = 60;
    let mut bench = bench(None).await;
    let address = bench
        .serving
        .url
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    // In the middle of a request, and after it: before its answer, or in the middle of that.
    for cut_after in [400, 900, 3000] {
        let name = format!("cut-{cut_after}");
        let toml = of_seeds(n_runs).replace("\"pre\"", &format!("\"{name}\""));
        let proxy = Proxy::start(address).await;
        let url = format!("http://127.0.0.1:{}", proxy.port());
        let channel = imprint_proto::connect("orchestrator", &url).await.unwrap();
        let over_it = OrchestratorClient::new(channel);
        let requests = [(); 4].map(|()| bench.request(&toml));
        let [a, b, c, d] = requests.clone();
        proxy.cut_after(cut_after);
        let answers = tokio::join!(
            submit_for_sure(over_it.clone(), a),
            submit_for_sure(over_it.clone(), b),
            submit_for_sure(bench.people.clone(), c),
            submit_for_sure(bench.people.clone(), d),
        );
        let answers = [answers.0, answers.1, answers.2, answers.3];
        let new: Vec<&str> = (answers.iter().flat_map(|answer| &answer.runs))
            .filter(|run| run.new)
            .map(|run| run.run.as_str())
            .collect();
        // The first file's runs are the others' too: they have no name in their identity.
        let n_new = if cut_after == 400 { n_runs } else { 0 };
        assert_eq!(new.len(), n_new as usize, "each is new to one of them");
        assert_eq!(new.iter().collect::<BTreeSet<_>>().len(), new.len());
        // Whose answer was lost gets it again.
        for (request, answer) in requests.into_iter().zip(answers) {
            assert_eq!(submit_for_sure(over_it.clone(), request).await, answer);
        }
        assert_eq!(bench.runs(&name).await.len(), n_runs as usize);
    }
    let n_stored = bench.count("select count(*) from imprint.run").await;
    assert_eq!(n_stored, i64::from(n_runs));
    let n_wanted = bench
        .count("select count(*) from imprint.experiment_run")
        .await;
    assert_eq!(n_wanted, 3 * i64::from(n_runs));
    let n_events = bench.count("select count(*) from imprint.event").await;
    assert_eq!(n_events, i64::from(n_runs), "each was queued once");
    bench.shut_down().await;
}

#[tokio::test]
async fn ten_thousand_runs_are_submitted_listed_watched_and_cancelled() {
    let mut bench = bench(None).await;
    let toml = of_seeds(MANY).replace("\"none\"", "\"duplication\"");
    let run_of = |seed: u32| format!("pre/scratch-duplication-b4-s{seed}");
    let mut took = Vec::new();
    let mut began = std::time::Instant::now();
    let mut lap = |what: &str| {
        let now = std::time::Instant::now();
        took.push(format!("{what} {:.2} s", (now - began).as_secs_f64()));
        began = now;
    };
    let mut check = bench.request(&toml);
    check.dry_run = true;
    bench.people.submit_experiment(check).await.unwrap();
    lap("check");
    let submitted = tokio::time::timeout(LIMIT, bench.submit(&toml)).await;
    let answer = submitted.expect("it does not take long").unwrap();
    lap("check and store");
    assert_eq!(answer.runs.len(), MANY as usize);
    assert!(answer.runs.iter().all(|run| run.new));
    let listed = bench
        .people
        .list_experiments(pb::ListExperimentsRequest::default());
    let listed = listed.await.unwrap().into_inner().experiments;
    assert_eq!(listed[0].runs_by_state["queued"], MANY);
    lap("list");

    let get = pb::GetExperimentRequest {
        name: "pre".to_owned(),
    };
    let got = bench.people.get_experiment(get).await.unwrap().into_inner();
    let experiment = got.experiment.unwrap();
    assert_eq!(experiment.summary.unwrap().runs_by_state["queued"], MANY);
    let mut runs = experiment.runs;
    let mut token = got.next_page_token;
    while !token.is_empty() {
        let page = bench.list_runs(&[], 1000, &token).await.unwrap();
        runs.extend(page.runs);
        token = page.next_page_token;
    }
    let labels: Vec<String> = runs.iter().map(|run| run.run.clone()).collect();
    assert_eq!(labels, (0..MANY).map(run_of).collect::<Vec<_>>());
    lap("all pages");

    let request = pb::WatchExperimentRequest {
        name: "pre".to_owned(),
    };
    let watched = bench.people.watch_experiment(request).await.unwrap();
    let mut watched = watched.into_inner();
    let mut states = BTreeMap::new();
    while states.len() < MANY as usize {
        let message = watched.message().await.unwrap().unwrap();
        let experiment = message.experiment.unwrap();
        assert!(experiment.runs.len() <= 1000);
        states.extend(experiment.runs.into_iter().map(|r| (r.run_id, r.state())));
    }
    lap("the first picture");
    // What changes is all that is sent.
    let middle = runs[MANY as usize / 2].run_id;
    bench.begin(middle).await.unwrap();
    let began_at = loop {
        let message = watched.message().await.unwrap().unwrap();
        let experiment = message.experiment.unwrap();
        if let Some(run) = experiment.runs.iter().find(|run| run.run_id == middle)
            && run.state() == RunState::Running
        {
            break experiment;
        }
    };
    let summary = began_at.summary.unwrap();
    assert_eq!(summary.runs_by_state["running"], 1);
    lap("a change");

    assert_eq!(bench.cancel("pre").await.len(), MANY as usize);
    lap("cancel");
    let stopped = pb::AttemptOutcome::Stopped;
    bench
        .end(middle, 1, stopped, "asked to stop")
        .await
        .unwrap();
    while let Some(message) = watched.message().await.unwrap() {
        let runs = message.experiment.unwrap().runs;
        states.extend(runs.into_iter().map(|r| (r.run_id, r.state())));
    }
    assert!(states.values().all(|&state| state == RunState::Cancelled));
    lap("the end of the watch");
    assert_eq!(bench.retry("pre").await.len(), MANY as usize);
    lap("retry");
    println!("{MANY} runs: {}", took.join(", "));
    bench.shut_down().await;
}
