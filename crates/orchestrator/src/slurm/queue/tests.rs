use super::*;
use crate::executor::asked_job;

const REQUEUE_EXIT: u8 = 85;
const REQUEST: &str = "6f1c9a52-0d3e-4b7a-9f7e-2f4f0a1b5c3d";
const ENDED_AT: u64 = 1_795_423_546;

/// A line as `squeue` of 22.05 prints it.
fn line(id: u32, state: &str, exit: u32, n_restarts: u32, nodes: &str, reason: &str) -> String {
    format!(
        "{id:<16}|{state:<24}|{exit:<12}|{n_restarts:<12}|{ENDED_AT:<24}|{nodes:<64}|{reason:<160}|\
         {:<128}|{:<64}|",
        "imprint-7", REQUEST
    )
}

fn job(external_id: Option<&str>) -> Job {
    Job {
        external_id: external_id.map(str::to_owned),
        ..asked_job(7, 3, REQUEST)
    }
}

#[track_caller]
fn only(told: Vec<Told>) -> Told {
    assert_eq!(told.len(), 1, "{told:?}");
    told.into_iter().next().expect("there is one")
}

/// The phase of a job whose end, if it has one, is an hour ago.
#[track_caller]
fn phase(line: &str) -> Phase {
    let now = Duration::from_secs(ENDED_AT + 3600);
    only(of_squeue(line)).phase(now, REQUEUE_EXIT)
}

#[test]
fn a_job_that_waits_says_why_in_the_words_of_slurm() {
    #[track_caller]
    fn check(state: &str, n_restarts: u32, reason: &str, want: &str) {
        let want = format!("Slurm job 12 waits: {want}");
        let got = phase(&line(12, state, 0, n_restarts, "", reason));
        assert_eq!(got, Phase::Waiting { reason: want });
    }
    for reason in [
        "Resources",
        "Priority",
        "BeginTime",
        "Dependency",
        "QOSMaxGRESPerUser",
    ] {
        check("PENDING", 0, reason, reason);
    }
    let sentence = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority \
                    partitions";
    check("PENDING", 0, sentence, sentence);
    check("PENDING", 1, "BeginTime", "BeginTime (requeued once)");
    check("PENDING", 3, "Resources", "Resources (requeued 3 times)");
    check(
        "PENDING",
        0,
        "None",
        "the scheduler has not looked at it yet",
    );
    check(
        "REQUEUED",
        1,
        "None",
        "the scheduler has not looked at it yet (requeued once)",
    );
    check("SUSPENDED", 0, "None", "SUSPENDED");
    check("CONFIGURING", 0, "None", "CONFIGURING");
    check(
        "REQUEUE_HOLD",
        1,
        "job requeued in held state",
        "REQUEUE_HOLD, job requeued in held state (requeued once)",
    );
    check(
        "OF_A_LATER_VERSION",
        0,
        "None",
        "what OF_A_LATER_VERSION means is not known",
    );
}

#[test]
fn a_job_that_runs_or_is_about_to_end_is_alive() {
    for state in ["RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"] {
        assert_eq!(phase(&line(12, state, 0, 0, "node1", "None")), Phase::Alive);
    }
}

#[test]
fn the_end_of_a_job_is_told_in_words() {
    #[track_caller]
    fn check(state: &str, exit: u32, nodes: &str, reason: &str, want: &str) {
        let got = phase(&line(12, state, exit, 0, nodes, reason));
        assert_eq!(
            got,
            Phase::Ended {
                how: want.to_owned()
            }
        );
    }
    let on_node = "(Slurm job 12 on node1)";
    let ends = |how: &str| format!("{how} {on_node}");
    check(
        "COMPLETED",
        0,
        "node1",
        "None",
        &ends("ended with exit code 0"),
    );
    check(
        "FAILED",
        7 << 8,
        "node1",
        "NonZeroExitCode",
        &ends("ended with exit code 7"),
    );
    check(
        "FAILED",
        9,
        "node1",
        "JobLaunchFailure",
        &ends("was ended by SIGKILL"),
    );
    check(
        "FAILED",
        0x80 | 11,
        "node1",
        "RaisedSignal:11",
        &ends("was ended by SIGSEGV"),
    );
    let asked = "stopped with exit code 85 to be requeued, and was not";
    check("FAILED", 85 << 8, "node1", "NonZeroExitCode", &ends(asked));
    check(
        "CANCELLED",
        15,
        "node1",
        "None",
        &ends("was cancelled in Slurm"),
    );
    check(
        "CANCELLED",
        0,
        "",
        "BeginTime",
        "was cancelled in Slurm (Slurm job 12)",
    );
    check(
        "TIMEOUT",
        15,
        "node1",
        "TimeLimit",
        &ends("ran into its time limit"),
    );
    check(
        "DEADLINE",
        0,
        "node1",
        "DeadLine",
        &ends("ran into its deadline"),
    );
    let memory = "was ended for more memory than it had asked for";
    check("OUT_OF_MEMORY", 9, "node1", "OutOfMemory", &ends(memory));
    let refused = "could not be started: FAILED, BadConstraints (Slurm job 12)";
    check("FAILED", 1, "", "BadConstraints", refused);
    let boot = "could not be started, its node did not boot";
    check("BOOT_FAIL", 0, "node1", "None", &ends(boot));
}

/// Slurm requeues such a job at once, if at all.
#[test]
fn a_preempted_job_has_a_minute_to_be_requeued() {
    for (state, how) in [
        (
            "PREEMPTED",
            "was preempted and not requeued (Slurm job 12 on node1)",
        ),
        (
            "NODE_FAIL",
            "lost its node and was not requeued (Slurm job 12 on node1)",
        ),
    ] {
        let told = only(of_squeue(&line(12, state, 0, 0, "node1", "None")));
        let at = |seconds: u64| told.phase(Duration::from_secs(ENDED_AT + seconds), REQUEUE_EXIT);
        let reason = format!("Slurm job 12 waits: {state}");
        assert_eq!(at(59), Phase::Waiting { reason });
        assert_eq!(
            at(61),
            Phase::Ended {
                how: how.to_owned()
            }
        );
    }
}

/// As `sacct` of 22.05 printed them.
#[test]
fn accounting_tells_how_jobs_ended() {
    let records = format!(
        "\
1|COMPLETED|0:0|node1|imprint-7|{REQUEST}|sbatch --parsable --comment={REQUEST} 7.sh
2|FAILED|7:0|node1|imprint-7||sbatch --comment={REQUEST} 'a|b' 7.sh
3|FAILED|0:9|node1|imprint-7|{REQUEST}|
4|CANCELLED by 1000|0:0|None assigned|imprint-7|{REQUEST}|
5|NODE_FAIL|1:0|node1|imprint-7|{REQUEST}|
6|RUNNING|0:0|node1|imprint-7|{REQUEST}|
Slurm says something else
"
    );
    let told = of_sacct(&records);
    let ends = told
        .iter()
        .map(|told| match told.phase(Duration::MAX, REQUEUE_EXIT) {
            Phase::Ended { how } => how,
            other => format!("{other:?}"),
        });
    let want = [
        "ended with exit code 0 (Slurm job 1 on node1)",
        "ended with exit code 7 (Slurm job 2 on node1)",
        "was ended by SIGKILL (Slurm job 3 on node1)",
        "was cancelled in Slurm (Slurm job 4)",
        "lost its node and was not requeued (Slurm job 5 on node1)",
        "Alive",
    ];
    assert_eq!(ends.collect::<Vec<_>>(), want);
    let found = |told: &Told| pick(std::slice::from_ref(told), &job(None), "imprint-7").is_some();
    assert!(
        told.iter().all(found),
        "by the comment, or by what was submitted"
    );
}

#[test]
fn a_job_is_known_by_its_request_and_not_by_its_number_alone() {
    let known = |text: &str, external_id| {
        let told = of_squeue(text);
        pick(&told, &job(external_id), "imprint-7").map(|told| told.id.clone())
    };
    let ours = line(12, "RUNNING", 0, 0, "node1", "None");
    assert_eq!(known(&ours, None).as_deref(), Some("12"));
    // The number was given again.
    let other = ours.replace(REQUEST, "0b1c9a52-0d3e-4b7a-9f7e-2f4f0a1b5c3d");
    assert_eq!(known(&other, Some("12")), None);
    // Where comments are not kept, or are the site's.
    for comment in ["", "project 5"] {
        let bare = ours.replace(REQUEST, comment);
        assert_eq!(known(&bare, None), None);
        assert_eq!(known(&bare, Some("12")).as_deref(), Some("12"));
        assert_eq!(known(&bare, Some("13")), None);
        let of_another_run = bare.replace("imprint-7", "imprint-8");
        assert_eq!(known(&of_another_run, Some("12")), None);
    }
    // Submitted twice because an answer got lost.
    let refused = line(11, "FAILED", 1, 0, "", "BadConstraints");
    let text = [refused.clone(), ours, "imprint|is|no|job".to_owned()].join("\n");
    assert_eq!(known(&text, None).as_deref(), Some("12"));
    assert_eq!(known(&refused, None).as_deref(), Some("11"));
}

#[test]
fn what_is_wrong_with_slurm_passes_and_what_is_wrong_with_a_request_does_not() {
    let failed = |why: &str| {
        is_passing(&format!(
            "sbatch: error: Batch job submission failed: {why}"
        ))
    };
    for why in [
        "Unable to contact slurm controller (connect failure)",
        "Socket timed out on send/recv operation",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Protocol authentication error",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    ] {
        assert!(failed(why), "{why}");
    }
    for why in [
        "Invalid partition name specified",
        "Requested node configuration is not available",
        "Invalid account or account/partition combination specified",
        "Invalid qos specification",
    ] {
        assert!(!failed(why), "{why}");
    }
}
