//! Making, starting, watching and stopping one server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, User};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::programs::Programs;
use super::{Durability, Error, NAME, file, write_private};

/// What is written goes to the disk soon, and not in bursts that commits wait behind.
const FLUSHING: &str = "backend_flush_after = 256kB\n";

const INIT_LIMIT: Duration = Duration::from_secs(60);
/// Recovery after a crash reads the log since the last checkpoint: up to a gigabyte.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) programs: Programs,
    /// As whom it runs, where that is another than the user of this process.
    pub(super) user: Option<User>,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) port: u16,
    pub(super) password: String,
    pub(super) durability: Durability,
}

impl Server {
    /// Makes the cluster; one that is there is whole, whatever interrupts this.
    pub(super) async fn init(&self) -> Result<(), Error> {
        let unfinished = self.data.with_extension("new");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(file("remove", &unfinished))?;
        }
        fs::create_dir(&unfinished).map_err(file("make the directory", &unfinished))?;
        self.own(&unfinished)?;
        // Read by initdb as another user, so not the file that we keep.
        let password = self.data.with_extension("pwfile");
        write_private(&password, &self.password)?;
        self.own(&password)?;
        let mut initdb = self.command("initdb");
        initdb
            .arg("-D")
            .arg(&unfinished)
            .arg("--pwfile")
            .arg(&password)
            .args(["-U", NAME, "--encoding=UTF8", "--locale=C"])
            .args(["--auth=scram-sha-256", "--data-checksums"]);
        if self.durability == Durability::TestOnly {
            initdb.arg("--no-sync");
        }
        let made = run(initdb, "make a database cluster", INIT_LIMIT).await;
        fs::remove_file(&password).map_err(file("remove", &password))?;
        made?;
        let conf = unfinished.join("postgresql.conf");
        let settings = fs::read_to_string(&conf).map_err(file("read", &conf))?;
        fs::write(&conf, settings + "\ninclude 'imprint.conf'\n").map_err(file("write", &conf))?;
        fs::rename(&unfinished, &self.data).map_err(file("put into place", &self.data))
    }

    /// Starts the server if it does not run; returns whether it had to.
    pub(super) async fn ensure_running(&self) -> Result<bool, Error> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if self.postmaster_pid().is_some() {
                // It may still be coming up, or going down.
                if self.answers().await {
                    return Ok(false);
                }
            } else {
                match self.start_once().await {
                    Ok(()) => return Ok(true),
                    // The processes of a killed server take a moment to notice and end.
                    Err(Error::Program { said, .. }) if said.contains("is still in use") => {}
                    Err(error) => return Err(error),
                }
            }
            if Instant::now() > deadline {
                return Err(Error::Deadline {
                    doing: "starting the database server",
                    limit: START_LIMIT,
                });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn start_once(&self) -> Result<(), Error> {
        self.forget_dead_server()?;
        let conf = self.data.join("imprint.conf");
        fs::write(&conf, self.settings()).map_err(file("write", &conf))?;
        self.own(&conf)?;
        let logged = fs::metadata(&self.log).map_or(0, |m| m.len() as usize);
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(file("open", &self.log))?;
        self.own(&self.log)?;
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl
            .args(["start", "-s", "-w", "-t"])
            .arg(START_LIMIT.as_secs().to_string())
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(&self.log);
        let doing = "start the database server";
        run(pg_ctl, doing, START_LIMIT + STOP_LIMIT)
            .await
            .map_err(|error| match error {
                // pg_ctl only says that it failed; why is in the server's own log.
                Error::Program { said, .. } => Error::Program {
                    doing,
                    said: self.reason_in_log(logged).unwrap_or(said),
                },
                other => other,
            })
    }

    /// Makes the files that a killed server left name no process.
    ///
    /// Its number may belong to another program by now, or to a dead process that nobody has
    /// collected, and a new server would refuse to start because of it. The rest of the file stays:
    /// by it the new server finds out whether processes of the old one still write.
    fn forget_dead_server(&self) -> Result<(), Error> {
        const NO_PROCESS: &str = "2147483647";
        let pid_file = self.data.join("postmaster.pid");
        if let Ok(text) = fs::read_to_string(&pid_file)
            && let Some((_, rest)) = text.split_once('\n')
        {
            fs::write(&pid_file, format!("{NO_PROCESS}\n{rest}"))
                .map_err(file("write", &pid_file))?;
        }
        let socket_lock = self.socket_dir.join(format!(".s.PGSQL.{}.lock", self.port));
        match fs::remove_file(&socket_lock) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file("remove", &socket_lock)(e)),
            _ => Ok(()),
        }
    }

    fn settings(&self) -> String {
        let socket_dir = self.socket_dir.display().to_string().replace('\'', "''");
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\n\
             port = {}\n\
             unix_socket_directories = '{socket_dir}'\n\
             max_connections = 200\n\
             max_locks_per_transaction = 256\n\
             jit = off\n\
             {FLUSHING}",
            self.port
        );
        if self.durability == Durability::TestOnly {
            settings += "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n";
        }
        settings
    }

    fn reason_in_log(&self, from: usize) -> Option<String> {
        let log = fs::read(&self.log).ok()?;
        let log = String::from_utf8_lossy(log.get(from..)?);
        // Processes of a killed server may still say their own last words in between.
        let reasons: Vec<&str> = log
            .lines()
            .filter_map(|line| line.split_once("FATAL:").map(|(_, why)| why.trim()))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Makes the services' database if it is not there.
    pub(super) async fn ensure_database(&self) -> Result<(), Error> {
        let failed = |source| Error::Query {
            doing: "make the database in the private cluster",
            source,
        };
        let mut connection = self.connect("postgres").await.map_err(failed)?;
        let there: bool =
            sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
                .bind(NAME)
                .fetch_one(&mut connection)
                .await
                .map_err(failed)?;
        if !there {
            sqlx::query("create database imprint")
                .execute(&mut connection)
                .await
                .map_err(failed)?;
        }
        connection.close().await.map_err(failed)
    }

    pub(super) async fn stop(&self) -> Result<(), Error> {
        if self.postmaster_pid().is_none() {
            return Ok(());
        }
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl
            .args(["stop", "-s", "-w", "-m", "fast", "-t"])
            .arg(STOP_LIMIT.as_secs().to_string())
            .arg("-D")
            .arg(&self.data);
        run(
            pg_ctl,
            "stop the database server",
            STOP_LIMIT + ANSWER_LIMIT,
        )
        .await
    }

    /// The server's process, if it lives.
    pub(super) fn postmaster_pid(&self) -> Option<i32> {
        let pid = self.pid_file_line(0)?.parse().ok()?;
        let lives = matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM));
        // The number may have gone to another program since, after a reboot for instance.
        let is_server = match fs::read_to_string(format!("/proc/{pid}/cmdline")) {
            Ok(line) => line.contains("postgres"),
            Err(_) => !Path::new("/proc/self").exists(),
        };
        // Dead, but not collected by its parent yet, a process has no command line any more.
        (lives && is_server).then_some(pid)
    }

    /// The port of a server that already runs.
    pub(super) async fn running_port(&self) -> Option<u16> {
        self.postmaster_pid()?;
        self.pid_file_line(3)?.parse().ok()
    }

    fn pid_file_line(&self, line: usize) -> Option<String> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        text.lines().nth(line).map(|l| l.trim().to_owned())
    }

    async fn answers(&self) -> bool {
        match timeout(ANSWER_LIMIT, self.connect("postgres")).await {
            Ok(Ok(connection)) => connection.close().await.is_ok(),
            _ => false,
        }
    }

    async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(NAME)
            .password(&self.password)
            .database(database);
        PgConnection::connect_with(&options).await
    }

    /// Gives a file or directory to the server's user.
    pub(super) fn own(&self, path: &Path) -> Result<(), Error> {
        match &self.user {
            Some(user) => {
                std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                    .map_err(file("give to the server's user", path))
            }
            None => Ok(()),
        }
    }

    /// One of the server's programs, run as its user and undisturbed by the environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.path(program));
        let ours = |name: &str| name.starts_with("PG") || name.starts_with("LC_");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(ours) {
                command.env_remove(name);
            }
        }
        // Messages are matched, so they must be in English.
        command.env("LC_ALL", "C").current_dir("/");
        if let Some(user) = &self.user {
            // Groups of root are dropped along with it.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

async fn run(mut command: Command, doing: &'static str, limit: Duration) -> Result<(), Error> {
    let program = PathBuf::from(command.as_std().get_program());
    // Only standard error is read: a started server keeps standard output open.
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Spawn {
            program: program.clone(),
            source,
        })?;
    let output = timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| Error::Deadline { doing, limit })?
        .map_err(|source| Error::Spawn { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Program {
        doing,
        said: said.trim().replace('\n', "; "),
    })
}
