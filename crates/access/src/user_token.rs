//! Tokens of people and their programs: random, kept only as a hash.

use imprint_proto::Secret;
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};

/// What every token of a user begins with, so that a leaked one is known for what it is.
pub(crate) const PREFIX: &str = "imprint_";

/// A token as it is handed out, once.
#[derive(Debug)]
pub struct NewUserToken {
    pub secret: Secret,
    /// What is stored of it. It cannot be guessed back: the token has 256 random bits.
    pub sha256: [u8; 32],
}

impl NewUserToken {
    /// A token that nobody has seen.
    ///
    /// # Panics
    /// When the system has no randomness to give.
    pub fn generate() -> Self {
        let mut bits = [0; 32];
        SystemRandom::new()
            .fill(&mut bits)
            .expect("the system gives random numbers");
        let digits: String = bits.iter().map(|b| format!("{b:02x}")).collect();
        let text = format!("{PREFIX}{digits}");
        let sha256 = sha256(&text);
        Self {
            secret: Secret::new(text),
            sha256,
        }
    }
}

/// What is stored of a token.
pub(crate) fn sha256(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Whether a text has the form of a user's token: nothing else is looked up.
pub(crate) fn has_form(token: &str) -> bool {
    token.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == 64
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}
