//! A private Slurm cluster: the real daemons, with nodes that are all this machine.
//!
//! Needs Debian's `slurmctld`, `slurmd`, `slurm-client` and `munge`; with accounting also `slurmdbd`,
//! `mariadb-server-core` and `mariadb-client-core`. Runs as whoever runs the tests, root or not.

mod accounting;
mod conf;
mod ports;
mod processes;
mod remains;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use self::accounting::Accounting;
use self::ports::Ports;
use crate::process::{ChildGuard, output};

/// How long a daemon may take to answer.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// How long a command of Slurm may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How long jobs may take to get where a test waits for them: Slurm's own timeouts are ten seconds.
const JOB_LIMIT: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(50);

/// A start on other ports after one whose ports were taken while it was under way.
const STARTS: usize = 4;

/// Paths of sockets have 107 bytes at most; the longest is a step's, below the temporary directory.
const LONGEST_TEMP_DIR: usize = 40;

/// Where Debian has the daemons; not on the path of ordinary users.
const SYSTEM_PROGRAMS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// What of an environment would make Slurm's commands do other things.
const PREFIXES_OF_SLURM: [&str; 5] = ["SLURM", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_"];

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes `node1` and so on, of eight cores, 4000 MB and two GPUs that are none.
    pub n_nodes: usize,
    /// Whether jobs that exit with 85 are queued again.
    pub requeue_exit: bool,
    /// Whether a job hears of its preemption by the signal that it asked for (`--signal`) before it
    /// hears SIGTERM.
    pub preempt_signal: bool,
    /// Whether there is a database of jobs, which `sacct` reads.
    pub accounting: bool,
    /// How long the controller remembers a job that has ended; two seconds at least.
    pub remembers: Duration,
    /// Further lines of `slurm.conf`; of two lines about one thing the last one counts.
    pub lines: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            n_nodes: 2,
            requeue_exit: true,
            preempt_signal: true,
            accounting: false,
            remembers: Duration::from_secs(300),
            lines: Vec::new(),
        }
    }
}

/// A Slurm cluster of this test alone.
///
/// Its partitions are `low`, the default, whose jobs are requeued when a job of `high` needs their
/// place. Dropping it kills the daemons and every process of every job.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they are dropped: nobody requeues what is killed, the directory goes last.
    slurmctld: Option<ChildGuard>,
    nodes: Vec<Option<ChildGuard>>,
    accounting: Option<Accounting>,
    _munged: ChildGuard,
    place: Place,
}

/// Where a cluster is and what it is told.
#[derive(Debug)]
struct Place {
    dir: TempDir,
    _lock: fs::File,
    ports: Ports,
    options: Options,
}

/// What Slurm says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Such as `PENDING`.
    pub state: String,
    /// Such as `Resources`; `None` where there is none.
    pub reason: String,
    /// How often it was requeued.
    pub n_restarts: u32,
    /// The nodes that it runs or ran on, such as `node1`.
    pub nodes: String,
}

impl Cluster {
    /// A cluster of so many nodes.
    ///
    /// # Panics
    /// When it does not come up, with what its daemons said.
    pub fn start(n_nodes: usize) -> Self {
        Self::with(&Options {
            n_nodes,
            ..Options::default()
        })
    }

    /// A cluster that is set up in its own way.
    ///
    /// # Panics
    /// When it does not come up, with what its daemons said.
    pub fn with(options: &Options) -> Self {
        let mut said = String::new();
        for _ in 0..STARTS {
            let place = Place::new(options.clone());
            match Self::try_start(place) {
                Ok(cluster) => return cluster,
                Err(problem) => said = problem,
            }
            // Somebody took a port after it was found to be free.
            if !said.contains("Address already in use") {
                break;
            }
        }
        panic!("the cluster does not come up: {said}");
    }

    fn try_start(place: Place) -> Result<Self, String> {
        conf::write(&place);
        let munged = place.start(&mut place.munged(), "munged", || {
            place.path("munge/s").exists()
        })?;
        let accounting = match place.options.accounting {
            true => Some(Accounting::start(&place)?),
            false => None,
        };
        let mut cluster = Self {
            slurmctld: None,
            nodes: Vec::new(),
            accounting,
            _munged: munged,
            place,
        };
        cluster.slurmctld = Some(cluster.try_start_slurmctld()?);
        let nodes = 1..=cluster.place.options.n_nodes;
        // All of them before any is waited for.
        let spawned = nodes.clone().map(|k| Some(cluster.place.spawn_slurmd(k)));
        cluster.nodes = spawned.collect();
        for k in nodes {
            cluster.wait_for_node(k)?;
        }
        Ok(cluster)
    }

    fn try_start_slurmctld(&self) -> Result<ChildGuard, String> {
        let mut slurmctld = self.command("slurmctld");
        slurmctld.arg("-D");
        let answers = || self.answers();
        self.place.start(&mut slurmctld, "slurmctld", answers)
    }

    fn wait_for_node(&mut self, k: usize) -> Result<(), String> {
        let Self { nodes, place, .. } = self;
        let slurmd = nodes[k - 1].as_mut().expect("it was just started");
        place.until_up(slurmd, &format!("slurmd of node{k}"), || place.is_usable(k))
    }

    /// The directory of the cluster's files; anyone may enter it.
    pub fn dir(&self) -> &Path {
        self.place.dir.path()
    }

    /// What `SLURM_CONF` is for this cluster.
    pub fn conf(&self) -> PathBuf {
        self.place.path("slurm.conf")
    }

    /// A command of Slurm for this cluster, such as `squeue`, or any other program.
    pub fn command(&self, program: &str) -> Command {
        self.place.command(program)
    }

    /// What a command of Slurm prints.
    ///
    /// # Panics
    /// When it does not end with 0, with what it said.
    #[track_caller]
    pub fn say<const N: usize>(&self, program: &str, arguments: [&str; N]) -> String {
        let mut command = self.command(program);
        let said = output(command.args(arguments), COMMAND_LIMIT);
        assert!(
            said.status.success(),
            "{command:?} ended with {}:\n{}\n{}",
            said.status,
            String::from_utf8_lossy(&said.stderr),
            self.place.said()
        );
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// Submits a shell script with `sbatch`; returns the job's number. What the job says goes to
    /// [`Cluster::output_of`].
    #[track_caller]
    pub fn submit<const N: usize>(&self, arguments: [&str; N], script: &str) -> u32 {
        let file = self.place.path("script.sh");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("write a script");
        let mut command = self.command("sbatch");
        command
            .arg("--parsable")
            .arg(format!("--output={}/job-%j.log", self.dir().display()))
            .arg("--open-mode=append")
            .args(arguments)
            .arg(&file)
            .current_dir(self.dir());
        let said = output(&mut command, COMMAND_LIMIT);
        let number = String::from_utf8_lossy(&said.stdout).trim().parse();
        number.unwrap_or_else(|_| panic!("{command:?}: {}", String::from_utf8_lossy(&said.stderr)))
    }

    /// What a job of [`Cluster::submit`] has said; Slurm adds lines of its own.
    pub fn output_of(&self, job: u32) -> String {
        let log = self.place.path(&format!("job-{job}.log"));
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines = text.split_inclusive('\n');
        lines
            .filter(|line| !line.starts_with("slurmstepd"))
            .collect()
    }

    /// What the controller knows of a job; `None` where it knows nothing.
    pub fn job(&self, job: u32) -> Option<Seen> {
        let fields = "--Format=State:|,Reason:|,RestartCnt:|,NodeList:|";
        let mut squeue = self.command("squeue");
        squeue.args([
            "--noheader",
            "--states=all",
            fields,
            "--jobs",
            &job.to_string(),
        ]);
        let said = output(&mut squeue, COMMAND_LIMIT);
        let line = String::from_utf8_lossy(&said.stdout).into_owned();
        let mut fields = line.trim().split('|').map(str::to_owned);
        Some(Seen {
            state: fields.next().filter(|state| !state.is_empty())?,
            reason: fields.next()?,
            n_restarts: fields.next()?.parse().ok()?,
            nodes: fields.next()?,
        })
    }

    /// Waits until a job is as a test wants it; returns what it then is.
    ///
    /// # Panics
    /// When it does not get there, with what it is and what the daemons said.
    #[track_caller]
    pub fn wait_for(&self, job: u32, what: &str, mut holds: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = None;
        let waited = wait_for(JOB_LIMIT, || {
            seen = self.job(job);
            seen.as_ref().is_some_and(&mut holds)
        });
        match (waited, seen) {
            (Ok(()), Some(seen)) => seen,
            (_, seen) => panic!(
                "waited {JOB_LIMIT:?} in vain until job {job} {what}; it is {seen:?}:\n{}",
                self.place.said()
            ),
        }
    }

    /// Whether the controller answers.
    pub fn answers(&self) -> bool {
        let mut ping = self.command("scontrol");
        let said = output(ping.arg("ping"), COMMAND_LIMIT);
        String::from_utf8_lossy(&said.stdout).contains("is UP")
    }

    /// Whether a node can take jobs. The first node is 1, like its name.
    pub fn is_usable(&self, k: usize) -> bool {
        self.place.is_usable(k)
    }

    /// Waits until the controller has written down what it knows now, of this job and all others.
    #[track_caller]
    pub fn wait_until_written(&self, job: u32) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let mark = format!("written after {:?}", since.unwrap_or_default());
        let (job, comment) = (format!("JobId={job}"), format!("AdminComment={mark}"));
        self.say("scontrol", ["update", &job, &comment]);
        let state = self.place.path("controller/job_state");
        let is_written = || {
            let written = fs::read(&state).unwrap_or_default();
            written
                .windows(mark.len())
                .any(|bytes| bytes == mark.as_bytes())
        };
        wait_for(JOB_LIMIT, is_written)
            .unwrap_or_else(|()| panic!("{} is not written", state.display()));
    }

    /// Kills the controller with SIGKILL; jobs go on, commands hang or fail.
    pub fn kill_slurmctld(&mut self) {
        if let Some(mut slurmctld) = self.slurmctld.take() {
            let children = processes::children(slurmctld.pid() as i32);
            slurmctld.kill();
            // It runs scripts by a process of its own, which would keep its files open.
            children.into_iter().for_each(processes::end);
        }
    }

    /// Starts the controller again, with what it had written down; returns when it answers.
    pub fn start_slurmctld(&mut self) {
        self.kill_slurmctld();
        let started = self.try_start_slurmctld();
        self.slurmctld = Some(started.unwrap_or_else(|problem| panic!("{problem}")));
    }

    /// Kills the daemon of the database of jobs with SIGKILL, for good.
    pub fn kill_slurmdbd(&mut self) {
        let accounting = self.accounting.as_mut().expect("there is accounting");
        accounting.slurmdbd.kill();
    }

    /// Kills a node's daemon and everything that runs there with SIGKILL, as a power failure would.
    pub fn kill_node(&mut self, k: usize) {
        if let Some(mut slurmd) = self.nodes[k - 1].take() {
            slurmd.kill();
        }
        processes::kill_all(|| self.pids_of_node(k));
    }

    /// Starts a node's daemon again; returns when the node can take jobs.
    pub fn start_node(&mut self, k: usize) {
        self.kill_node(k);
        self.nodes[k - 1] = Some(self.place.spawn_slurmd(k));
        self.wait_for_node(k)
            .unwrap_or_else(|problem| panic!("{problem}"));
    }

    /// The processes that jobs have on a node, and those that Slurm started for them.
    pub fn pids_of_node(&self, k: usize) -> Vec<i32> {
        let slurmd = self.nodes[k - 1].as_ref().map(|slurmd| slurmd.pid() as i32);
        let mut pids = processes::of(self.dir(), Some(k));
        pids.retain(|&pid| Some(pid) != slurmd);
        pids
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("what the Slurm cluster said:\n{}", self.place.said());
        }
        self.kill_slurmctld();
        for k in 1..=self.nodes.len() {
            self.kill_node(k);
        }
    }
}

impl Place {
    fn new(options: Options) -> Self {
        let in_temp_dir = env::temp_dir();
        let parent = match in_temp_dir.as_os_str().len() <= LONGEST_TEMP_DIR {
            true => in_temp_dir,
            false => PathBuf::from("/tmp"),
        };
        let dir = tempfile::Builder::new()
            .prefix(remains::PREFIX)
            // Whoever has the socket of munge in it passes through it.
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&parent)
            .expect("make a temporary directory");
        let lock = remains::claim(dir.path());
        remains::sweep(&parent);
        Self {
            ports: Ports::find(conf::N_PORTS_BESIDE_NODES + options.n_nodes),
            dir,
            _lock: lock,
            options,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command that belongs to this cluster.
    fn command(&self, program: &str) -> Command {
        let mut command = self.program(program);
        command.env("SLURM_CONF", self.path("slurm.conf"));
        command
    }

    /// A program that is found where daemons are, too.
    fn program(&self, program: &str) -> Command {
        let searched = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&searched)
            .chain(SYSTEM_PROGRAMS.map(PathBuf::from))
            .map(|dir| dir.join(program))
            .find(|path| path.is_file());
        let found = found.unwrap_or_else(|| {
            panic!("`{program}` is not installed: `cargo xtask test` installs what tests need")
        });
        // The daemons allow themselves the largest core files that they may have, and leave them
        // where the tests run.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c 0 && exec \"$0\" \"$@\""]);
        command.arg(found);
        // The tests may run in a job of another cluster.
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if PREFIXES_OF_SLURM.iter().any(|p| name.starts_with(p)) {
                command.env_remove(name);
            }
        }
        command
    }

    fn munged(&self) -> Command {
        let mut command = self.program("munged");
        command.arg("--foreground");
        let files = [
            ("key-file", "munge/key"),
            ("socket", "munge/s"),
            ("pid-file", "munge/pid"),
            ("seed-file", "munge/seed"),
        ];
        for (option, name) in files {
            command.arg(format!("--{option}={}", self.path(name).display()));
        }
        command
    }

    /// Starts a daemon, whose words go to a file, and returns when `is_up` holds.
    fn start(
        &self,
        command: &mut Command,
        name: &str,
        is_up: impl FnMut() -> bool,
    ) -> Result<ChildGuard, String> {
        let log = self.path(&format!("log/{name}.log"));
        let file = fs::File::options().create(true).append(true).open(log);
        let stdout = file.expect("open a log");
        let stderr = stdout.try_clone().expect("share a file");
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut daemon = ChildGuard::spawn(command);
        self.until_up(&mut daemon, name, is_up)?;
        Ok(daemon)
    }

    fn spawn_slurmd(&self, k: usize) -> ChildGuard {
        let node = format!("node{k}");
        let mut command = self.command("slurmd");
        command
            .args(["-D", "-N", &node])
            // By which a step is known until it has opened its log.
            .env("SLURMD_NODENAME", &node)
            // It writes the same to its log, which its steps need.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ChildGuard::spawn(&mut command)
    }

    fn until_up(
        &self,
        daemon: &mut ChildGuard,
        name: &str,
        mut is_up: impl FnMut() -> bool,
    ) -> Result<(), String> {
        let mut ended = None;
        let waited = wait_for(UP_WITHIN, || {
            ended = daemon.wait(Duration::ZERO);
            ended.is_some() || is_up()
        });
        match (waited, ended) {
            (Ok(()), None) => Ok(()),
            (_, Some(status)) => Err(format!("{name} ended with {status}:\n{}", self.said())),
            (Err(()), None) => Err(format!(
                "{name} is not up within {UP_WITHIN:?}:\n{}",
                self.said()
            )),
        }
    }

    fn is_usable(&self, k: usize) -> bool {
        let mut sinfo = self.command("sinfo");
        sinfo.args(["--noheader", "--partition=low", "--format=%T"]);
        let said = output(sinfo.arg(format!("--nodes=node{k}")), COMMAND_LIMIT);
        let state = String::from_utf8_lossy(&said.stdout).into_owned();
        // Of a node that does not answer the state ends with `*`.
        ["idle", "mixed", "allocated"].contains(&state.trim())
    }

    /// The ends of all logs.
    fn said(&self) -> String {
        const LAST_LINES: usize = 30;
        let mut logs: Vec<PathBuf> = fs::read_dir(self.path("log"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        logs.sort();
        let ends = logs.iter().filter_map(|log| {
            let bytes = fs::read(log).ok().filter(|bytes| !bytes.is_empty())?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            Some(format!("--- {}\n{}\n", log.display(), last.join("\n")))
        });
        ends.collect()
    }
}

fn wait_for(limit: Duration, mut holds: impl FnMut() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() > deadline {
            return Err(());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
