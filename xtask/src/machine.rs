//! What a task needs of the machine, and how it gets there.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::step::{Failure, Step, say};

/// The oldest Postgres that the migrations run on.
const OLDEST_POSTGRES: u32 = 15;

/// Something that must be there, and the Debian packages that bring it.
pub(crate) struct Need {
    name: &'static str,
    packages: &'static [&'static str],
    is_there: fn() -> bool,
}

pub(crate) const POSTGRES: Need = Need {
    name: "a Postgres server, version 15 or later, and psql",
    packages: &["postgresql", "postgresql-client"],
    is_there: || has_postgres_server() && on_path("psql"),
};

pub(crate) const PYTHON_VENV: Need = Need {
    name: "Python 3 with venv",
    packages: &["python3", "python3-venv"],
    is_there: || {
        Step::new("python3")
            .args(["-c", "import venv, ensurepip"])
            .succeeds()
    },
};

/// Installs what of these needs this machine lacks.
///
/// # Errors
/// When the machine has no apt-get (the line names the packages), when we are not root and there is
/// no sudo, or when what was installed does not do.
pub(crate) fn provide(needs: &[Need]) -> Result<(), Failure> {
    let missing: Vec<&Need> = needs.iter().filter(|n| !(n.is_there)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|n| n.packages).copied().collect();
    for need in &missing {
        say(&format!("this machine lacks {}", need.name));
    }
    if !on_path("apt-get") {
        return Err(Failure::new(format!(
            "install it with your system's package manager (on Debian: {}) and call again",
            packages.join(" ")
        )));
    }
    say(&format!("installing with apt-get: {}", packages.join(" ")));
    if packages.contains(&"postgresql") {
        forbid_main_cluster()?;
    }
    as_root("apt-get")?.args(["update", "-q"]).run()?;
    as_root("apt-get")?
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(packages)
        .run()?;
    match missing.iter().find(|n| !(n.is_there)()) {
        None => Ok(()),
        Some(need) => Err(Failure::new(format!(
            "the packages of this system did not bring {}; for Postgres, \
             https://www.postgresql.org/download/ has newer ones",
            need.name
        ))),
    }
}

/// A program run as root, without questions from package scripts.
fn as_root(program: &str) -> Result<Step, Failure> {
    let quiet = "DEBIAN_FRONTEND=noninteractive";
    if Step::new("id").arg("-u").output().as_deref() == Some("0") {
        Ok(Step::new("env").args([quiet, program]))
    } else if on_path("sudo") {
        Ok(Step::new("sudo").args([quiet, program]))
    } else {
        Err(Failure::new(
            "installing needs root: call again as root, or install sudo",
        ))
    }
}

/// Keeps Debian's package from making and starting a cluster that nobody here needs: the project
/// starts private ones.
fn forbid_main_cluster() -> Result<(), Failure> {
    let settings = Path::new("/etc/postgresql-common/createcluster.conf");
    if settings.exists() {
        return Ok(());
    }
    say(&format!(
        "writing {}: the package is to start no database of its own",
        settings.display()
    ));
    let line = "create_main_cluster = false";
    let script = format!(
        "mkdir -p {} && echo '{line}' > {}",
        settings.parent().unwrap_or(Path::new("/")).display(),
        settings.display()
    );
    as_root("sh")?.args(["-c", &script]).run()
}

/// Whether `initdb` and `postgres` of one installation are there and new enough.
fn has_postgres_server() -> bool {
    let debian = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")));
    let searched = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = debian.chain(env::split_paths(&searched)).collect();
    dirs.retain(|dir| dir.join("initdb").exists() && dir.join("postgres").exists());
    dirs.iter()
        .filter_map(|dir| Step::new(dir.join("postgres")).arg("--version").output())
        .filter_map(|line| major_version(&line))
        .any(|major| major >= OLDEST_POSTGRES)
}

/// 15 of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(line: &str) -> Option<u32> {
    let number = line.split_once("PostgreSQL) ")?.1;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn on_path(program: &str) -> bool {
    let searched = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&searched).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests;
