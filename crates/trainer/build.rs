//! Tells the trainer what it is built from: revision, compiler, libraries that compute.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Beginnings of the names of the libraries whose version may change a number.
const COMPUTING: [&str; 9] = [
    "burn",
    "cubecl",
    "cubek",
    "cudarc",
    "gemm",
    "half",
    "matrixmultiply",
    "ndarray",
    "pulp",
];

/// What the trainer is compiled from, from the workspace's root. When any of it changes the trainer
/// is compiled anyway, so watching it costs no build.
const SOURCES: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "crates/core",
    "crates/data",
    "crates/lm",
    "crates/proto",
    "crates/spool",
    "crates/telemetry",
    "crates/trainer",
    "proto",
    "third_party",
];

fn main() {
    let here = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&here).join("../..");
    println!("cargo:rerun-if-env-changed=IMPRINT_REVISION");
    for source in SOURCES.map(|source| root.join(source)) {
        watch(&source);
    }
    let (revision, is_changed) = match env::var("IMPRINT_REVISION").unwrap_or_default().trim() {
        "" => of_git(&root).unwrap_or_else(|| ("unknown".to_owned(), "unknown")),
        given => (given.to_owned(), "unknown"),
    };
    let features = env::vars()
        .filter_map(|(name, _)| name.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase))
        .filter(|feature| feature != "default");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = said(Command::new(rustc).arg("--version"));
    for (name, value) in [
        ("REVISION", revision),
        ("CHANGED", is_changed.to_owned()),
        ("RUSTC", rustc.unwrap_or_else(|| "unknown".to_owned())),
        ("TARGET", env::var("TARGET").unwrap_or_default()),
        ("PROFILE", env::var("PROFILE").unwrap_or_default()),
        ("OPT_LEVEL", env::var("OPT_LEVEL").unwrap_or_default()),
        ("FEATURES", features.collect::<Vec<_>>().join(" ")),
        ("LIBRARIES", libraries(&root.join("Cargo.lock")).join(" ")),
    ] {
        println!("cargo:rustc-env=IMPRINT_BUILD_{name}={value}");
    }
}

/// Runs this script again when the file changes; one that is not there would run it every time.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

/// The commit, and whether what the trainer is compiled from differs from it; `None` where there is
/// no repository or no git.
fn of_git(root: &Path) -> Option<(String, &'static str)> {
    // Looking must not write the index: that would change what others watch.
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        said(
            git.current_dir(root)
                .arg("--no-optional-locks")
                .args(arguments),
        )
    };
    let revision = git(&["rev-parse", "--verify", "HEAD"])?;
    let place = |name: &str| -> Option<PathBuf> {
        let path = git(&["rev-parse", "--git-path", name])?;
        Some(root.join(path))
    };
    // In a worktree they are elsewhere, and a reference may be in `packed-refs` until it changes.
    for path in ["HEAD", "packed-refs"].into_iter().filter_map(place) {
        watch(&path);
    }
    let reference = git(&["symbolic-ref", "--quiet", "HEAD"]);
    if let Some(path) = reference.as_deref().and_then(place)
        && let Some(there) = path.ancestors().find(|path| path.exists())
    {
        watch(there);
    }
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changed = git(&[&status[..], &SOURCES[..]].concat())?;
    let is_changed = match changed.is_empty() {
        true => "no",
        false => "yes",
    };
    Some((revision, is_changed))
}

/// What a program prints, without the end of its last line; `None` where it fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(said.trim_end().to_owned())
}

/// `name=version` of the libraries that compute, as the lock file has them.
fn libraries(lock: &Path) -> Vec<String> {
    let lock = fs::read_to_string(lock).unwrap_or_default();
    let value = |line: &str, key: &str| -> Option<String> {
        let quoted = line.strip_prefix(key)?.strip_prefix(" = \"")?;
        Some(quoted.strip_suffix('"')?.to_owned())
    };
    let mut lines = lock.lines();
    let mut found: Vec<String> = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(name) = value(line, "name")
            && COMPUTING.iter().any(|start| name.starts_with(start))
            && let Some(version) = lines.next().and_then(|line| value(line, "version"))
        {
            // Of a library that is there twice all versions are named.
            match found
                .last_mut()
                .filter(|last| last.starts_with(&format!("{name}=")))
            {
                Some(last) => *last += &format!(",{version}"),
                None => found.push(format!("{name}={version}")),
            }
        }
    }
    found
}
