use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::executor::asked_job;

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory with a trainer that is this shell script, and an executor.
struct Scene {
    dir: TempDir,
    local: Local,
}

fn scene(script: &str) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let trainer = dir.path().join("trainer");
    fs::write(&trainer, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&trainer, fs::Permissions::from_mode(0o755)).unwrap();
    let local = local(&dir, Vec::new());
    Scene { dir, local }
}

fn local(dir: &TempDir, gpus: Vec<u32>) -> Local {
    Local::new("here".to_owned(), gpus, dir.path().join("runs"))
}

fn job(run_id: i32, number: u32) -> Job {
    Job {
        executor: "local".to_owned(),
        slot: Some(0),
        ..asked_job(run_id, number, &uuid::Uuid::new_v4().to_string())
    }
}

impl Scene {
    fn command(&self, job: &Job) -> TrainerCommand {
        TrainerCommand {
            program: self.dir.path().join("trainer"),
            arguments: vec!["run".into(), "--job".into(), job.request_id.clone().into()],
            environment: vec![("IMPRINT_LOG_FORMAT", "json".to_owned())],
            run_dir: self.dir.path().join(format!("runs/{}", job.run_id)),
        }
    }

    /// Has a job started; the job with what it is called.
    async fn submit(&mut self, job: &Job) -> Result<Job, Refused> {
        let command = self.command(job);
        let external_id = Some(self.local.submit(job, &command).await?);
        let job = job.clone();
        Ok(Job { external_id, ..job })
    }

    fn log(&self, job: &Job) -> String {
        let path = self.local.log_of(job);
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until the script says that it is ready.
    async fn is_ready(&self, job: &Job) {
        let deadline = Instant::now() + DEADLINE;
        while !self.log(job).contains("ready") {
            assert!(Instant::now() < deadline, "the trainer says nothing");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn phase(local: &mut Local, job: &Job) -> Option<Phase> {
    let seen = local.observe(std::slice::from_ref(job)).await.unwrap();
    seen.get(&job.run_id).map(|seen| seen.phase.clone())
}

/// How a job ends.
async fn end(local: &mut Local, job: &Job) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match phase(local, job).await {
            Some(Phase::Ended { how }) => return how,
            other => assert!(Instant::now() < deadline, "{other:?} after {DEADLINE:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_trainer_gets_its_arguments_and_its_log() {
    let mut scene = scene("echo \"$@\" $IMPRINT_LOG_FORMAT; echo out of luck >&2; exit 7");
    let first = scene.submit(&job(12, 1)).await.unwrap();
    let how = end(&mut scene.local, &first).await;
    assert_eq!(how, "ended with exit code 7: out of luck");
    let said = format!("run --job {} json\nout of luck\n", first.request_id);
    assert_eq!(scene.log(&first), said);
    let second = scene.submit(&job(12, 2)).await.unwrap();
    end(&mut scene.local, &second).await;
    assert!(scene.local.log_of(&second).ends_with("12/logs/job-2.log"));
    assert!(
        !scene.log(&second).is_empty(),
        "every job has a log of its own"
    );
}

/// The line that says why, whatever a log looks like.
#[tokio::test]
async fn the_reason_of_an_end_is_the_last_line_of_the_log() {
    for (script, want) in [
        ("echo first; echo; echo last >&2; exit 1", "last"),
        (
            r#"echo '{"level":"ERROR","message":"last \"word\""}'; exit 1"#,
            "last \"word\"",
        ),
        (r#"echo '{"odd": 1}'; exit 1"#, r#"{"odd": 1}"#),
    ] {
        let mut scene = scene(script);
        let job = scene.submit(&job(1, 1)).await.unwrap();
        let how = end(&mut scene.local, &job).await;
        assert_eq!(how, format!("ended with exit code 1: {want}"));
    }
}

#[tokio::test]
async fn each_slot_has_its_gpu_and_no_trainer_has_our_secrets() {
    let mut scene = scene("echo gpu $CUDA_VISIBLE_DEVICES; env | grep -c DATABASE_URL; exit 1");
    scene.local = local(&scene.dir, vec![4, 7]);
    for (slot, gpu) in [(0, 4), (1, 7)] {
        let job = Job {
            slot: Some(slot),
            ..job(2, slot + 1)
        };
        let job = scene.submit(&job).await.unwrap();
        end(&mut scene.local, &job).await;
        assert_eq!(scene.log(&job), format!("gpu {gpu}\n0\n"));
    }
}

#[tokio::test]
async fn a_trainer_that_is_not_there_is_refused() {
    let mut scene = scene("");
    fs::remove_file(scene.dir.path().join("trainer")).unwrap();
    let Err(Refused::Ended(how)) = scene.submit(&job(1, 1)).await else {
        panic!("started what is not there");
    };
    assert!(how.starts_with("could not be started: "), "{how}");
    assert!(how.contains("trainer: No such file"), "{how}");
}

#[tokio::test]
async fn stopping_asks_and_killing_does_not() {
    let patient = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let mut scene = self::scene(patient);
    let job = scene.submit(&self::job(1, 1)).await.unwrap();
    scene.is_ready(&job).await;
    assert_eq!(phase(&mut scene.local, &job).await, Some(Phase::Alive));
    scene.local.stop(&job).await.unwrap();
    let how = end(&mut scene.local, &job).await;
    assert_eq!(how, "ended with exit code 0: saved");

    let mut scene = self::scene("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    let job = scene.submit(&self::job(1, 2)).await.unwrap();
    scene.is_ready(&job).await;
    scene.local.stop(&job).await.unwrap();
    scene.local.kill(&job).await.unwrap();
    let how = end(&mut scene.local, &job).await;
    assert_eq!(how, "was ended by SIGKILL: ready");
}

/// Also one whose number got lost before it was written down, and asking again starts no other.
#[tokio::test]
async fn a_trainer_of_an_earlier_orchestrator_is_found_again() {
    let mut scene = scene("echo ready; while :; do sleep 0.01; done");
    let unnamed = job(5, 1);
    let named = scene.submit(&unnamed).await.unwrap();
    scene.is_ready(&named).await;

    for job in [&named, &unnamed] {
        let mut local = local(&scene.dir, Vec::new());
        let seen = local.observe(std::slice::from_ref(job)).await.unwrap();
        assert_eq!(Some(&seen[&5].external_id), named.external_id.as_ref());
        assert_eq!(seen[&5].phase, Phase::Alive);
        let again = local.submit(job, &scene.command(job)).await;
        assert_eq!(again.ok(), named.external_id);
        // It stops what it holds when it goes; here it must not.
        local.held.clear();
    }

    let mut local = local(&scene.dir, Vec::new());
    let other = Job {
        external_id: named.external_id.clone(),
        ..job(6, 1)
    };
    let gone = Phase::Ended {
        how: "is gone".to_owned(),
    };
    assert_eq!(
        phase(&mut local, &other).await,
        Some(gone),
        "not its process"
    );
    let elsewhere = Job {
        external_id: Some("there:1".to_owned()),
        ..job(7, 1)
    };
    assert_eq!(phase(&mut local, &elsewhere).await, None);
    assert_eq!(phase(&mut local, &job(8, 1)).await, None, "never started");

    local.stop(&named).await.unwrap_err();
    phase(&mut local, &named).await;
    local.stop(&named).await.unwrap();
    end(&mut scene.local, &named).await;
    assert_eq!(end(&mut local, &named).await, "is gone: ready");
}

#[tokio::test]
async fn shutting_down_leaves_no_process() {
    let mut scene = scene("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    let job = scene.submit(&job(1, 1)).await.unwrap();
    scene.is_ready(&job).await;
    let pid = scene.local.held[&job.request_id].pid;
    assert!(is_trainer_of(pid, &job.request_id));
    scene.local.shut_down(Duration::from_millis(50)).await;
    assert!(!is_trainer_of(pid, &job.request_id));
}
