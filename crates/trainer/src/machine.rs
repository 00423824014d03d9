//! What is worth knowing of the machine when bits differ.

/// The machine's host name.
pub(crate) fn host() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Processor and its features: equal lines (and equal binaries) give equal bits.
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
