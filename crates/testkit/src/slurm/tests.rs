use super::*;

/// Ends when it is told to, with the code that has Slurm queue it again.
const PATIENT: &str = "\
trap 'echo asked; exit 85' USR1 TERM
echo started
while :; do sleep 0.1; done";

fn is(state: &str) -> impl FnMut(&Seen) -> bool {
    move |seen| seen.state == state
}

#[test]
fn a_job_runs_on_a_node_with_its_gpu() {
    let cluster = Cluster::start(2);
    let job = cluster.submit(["--gres=gpu:1"], "echo on $SLURMD_NODENAME $SLURM_JOB_GPUS");
    let seen = cluster.wait_for(job, "completes", is("COMPLETED"));
    assert_eq!(cluster.output_of(job), format!("on {} 0\n", seen.nodes));

    let job = cluster.submit([], "exit 3");
    let seen = cluster.wait_for(job, "fails", is("FAILED"));
    assert_eq!(seen.reason, "NonZeroExitCode");
    assert_eq!(cluster.job(job + 1), None);
}

#[test]
fn a_preempting_job_requeues_the_victim() {
    let cluster = Cluster::start(1);
    let victim = cluster.submit(["--gres=gpu:2", "--signal=B:USR1@5", "--requeue"], PATIENT);
    cluster.wait_for(victim, "runs", is("RUNNING"));
    let started = || cluster.output_of(victim).contains("started");
    wait_for(JOB_LIMIT, started).expect("the victim starts");

    let urgent = cluster.submit(["--partition=high", "--gres=gpu:2"], "true");
    cluster.wait_for(urgent, "completes", is("COMPLETED"));
    let again = cluster.wait_for(victim, "runs again", |seen| {
        seen.state == "RUNNING" && seen.n_restarts == 1
    });
    assert_eq!(again.nodes, "node1");
    let said = || cluster.output_of(victim) == "started\nasked\nstarted\n";
    wait_for(JOB_LIMIT, said).unwrap_or_else(|()| panic!("{:?}", cluster.output_of(victim)));
}

#[test]
fn without_requeue_exit_a_job_that_ends_so_has_failed() {
    let cluster = Cluster::with(&Options {
        n_nodes: 1,
        requeue_exit: false,
        ..Options::default()
    });
    let job = cluster.submit([], "exit 85");
    let seen = cluster.wait_for(job, "fails", is("FAILED"));
    assert_eq!(seen.n_restarts, 0);
}

#[test]
fn the_job_of_a_killed_node_is_requeued() {
    let mut cluster = Cluster::start(2);
    let job = cluster.submit(["--gres=gpu:2", "--nodelist=node2"], "echo run; sleep 600");
    cluster.wait_for(job, "runs", is("RUNNING"));
    let has_begun = || cluster.output_of(job) == "run\n";
    wait_for(JOB_LIMIT, has_begun).expect("the job begins");
    assert!(!cluster.pids_of_node(2).is_empty());
    assert!(cluster.pids_of_node(1).is_empty());

    cluster.kill_node(2);
    assert!(cluster.pids_of_node(2).is_empty());
    cluster.wait_for(job, "waits again", |seen| {
        seen.state == "PENDING" && seen.n_restarts == 1
    });
    assert_eq!((cluster.is_usable(1), cluster.is_usable(2)), (true, false));
    cluster.start_node(2);
    cluster.wait_for(job, "runs again", is("RUNNING"));
}

#[test]
fn a_controller_that_was_killed_knows_its_jobs_again() {
    let mut cluster = Cluster::start(1);
    let job = cluster.submit([], "sleep 600");
    cluster.wait_for(job, "runs", is("RUNNING"));
    cluster.wait_until_written(job);
    cluster.kill_slurmctld();
    assert!(!cluster.answers());
    cluster.start_slurmctld();
    assert_eq!(cluster.job(job).expect("the job is known").state, "RUNNING");
}

#[test]
fn two_clusters_do_not_meet() {
    let (here, there) = (Cluster::start(1), Cluster::start(3));
    let job = there.submit([], "sleep 600");
    there.wait_for(job, "runs", is("RUNNING"));
    assert_eq!(here.job(job), None);
    // What the one drops is not the other's.
    drop(here);
    assert_eq!(there.job(job).expect("the job is known").state, "RUNNING");
}

#[test]
fn a_cluster_leaves_no_process() {
    let cluster = Cluster::start(1);
    let job = cluster.submit([], "trap '' TERM; while :; do sleep 0.1; done");
    cluster.wait_for(job, "runs", is("RUNNING"));
    let mut pids = cluster.pids_of_node(1);
    assert!(!pids.is_empty());
    let daemons = [&cluster.slurmctld, &cluster.nodes[0]];
    let daemons = daemons.into_iter().flatten().chain([&cluster._munged]);
    pids.extend(daemons.map(|daemon| daemon.pid() as i32));
    let dir = cluster.dir().to_owned();
    drop(cluster);
    let is_there =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty());
    pids.retain(is_there);
    assert!(pids.is_empty(), "{pids:?}");
    assert!(!dir.exists());
}

#[test]
fn accounting_remembers_what_the_controller_forgets() {
    let cluster = Cluster::with(&Options {
        n_nodes: 1,
        accounting: true,
        remembers: Duration::from_secs(2),
        ..Options::default()
    });
    let job = cluster.submit(["--comment=asked for"], "exit 3");
    let forgotten = wait_for(JOB_LIMIT, || cluster.job(job).is_none());
    forgotten.expect("the controller forgets the job");
    let (id, fields) = (job.to_string(), "--format=State,ExitCode,Comment");
    let known = || {
        let options = [
            "--noheader",
            "--parsable2",
            "--allocations",
            fields,
            "--jobs",
            &id,
        ];
        cluster.say("sacct", options) == "FAILED|3:0|asked for"
    };
    wait_for(JOB_LIMIT, known).expect("the job is in the database");
}

#[test]
fn what_a_killed_test_leaves_is_ended_by_the_next() {
    let parent = tempfile::tempdir().expect("make a directory");
    let make = |name: &str| {
        let dir = parent.path().join(name);
        fs::create_dir_all(dir.join("log")).expect("make a directory");
        let log = fs::File::create(dir.join("log/slurmd-node1.log")).expect("make a file");
        let sleep = ChildGuard::spawn(Command::new("sleep").arg("600").stdout(log));
        (dir, sleep)
    };
    let (dead, mut of_dead) = make("imprint-slurm-dead");
    drop(remains::claim(&dead));
    let (alive, mut of_alive) = make("imprint-slurm-alive");
    let _lock = remains::claim(&alive);
    let (young, mut of_young) = make("imprint-slurm-young");

    remains::sweep(parent.path());
    assert!(of_dead.wait(JOB_LIMIT).is_some());
    assert_eq!(
        (dead.exists(), alive.exists(), young.exists()),
        (false, true, true)
    );
    for sleep in [&mut of_alive, &mut of_young] {
        assert!(sleep.wait(Duration::ZERO).is_none());
    }
}
