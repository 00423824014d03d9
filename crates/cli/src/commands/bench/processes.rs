//! What processes use, as the kernel counts it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A service and its database, as far as they are on this machine and ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    pub(super) service: Option<u32>,
    pub(super) postmaster: Option<u32>,
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) service: Option<Duration>,
    pub(super) database: Option<Duration>,
}

impl Usage {
    pub(super) fn since(now: Self, before: Self) -> Self {
        let since = |now: Option<Duration>, before| Some(now?.saturating_sub(before?));
        Self {
            service: since(now.service, before.service),
            database: since(now.database, before.database),
        }
    }
}

/// Most memory at any time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peaks {
    pub(super) service_bytes: Option<u64>,
}

impl Watched {
    pub(super) fn usage(&self) -> Usage {
        Usage {
            service: self.service.and_then(|pid| Some(Stat::of(pid)?.own)),
            database: self.postmaster.and_then(tree),
        }
    }

    pub(super) fn peaks(&self) -> Peaks {
        let service_bytes = self.service.and_then(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024)
        });
        Peaks { service_bytes }
    }
}

/// The time of a server and of all its processes, those that have ended too.
fn tree(root: u32) -> Option<Duration> {
    let server = Stat::of(root)?;
    let children = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        Stat::of(pid).filter(|s| s.parent == root)
    });
    Some(server.own + server.collected + children.map(|s| s.own).sum::<Duration>())
}

/// `/proc/PID/stat`.
struct Stat {
    parent: u32,
    own: Duration,
    /// Of children that have ended.
    collected: Duration,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
        // The program's name may hold anything, also spaces and brackets.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Counted from the state, which proc(5) numbers 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = |a: usize, b: usize| Some(Duration::from_millis(10 * (field(a)? + field(b)?)));
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            own: ticks(14, 15)?,
            collected: ticks(16, 17)?,
        })
    }
}

/// The soft limit of this process.
pub(super) fn max_open_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
