//! Connections to a service: where it is, and what opens its door.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use std::{fmt, fs, io};

use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use crate::secret::{Secret, SecretError};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// A connection that shows the caller's token with every call.
pub type Channel = InterceptedService<tonic::transport::Channel, Token>;

/// The address of a service, and what to show there.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: String,
    pub credentials: Credentials,
}

impl<T: Into<String>> From<T> for Target {
    /// A service without a lock: nothing is shown.
    fn from(url: T) -> Self {
        Self {
            url: url.into(),
            credentials: Credentials::default(),
        }
    }
}

/// What a client shows, and whom it trusts.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Whose certificates are trusted at `https://` addresses; those of the system where absent.
    ca: Option<Certificate>,
    identity: Option<Identity>,
    pub token: Token,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("has_ca", &self.ca.is_some())
            .field("has_identity", &self.identity.is_some())
            .field("token", &self.token)
            .finish()
    }
}

/// The files that credentials are read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Certificates of the authority that signed the services' (PEM).
    pub ca: Option<PathBuf>,
    /// This client's certificate (PEM), where services ask for one, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub token: Option<PathBuf>,
}

/// A token that may be renewed while connections use it; its clones are renewed with it.
#[derive(Clone, Debug, Default)]
pub struct Token(Arc<RwLock<Option<MetadataValue<Ascii>>>>);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{url}` is not an address of a service (want something like http://127.0.0.1:7431)")]
    Address {
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("no {service} service answers at {url}")]
    Unreachable {
        service: &'static str,
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("the certificates for {url} cannot be used")]
    Certificates {
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("a token is text that fits into a header")]
    Token,
    #[error(
        "a token would go to {url} for everybody on the way to read: give an https:// address, or \
         no token"
    )]
    InTheClear { url: String },
}

impl Token {
    /// What is shown from now on.
    ///
    /// # Errors
    /// When it cannot be put into a header.
    pub fn renew(&self, token: &Secret) -> Result<(), Error> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.expose())
            .parse()
            .map_err(|_| Error::Token)?;
        // Neither logged nor kept in a compression table.
        value.set_sensitive(true);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    fn value(&self) -> Option<MetadataValue<Ascii>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.value() {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

impl CredentialFiles {
    /// What is in the files now.
    ///
    /// # Errors
    /// When one cannot be read, or a secret may be read by others than its owner.
    pub fn load(&self) -> Result<Credentials, Error> {
        let identity = match &self.identity {
            Some((certificate, key)) => Some(Identity::from_pem(
                read(certificate)?,
                Secret::read(key)?.expose(),
            )),
            None => None,
        };
        let token = Token::default();
        if let Some(path) = &self.token {
            token.renew(&Secret::read(path)?)?;
        }
        Ok(Credentials {
            ca: match &self.ca {
                Some(path) => Some(Certificate::from_pem(read(path)?)),
                None => None,
            },
            identity,
            token,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })
}

impl Credentials {
    /// The same certificates, with another token or none.
    ///
    /// # Errors
    /// When the token cannot be put into a header.
    pub fn with_token(&self, token: Option<&Secret>) -> Result<Self, Error> {
        let own = Token::default();
        if let Some(token) = token {
            own.renew(token)?;
        }
        Ok(Self {
            token: own,
            ..self.clone()
        })
    }
}

/// A connection that is made now, or an error that names the service and its address.
///
/// # Errors
/// When the address cannot be parsed, nothing answers within five seconds, or the other side does
/// not show a certificate that is trusted.
pub async fn connect(service: &'static str, target: impl Into<Target>) -> Result<Channel, Error> {
    let target = target.into();
    let connected = endpoint(&target)?.connect().await;
    match connected {
        Ok(channel) => Ok(channel_with(channel, &target)),
        Err(source) => Err(Error::Unreachable {
            service,
            url: target.url,
            source,
        }),
    }
}

/// A connection that is made when it is first used, and again whenever it was lost.
///
/// # Errors
/// When the address cannot be parsed.
pub fn connect_lazy(target: impl Into<Target>) -> Result<Channel, Error> {
    let target = target.into();
    Ok(channel_with(endpoint(&target)?.connect_lazy(), &target))
}

fn channel_with(channel: tonic::transport::Channel, target: &Target) -> Channel {
    InterceptedService::new(channel, target.credentials.token.clone())
}

fn endpoint(target: &Target) -> Result<Endpoint, Error> {
    let Target { url, credentials } = target;
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|source| Error::Address {
            url: url.clone(),
            source,
        })?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .tcp_nodelay(true);
    if endpoint.uri().scheme_str() != Some("https") {
        return match credentials.token.value() {
            Some(_) if !is_loopback(endpoint.uri().host()) => {
                Err(Error::InTheClear { url: url.clone() })
            }
            _ => Ok(endpoint),
        };
    }
    let mut tls = ClientTlsConfig::new().timeout(CONNECT_WITHIN);
    tls = match &credentials.ca {
        Some(ca) => tls.ca_certificate(ca.clone()),
        None => tls.with_native_roots(),
    };
    if let Some(identity) = &credentials.identity {
        tls = tls.identity(identity.clone());
    }
    endpoint
        .tls_config(tls)
        .map_err(|source| Error::Certificates {
            url: url.clone(),
            source,
        })
}

/// Whether a URL leads every machine to itself.
pub fn is_loopback_url(url: &str) -> bool {
    let uri = url.parse::<tonic::transport::Uri>();
    uri.is_ok_and(|uri| is_loopback(uri.host()))
}

/// Whether what is sent there stays on this machine.
fn is_loopback(host: Option<&str>) -> bool {
    let host = host.unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback() || ip.is_unspecified())
}

/// The answer to a call of a service, which takes ten seconds at most.
///
/// # Errors
/// The service's own status, or UNAVAILABLE when it does not answer in time.
pub async fn answer<T>(
    service: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(CALL_WITHIN, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::unavailable(format!(
            "the {service} does not answer"
        ))),
    }
}

/// Whether the same call may succeed later: a service that goes away answers in many ways.
pub fn is_passing(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Aborted
            | Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests;
