//! What is worth knowing of the machine when bits differ, and how much memory it has.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an attempt computes; equal machines (and equal binaries) give equal bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// Processor and its vector instructions.
    pub(crate) processor: String,
    /// `cpu` or `cuda:N`.
    pub(crate) device: String,
    /// Threads of a trainer on the CPU.
    pub(crate) n_threads: u32,
}

impl Machine {
    /// This machine.
    pub(crate) fn here(device: &str, n_threads: u32) -> Self {
        Self {
            processor: features(),
            device: device.to_owned(),
            n_threads,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            processor,
            device,
            n_threads,
        } = self;
        write!(f, "{processor}; {device}; {n_threads} thread(s)")
    }
}

/// Memory that this process can still have without swapping, in bytes: the machine's, or what is left
/// of a control group's limit where that is less.
pub(crate) fn available_memory_bytes() -> Option<u64> {
    let of_machine = free_memory_bytes()?;
    Some(left_of_limits_bytes().map_or(of_machine, |left| left.min(of_machine)))
}

/// What the tightest limit of this process's control groups (version 2) leaves.
fn left_of_limits_bytes() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let number = |path: std::path::PathBuf| -> Option<u64> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let own = root.join(own);
    (own.ancestors().take_while(|group| group.starts_with(root)))
        .filter_map(|group| {
            let limit = number(group.join("memory.max"))?;
            Some(limit.saturating_sub(number(group.join("memory.current"))?))
        })
        .min()
}

/// The processor cores that this process may use.
pub(crate) fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn free_memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The machine's host name.
pub(crate) fn host() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Processor and its features.
pub(crate) fn features() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpuinfo
            .lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let flags = field("flags");
    let vector: Vec<&str> = flags
        .split(' ')
        .filter(|flag| flag.starts_with("avx") || *flag == "fma" || flag.starts_with("amx"))
        .collect();
    format!(
        "{} {} [{}]",
        std::env::consts::ARCH,
        field("model name"),
        vector.join(" ")
    )
}
