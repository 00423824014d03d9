//! What is needed to make an attempt again, beside the run's configuration: program and machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::machine;

/// The record of an attempt, as it is kept with it.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    program: &'static str,
    version: &'static str,
    /// The commit that it was built from.
    revision: &'static str,
    /// Whether what it was built from differed from that commit; absent where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    /// Of the file that runs; absent where it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_sha256: Option<String>,
    build: Build,
    /// The versions of the libraries that compute.
    libraries: BTreeMap<&'static str, &'static str>,
    /// Processor and its vector instructions.
    processor: String,
    /// Cores that the process may use.
    n_cores: usize,
    kernel: String,
    /// NVIDIA's driver and GPUs, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    nvidia: Option<Nvidia>,
    /// The batch system's job, where one started the process.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    slurm: BTreeMap<&'static str, String>,
}

/// How the program was compiled.
#[derive(Debug, Serialize)]
struct Build {
    rustc: &'static str,
    target: &'static str,
    profile: &'static str,
    opt_level: &'static str,
    features: Vec<&'static str>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Nvidia {
    driver: String,
    /// Models of the machine's GPUs, by their addresses on the bus.
    gpus: Vec<String>,
    /// Those that the process was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    visible_devices: Option<String>,
}

impl Record {
    /// The record of this process.
    pub(crate) fn here() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let slurm = [
            ("job_id", "SLURM_JOB_ID"),
            ("partition", "SLURM_JOB_PARTITION"),
            ("cluster", "SLURM_CLUSTER_NAME"),
        ];
        let libraries = env!("IMPRINT_BUILD_LIBRARIES").split(' ');
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            program: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            revision: env!("IMPRINT_BUILD_REVISION"),
            changed: match env!("IMPRINT_BUILD_CHANGED") {
                "yes" => Some(true),
                "no" => Some(false),
                _ => None,
            },
            binary_sha256: binary_sha256().ok(),
            build: Build {
                rustc: env!("IMPRINT_BUILD_RUSTC"),
                target: env!("IMPRINT_BUILD_TARGET"),
                profile: env!("IMPRINT_BUILD_PROFILE"),
                opt_level: env!("IMPRINT_BUILD_OPT_LEVEL"),
                features: env!("IMPRINT_BUILD_FEATURES").split_whitespace().collect(),
            },
            libraries: libraries.filter_map(|l| l.split_once('=')).collect(),
            processor: machine::features(),
            n_cores: machine::n_cores(),
            kernel: kernel.trim().to_owned(),
            nvidia: nvidia(),
            slurm: slurm
                .into_iter()
                .filter_map(|(key, name)| Some((key, variable(name)?)))
                .collect(),
        }
    }
}

/// SHA-256 of the file that this process runs.
fn binary_sha256() -> io::Result<String> {
    // Of what runs, also where another file has taken its name since.
    let own = match cfg!(target_os = "linux") {
        true => "/proc/self/exe".into(),
        false => std::env::current_exe()?,
    };
    let mut file = File::open(own)?;
    let (mut digest, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(format!("{:x}", digest.finalize())),
            n => digest.update(&piece[..n]),
        }
    }
}

/// What the kernel module says, which needs no library.
fn nvidia() -> Option<Nvidia> {
    let version = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let mut places: Vec<_> = fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .filter_map(|place| Some(place.ok()?.path()))
        .collect();
    places.sort();
    let model = |information: String| {
        let line = information.lines().find_map(|l| l.strip_prefix("Model:"))?;
        Some(line.trim().to_owned())
    };
    Some(Nvidia {
        driver: driver_version(&version)?,
        gpus: (places.iter())
            .filter_map(|place| model(fs::read_to_string(place.join("information")).ok()?))
            .collect(),
        visible_devices: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
    })
}

/// The first word of the first line that is a version, such as `580.95.05`.
fn driver_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        word.contains('.') && word.split('.').all(digits)
    };
    let version = text.lines().next()?.split_whitespace().find(is_version)?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests;
