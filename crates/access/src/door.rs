//! A listening socket with all that stands between it and the calls behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use imprint_proto::{Secret, SecretError};
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tower::layer::util::{Identity as NoLayer, Stack};

use crate::guard::Guard;
use crate::incoming::Incoming;

/// A server behind a guard.
pub type Server = tonic::transport::Server<Stack<Guard, NoLayer>>;

/// What one client may take; no promise to good ones, who stay far below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time; others wait in the kernel's queue until one ends.
    pub max_connections: usize,
    /// Calls at the same time on one connection; a client's further ones wait at the client.
    pub max_streams: u32,
    /// Headers of a call; one with more is refused.
    pub max_header_bytes: u32,
    /// How long a new connection may take for TLS and its first words; then it is closed.
    pub handshake: Duration,
    /// How long the other side of a connection may be silent; then it is closed. Clients that are
    /// there answer pings, which are sent more often than that.
    pub silence: Duration,
}

/// How often a connection on which nothing comes is asked whether anybody is there.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WITHIN: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_streams: 64,
            max_header_bytes: 16 << 10,
            handshake: Duration::from_secs(10),
            silence: Duration::from_secs(60),
        }
    }
}

/// The files that make a service's end of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The service's certificate, then those that lead to a trusted one (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM), which only its owner may read.
    pub key: PathBuf,
    /// Certificates of the authority that signs clients' (PEM); where present, clients without one
    /// are not let in.
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the address that is listened at cannot be told")]
    Address(#[source] io::Error),
    #[error(
        "not listening at {address} without {lacks}, because others than this machine reach it: \
         give {give}, or `--insecure` where everybody who reaches it may do everything"
    )]
    Exposed {
        address: SocketAddr,
        lacks: &'static str,
        give: &'static str,
    },
    #[error("open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the certificate {} and its key {} cannot be used", .files.certificate.display(), .files.key.display())]
    Tls {
        files: TlsFiles,
        #[source]
        source: tonic::transport::Error,
    },
}

/// A listening socket, whether it is locked, and how.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tls: Option<TlsFiles>,
    guard: Guard,
    is_insecure: bool,
    limits: Limits,
}

impl From<TcpListener> for Door {
    /// A door without a lock: good for this machine only.
    fn from(listener: TcpListener) -> Self {
        Self {
            listener,
            tls: None,
            guard: Guard::open(),
            is_insecure: false,
            limits: Limits::default(),
        }
    }
}

impl Door {
    #[must_use]
    pub fn with_tls(self, files: TlsFiles) -> Self {
        let tls = Some(files);
        Self { tls, ..self }
    }

    #[must_use]
    pub fn with_guard(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }

    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Open to whoever reaches it, also from other machines: somebody has said so.
    #[must_use]
    pub fn insecure(self) -> Self {
        let is_insecure = true;
        Self {
            is_insecure,
            ..self
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(Error::Address)
    }

    /// How clients reach it: `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// A server that lets in who may come, and the connections to serve.
    ///
    /// # Errors
    /// When the socket can be reached from other machines and is not locked, or a certificate
    /// cannot be used.
    pub fn open(self) -> Result<(Server, Incoming), Error> {
        self.check_exposure()?;
        let limits = self.limits;
        let mut server = tonic::transport::Server::builder()
            .max_concurrent_streams(limits.max_streams)
            .http2_max_header_list_size(limits.max_header_bytes)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_WITHIN));
        if let Some(files) = &self.tls {
            server = server
                .tls_config(load(files)?.timeout(limits.handshake))
                .map_err(|source| Error::Tls {
                    files: files.clone(),
                    source,
                })?;
        }
        Ok((
            server.layer(self.guard),
            Incoming::new(self.listener, limits),
        ))
    }

    fn check_exposure(&self) -> Result<(), Error> {
        let address = self.address()?;
        if address.ip().is_loopback() {
            return Ok(());
        }
        let (lacks, give) = match (&self.tls, self.guard.asks_for_tokens()) {
            (Some(_), true) => return Ok(()),
            (None, true) => ("TLS", "`--tls-cert` and `--tls-key`"),
            (Some(_), false) => ("tokens", "`--tokens`"),
            (None, false) => ("TLS and tokens", "`--tls-cert`, `--tls-key` and `--tokens`"),
        };
        if self.is_insecure {
            tracing::warn!("{address} has no {lacks}: everybody who reaches it may do everything");
            return Ok(());
        }
        Err(Error::Exposed {
            address,
            lacks,
            give,
        })
    }
}

fn load(files: &TlsFiles) -> Result<ServerTlsConfig, Error> {
    // Whatever else is linked in: several libraries bring a provider, and none may be ambiguous.
    // An error says that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|source| Error::Open {
            path: path.clone(),
            source,
        })
    };
    let identity = Identity::from_pem(
        read(&files.certificate)?,
        Secret::read(&files.key)?.expose(),
    );
    let tls = ServerTlsConfig::new().identity(identity);
    Ok(match &files.client_ca {
        Some(path) => tls.client_ca_root(Certificate::from_pem(read(path)?)),
        None => tls,
    })
}
