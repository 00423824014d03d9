//! Why a call is not let in, as its caller sees it.

use imprint_proto::status::refused;
use imprint_store::tokens::Scope;
use tonic::{Code, Status};

/// The reason of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No token was shown.
    Missing,
    /// What was shown has the form of no token.
    Malformed,
    /// A user's token that is not known.
    Unknown,
    Expired,
    Revoked,
    /// Signed with another key, or not at all.
    Unsigned,
    /// A user's token that is not good for this.
    Lacks(Scope),
    /// A trainer's token that is not good for this.
    NotForTrainers,
    /// A token for this kind of call was not shown, but another kind.
    NotForAttempts,
    /// A trainer's token of another run.
    OtherRun {
        granted: i32,
        asked: i32,
    },
    /// A trainer's token of another attempt.
    OtherAttempt {
        granted: u32,
        asked: u32,
    },
}

impl Refusal {
    /// The status that says it, with details for programs.
    pub(crate) fn status(&self) -> Status {
        use Refusal::*;
        let unauthenticated = |reason, line: &str| (Code::Unauthenticated, reason, line.to_owned());
        let denied = |reason, line: String| (Code::PermissionDenied, reason, line);
        let (code, reason, line) = match self {
            Missing => unauthenticated(
                "TOKEN_MISSING",
                "this service asks for a token: `imprint token create` makes one, `--token-file` \
                 (IMPRINT_TOKEN_FILE) shows it",
            ),
            Malformed => unauthenticated("TOKEN_MALFORMED", "this is no token of imprint"),
            Unknown => unauthenticated("TOKEN_UNKNOWN", "this token is not known here"),
            Expired => unauthenticated("TOKEN_EXPIRED", "this token has expired"),
            Revoked => unauthenticated("TOKEN_REVOKED", "this token was revoked"),
            Unsigned => unauthenticated(
                "TOKEN_UNSIGNED",
                "the key that signed this token is not trusted here",
            ),
            Lacks(scope) => denied(
                "SCOPE_MISSING",
                format!("this token lacks the scope `{scope}`"),
            ),
            NotForTrainers => denied("NOT_FOR_TRAINERS", "this is not for a trainer".to_owned()),
            NotForAttempts => denied(
                "ATTEMPT_TOKEN_MISSING",
                "this needs the token of an attempt, or a user's with the scope `write`".to_owned(),
            ),
            OtherRun { granted, asked } => denied(
                "OTHER_RUN",
                format!("this token is for run {granted}, not for run {asked}"),
            ),
            OtherAttempt { granted, asked } => denied(
                "OTHER_ATTEMPT",
                format!("this token is for attempt {granted}, not for attempt {asked}"),
            ),
        };
        let about = match self {
            Lacks(scope) => vec![("scope", scope.to_string())],
            OtherRun { granted, asked } => of_both(granted, asked),
            OtherAttempt { granted, asked } => of_both(granted, asked),
            _ => Vec::new(),
        };
        refused(code, reason, line, about)
    }
}

fn of_both(granted: &impl ToString, asked: &impl ToString) -> Vec<(&'static str, String)> {
    vec![
        ("granted", granted.to_string()),
        ("asked", asked.to_string()),
    ]
}
