//! The database behind a place: the user's own, or the private cluster of the data directory.

use std::future::pending;
use std::path::PathBuf;

use imprint_store::Store;
use imprint_store::embedded::{self, Durability, Embedded};

use crate::failure::Failure;
use crate::place::Place;

/// A database that answers.
pub(crate) struct Database {
    pub(crate) store: Store,
    /// A shell command that opens it in psql, with all that its role may do.
    pub(crate) psql_line: String,
    /// The private cluster, where this process looks after it.
    cluster: Option<Embedded>,
}

impl Database {
    /// The place's database, for a service: made where there is none, with its schema up to date.
    ///
    /// # Errors
    /// When it cannot be started or reached, or a migration fails.
    pub(crate) async fn provide(place: &Place) -> Result<Self, Failure> {
        let database = Self::reach(place).await?;
        database.store.migrate().await?;
        Ok(database)
    }

    /// The place's database, for a client: a private cluster that sleeps is woken up.
    ///
    /// # Errors
    /// When there is none or it cannot be reached.
    pub(crate) async fn open(place: &Place) -> Result<Self, Failure> {
        if place.database_url().is_none() {
            // Asks for what is there only: a client makes no cluster.
            embedded::database_url(&directory(place))?;
        }
        Self::reach(place).await
    }

    async fn reach(place: &Place) -> Result<Self, Failure> {
        if let Some(url) = place.database_url() {
            return Ok(Self {
                store: Store::connect(url).await?,
                psql_line: psql_line(url),
                cluster: None,
            });
        }
        let directory = directory(place);
        match Embedded::start(&directory, Durability::Durable).await {
            Ok(cluster) => Ok(Self {
                store: Store::connect(&cluster.database_url()).await?,
                psql_line: cluster.psql_line(),
                cluster: Some(cluster),
            }),
            // Another process of ours looks after it.
            Err(embedded::Error::InUse { .. }) => Ok(Self {
                store: Store::connect(&embedded::database_url(&directory)?).await?,
                psql_line: embedded::psql_line_of(&directory)?,
                cluster: None,
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a private cluster again whenever it dies; never returns.
    pub(crate) async fn supervise(&self) {
        match &self.cluster {
            Some(cluster) => cluster.supervise().await,
            None => pending().await,
        }
    }

    /// Lets go of the database; a private cluster that this process looks after is stopped.
    ///
    /// # Errors
    /// When the cluster does not stop.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        self.store.pool().close().await;
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}

/// Where the private cluster of a place is.
pub(crate) fn directory(place: &Place) -> PathBuf {
    place.data_dir().join("postgres")
}

/// A shell command that opens the user's own database in psql.
pub(crate) fn psql_line(url: &str) -> String {
    format!("psql '{}'", url.replace('\'', r"'\''"))
}

/// The same line to be shown: whoever reads it needs no password, psql asks for it.
pub(crate) fn psql_line_to_show(url: &str) -> String {
    psql_line(&without_password(url))
}

fn without_password(url: &str) -> String {
    let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
    let mut shown = match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, rest)), Some((_, host))) => {
            let user = rest.split([':', '@']).next().unwrap_or_default();
            format!("{scheme}://{user}@{host}")
        }
        _ => address.to_owned(),
    };
    let parameters = parameters.split('&');
    let parameters = parameters.filter(|p| !p.is_empty() && !p.starts_with("password="));
    for (parameter, mark) in parameters.zip(std::iter::once('?').chain(std::iter::repeat('&'))) {
        shown.push(mark);
        shown.push_str(parameter);
    }
    shown
}

/// A shell command that opens a place's database in psql with these connection options.
///
/// # Errors
/// When there is no private cluster where one is meant.
pub(crate) fn psql_line_with(place: &Place, options: &str) -> Result<String, Failure> {
    Ok(match place.database_url() {
        Some(url) => psql_line(&url_with(url, options)),
        None => {
            let line = embedded::psql_line_of(&directory(place))?;
            format!("PGOPTIONS='{options}' {line}")
        }
    })
}

/// A database's URL with more connection options.
///
/// Options in a URL win over those in the environment, so this is where they belong.
fn url_with(url: &str, options: &str) -> String {
    let options = options.replace(' ', "%20").replace('=', "%3D");
    let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
    let mut parameters: Vec<String> = parameters
        .split('&')
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect();
    match parameters.iter_mut().find(|p| p.starts_with("options=")) {
        // What comes last counts.
        Some(own) => *own = format!("{own}%20{options}"),
        None => parameters.push(format!("options={options}")),
    }
    format!("{address}?{}", parameters.join("&"))
}

impl From<embedded::Error> for Failure {
    fn from(error: embedded::Error) -> Self {
        let line = imprint_telemetry::one_line(&error);
        match error {
            embedded::Error::NotThere { .. } => Self::unreachable(line),
            embedded::Error::Unreachable { .. } => Self::bad_input(line),
            _ => Self::failed(line),
        }
    }
}

#[cfg(test)]
mod tests;
