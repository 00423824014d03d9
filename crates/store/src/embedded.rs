//! A private Postgres cluster, made from the server programs that the machine has.
//!
//! Everything lies in one directory:
//!
//! ```text
//! <dir>/lock        held by the process that looks after the cluster
//! <dir>/password    of the role `imprint`, 0600
//! <dir>/pgpass      the same for psql, 0600
//! <dir>/port        the loopback port, chosen once
//! <dir>/socket_dir  where the Unix socket is, where `<dir>/socket` would be too long for one
//! <dir>/server.log
//! <dir>/data        the cluster itself; as root it belongs to an unprivileged user
//! ```
//!
//! A running server outlives the process that started it, and is adopted by the next.

mod programs;
mod server;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::User;
use uuid::Uuid;

use self::programs::Programs;
use self::server::Server;

/// The role and the database of a private cluster.
const NAME: &str = "imprint";

/// How often a supervised cluster is looked at.
const SUPERVISION_INTERVAL: Duration = Duration::from_millis(250);

/// Longest path of a Unix socket, without the closing zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Whether a commit survives a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// What is committed is on the disk.
    Durable,
    /// Nothing is ever synced: for tests only.
    TestOnly,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no PostgreSQL server (15 or newer) is on this machine: install the package \
         `postgresql` (Debian 12: `postgresql-15`), or set DATABASE_URL to a server elsewhere, or \
         IMPRINT_PG_BIN to the directory of `initdb` and `postgres`"
    )]
    NoPrograms,
    #[error(
        "the cluster in {dir} was made by PostgreSQL {version}, whose server is not on this \
         machine: install the package `postgresql-{version}`, or move the directory away"
    )]
    NoProgramsOfVersion { dir: PathBuf, version: u32 },
    #[error("another process looks after the database in {dir}; stop it, or use its services")]
    InUse { dir: PathBuf },
    #[error(
        "Postgres does not run as root, and the user `{user}`, as whom it would run, may not enter \
         {dir}; choose a data directory elsewhere, such as /var/lib/imprint"
    )]
    Unreachable { user: String, dir: PathBuf },
    #[error("Postgres does not run as root, and this machine has no user `postgres` or `nobody`")]
    NoUser,
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start {program}")]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{doing}: {said}")]
    Program { doing: &'static str, said: String },
    #[error("{doing} took longer than {} s", .limit.as_secs())]
    Deadline {
        doing: &'static str,
        limit: Duration,
    },
    #[error("there is no private database in {dir} yet; `imprint up` makes one")]
    NotThere { dir: PathBuf },
    #[error("{doing}")]
    Query {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
}

/// A private cluster that this process looks after; dropping it leaves the server running.
#[derive(Debug)]
pub struct Embedded {
    dir: PathBuf,
    server: Server,
    /// Released by the operating system when the process ends, however it ends.
    _lock: File,
}

impl Embedded {
    /// A running cluster in `dir`, which is made if it is not there.
    ///
    /// A server that already runs there is adopted; one that died is started again.
    /// As root, `dir` must be reachable by the user `postgres` (or `nobody`), as whom it then runs.
    ///
    /// # Errors
    /// When the machine has no server programs, another process looks after the directory, or the
    /// server does not come up.
    pub async fn start(dir: &Path, durability: Durability) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(file("make the directory", dir))?;
        let dir = &fs::canonicalize(dir).map_err(file("find", dir))?;
        let lock = take_lock(dir)?;
        let user = unprivileged_user()?;
        if let Some(user) = &user {
            // Whatever the mask for new files is, the server must get to its cluster.
            fs::set_permissions(dir, Permissions::from_mode(0o755))
                .map_err(file("open for the server's user", dir))?;
            check_reachable(dir, user)?;
        }
        let data = dir.join("data");
        let programs = Programs::find(&data)?;
        let password = kept(&dir.join("password"), || {
            format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
        })?;
        write_private(&dir.join("pgpass"), &format!("*:*:*:{NAME}:{password}\n"))?;
        let mut server = Server {
            programs,
            user,
            log: dir.join("server.log"),
            socket_dir: dir.join("socket"),
            data,
            port: 0,
            password,
            durability,
        };
        if !server.data.exists() {
            server.init().await?;
        }
        server.port = server
            .running_port()
            .await
            .map_or_else(|| keep_port(dir), Ok)?;
        server.socket_dir = socket_dir(dir, server.port)?;
        server.own(&server.socket_dir)?;
        server.ensure_running().await?;
        server.ensure_database().await?;
        Ok(Self {
            dir: dir.clone(),
            server,
            _lock: lock,
        })
    }

    /// Where services connect; it holds the password.
    pub fn database_url(&self) -> String {
        url(&self.server.password, self.server.port)
    }

    /// A shell command that opens the database in psql.
    pub fn psql_line(&self) -> String {
        psql_line(&self.dir, self.server.port)
    }

    /// The process of the server, while there is one.
    pub fn postmaster_pid(&self) -> Option<i32> {
        self.server.postmaster_pid()
    }

    /// Starts the server again if it is not running; returns whether it had to.
    ///
    /// # Errors
    /// When the server does not come up.
    pub async fn ensure_running(&self) -> Result<bool, Error> {
        self.server.ensure_running().await
    }

    /// Starts the server again whenever it dies; never returns.
    pub async fn supervise(&self) {
        loop {
            tokio::time::sleep(SUPERVISION_INTERVAL).await;
            if self.server.postmaster_pid().is_some() {
                continue;
            }
            match self.ensure_running().await {
                Ok(true) => tracing::warn!("the database server had died and was started again"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the database server died and does not start"
                    );
                }
            }
        }
    }

    /// Stops the server; what is committed stays.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub async fn stop(self) -> Result<(), Error> {
        self.server.stop().await
    }
}

/// Where the cluster in `dir` listens, whether or not it runs now; it holds the password.
///
/// # Errors
/// When there is no cluster in `dir` or this user may not read its password.
pub fn database_url(dir: &Path) -> Result<String, Error> {
    let (password, port) = (read(&dir.join("password")), read_port(dir));
    match (password, port) {
        (Ok(password), Some(port)) => Ok(url(&password, port)),
        (Err(e), _) if e.kind() != io::ErrorKind::NotFound => {
            Err(file("read", &dir.join("password"))(e))
        }
        _ => Err(Error::NotThere {
            dir: dir.to_owned(),
        }),
    }
}

/// A shell command that opens the cluster in `dir` in psql.
///
/// # Errors
/// When there is no cluster in `dir`.
pub fn psql_line_of(dir: &Path) -> Result<String, Error> {
    read_port(dir)
        .map(|port| psql_line(dir, port))
        .ok_or_else(|| Error::NotThere {
            dir: dir.to_owned(),
        })
}

/// The directory of the server programs with which a cluster in `dir` runs or would run.
///
/// # Errors
/// When the machine has none that fit.
pub fn programs(dir: &Path) -> Result<PathBuf, Error> {
    Programs::find(&dir.join("data")).map(|programs| programs.path(""))
}

fn url(password: &str, port: u16) -> String {
    format!("postgres://{NAME}:{password}@127.0.0.1:{port}/{NAME}")
}

fn psql_line(dir: &Path, port: u16) -> String {
    let pgpass = dir.join("pgpass").display().to_string();
    let quoted = pgpass.replace('\'', r"'\''");
    format!("PGPASSFILE='{quoted}' psql -h 127.0.0.1 -p {port} -U {NAME} {NAME}")
}

fn take_lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(file("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(Error::InUse {
            dir: dir.to_owned(),
        }),
        Err(fs::TryLockError::Error(e)) => Err(file("lock", &path)(e)),
    }
}

/// As whom the server runs: `None` for this process's own user, who is not root.
fn unprivileged_user() -> Result<Option<User>, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(Some)
        .ok_or(Error::NoUser)
}

/// Every directory on the way must let the user pass.
fn check_reachable(dir: &Path, user: &User) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt as _;
    for ancestor in dir.ancestors() {
        let meta = fs::metadata(ancestor).map_err(file("look at", ancestor))?;
        let mode = meta.mode();
        let enters = if meta.uid() == user.uid.as_raw() {
            mode & 0o100 != 0
        } else if meta.gid() == user.gid.as_raw() {
            mode & 0o010 != 0
        } else {
            mode & 0o001 != 0
        };
        if !enters {
            return Err(Error::Unreachable {
                user: user.name.clone(),
                dir: ancestor.to_owned(),
            });
        }
    }
    Ok(())
}

/// The port kept in `dir`, or another free one where that is not free any more.
fn keep_port(dir: &Path) -> Result<u16, Error> {
    let path = dir.join("port");
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    if let Some(port) = read_port(dir).filter(is_free) {
        return Ok(port);
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|l| l.local_addr())
        .map_err(file("find a free port for", dir))?
        .port();
    fs::write(&path, port.to_string()).map_err(file("write", &path))?;
    Ok(port)
}

fn read_port(dir: &Path) -> Option<u16> {
    read(&dir.join("port")).ok()?.parse().ok()
}

/// A directory short enough for a Unix socket, made if it is not there.
fn socket_dir(dir: &Path, port: u16) -> Result<PathBuf, Error> {
    let fits =
        |d: &Path| d.join(format!(".s.PGSQL.{port}")).as_os_str().len() <= MAX_SOCKET_PATH_BYTES;
    let own = dir.join("socket");
    let chosen = if fits(&own) {
        own
    } else {
        // A random name, so that nobody can have made it before us.
        PathBuf::from(kept(&dir.join("socket_dir"), || {
            format!("/tmp/imprint-{}", Uuid::new_v4().simple())
        })?)
    };
    fs::create_dir_all(&chosen).map_err(file("make the directory", &chosen))?;
    fs::set_permissions(&chosen, Permissions::from_mode(0o700))
        .map_err(file("close to others", &chosen))?;
    Ok(chosen)
}

/// The text in a private file, which is written with `make` the first time.
fn kept(path: &Path, make: impl FnOnce() -> String) -> Result<String, Error> {
    match read(path) {
        Ok(text) if !text.is_empty() => Ok(text),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file("read", path)(e)),
        _ => {
            let text = make();
            write_private(path, &text)?;
            Ok(text)
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()));
    written.map_err(file("write", path))
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        doing,
        path,
        source,
    }
}
