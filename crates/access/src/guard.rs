//! The lock: which token each call needs, and whether the one that was shown is good for it.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use imprint_proto::status::{refused, unavailable};
use imprint_store::Store;
use imprint_store::tokens::{Scope, Standing};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::caller::Caller;
use crate::grant::{self, GrantKeys};
use crate::refusal::Refusal;
use crate::user_token;

/// Users' tokens that are looked up at the same time: whoever floods the door with made-up ones
/// takes no more of the database than that, and waits.
const MAX_LOOKUPS: usize = 2;

/// How long a call waits for its token to be looked up.
const LOOKUP_WITHIN: Duration = Duration::from_secs(10);

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// A user's token with this scope.
    User(Scope),
    /// A trainer's token for a run, or a user's with the scope `write`.
    Run,
    /// A trainer's token for an attempt, or a user's with the scope `write`.
    Attempt,
}

impl Need {
    /// What the call at a path (`/package.Service/Method`) needs; `None` for one that nobody knows.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match (service, method) {
            // That a service is up, and a protocol that is published, are no secrets.
            ("grpc.health.v1.Health", _)
            | ("grpc.reflection.v1.ServerReflection", _)
            | ("grpc.reflection.v1alpha.ServerReflection", _) => Some(Self::Nothing),
            ("imprint.v1.Metrics", "Ingest") => Some(Self::Attempt),
            ("imprint.v1.Metrics", _) => Some(Self::User(Scope::Read)),
            ("imprint.v1.Attempts", _) => Some(Self::Run),
            (
                "imprint.v1.Orchestrator",
                "ListExperiments" | "GetExperiment" | "ListExperimentRuns" | "WatchExperiment"
                | "GetRun" | "ListRunEvents" | "ReadLog",
            ) => Some(Self::User(Scope::Read)),
            ("imprint.v1.Orchestrator", _) => Some(Self::User(Scope::Submit)),
            _ => None,
        }
    }
}

/// The lock of a door; cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Lock>);

enum Lock {
    Open,
    Tokens {
        keys: GrantKeys,
        store: Store,
        lookups: Semaphore,
    },
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Tokens { .. } => "Tokens",
        })
    }
}

impl Guard {
    /// Lets everybody in.
    pub(crate) fn open() -> Self {
        Self(Arc::new(Lock::Open))
    }

    /// Asks for tokens: users' are looked up in the database, trainers' checked with the keys.
    pub fn with_tokens(keys: GrantKeys, store: Store) -> Self {
        Self(Arc::new(Lock::Tokens {
            keys,
            store,
            lookups: Semaphore::new(MAX_LOOKUPS),
        }))
    }

    pub(crate) fn asks_for_tokens(&self) -> bool {
        matches!(*self.0, Lock::Tokens { .. })
    }

    /// The caller, if it may make the call at `path`.
    async fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Caller, Status> {
        let Lock::Tokens {
            keys,
            store,
            lookups,
        } = &*self.0
        else {
            return Ok(Caller::Anyone);
        };
        let need = match Need::of(path) {
            None => {
                let line = "there is no such call";
                return Err(refused(Code::Unimplemented, "NO_SUCH_CALL", line, []));
            }
            Some(Need::Nothing) => return Ok(Caller::Anyone),
            Some(need) => need,
        };
        let token = bearer(headers).map_err(|r| r.status())?;
        if token.starts_with(grant::PREFIX) {
            let grant = keys
                .check(token, SystemTime::now())
                .map_err(|r| r.status())?;
            return match (need, grant.attempt) {
                (Need::Run, None) | (Need::Attempt, Some(_)) => Ok(Caller::Trainer(grant)),
                (Need::Attempt, None) => Err(Refusal::NotForAttempts.status()),
                _ => Err(Refusal::NotForTrainers.status()),
            };
        }
        let scope = match need {
            Need::User(scope) => scope,
            Need::Run | Need::Attempt | Need::Nothing => Scope::Write,
        };
        if !user_token::has_form(token) {
            return Err(Refusal::Malformed.status());
        }
        let sha256 = user_token::sha256(token);
        let looked_up = async {
            let _turn = lookups.acquire().await;
            store.token(&sha256).await
        };
        let found = match tokio::time::timeout(LOOKUP_WITHIN, looked_up).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!("a token could not be looked up: {error}");
                return Err(no_lookup());
            }
            Err(_) => return Err(no_lookup()),
        };
        let refusal = match found {
            None => Refusal::Unknown,
            Some(token) => match token.standing {
                Standing::Revoked => Refusal::Revoked,
                Standing::Expired => Refusal::Expired,
                Standing::Good if token.scopes.contains(&scope) => return Ok(Caller::User),
                Standing::Good => Refusal::Lacks(scope),
            },
        };
        Err(refusal.status())
    }
}

fn no_lookup() -> Status {
    unavailable("DATABASE_UNAVAILABLE", "tokens cannot be looked up now")
}

/// The token that a call shows.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let value = shown.next().ok_or(Refusal::Missing)?;
    if shown.next().is_some() {
        return Err(Refusal::Malformed);
    }
    let value = value.to_str().map_err(|_| Refusal::Malformed)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Refusal::Malformed),
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            guard: self.clone(),
            inner,
        }
    }
}

/// A service behind a lock.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let guard = self.guard.clone();
        // The one that is ready; the clone may not be.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            match guard.admit(request.uri().path(), request.headers()).await {
                Ok(caller) => {
                    // What it shows has done its work, and goes no further.
                    request.headers_mut().remove(AUTHORIZATION);
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(status) => {
                    tracing::debug!(
                        path = request.uri().path(),
                        "not let in: {}",
                        status.message()
                    );
                    Ok(status.into_http())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
