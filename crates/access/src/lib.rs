//! Who may call a service: TLS, tokens, and the limits of a door that anybody may knock at.
//!
//! Deliberately absent: what the calls do.
//! A role hands in a [`Door`] and gets a server that lets in only who may come; its calls ask the
//! [`Caller`] which run it speaks for.

mod caller;
mod door;
mod grant;
mod guard;
mod incoming;
mod refusal;
mod status;
mod user_token;

pub use caller::Caller;
pub use door::{Door, Error, Limits, Server, TlsFiles};
pub use grant::{Grant, GrantKeys, GrantSigner, KeyError, public_key_of};
pub use guard::Guard;
pub use imprint_store::tokens::Scope;
pub use incoming::{Connection, Incoming};
pub use status::from_store;
pub use user_token::NewUserToken;
