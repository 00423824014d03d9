//! The database: its migrations and every query.
//!
//! The only place that knows SQL.
//! Queries are checked when they run, not when they are compiled, so that a build needs no database
//! (docs/adr/0002-storage-layout.md); each one is run by a test against a real Postgres.

pub mod analysis;
pub mod archive;
pub mod bench;
pub mod derived;
pub mod embedded;
mod error;
pub mod export;
mod float4;
pub mod ingest;
mod lanes;
pub mod pages;
pub mod rates;
pub mod results;
pub mod roles;
pub mod runs;
pub mod tokens;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::timeout;

pub use error::Error;

use ingest::chunk::Due;
use lanes::Lanes;

/// Connections of one service, besides those of ingest; who finds none waits for a turn.
const MAX_CONNECTIONS: u32 = 16;

/// How long a query waits for a connection before the database counts as unreachable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a transaction of ours may hold what it holds without doing anything.
const IDLE_IN_TRANSACTION: &str = "60s";

/// What this program knows of the schema's history.
static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// A database with the schema `imprint`; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    lanes: Arc<Lanes>,
    chunks_due: Arc<Due>,
}

impl Store {
    /// A store on the database at `url` (`postgres://user@host:port/database`), which answers.
    ///
    /// Connections that break later are replaced by new ones as they are needed.
    ///
    /// # Errors
    /// When the URL cannot be read or nothing answers there.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let options: PgConnectOptions = url.parse().map_err(|source| Error::Url { source })?;
        // Else a role named like our schema would look for the table of migrations in it.
        let options = options
            .application_name("imprint")
            .options([("search_path", "public")])
            // What a process holds that stands still, or whose machine is gone, is free after that.
            .options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)]);
        // The pool would wait for a server that may be coming up; say at once what is wrong.
        let tried = timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options)).await;
        let address = address(&options);
        match tried {
            Ok(Ok(connection)) => drop(connection.close().await),
            Ok(Err(source @ sqlx::Error::Database(_))) => {
                return Err(Error::Refused { address, source });
            }
            Ok(Err(source)) => return Err(Error::Connect { address, source }),
            Err(_) => {
                let source = sqlx::Error::PoolTimedOut;
                return Err(Error::Connect { address, source });
            }
        }
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            lanes: Arc::new(Lanes::new(options)),
            chunks_due: Arc::default(),
        })
    }

    /// Brings the schema up to date; of several that start at once, one does it and the rest wait.
    ///
    /// Where it is up to date already, a role that may not change it will do.
    ///
    /// # Errors
    /// When a migration fails or an applied one was edited.
    pub async fn migrate(&self) -> Result<(), Error> {
        // A connection of its own: closing it gives the lock back even when a migration failed.
        let mut connection = self
            .pool
            .acquire()
            .await
            .map_err(Error::doing(
                "connect to bring the database schema up to date",
            ))?
            .detach();
        let migrated = match is_migrated(&mut connection).await {
            Ok(true) => Ok(()),
            Ok(false) => MIGRATOR.run(&mut connection).await,
            Err(source) => Err(source.into()),
        };
        drop(connection.close().await);
        migrated.map_err(|source| Error::Migrate { source })
    }

    /// Fails unless the database answers, can be written, and has the schema of this program.
    ///
    /// # Errors
    /// What of it does not hold: [`Error::ReadOnly`], [`Error::Schema`], or why there was no answer.
    pub async fn ready(&self) -> Result<(), Error> {
        let asking = || Error::doing("ask the database whether it is ready");
        let asked: Result<(bool, Vec<i64>), _> = sqlx::query_as(
            "select current_setting('transaction_read_only')::bool, array(
                 select version from public._sqlx_migrations where success order by version)",
        )
        .fetch_one(&self.pool)
        .await;
        let (is_read_only, applied) = match asked {
            // There is no table of migrations.
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42P01") => {
                (false, Vec::new())
            }
            other => other.map_err(asking())?,
        };
        let is_applied = |version: &i64| applied.binary_search(version).is_ok();
        let known: Vec<i64> = MIGRATOR.iter().map(|m| m.version).collect();
        if let Some(&version) = known.iter().find(|v| !is_applied(v)) {
            return Err(Error::Schema {
                problem: format!(
                    "lacks migration {version}; starting a service brings it up to date"
                ),
            });
        }
        if let Some(&version) = applied.iter().find(|v| !known.contains(v))
            && !bears(&mut *self.pool.acquire().await.map_err(asking())?)
                .await
                .map_err(asking())?
        {
            return Err(Error::Schema {
                problem: format!(
                    "has migration {version}, which takes something away that this program needs: \
                     install a newer one"
                ),
            });
        }
        match is_read_only {
            true => Err(Error::ReadOnly),
            false => Ok(()),
        }
    }

    /// The connections, for queries of this crate and for tests.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// Whether exactly our migrations are applied, as they are now.
async fn is_migrated(db: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let begun: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut *db)
        .await?;
    if !begun {
        return Ok(false);
    }
    let applied: Vec<(i64, Vec<u8>, bool)> =
        sqlx::query_as("select version, checksum, success from _sqlx_migrations order by version")
            .fetch_all(&mut *db)
            .await?;
    let mut ours = MIGRATOR.iter().map(|m| (m.version, &*m.checksum, true));
    let mut applied = applied.iter().map(|(v, sum, done)| (*v, &sum[..], *done));
    let have_ours = ours.all(|m| applied.next() == Some(m));
    Ok(have_ours && (applied.next().is_none() || bears(db).await?))
}

/// Whether a schema of a later release still has what this program needs.
async fn bears(db: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let oldest: i64 = sqlx::query_scalar("select imprint.oldest_program()")
        .fetch_one(db)
        .await?;
    Ok(MIGRATOR.iter().any(|m| m.version >= oldest))
}

/// Where a database is, without the password.
fn address(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or("postgres");
    match options.get_socket() {
        Some(socket) => format!("{} (database {database})", socket.display()),
        None => format!(
            "{}:{} (database {database})",
            options.get_host(),
            options.get_port()
        ),
    }
}
