use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use imprint_testkit::slurm::{Cluster, Options};
use tempfile::TempDir;

use super::*;
use crate::executor::asked_job;

const DEADLINE: Duration = Duration::from_secs(90);

/// Says that it is there and waits; saves and stops when it is asked to, as trainers do.
const PATIENT: &str = "\
exec python3 -uc '
import signal, sys
def stop(number, _):
    is_for_good = number == signal.SIGINT
    print(\"saved for good\" if is_for_good else \"saved\")
    sys.exit(0 if is_for_good else 85)
for number in signal.SIGUSR1, signal.SIGTERM, signal.SIGINT:
    signal.signal(number, stop)
print(\"ready\")
while True:
    signal.pause()
'";

/// A cluster, and an executor whose trainer is a shell script.
struct Bed {
    slurm: Slurm,
    cluster: Cluster,
    dir: TempDir,
}

impl Bed {
    fn new(cluster: Cluster, config: SlurmConfig) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("imprint 100% ")
            .tempdir()
            .expect("make a directory");
        let laboratory = laboratory(dir.path()).unwrap();
        let mut slurm = Slurm::new(config, laboratory, dir.path().join("runs"));
        // Without the profile of whoever runs this.
        let home = dir.path().to_owned();
        slurm.commands.environment = vec![("SLURM_CONF", cluster.conf()), ("HOME", home)];
        Self {
            slurm,
            cluster,
            dir,
        }
    }

    fn job(&self, run_id: i32) -> Job {
        asked_job(run_id, 1, &format!("request-of-run-{run_id}-"))
    }

    async fn try_submit(&mut self, job: &Job, script: &str) -> Result<String, Refused> {
        let run_dir = self.dir.path().join(format!("runs/{}", job.run_id));
        fs::create_dir_all(&run_dir).expect("make a directory");
        let program = run_dir.join("trainer");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("write a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set a mode");
        let command = TrainerCommand {
            program,
            arguments: vec![
                "run".into(),
                "--run-id".into(),
                job.run_id.to_string().into(),
            ],
            environment: vec![("IMPRINT_LOG_FORMAT", "json".to_owned())],
            run_dir,
        };
        self.slurm.submit(job, &command).await
    }

    /// A job of a run, with its number.
    async fn submit(&mut self, run_id: i32, script: &str) -> Job {
        let mut job = self.job(run_id);
        let number = self.try_submit(&job, script).await;
        job.external_id = Some(number.expect("Slurm takes the job"));
        job
    }

    async fn phase(&mut self, job: &Job) -> Option<Phase> {
        let seen = self.slurm.observe(std::slice::from_ref(job)).await;
        let seen = seen.expect("Slurm answers").remove(&job.run_id)?;
        if job.external_id.is_some() {
            assert_eq!(Some(seen.external_id), job.external_id);
        }
        Some(seen.phase)
    }

    async fn wait_for(&mut self, job: &Job, holds: impl Fn(&Phase) -> bool) -> Phase {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let phase = self.phase(job).await;
            match phase {
                Some(phase) if holds(&phase) => return phase,
                phase => assert!(Instant::now() < deadline, "{phase:?}: {}", self.log(job)),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn end_of(&mut self, job: &Job) -> String {
        match self
            .wait_for(job, |p| matches!(p, Phase::Ended { .. }))
            .await
        {
            Phase::Ended { how } => how,
            _ => unreachable!("it was waited for"),
        }
    }

    /// What a trainer has said; Slurm adds lines of its own.
    fn log(&self, job: &Job) -> String {
        let number = job.external_id.as_deref().unwrap_or_default();
        let log = fs::read_to_string(self.slurm.log_of(job, number)).unwrap_or_default();
        let lines = log.split_inclusive('\n');
        lines
            .filter(|line| !line.starts_with("slurmstepd"))
            .collect()
    }

    /// Waits until a trainer has said so many lines; the job is then alive.
    async fn wait_for_lines(&mut self, job: &Job, n: usize) {
        imprint_testkit::wait_until(DEADLINE, "the trainer says something", || async {
            self.log(job).lines().count() >= n
        })
        .await;
        self.wait_for(job, |phase| *phase == Phase::Alive).await;
    }
}

fn gpus(gres: &str) -> SlurmConfig {
    SlurmConfig {
        gres: Some(gres.to_owned()),
        ..SlurmConfig::default()
    }
}

#[test]
fn a_laboratory_has_one_mark_for_good() {
    let [one, other] = [(); 2].map(|()| tempfile::tempdir().expect("make a directory"));
    let mark = |dir: &TempDir| laboratory(dir.path()).expect("it has a mark");
    let first = mark(&one);
    assert_eq!(first.len(), 8);
    assert_eq!(mark(&one), first);
    assert_ne!(mark(&other), first);
    let left = fs::read_dir(one.path()).expect("list a directory").count();
    assert_eq!(left, 1, "nothing is left of its making");
    fs::write(one.path().join("laboratory"), "a b").expect("write a file");
    let problem = laboratory(one.path()).expect_err("no name of a job");
    assert!(problem.to_string().contains("is no mark"), "{problem}");
}

#[tokio::test]
async fn a_job_is_submitted_runs_and_ends() {
    let config = SlurmConfig {
        partition: Some("low".to_owned()),
        time_limit: Some(Duration::from_secs(3600)),
        arguments: vec!["--nodelist=node2".to_owned()],
        setup: vec!["export OF_SETUP='set up'".to_owned()],
        ..gpus("gpu:1")
    };
    let mut bed = Bed::new(Cluster::start(2), config);
    let said = "echo \"$@\"; pwd; env; echo 'out of luck' >&2; exit 7";
    let job = bed.submit(7, said).await;
    let number = job.external_id.clone().expect("it has a number");
    let how = bed.end_of(&job).await;
    assert_eq!(
        how,
        format!("ended with exit code 7 (Slurm job {number} on node2): out of luck")
    );

    let log = bed.log(&job);
    let run_dir = bed.dir.path().join("runs/7");
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some("run --run-id 7 --stopped-exit-code 85"));
    assert_eq!(lines.next(), run_dir.to_str());
    let environment: Vec<&str> = lines.collect();
    let home = format!("HOME={}", bed.dir.path().display());
    let name = format!("SLURM_JOB_NAME={}", bed.slurm.name_of(&job));
    assert!(name.starts_with("SLURM_JOB_NAME=imprint-") && name.ends_with("-7"));
    for want in ["OF_SETUP=set up", &home, "IMPRINT_LOG_FORMAT=json", &name] {
        assert!(environment.contains(&want), "{want}: {log}");
    }
    assert!(
        environment
            .iter()
            .any(|v| v.starts_with("CUDA_VISIBLE_DEVICES=")),
        "{log}"
    );
    // Nothing else of what this process has.
    assert!(std::env::var("CARGO_PKG_NAME").is_ok() || std::env::var("CARGO").is_ok());
    assert!(
        !log.contains("CARGO_PKG_NAME") && !log.contains("\nCARGO="),
        "{log}"
    );

    let script = fs::read_to_string(run_dir.join("jobs/1.sh")).expect("read the script");
    assert!(script.contains("\nexport OF_SETUP='set up'\n"), "{script}");
    assert!(script.contains("\nexec env "), "{script}");
    let told = bed.cluster.say("scontrol", ["show", "job", &number]);
    for want in [
        "Requeue=1",
        "TimeLimit=01:00:00",
        "Comment=request-of-run-7-",
    ] {
        assert!(told.contains(want), "{want}: {told}");
    }
}

#[tokio::test]
async fn a_job_that_waits_says_why_and_can_be_stopped() {
    // Long enough that nothing here ends by it.
    let cluster = Cluster::with(&Options {
        n_nodes: 1,
        lines: vec!["KillWait=300".to_owned()],
        ..Options::default()
    });
    let mut bed = Bed::new(cluster, gpus("gpu:2"));
    let first = bed.submit(1, PATIENT).await;
    bed.wait_for_lines(&first, 1).await;
    let second = bed.submit(2, PATIENT).await;
    let number = second.external_id.clone().expect("it has a number");
    let waits = |reason: &str| Phase::Waiting {
        reason: format!("Slurm job {number} waits: {reason}"),
    };
    bed.wait_for(&second, |phase| *phase == waits("Resources"))
        .await;

    // Asked for again, a run waits for its own job; they are told apart.
    let mut again = bed.job(1);
    again.job = 2;
    again.request_id = "another-request".to_owned();
    again.external_id = Some(bed.try_submit(&again, PATIENT).await.expect("take the job"));
    let both = [first.clone(), second.clone()];
    let seen = bed.slurm.observe(&both).await.expect("Slurm answers");
    assert_eq!(seen[&1].phase, Phase::Alive);
    assert_eq!(
        seen[&1].external_id,
        *first.external_id.as_ref().expect("a number")
    );
    let dependent = bed
        .wait_for(&again, |phase| matches!(phase, Phase::Waiting { .. }))
        .await;
    let Phase::Waiting { reason } = dependent else {
        unreachable!("it was waited for")
    };
    assert!(reason.ends_with(" waits: Dependency"), "{reason}");

    bed.slurm.stop(&again).await.expect("stop a job that waits");
    let how = bed.end_of(&again).await;
    assert!(
        how.starts_with("was cancelled in Slurm (Slurm job "),
        "{how}"
    );
    // Killed, a job leaves the queue as well.
    bed.slurm
        .kill(&second)
        .await
        .expect("kill a job that waits");
    bed.end_of(&second).await;

    // Stopped, it saves and is not started again.
    let mut alive = first.clone();
    alive.alive_for = Some(Duration::from_secs(1));
    bed.slurm.stop(&alive).await.expect("stop a job that runs");
    let how = bed.end_of(&alive).await;
    assert!(how.starts_with("ended with exit code 0 ("), "{how}");
    assert!(how.ends_with(": saved for good"), "{how}");

    let stubborn = bed
        .submit(
            3,
            "trap '' TERM INT; echo ready; while :; do sleep 0.05; done",
        )
        .await;
    bed.wait_for_lines(&stubborn, 1).await;
    let mut stubborn = stubborn;
    stubborn.alive_for = Some(Duration::from_secs(1));
    bed.slurm
        .kill(&stubborn)
        .await
        .expect("kill a job that runs");
    let how = bed.end_of(&stubborn).await;
    // Whichever Slurm notes first; `KillWait` it does not wait for.
    let ends = ["was ended by SIGKILL (", "was cancelled in Slurm ("];
    assert!(ends.iter().any(|end| how.starts_with(end)), "{how}");
}

#[tokio::test]
async fn a_preempted_job_is_requeued_under_its_number() {
    let mut bed = Bed::new(Cluster::start(1), gpus("gpu:2"));
    let victim = bed.submit(1, PATIENT).await;
    bed.wait_for_lines(&victim, 1).await;
    let urgent = bed
        .cluster
        .submit(["--partition=high", "--gres=gpu:2"], "sleep 1");
    let waits = bed
        .wait_for(&victim, |phase| matches!(phase, Phase::Waiting { .. }))
        .await;
    let Phase::Waiting { reason } = waits else {
        unreachable!("it was waited for")
    };
    assert!(reason.ends_with(" (requeued once)"), "{reason}");
    bed.cluster
        .wait_for(urgent, "completes", |seen| seen.state == "COMPLETED");
    bed.wait_for_lines(&victim, 3).await;
    assert_eq!(bed.log(&victim), "ready\nsaved\nready\n");
}

#[tokio::test]
async fn where_slurm_does_not_requeue_the_end_says_so() {
    let cluster = Cluster::with(&Options {
        n_nodes: 1,
        requeue_exit: false,
        ..Options::default()
    });
    let mut bed = Bed::new(cluster, SlurmConfig::default());
    let job = bed.submit(1, "echo saved; exit 85").await;
    let how = bed.end_of(&job).await;
    assert!(
        how.starts_with("stopped with exit code 85 to be requeued, and was not ("),
        "{how}"
    );
    bed.slurm.config.requeue = false;
    let job = bed.submit(2, "echo \"$@\"").await;
    let how = bed.end_of(&job).await;
    assert!(how.ends_with(": run --run-id 2"), "{how}");
    let number = job.external_id.as_deref().expect("it has a number");
    let told = bed.cluster.say("scontrol", ["show", "job", number]);
    assert!(told.contains("Requeue=0"), "{told}");
}

#[tokio::test]
async fn a_job_whose_answer_got_lost_is_found_and_not_submitted_again() {
    let mut bed = Bed::new(Cluster::start(1), SlurmConfig::default());
    let job = bed.job(4);
    let number = bed.try_submit(&job, PATIENT).await.expect("take the job");
    // Nobody has noted the number.
    assert_eq!(job.external_id, None);
    let seen = bed.slurm.observe(std::slice::from_ref(&job)).await;
    assert_eq!(seen.expect("Slurm answers")[&4].external_id, number);
    let again = bed.try_submit(&job, PATIENT).await.expect("take the job");
    assert_eq!(again, number);
    let queue = bed.cluster.say("squeue", ["--noheader", "--format=%i"]);
    assert_eq!(queue, number);

    // Somebody's asking for it broke off before Slurm was asked.
    let other = bed.job(5);
    let script = bed.dir.path().join("runs/5/jobs/1.sh");
    fs::create_dir_all(script.parent().expect("a directory")).expect("make a directory");
    fs::write(&script, "").expect("write a script");
    let number = bed.try_submit(&other, PATIENT).await.expect("take the job");
    assert_eq!(
        bed.cluster
            .say("squeue", ["--noheader", "--format=%i"])
            .lines()
            .count(),
        2
    );
    assert!(bed.cluster.job(number.parse().expect("a number")).is_some());
}

#[tokio::test]
async fn a_request_that_cannot_be_is_refused() {
    let config = SlurmConfig {
        partition: Some("no-such-partition".to_owned()),
        ..SlurmConfig::default()
    };
    let mut bed = Bed::new(Cluster::start(1), config);
    let job = bed.job(1);
    let refused = bed
        .try_submit(&job, PATIENT)
        .await
        .expect_err("there is no such partition");
    let Refused::Ended(how) = &refused else {
        panic!("{refused:?}")
    };
    assert!(
        how.starts_with("could not be started: sbatch: error: "),
        "{how}"
    );
    assert!(how.contains("nvalid partition"), "{how}");
    assert_eq!(bed.phase(&job).await, None);
}

#[tokio::test]
async fn a_controller_that_is_away_is_no_empty_queue() {
    let mut bed = Bed::new(Cluster::start(1), SlurmConfig::default());
    let job = bed.submit(1, PATIENT).await;
    bed.wait_for_lines(&job, 1).await;
    let number = job.external_id.as_deref().and_then(|n| n.parse().ok());
    bed.cluster
        .wait_until_written(number.expect("it has a number"));
    bed.cluster.kill_slurmctld();
    let problem = bed.slurm.observe(std::slice::from_ref(&job)).await;
    let problem = problem.expect_err("nobody answers");
    assert!(
        problem.starts_with("Slurm does not answer: squeue: "),
        "{problem}"
    );
    assert!(!problem.contains('\n'), "{problem}");

    bed.slurm.commands.limit = Duration::from_secs(1);
    let asked = Instant::now();
    let problem = bed.slurm.observe(std::slice::from_ref(&job)).await;
    let late = "Slurm does not answer: squeue does not answer within 1s";
    assert_eq!(problem, Err(late.to_owned()));
    let other = bed.job(2);
    let refused = bed
        .try_submit(&other, PATIENT)
        .await
        .expect_err("nobody answers");
    assert!(matches!(refused, Refused::Unclear(_)), "{refused:?}");
    bed.slurm.kill(&job).await.expect_err("nobody answers");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );

    bed.slurm.commands.limit = commands::LIMIT;
    bed.cluster.start_slurmctld();
    bed.wait_for(&job, |phase| *phase == Phase::Alive).await;
    bed.try_submit(&other, PATIENT).await.expect("take the job");
}

#[tokio::test]
async fn accounting_knows_what_the_queue_has_forgotten() {
    let cluster = Cluster::with(&Options {
        n_nodes: 1,
        accounting: true,
        remembers: Duration::from_secs(2),
        ..Options::default()
    });
    let mut bed = Bed::new(cluster, SlurmConfig::default());
    let job = bed.submit(1, "echo gone; exit 3").await;
    let number: u32 = job
        .external_id
        .as_deref()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    imprint_testkit::wait_until(DEADLINE, "the queue forgets the job", || async {
        bed.cluster.job(number).is_none()
    })
    .await;
    let how = format!("ended with exit code 3 (Slurm job {number} on node1): gone");
    assert_eq!(bed.end_of(&job).await, how);
    // Without its number, by its request.
    let unnoted = bed.job(1);
    assert_eq!(bed.end_of(&unnoted).await, how);
    let again = bed.try_submit(&unnoted, "true").await;
    assert_eq!(again, Ok(number.to_string()));

    bed.cluster.kill_slurmdbd();
    let phase = bed.phase(&job).await.expect("it may have ended");
    let Phase::Waiting { reason } = phase else {
        panic!("{phase:?}")
    };
    assert!(
        reason.contains("how it ended cannot be told: sacct: "),
        "{reason}"
    );
    let refused = bed.try_submit(&unnoted, "true").await;
    assert!(matches!(refused, Err(Refused::Unclear(_))), "{refused:?}");
}
