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

/// Memory that new processes can have without swapping, in bytes.
pub(crate) fn available_memory_bytes() -> Option<u64> {
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
