//! Tokens of users: made, looked up, revoked.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{Error, Store};

/// A kind of call that a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look: readings, experiments and how they stand.
    Read,
    /// Submit, cancel and retry experiments.
    Submit,
    /// Deliver the readings of any run, in the place of its trainer.
    Write,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Submit, Self::Write];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no scope (read, submit or write)"))
    }
}

/// Whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    Expired,
    Revoked,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub name: String,
    pub scopes: Vec<Scope>,
    pub standing: Standing,
    pub created_at: DateTime<Utc>,
    /// `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// To the hour.
    pub last_used_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "name, scopes,
    case when revoked_at is not null then 'revoked'
         when expires_at <= now() then 'expired'
         else 'good' end,
    created_at, expires_at, revoked_at, last_used_at";

type Row = (
    String,
    Vec<String>,
    String,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
);

fn to_token((name, scopes, standing, created_at, expires_at, revoked_at, used): Row) -> Token {
    Token {
        name,
        // The table holds no other.
        scopes: scopes.iter().filter_map(|s| s.parse().ok()).collect(),
        standing: match standing.as_str() {
            "good" => Standing::Good,
            "expired" => Standing::Expired,
            _ => Standing::Revoked,
        },
        created_at,
        expires_at,
        revoked_at,
        last_used_at: used,
    }
}

impl Store {
    /// Keeps a new token, which ends after `lasts` by the database's clock; never where absent.
    ///
    /// # Errors
    /// When there is one of that name that was not revoked.
    pub async fn create_token(
        &self,
        name: &str,
        sha256: &[u8; 32],
        scopes: &[Scope],
        lasts: Option<Duration>,
    ) -> Result<Token, Error> {
        let scopes: Vec<&str> = scopes.iter().map(|s| s.as_str()).collect();
        let sql = format!(
            "insert into imprint.token (name, sha256, scopes, expires_at)
             values ($1, $2, $3, now() + make_interval(secs => $4)) returning {COLUMNS}"
        );
        let made = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(name)
            .bind(sha256.as_slice())
            .bind(&scopes)
            .bind(lasts.map(|l| l.as_secs_f64()))
            .fetch_one(self.pool())
            .await
            .map_err(Error::doing(format!("keep the token `{name}`")));
        match made {
            Ok(row) => Ok(to_token(row)),
            Err(e) if e.is_unique_violation() => Err(Error::Invalid {
                field: "name",
                problem: format!("there is a token `{name}`; revoke it first, or choose another"),
            }),
            Err(e) => Err(e),
        }
    }

    /// The token with a hash, and the note that it was used.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn token(&self, sha256: &[u8; 32]) -> Result<Option<Token>, Error> {
        let sql = format!("select {COLUMNS} from imprint.token where sha256 = $1");
        let found: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(sha256.as_slice())
            .fetch_optional(self.pool())
            .await
            .map_err(Error::doing("look up a token"))?;
        let Some(token) = found.map(to_token) else {
            return Ok(None);
        };
        let is_noted = token
            .last_used_at
            .is_some_and(|at| Utc::now() - at < chrono::Duration::hours(1));
        if token.standing == Standing::Good && !is_noted {
            sqlx::query(
                "update imprint.token set last_used_at = now()
                 where sha256 = $1
                   and (last_used_at is null or last_used_at < now() - interval '1 hour')",
            )
            .bind(sha256.as_slice())
            .execute(self.pool())
            .await
            .map_err(Error::doing("note that a token was used"))?;
        }
        Ok(Some(token))
    }

    /// All tokens that were ever made, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tokens(&self) -> Result<Vec<Token>, Error> {
        let sql = format!("select {COLUMNS} from imprint.token order by token_id desc");
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .fetch_all(self.pool())
            .await
            .map_err(Error::doing("list the tokens"))?;
        Ok(rows.into_iter().map(to_token).collect())
    }

    /// Makes a token good for nothing, from the next call on; false when there is none of that name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revoke_token(&self, name: &str) -> Result<bool, Error> {
        let revoked = sqlx::query(
            "update imprint.token set revoked_at = now() where name = $1 and revoked_at is null",
        )
        .bind(name)
        .execute(self.pool())
        .await
        .map_err(Error::doing(format!("revoke the token `{name}`")))?;
        Ok(revoked.rows_affected() > 0)
    }
}
