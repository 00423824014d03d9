//! Tokens of trainers: what they may do for one run, signed by the orchestrator.
//!
//! Whoever knows the public key can check one, without asking anybody.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use imprint_proto::{Secret, SecretError};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// What every token of a trainer begins with.
pub(crate) const PREFIX: &str = "imprint-run.";

/// Signed with every token, so that the key's signatures are good for nothing else.
const PURPOSE: &[u8] = b"imprint.v1 grant\n";

/// By how much the clocks of two machines may differ.
const LEEWAY: Duration = Duration::from_secs(60);

/// What comes before the 32 bytes of an Ed25519 public key (RFC 8410).
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What the bearer of a signed token may do until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    #[serde(rename = "run")]
    pub run_id: i32,
    /// Write the readings of this attempt; where absent, begin and speak for the run's attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Seconds since 1970.
    #[serde(rename = "exp")]
    expires_unix_s: u64,
}

impl Grant {
    /// Leave to begin attempts of a run and to speak for them.
    pub fn for_run(run_id: i32, expires: SystemTime) -> Self {
        Self {
            run_id,
            attempt: None,
            expires_unix_s: unix_s(expires),
        }
    }

    /// Leave to write the readings of one attempt.
    pub fn for_attempt(run_id: i32, attempt: u32, expires: SystemTime) -> Self {
        Self {
            attempt: Some(attempt),
            ..Self::for_run(run_id, expires)
        }
    }

    /// How long it is good for after `now`, the difference of clocks included; `None` when it has
    /// ended.
    pub fn lasts_from(&self, now: SystemTime) -> Option<Duration> {
        let end_s = self.expires_unix_s.saturating_add(LEEWAY.as_secs());
        end_s
            .checked_sub(unix_s(now))
            .filter(|&s| s > 0)
            .map(Duration::from_secs)
    }
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("open the public key {path} (the orchestrator writes it when it starts with tokens)")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the public key {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no Ed25519 key (PEM)")]
    NoKey { path: PathBuf },
}

/// The orchestrator's key.
pub struct GrantSigner {
    key: Ed25519KeyPair,
    keys: GrantKeys,
}

impl std::fmt::Debug for GrantSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GrantSigner(…)")
    }
}

impl GrantSigner {
    /// The key of a file (PKCS #8, PEM), made where there is none.
    ///
    /// The public key is written beside it, with the ending `.pub`, for services that check tokens.
    /// Keys that are there stay: what an earlier key has signed is good until somebody takes its
    /// public half out.
    ///
    /// # Errors
    /// When the file cannot be read or written, may be read by others, or holds something else.
    pub fn of_file(path: &Path) -> Result<Self, KeyError> {
        if !path.exists() {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .expect("the system gives random numbers");
            // The first service of a data directory makes the directory, too.
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(|source| KeyError::Write {
                    path: dir.to_owned(),
                    source,
                })?;
            }
            let made = Secret::new(pem("PRIVATE KEY", document.as_ref())).create(path);
            // Of two that start at once the first makes the key.
            if let Err(e) = made
                && !path.exists()
            {
                return Err(e.into());
            }
        }
        let text = Secret::read(path)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.expose().as_bytes())
            .ok()
            .and_then(|der| {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()
            });
        let key = key.ok_or_else(|| KeyError::NoKey {
            path: path.to_owned(),
        })?;
        let public = public_key_of(path);
        publish(&key, &public)?;
        let keys = GrantKeys::of_file(&public)?;
        Ok(Self { key, keys })
    }

    /// The token that carries a grant.
    pub fn sign(&self, grant: &Grant) -> Secret {
        let payload = serde_json::to_vec(grant).expect("a grant is plain data");
        let signature = self.key.sign(&[PURPOSE, &payload].concat());
        Secret::new(format!(
            "{PREFIX}{}.{}",
            URL_SAFE_NO_PAD.encode(&payload),
            URL_SAFE_NO_PAD.encode(signature)
        ))
    }

    /// What checks this key's tokens, and those of earlier ones.
    pub fn keys(&self) -> GrantKeys {
        self.keys.clone()
    }
}

/// Adds a public key to those of a file.
fn publish(key: &Ed25519KeyPair, path: &Path) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write {
        path: path.to_owned(),
        source,
    };
    let text = pem(
        "PUBLIC KEY",
        &[&SPKI_HEAD, key.public_key().as_ref()].concat(),
    );
    let there = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(failed)?,
    };
    if there.contains(&text) {
        return Ok(());
    }
    // Renamed into place: a service that starts now reads whole keys.
    let new = path.with_extension("new");
    std::fs::write(&new, text + &there)
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(failed)
}

/// Where the public key of a private one is.
pub fn public_key_of(private: &Path) -> PathBuf {
    let mut path = private.to_owned().into_os_string();
    path.push(".pub");
    path.into()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Public keys that tokens of trainers are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantKeys(Vec<[u8; 32]>);

impl GrantKeys {
    /// The keys of a file (PEM); several, while the orchestrator's key is changed.
    ///
    /// # Errors
    /// When it cannot be read, or holds none or something else.
    pub fn of_file(path: &Path) -> Result<Self, KeyError> {
        let bytes = std::fs::read(path).map_err(|source| KeyError::Open {
            path: path.to_owned(),
            source,
        })?;
        let no_key = || KeyError::NoKey {
            path: path.to_owned(),
        };
        let keys: Vec<[u8; 32]> = SubjectPublicKeyInfoDer::pem_slice_iter(&bytes)
            .map(|der| {
                let der = der.ok()?;
                der.strip_prefix(&SPKI_HEAD)?.try_into().ok()
            })
            .collect::<Option<_>>()
            .ok_or_else(no_key)?;
        match keys.is_empty() {
            true => Err(no_key()),
            false => Ok(Self(keys)),
        }
    }

    /// The grant that a token carries, when one of the keys signed it and it has not ended.
    pub(crate) fn check(&self, token: &str, now: SystemTime) -> Result<Grant, Refusal> {
        let (payload, signature) = token
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('.'))
            .ok_or(Refusal::Malformed)?;
        let decode = |text| URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed);
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        let signed = [PURPOSE, &payload].concat();
        let is_signed = self.0.iter().any(|key| {
            UnparsedPublicKey::new(&ED25519, key)
                .verify(&signed, &signature)
                .is_ok()
        });
        if !is_signed {
            return Err(Refusal::Unsigned);
        }
        let grant: Grant = serde_json::from_slice(&payload).map_err(|_| Refusal::Malformed)?;
        match grant.lasts_from(now) {
            Some(_) => Ok(grant),
            None => Err(Refusal::Expired),
        }
    }
}

#[cfg(test)]
mod tests;
