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
    /// What those packages would start, now and with the machine.
    services: &'static [&'static str],
    is_there: fn() -> bool,
}

pub(crate) const POSTGRES: Need = Need {
    name: "a Postgres server, version 15 or later, and psql",
    packages: &["postgresql", "postgresql-client"],
    services: &[],
    is_there: || has_postgres_server() && on_path("psql"),
};

pub(crate) const PYTHON_VENV: Need = Need {
    name: "Python 3 with venv",
    packages: &["python3", "python3-venv"],
    services: &[],
    is_there: || {
        Step::new("python3")
            .args(["-c", "import venv, ensurepip"])
            .succeeds()
    },
};

pub(crate) const SLURM: Need = Need {
    name: "Slurm and munge, of which tests start clusters of their own",
    packages: &["slurmctld", "slurmd", "slurm-client", "munge"],
    services: &["slurmctld", "slurmd", "munge"],
    is_there: || {
        let programs = ["slurmctld", "slurmd", "sbatch", "munged"];
        programs.into_iter().all(is_installed)
    },
};

pub(crate) const SLURM_ACCOUNTING: Need = Need {
    name: "Slurm's database of jobs and a MariaDB server for it",
    // Not `mariadb-server`: it is these programs and a database of its own.
    packages: &["slurmdbd", "mariadb-server-core", "mariadb-client-core"],
    services: &["slurmdbd"],
    is_there: || {
        let programs = [
            "slurmdbd",
            "mariadbd",
            "mariadb-install-db",
            "my_print_defaults",
        ];
        programs.into_iter().all(is_installed)
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
    let services = missing.iter().flat_map(|n| n.services).copied();
    // Those that were there before are somebody's.
    let services: Vec<&str> = services.filter(|service| !is_service(service)).collect();
    as_root("apt-get")?.args(["update", "-q"]).run()?;
    install(&packages, &services)?;
    match missing.iter().find(|n| !(n.is_there)()) {
        None => Ok(()),
        Some(need) => Err(Failure::new(format!(
            "the packages of this system did not bring {}; for Postgres, \
             https://www.postgresql.org/download/ has newer ones",
            need.name
        ))),
    }
}

/// Installs packages without starting any of these services, now or with the machine.
fn install(packages: &[&str], services: &[&str]) -> Result<(), Failure> {
    let apt = ["install", "-q", "-y", "--no-install-recommends"];
    if services.is_empty() {
        return as_root("apt-get")?.args(apt).args(packages).run();
    }
    let names = services.join(", ");
    say(&format!(
        "of these packages' services ({names}) none is started"
    ));
    as_root("sh")?
        .args(["-c", WITHOUT_STARTING, POLICY, "apt-get"])
        .args(apt)
        .args(packages)
        .run()?;
    if Path::new("/run/systemd/system").exists() {
        let disable = as_root("systemctl")?.args(["disable", "--quiet"]);
        if !disable.args(services).succeeds() {
            say(&format!("NOT DONE: systemctl does not disable {names}"));
        }
    }
    Ok(())
}

/// Where Debian's packages ask whether they may start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A shell script that runs its arguments while its name is a policy by which nothing is started; one
/// that is there stays.
const WITHOUT_STARTING: &str = "\
if [ ! -e \"$0\" ]; then
    trap 'rm -f \"$0\"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\\nexit 101\\n' > \"$0\" && chmod 755 \"$0\"
fi
\"$@\"";

fn is_service(name: &str) -> bool {
    let dirs = ["/etc", "/lib", "/usr/lib"].map(|dir| format!("{dir}/systemd/system"));
    dirs.iter()
        .any(|dir| Path::new(dir).join(format!("{name}.service")).exists())
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

/// Whether a program is where people or where daemons are, which is not on everyone's path.
fn is_installed(program: &str) -> bool {
    let mut system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].into_iter();
    on_path(program) || system.any(|dir| Path::new(dir).join(program).is_file())
}

#[cfg(test)]
mod tests;
