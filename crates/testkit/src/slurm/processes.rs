//! Whose processes are whose: Slurm's steps leave the tree and the session of the daemon that starts
//! them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::database::ends;
use crate::home::environment;

/// Looks at processes that are about to end; more are not started by what is killed.
const PASSES: usize = 20;

/// The processes of jobs on a node of the cluster in `dir`, of the steps that Slurm runs them in, and
/// its daemon; without a number all processes of the cluster.
pub(super) fn of(dir: &Path, node: Option<usize>) -> Vec<i32> {
    let mut conf = OsString::from("SLURM_CONF=");
    conf.push(dir.join("slurm.conf"));
    let is_node = |variable: &[u8]| match node {
        Some(k) => variable == format!("SLURMD_NODENAME=node{k}").as_bytes(),
        None => variable.starts_with(b"SLURMD_NODENAME="),
    };
    let was_told = |pid: i32| {
        let environment = environment(pid);
        let mut variables = environment.split(|&b| b == 0);
        let is_of_cluster = variables.clone().any(|v| v == conf.as_encoded_bytes());
        is_of_cluster && variables.any(is_node)
    };
    // A step overwrites its environment with its title, but keeps its log open.
    let logs = dir.join("log");
    let is_log = |path: &PathBuf| match node {
        Some(k) => *path == logs.join(format!("slurmd-node{k}.log")),
        None => path.starts_with(&logs),
    };
    let has_log = |pid: i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        let files = files.into_iter().flatten().flatten();
        let mut open = files.filter_map(|file| fs::read_link(file.path()).ok());
        open.any(|path| is_log(&path))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        // A test may read a log.
        .filter(|&pid| pid != std::process::id() as i32 && (was_told(pid) || has_log(pid)))
        .collect()
}

pub(super) fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

/// Kills processes until there are none: what is killed may just have started another one.
pub(super) fn kill_all(look: impl Fn() -> Vec<i32>) {
    for _ in 0..PASSES {
        let pids = look();
        if pids.is_empty() {
            return;
        }
        pids.into_iter().for_each(end);
    }
    eprintln!("processes do not end: {:?}", look());
}

/// Kills a process that was started by somebody else.
pub(super) fn end(pid: i32) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    if !ends(pid) {
        eprintln!("process {pid} does not end");
    }
}
