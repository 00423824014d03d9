use super::*;
use crate::executor::asked_job;

const REQUEUE_EXIT: u8 = 85;
const REQUEST: &str = "6f1c9a52-0d3e-4b7a-9f7e-2f4f0a1b5c3d";
const ENDED_AT: u64 = 1_795_423_546;

/// A line as `squeue` of 22.05 prints it.
fn line(id: u32, state: &str, exit: u32, n_restarts: u32, nodes: &str, reason: &str) -> String {
    format!(
        "{id:<16}|{state:<24}|{exit:<12}|{n_restarts:<12}|{ENDED_AT:<24}|{nodes:<64}|{:<128}|\
         {reason:<160}|{:<64}|",
        "imprint-7", REQUEST
    )
}

fn job(external_id: Option<&str>) -> Job {
    Job {
        external_id: external_id.map(str::to_owned),
        ..asked_job(7, 3, REQUEST)
    }
}

/// All that is told, where all can be read.
#[track_caller]
fn squeue(text: &str) -> Vec<Told> {
    of_squeue(text, &["imprint-7".to_owned()]).expect("every line can be read")
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
    only(squeue(line)).phase(now, REQUEUE_EXIT)
}

#[test]
fn only_what_slurm_itself_holds_is_given_up() {
    let held = |state, reason| only(squeue(&line(12, state, 0, 1, "", reason))).held_by_slurm();
    for reason in ["launch failed requeued held", "launch_failed_requeued_held"] {
        assert_eq!(
            held("PENDING", reason).as_deref(),
            Some("could not be launched, launch failed requeued held (Slurm job 12)")
        );
    }
    for reason in ["JobHeldUser", "JobHeldAdmin", "BeginTime"] {
        assert_eq!(held("PENDING", reason), None);
    }
    assert_eq!(held("RUNNING", "launch failed requeued held"), None);
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
        let told = only(squeue(&line(12, state, 0, 0, "node1", "None")));
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
    let told = of_sacct(&records, &["imprint-7".to_owned()]).expect("all can be read");
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
        let told = squeue(text);
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
    let text = [refused.clone(), ours, "slurm|is|no|job".to_owned()].join("\n");
    assert_eq!(known(&text, None).as_deref(), Some("12"));
    assert_eq!(known(&refused, None).as_deref(), Some("11"));
}

/// Whatever stands in the columns of free text, a job is found; and one that cannot be read is not
/// missing.
#[test]
fn a_line_about_a_job_of_ours_is_never_left_out() {
    let odd = line(12, "PENDING", 0, 0, "", "drained | ask Eve");
    let found = squeue(&odd);
    let found = pick(&found, &job(None), "imprint-7").expect("by its request");
    assert_eq!(found.reason, "drained");

    let names = ["imprint-7".to_owned(), "imprint-8".to_owned()];
    let ours = line(12, "RUNNING", 0, 0, "node1", "None");
    let torn = &ours[..ours.find("imprint-7").expect("a name") + "imprint-7".len()];
    let of_an_array = ours.replacen("12 ", "12_1", 1);
    for unreadable in [torn, &of_an_array] {
        let text = format!("{ours}\n{unreadable}\n");
        let problem = of_squeue(&text, &names).expect_err("a job is there");
        assert!(
            problem.starts_with("a line about a job of ours cannot be read: `12"),
            "{problem}"
        );
        assert!(problem.contains("|imprint-7"), "{problem}");
        // Somebody else's.
        let others = of_squeue(&text, &["imprint-9".to_owned()]);
        assert_eq!(others.map(|told| told.len()), Ok(1));
    }
    let problem = of_sacct("1|COMPLETED|??|node1|imprint-8|", &names);
    assert!(problem.is_err(), "{problem:?}");
}

#[test]
fn only_what_is_wrong_with_a_request_is_final() {
    let failed = |why: &str| {
        is_final(&format!(
            "sbatch: error: Batch job submission failed: {why}"
        ))
    };
    for why in [
        "Unable to contact slurm controller (connect failure)",
        "Socket timed out on send/recv operation",
        "Zero Bytes were transmitted or received",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Slurm backup controller in standby mode",
        "Controller is in standby mode, try a different controller",
        "Protocol authentication error",
        "Invalid authentication credential",
        "Invalid user id",
        "Error generating job credential",
        "Resource temporarily unavailable",
        "Partition in DOWN state",
        "Required partition not available (inactive or drain)",
        "Required node not available (down, drained or reserved)",
        "Requested partition configuration not available now",
        "Requested reservation not usable now",
        "System submissions disabled",
        "Unable to create job record, try again",
        "I/O error writing script/environment to file",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "Unspecified error",
        "Something of a later version",
    ] {
        assert!(!failed(why), "{why}");
    }
    for said in [
        "sbatch: error: AssocMaxSubmitJobLimit; sbatch: error: Batch job submission failed: Job \
         violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "sbatch: error: QOSMaxSubmitJobPerUserLimit",
        "sbatch: error: fetch_config: DNS SRV lookup failed; sbatch: fatal: Could not establish a \
         configuration source",
        "sbatch: error: Munge encode failed: Failed to access \"/run/munge\": Permission denied",
        "sbatch: error: Unable to open file /lab/runs/7/jobs/1.sh",
        "sbatch: error: cli_filter plugin terminated with error",
    ] {
        assert!(!is_final(said), "{said}");
    }
    for why in [
        "Invalid partition name specified",
        "No partition specified or system default partition",
        "User's group not permitted to use this partition",
        "Job's QOS not permitted to use this partition (gpu allows high not low)",
        "Invalid account or account/partition combination specified",
        "Invalid qos specification",
        "Invalid feature specification",
        "Invalid generic resource (gres) specification",
        "Requested node configuration is not available",
        "Requested nodes not in this partition",
        "Invalid node name specified",
        "Node count specification invalid",
        "More processors requested than permitted",
        "Memory required by task is not available",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "Access/permission denied",
        "Access denied to requested reservation",
        "Requested operation not supported on this system",
    ] {
        assert!(failed(why), "{why}");
    }
    for said in [
        "sbatch: unrecognized option '--partion=gpu'; Try \"sbatch --help\" for more information",
        "sbatch: option '--no' is ambiguous; possibilities: '--nodes' '--no-kill'",
        "sbatch: error: Invalid numeric value \"x\" for --cpus-per-task.",
        "sbatch: error: Invalid --mem specification",
        "sbatch: error: This does not look like a batch script.  The first",
        "sbatch: error: QOSMaxWallDurationPerJobLimit; sbatch: error: Batch job submission failed: \
         Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    ] {
        assert!(is_final(said), "{said}");
    }
}
