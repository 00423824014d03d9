//! The project's chores: `cargo xtask <task>`.
//!
//! Plain std, so that it builds in a second on a machine that has nothing but rustup and a linker.

mod machine;
mod step;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use step::{Failure, Step, cargo, say};

const USAGE: &str = "\
Chores of the imprint workspace.

Usage: cargo xtask <task> [arguments]

Tasks:
  demo [arguments]   install what this machine lacks, build for release, and run `imprint demo`
                     with the arguments: tiny models learn and forget facts in a few minutes
  test [arguments]   install what this machine lacks, build everything, and run all tests; the
                     arguments go to cargo-nextest (or to `cargo test` where it is not installed)
  soak [arguments]   as `test`, with the tests that take minutes and many more random cases
  gpu-test [binary]  what needs a GPU, on one: parity with PyTorch, and saved states; with the test
                     binary that `cargo test -p imprint-lm --features cuda --no-run` built elsewhere,
                     nothing is built here
  lint               check the formatting and let clippy's warnings be errors
  oracle             make the fixtures of the reference implementations again with Python

`demo`, `test` and `soak` need a Postgres server (version 15 or later), the tests also Python 3 with
venv, and Slurm with MariaDB, of which they start clusters of their own.
On Debian and Ubuntu what is missing is installed with apt-get, as root or through sudo; elsewhere
the packages are named. Nothing is installed a second time.
";

/// Random cases of each property that does not set its own number, in `soak`.
const SOAK_CASES: &str = "10000";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match task.as_str() {
        "demo" => demo(&rest),
        "test" => test(&rest),
        "soak" => soak(&rest),
        "gpu-test" => gpu_test(&rest),
        "lint" => lint(),
        "oracle" => oracle(),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(Failure::usage(format!(
            "there is no task `{other}`; `cargo xtask help` lists them"
        ))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            failure.exit_code()
        }
    }
}

/// The workspace's root: cargo runs us from wherever the user is.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("xtask lies below the root")
        .to_owned()
}

fn target_dir() -> PathBuf {
    let dir = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), Into::into);
    root().join(dir)
}

fn demo(arguments: &[String]) -> Result<(), Failure> {
    machine::provide(&[machine::POSTGRES])?;
    let packages = ["-p", "imprint-cli", "-p", "imprint-trainer"];
    cargo(["build", "--release"]).args(packages).run()?;
    // Not from the workspace's root: the demo's directory is made where the user is.
    Step::new(target_dir().join("release/imprint"))
        .arg("demo")
        .args(arguments)
        .run()
}

fn test(arguments: &[String]) -> Result<(), Failure> {
    build_for_tests()?;
    if cargo(["nextest", "--version"]).succeeds() {
        cargo(["nextest", "run", "--workspace"])
            .args(arguments)
            .run()
    } else {
        say("cargo-nextest is not installed; `cargo test` runs the tests instead");
        cargo(["test", "--workspace", "--no-fail-fast"])
            .args(arguments)
            .run()
    }
}

fn soak(arguments: &[String]) -> Result<(), Failure> {
    build_for_tests()?;
    // One at a time: the ignored tests are ignored because they keep a machine busy.
    cargo(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .args(["--", "--include-ignored", "--test-threads=1"])
        .env("PROPTEST_CASES", SOAK_CASES)
        .run()
}

fn gpu_test(arguments: &[String]) -> Result<(), Failure> {
    let tests = ["oracle::gpu", "--nocapture", "--test-threads=1"];
    match arguments {
        [] => cargo(["test", "-p", "imprint-lm", "--features", "cuda", "--lib"])
            .arg("--")
            .args(tests)
            .run(),
        [binary] => {
            let fixtures = root().join("crates/lm/tests/fixtures");
            Step::new(binary)
                .args(tests)
                .env("IMPRINT_FIXTURES", &fixtures.to_string_lossy())
                .run()
        }
        _ => Err(Failure::usage("gpu-test takes one test binary at most")),
    }
}

fn build_for_tests() -> Result<(), Failure> {
    machine::provide(&[
        machine::POSTGRES,
        machine::PYTHON_VENV,
        machine::SLURM,
        machine::SLURM_ACCOUNTING,
    ])?;
    // All targets in one go: the end-to-end tests start both binaries, and building them with the
    // tests' features builds nothing twice.
    cargo(["build", "--workspace", "--all-targets"]).run()
}

fn lint() -> Result<(), Failure> {
    let mut skipped = Vec::new();
    if cargo(["fmt", "--version"]).succeeds() {
        cargo(["fmt", "--all", "--check"]).run()?;
    } else {
        skipped.push("rustfmt");
    }
    if cargo(["clippy", "--version"]).succeeds() {
        cargo(["clippy", "--workspace", "--all-targets"])
            .args(["--", "-D", "warnings"])
            .run()?;
    } else {
        skipped.push("clippy");
    }
    for component in skipped {
        say(&format!(
            "NOT CHECKED: {component} is not installed (`rustup component add {component}`)"
        ));
    }
    Ok(())
}

fn oracle() -> Result<(), Failure> {
    machine::provide(&[machine::PYTHON_VENV])?;
    let scripts = root().join("python/oracle");
    let venv = target_dir().join("oracle-venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        Step::new("python3").args(["-m", "venv"]).arg(&venv).run()?;
    }
    Step::new(&python)
        .args(["-m", "pip", "install", "--quiet", "-r"])
        .arg(scripts.join("requirements.txt"))
        .run()?;
    let mut fixtures: Vec<PathBuf> = std::fs::read_dir(&scripts)
        .map_err(|err| Failure::new(format!("read {}: {err}", scripts.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name.starts_with("make_") && name.ends_with(".py")
        })
        .collect();
    fixtures.sort();
    for script in fixtures {
        Step::new(&python).arg(script).dir(root()).run()?;
    }
    Ok(())
}
